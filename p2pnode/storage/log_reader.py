"""A node's event log as it lies on disk, for whoever only looks: rows by place, blocks, and nothing believed.

Nothing is parsed, checked or repaired here and no table of the log is written, so a damaged log reads as far as it
goes, and a node may be writing the same file meanwhile. No read outlives its call, so a slow reader never keeps sqlite
from its housekeeping. The one thing it keeps for itself is a temporary table of (height, id), because rows lie in order
of arrival and people want the order that every replica agrees on; sqlite spills it to a file, so a million events need
no memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from p2pnode.env import Disk, LocalDisk
from p2pnode.errors import IntegrityError, NotFound, StorageFailed
from p2pnode.storage.event_log import checkpoint_path

T = TypeVar("T")

#: (height, id) of an event.
Order = tuple[int, bytes]
#: Before every event.
START: Order = (-1, b"")
#: Flaws of one file that are told.
FLAWS_MAX = 10

_ARRANGED = """
PRAGMA temp_store = FILE;
CREATE TEMP TABLE IF NOT EXISTS arranged (
    height INTEGER, id BLOB, kind TEXT NOT NULL, place INTEGER NOT NULL, PRIMARY KEY (height, id)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One record as it lies there."""

    place: int
    id: bytes
    wire: bytes
    seal: bytes


class LogReader:
    """One look at one log. It blocks: call it in a thread.

    Everything raises IntegrityError where sqlite can read no further, StorageFailed where the disk refuses.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, disk: Disk) -> None:
        connection.text_factory = lambda raw: raw.decode(errors="replace")  # whatever lies there, reading must not fail
        self._connection = connection
        self._path = path
        self._disk = disk

    @classmethod
    def of_running(cls, disk: Disk, path: Path) -> LogReader:
        """The log of a node in this process."""
        return cls._opened(path, disk, disk.database)

    @classmethod
    def of_home(cls, path: Path) -> LogReader:
        """The log in that file, whether or not a node runs on it. Raises NotFound if there is none."""
        if not path.is_file():
            raise NotFound(f"There is no event log in {path.parent}.", advice="Name the home of a node: --home DIR.")
        return cls._opened(path, LocalDisk(), _read_only)

    @classmethod
    def _opened(cls, path: Path, disk: Disk, connect: Callable[[Path], sqlite3.Connection]) -> LogReader:
        try:
            return cls(connect(path), path, disk)
        except sqlite3.DatabaseError as error:
            raise StorageFailed(f"The event log {path} cannot be opened: {error}.") from error

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- as it lies there --------------------------------------------------------------------------------------

    def rows(self, after: int, most: int) -> list[Row]:
        """The next `most` records beyond that place, by place."""
        found = self._all(
            "SELECT place, id, wire, seal FROM events WHERE place > ? ORDER BY place LIMIT ?", after, most
        )
        return [Row(place, *map(_bytes, cells)) for place, *cells in found]

    def row(self, place: int) -> Row | None:
        """The record at that place."""
        return next((row for row in self.rows(place - 1, 1) if row.place == place), None)

    def last_place(self) -> int:
        """Where the newest record lies; 0 if there is none."""
        return self._all("SELECT coalesce(max(place), 0) FROM events")[0][0]

    def set_aside(self) -> dict[int, bytes]:
        """Places of records that a node found damaged and took out of the way, and the ids that they had."""
        if not self._all("SELECT 1 FROM sqlite_master WHERE name = 'damaged'"):
            return {}
        found = self._all("SELECT place, id FROM damaged ORDER BY place")
        return {place: _bytes(event_id) for place, event_id in found if isinstance(place, int)}

    def wire(self, event_id: bytes) -> bytes | None:
        """The bytes of the record that goes by that id."""
        return _first(self._all("SELECT wire FROM events WHERE id = ?", event_id))

    def meta(self, name: str) -> bytes | None:
        """What the log says of itself under that name."""
        return _first(self._all("SELECT value FROM meta WHERE name = ?", name))

    def block_ids(self) -> list[bytes]:
        """Names of the blocks here, sorted."""
        return [_bytes(row[0]) for row in self._all("SELECT id FROM blocks ORDER BY id")]

    def block(self, cid: bytes) -> bytes | None:
        """The bytes that go by that name."""
        return _first(self._all("SELECT data FROM blocks WHERE id = ?", cid))

    def checkpoint(self) -> bytes | None:
        """What lies beside the log to open it faster; None if nothing does."""
        try:
            with self._disk.open(checkpoint_path(self._path), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageFailed(f"The checkpoint of {self._path} cannot be read: {error}.") from error

    def flaws(self) -> list[str]:
        """What sqlite finds wrong with its own file, one line each; takes seconds for a million records."""
        found = [row[0] for row in self._all(f"PRAGMA integrity_check({FLAWS_MAX})")]
        return [] if found == ["ok"] else found

    # -- in the order that every replica agrees on -------------------------------------------------------------

    def arrange(self, found: Iterable[tuple[int, bytes, str, int]]) -> None:
        """Note (height, id, kind, place) of events for `ordered`."""
        self._ask(lambda: self._connection.executescript(_ARRANGED))
        self._ask(lambda: self._connection.executemany("INSERT OR IGNORE INTO arranged VALUES (?, ?, ?, ?)", found))

    def ordered(self, after: Order, kinds: Sequence[str], most: int) -> list[bytes]:
        """Wire bytes of the next arranged events beyond `after`, of those kinds or of all; at most `most`."""
        picked, values = _of_kinds(kinds)
        found = self._all(
            f"SELECT wire FROM arranged JOIN events USING (place) WHERE (height, arranged.id) > (?, ?) {picked}"
            " ORDER BY height, arranged.id LIMIT ?",
            *after,
            *values,
            most,
        )
        return [_bytes(row[0]) for row in found]

    def before_last(self, count: int, kinds: Sequence[str]) -> Order:
        """The `after` that leaves `ordered` the newest `count` arranged events of those kinds."""
        picked, values = _of_kinds(kinds)
        found = self._all(
            f"SELECT height, id FROM arranged WHERE true {picked} ORDER BY height DESC, id DESC LIMIT 1 OFFSET ?",
            *values,
            min(count, self.last_place()),  # there are no more; sqlite counts to 2^63
        )
        return found[0] if found else START

    def _all(self, question: str, *values: object) -> list[tuple[Any, ...]]:
        return self._ask(lambda: self._connection.execute(question, values).fetchall())

    def _ask(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise IntegrityError(
                    f"The event log {self._path} is damaged: {error}.",
                    advice="Start the node with --bootstrap at a living member: it moves the file aside and fetches "
                    "every event again. Shards are not touched.",
                ) from error
            raise StorageFailed(
                f"The event log {self._path} cannot be read: {error}.",
                advice="Copy catalog.db (and its -wal) into a folder that you may write, and read it there.",
            ) from error


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)


def _of_kinds(kinds: Sequence[str]) -> tuple[str, Sequence[str]]:
    if not kinds:
        return "", ()
    return f"AND kind IN ({', '.join('?' * len(kinds))})", kinds


def _first(rows: Sequence[tuple[Any, ...]]) -> bytes | None:
    return _bytes(rows[0][0]) if rows else None


def _bytes(cell: object) -> bytes:
    """A number or text where bytes belong is as good as no bytes."""
    return cell if isinstance(cell, bytes) else b""
