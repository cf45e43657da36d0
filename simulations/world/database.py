"""sqlite on a simulated disk: the real library on memory, and a record of what a power cut would leave.

Every change runs on a database in memory and is kept, statement by statement, in a record of transactions. After a
crash the database is made anew from what is certain of that record. A COMMIT is certain when it was made under
`synchronous=FULL` or `EXTRA` (and makes all before it certain: they are in the same journal); of later ones, made
under NORMAL or OFF, a crash keeps the first few; under OFF it may also leave the file unreadable. A commit that failed
with an I/O error is gone for the program and may yet be there after a crash. What a connection did not commit is gone.

This costs a commit some 20 µs where a real one costs milliseconds. It refuses what the record cannot hold: ATTACH,
and functions of Python's.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any, NoReturn

from p2pnode.env import Rng

#: Transactions in the record before it is folded into an image of the whole database.
RECORD_MAX = 4_096
#: How often a crash leaves a database unreadable whose last commits were made with `synchronous=OFF`.
TORN_WHEN_OFF = 0.25

_READS = ("SELECT", "PRAGMA", "EXPLAIN", "VALUES")
_SYNCHRONOUS = re.compile(r"PRAGMA\s+(?:\w+\.)?synchronous\s*=\s*(\w+)", re.IGNORECASE)
_KEPT_PRAGMA = re.compile(r"PRAGMA\s+(user_version|application_id)\s*[=(]", re.IGNORECASE)
_LEVELS = {"0": "OFF", "1": "NORMAL", "2": "FULL", "3": "EXTRA"}
_CERTAIN = ("FULL", "EXTRA")
_SQLITE_MAGIC = b"SQLite format 3\0"

#: One statement of the record: the method that ran it, its text, its parameters.
_Done = tuple[str, str, Any]
_names = count()


class SimDatabase:
    """One database file."""

    def __init__(self, name: str, rng: Rng, image: bytes = b"") -> None:
        self._name = name
        self._rng = rng
        self._image = image
        self._record: list[list[_Done]] = []
        #: Bytes of the record, and how many transactions and bytes of it are certain.
        self._bytes = 0
        self._certain = self._certain_bytes = 0
        self._doubtful: list[_Done] | None = None
        self._careless = False
        self._keeper: sqlite3.Connection | None = None
        self._uri = ""

    # -- from outside ------------------------------------------------------------------------------------------

    @property
    def size_bytes(self) -> int:
        return len(self._image) + self._bytes

    @property
    def unsynced_bytes(self) -> int:
        return self._bytes - self._certain_bytes

    def image(self) -> bytes:
        """The file as it is for certain."""
        if self._keeper is not None and self._certain == len(self._record):
            try:
                return _serialized(self._keeper)
            except sqlite3.DatabaseError:  # rotten: nothing was written to it since
                return self._image
        return _imaged(self._image, self._record[: self._certain])

    def certain(self, query: str, params: tuple[object, ...] = ()) -> list[tuple]:
        """What a query would find if the power went now and nothing uncertain stayed."""
        if self._keeper is not None and self._certain == len(self._record):
            return self._keeper.execute(query, params).fetchall()
        database = _loaded(_nowhere(), self._image, self._record[: self._certain])
        try:
            return database.execute(query, params).fetchall()
        finally:
            database.close()

    def crash(self, rng: Rng) -> int:
        """Forget, more or less, what is not certain; the bytes that are gone. Its connections are closed already."""
        before = self.unsynced_bytes
        if before == 0 and self._doubtful is None:
            return 0
        self._image = self.image()
        kept = self._record[self._certain : self._certain + rng.randint(0, len(self._record) - self._certain)]
        if self._doubtful is not None and len(kept) == len(self._record) - self._certain and rng.random() < 0.5:
            kept.append(self._doubtful)
        torn = self._careless and before > 0 and rng.random() < TORN_WHEN_OFF
        self._image = _imaged(self._image, kept)
        if torn:
            self._image = bytes(len(_SQLITE_MAGIC)) + self._image[len(_SQLITE_MAGIC) :]
        self._begin_record()
        self.close()
        return max(0, before - sum(map(_weight, kept)))

    def close(self) -> None:
        """Let go of the memory; what is in the record stays."""
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None

    def rots(self) -> bool:
        """Whether there is a bit to flip."""
        return bool(self._image or self._record)

    def flip_bit(self, rng: Rng) -> None:
        """Change one bit of the file."""
        image = bytearray(self.image())
        image[rng.randrange(len(image))] ^= 1 << rng.randrange(8)
        self._image = bytes(image)
        self._begin_record()
        self.close()

    # -- for its connections -----------------------------------------------------------------------------------

    def connect(self, gate: Gate) -> SimConnection:
        """A new connection. Raises sqlite3.DatabaseError if the file is none any more."""
        if self._keeper is None:
            self._uri = f"file:world-{next(_names)}?mode=memory&cache=shared"
            keeper = sqlite3.connect(self._uri, uri=True, isolation_level=None, check_same_thread=False)
            try:
                self._keeper = _loaded(keeper, self._image, self._record)
            except sqlite3.DatabaseError:
                keeper.close()
                raise
        made = sqlite3.connect(
            self._uri, uri=True, isolation_level=None, check_same_thread=False, factory=SimConnection
        )
        made.attach(self, gate)
        return made

    def committed(self, done: list[_Done], level: str) -> None:
        """A transaction is in the journal."""
        self._record.append(done)
        self._bytes += _weight(done)
        self._doubtful = None
        if level in _CERTAIN:
            self._certain, self._certain_bytes = len(self._record), self._bytes
            if self._certain >= RECORD_MAX and self._keeper is not None:
                self._image = _serialized(self._keeper)
                self._begin_record()
        elif level == "OFF":
            self._careless = True

    def _begin_record(self) -> None:
        self._record, self._bytes, self._certain, self._certain_bytes = [], 0, 0, 0
        self._doubtful, self._careless = None, False

    def doubted(self, done: list[_Done]) -> None:
        """A commit failed; its bytes may be in the journal all the same."""
        self._doubtful = done


@dataclass(frozen=True, slots=True)
class Gate:
    """What a connection asks its disk before every statement."""

    #: A read. Raises sqlite3.Error when the disk refuses.
    look: Callable[[], None]
    #: A change, or (True) a commit that syncs. Raises sqlite3.Error when the disk refuses; True when the machine is to
    #: die in the midst of it.
    change: Callable[[bool], bool]
    #: The machine dies. Raises.
    die: Callable[[], NoReturn]


class SimConnection(sqlite3.Connection):
    """`sqlite3.Connection` as `Disk.database` gives it."""

    _database: SimDatabase
    _gate: Gate
    _level: str  # of synchronous

    def attach(self, database: SimDatabase, gate: Gate) -> None:
        self._database = database
        self._gate = gate
        self._level = "FULL"
        self._open: list[_Done] | None = None
        # A reader that has not read to its end would lock the writer out, which it does not in WAL.
        super().execute("PRAGMA read_uncommitted=1")

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        word = sql.lstrip()[:9].upper()
        if word.startswith("SELECT"):
            self._gate.look()
            return super().execute(sql, parameters)
        if word.startswith(("BEGIN", "COMMIT", "END", "ROLLBACK")):
            return self._bound(sql, word)
        if word.startswith(_READS) and not _KEPT_PRAGMA.match(sql.lstrip()):
            self._gate.look()
            self._note_level(sql)
            return super().execute(sql, parameters)
        parameters = parameters if isinstance(parameters, dict) else tuple(parameters)
        return self._changed("execute", sql, parameters, lambda: super(SimConnection, self).execute(sql, parameters))

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        rows = list(parameters)
        if not rows:
            return super().executemany(sql, rows)
        return self._changed("executemany", sql, rows, lambda: super(SimConnection, self).executemany(sql, rows))

    def executescript(self, sql_script: str, /) -> sqlite3.Cursor:
        self._note_level(sql_script)
        return self._changed(
            "executescript", sql_script, None, lambda: super(SimConnection, self).executescript(sql_script)
        )

    def _note_level(self, sql: str) -> None:
        for found in _SYNCHRONOUS.finditer(sql):
            level = found.group(1).upper()
            self._level = _LEVELS.get(level, level)

    def _bound(self, sql: str, word: str) -> sqlite3.Cursor:
        """BEGIN, COMMIT and ROLLBACK."""
        if word.startswith("BEGIN"):
            self._gate.look()
            cursor = super().execute(sql)
            self._open = []
            return cursor
        done, self._open = self._open or [], None
        if word.startswith("ROLLBACK") or not done:
            return super().execute(sql)
        return self._commit(done, lambda: super(SimConnection, self).execute(sql))

    def _changed(self, method: str, sql: str, params: Any, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        done = (method, sql, params)
        if self._open is None:
            return self._commit([done], run)
        if self._gate.change(False):
            self._gate.die()
        cursor = run()
        self._open.append(done)
        return cursor

    def _commit(self, done: list[_Done], run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        try:
            dying = self._gate.change(self._level in _CERTAIN)
        except sqlite3.Error as error:
            if self.in_transaction:
                super().execute("ROLLBACK")
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR:
                self._database.doubted(done)
            raise
        if dying:
            self._database.doubted(done)
            self._gate.die()
        cursor = run()
        self._database.committed(done, self._level)
        return cursor


def _weight(done: list[_Done]) -> int:
    """Bytes of a transaction, about: what it was given."""
    total = 0
    for method, sql, params in done:
        rows = params if method == "executemany" else (params or (),)
        for row in rows:
            values = row.values() if isinstance(row, dict) else row
            total += sum(len(value) if isinstance(value, (bytes, str)) else 8 for value in values)
        total += len(sql) if params is None else 0
    return total


def _nowhere() -> sqlite3.Connection:
    """An empty database that nobody else sees."""
    return sqlite3.connect(":memory:", isolation_level=None)


def _loaded(database: sqlite3.Connection, image: bytes, record: Iterable[list[_Done]]) -> sqlite3.Connection:
    """That empty database, filled: the image, and what was done since."""
    if image:
        source = sqlite3.connect(":memory:")
        try:
            source.deserialize(image)
            source.backup(database)
        finally:
            source.close()
    for transaction in record:
        database.execute("BEGIN")
        for method, sql, params in transaction:
            if method == "executescript":
                database.execute("COMMIT")  # a script commits what was open before it
                database.executescript(sql)
                database.execute("BEGIN")
            else:
                getattr(database, method)(sql, params)
        database.execute("COMMIT")
    return database


def _imaged(image: bytes, record: list[list[_Done]]) -> bytes:
    if not record:
        return image
    database = _loaded(_nowhere(), image, record)
    try:
        return _serialized(database)
    finally:
        database.close()


def _serialized(database: sqlite3.Connection) -> bytes:
    """sqlite refuses to serialize a database that nothing was ever written to, and one whose schema has rotted."""
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    return database.serialize() if pages else b""
