"""The merkle clock on disk: every event and every block that it stands on, in one sqlite file.

What `append` returned from is on the platter (WAL, synchronous=FULL). Callers at the same moment share one
commit. Whenever a row is read its event is hashed again and compared with a seal that covers its signature too,
and blocks are hashed again; what does not match is never served: a block is an IntegrityError, an event is set
aside (`set_aside`) until it comes again from a peer. That no row is gone a tally of all of them tells. A
failed write is final for the log (pages may be marked clean that are not on disk), except for a full disk, which
sqlite rolls back whole. A file that sqlite itself cannot read is moved aside, never deleted, and begun anew where
others have what was in it (`start_anew`).

Rows lie in the order in which they were appended, so a replay finds parents before children, but for those that
were set aside and came again. Beside the log lies what a replay made of it (`kept_checkpoint`), a cache.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import structlog
import trio

from bootstrap.identity import SIGNATURE_BYTES
from p2pnode.core.cid import DIGEST_BYTES, cid_text, record_cid
from p2pnode.core.event import BadEvent, Event, parse
from p2pnode.env import Env
from p2pnode.env.shield import shielded
from p2pnode.errors import IntegrityError, StorageFailed
from p2pnode.storage.tally import Tally

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: The layout of this file's tables; a higher one was written by a newer p2pnode.
FORMAT = 1

_SEAL_BYTES = 16
_TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS events (
    place INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, wire BLOB NOT NULL, seal BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS blocks (id BLOB PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS damaged (place INTEGER, id BLOB NOT NULL, wire BLOB NOT NULL, seal BLOB NOT NULL);
"""
#: Rows read at once, so that no reader keeps sqlite from tidying its log for long; and checked at once, some 20 ms.
_ROWS = 1024
CHECKED = 8192


@dataclass(frozen=True, slots=True)
class Row:
    """One event as it lies there."""

    place: int
    id: bytes
    #: None if its bytes have changed.
    event: Event | None


@dataclass(eq=False, slots=True)
class _Batch:
    events: tuple[Event, ...]
    blocks: Mapping[bytes, bytes]
    done: bool = False
    failure: Exception | None = field(default=None)


class EventLog:
    """One node's durable copy. Make it with `EventLog.open`."""

    def __init__(self, env: Env, path: Path) -> None:
        self._env = env
        self._path = path
        self._queue: list[_Batch] = []
        self._lock = trio.Lock()
        self._failed: str = ""
        self._writer = self._reader = None
        self._tally = Tally()
        #: The genesis id of the swarm that this log belongs to; None while it belongs to none.
        self.genesis: bytes | None = None

    @classmethod
    async def open(cls, env: Env, path: Path, *, anew: bool = False) -> EventLog:
        """The log in that file, made if there is none. `anew`: whether a file that sqlite cannot read may be moved
        aside for an empty one, because others have what was in it.

        Raises IntegrityError if it is damaged, StorageFailed if the disk refuses or a newer p2pnode wrote it.
        """
        opened = cls(env, path)
        try:
            await env.executor.run(opened._guarded, opened._open)
        except IntegrityError:
            if not anew:
                raise
            await opened.start_anew()
        return opened

    async def start_anew(self) -> None:
        """Move a file that sqlite cannot read aside, and begin an empty one. Raises StorageFailed."""
        with shielded():
            async with self._lock:
                await self._env.executor.run(self._start_anew)

    @property
    def is_unreadable(self) -> bool:
        """Whether sqlite gave the file up."""
        return bool(self._failed)

    async def close(self) -> None:
        """Let go of the file. Nothing is lost by not calling it."""
        with shielded():
            async with self._lock:
                await self._env.executor.run(self._close)

    async def wires(self, event_ids: Sequence[bytes]) -> list[bytes | None]:
        """The wire bytes of these events in that order; None for one that is damaged or set aside."""
        return await self._env.executor.run(self._guarded, self._wires, event_ids)

    def read(self, event_id: bytes) -> Event:
        """One event, for callers that are in a thread already or need one at once. It blocks.

        Raises IntegrityError if it is damaged or set aside.
        """
        wire = self._guarded(self._wire, event_id)
        if wire is None:
            raise IntegrityError(
                f"Event {cid_text(event_id)} in {self._path} has changed on disk.",
                advice="It comes again from another member; `p2pnode doctor` tells whether it has.",
            )
        return parse(wire)

    def rows(self, after: int = 0) -> Iterator[Row]:
        """Everything behind that place, by place, damaged rows too. For a thread."""
        while rows := self._guarded(self._rows, after):
            yield from rows
            after = rows[-1].place

    def events(self) -> Iterator[Event]:
        """Every event that is whole, in that order. For a thread."""
        return (row.event for row in self.rows() if row.event is not None)

    def row(self, place: int) -> Row | None:
        """The row at that place. It blocks."""
        rows = self._guarded(self._rows, place - 1, 1)
        return rows[0] if rows and rows[0].place == place else None

    def holds(self, upto: int) -> tuple[int, bytes]:
        """(how many events lie up to that place, the sum of their ids as `MerkleClock.fingerprint`). For a thread."""
        return self._guarded(self._holds, upto)

    def unsound(self, after: int) -> tuple[int, list[bytes]]:
        """(the last of the next CHECKED rows behind that place, the ids of those that are damaged); (0, []) at the end.

        For a thread; it costs a fifth of reading them as events.
        """
        return self._guarded(self._unsound, after)

    async def set_aside(self, event_ids: Iterable[bytes]) -> None:
        """Take damaged rows out of the way for good, so that their events can be stored again. Raises StorageFailed."""
        with shielded():
            async with self._lock:
                await self._env.executor.run(self._guarded, self._set_aside, list(event_ids))

    def damaged(self) -> list[bytes]:
        """Names of the events that were set aside and did not come again; sorted. It blocks."""
        return self._guarded(self._damaged_ids)

    def block_ids(self) -> list[bytes]:
        """Content ids of every block here, sorted. It blocks."""
        return self._guarded(self._block_ids)

    # -- the checkpoint --------------------------------------------------------------------------------------

    @property
    def _checkpoint_path(self) -> Path:
        return checkpoint_path(self._path)

    def kept_checkpoint(self) -> bytes | None:
        """What `keep_checkpoint` wrote last, as it lies there; None if there is none that reads. It blocks."""
        try:
            with self._env.disk.open(self._checkpoint_path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.info("checkpoint_unread", why=str(error))
            return None

    def keep_checkpoint(self, pieces: Iterable[bytes]) -> bool:
        """Put this, one piece after the other, in place of the last one, whole or not at all. False if the disk
        refuses, which costs only time.
        """
        disk, path = self._env.disk, self._checkpoint_path
        fresh = path.with_suffix(".checkpoint.new")
        try:
            with disk.open(fresh, "wb") as file:
                for piece in pieces:
                    file.write(piece)
                disk.sync(file)
            disk.rename(fresh, path)
            disk.sync_dir(path.parent)
        except OSError as error:
            log.warning("checkpoint_not_kept", why=str(error))
            # What was written of it may be what fills the disk.
            with suppress(OSError):
                disk.unlink(fresh)
            return False
        return True

    async def block(self, cid: bytes) -> bytes | None:
        """A block's bytes, or None if it is not here. Raises IntegrityError if they are damaged."""
        return await self._env.executor.run(self._guarded, self._block, cid)

    def unsound_blocks(self) -> list[bytes]:
        """Ids of the blocks that have changed; sorted. For a thread: it reads them all."""
        return [cid for cid in self.block_ids() if not self._guarded(self._block_is_sound, cid)]

    async def drop_blocks(self, cids: Iterable[bytes]) -> None:
        """Forget blocks that have changed, and the checkpoint, which knows them: what names them waits for them again.

        Raises StorageFailed.
        """
        with shielded():
            async with self._lock:
                await self._env.executor.run(self._guarded, self._drop_blocks, list(cids))

    async def mend_block(self, cid: bytes, data: bytes) -> None:
        """Put these bytes, which were checked, in place of a block that has changed. Raises StorageFailed."""
        with shielded():
            async with self._lock:
                await self._env.executor.run(self._guarded, self._mend_block, cid, data)

    def read_block(self, cid: bytes) -> bytes | None:
        """`block`, for callers that are in a thread already or need one small block at once. It blocks."""
        return self._guarded(self._block, cid)

    async def adopt(self, genesis: bytes) -> None:
        """Belong to that swarm from now on. Raises IntegrityError if the log belongs to another one."""
        if self.genesis == genesis:
            return  # every greeting says so; it is on the platter already
        async with self._lock:
            if self.genesis not in (None, genesis):
                raise IntegrityError(f"{self._path} belongs to another swarm", advice=self.advice)
            await self._env.executor.run(self._guarded, self._set_genesis, genesis)
            self.genesis = genesis

    async def begin(self, genesis: Event) -> None:
        """Store a genesis event and belong to its swarm, both or neither. Raises as `adopt` and `append` do."""
        if self.genesis is not None:
            raise IntegrityError(f"{self._path} belongs to another swarm", advice=self.advice)
        async with self._lock:
            await self._env.executor.run(self._guarded, self._write, [_Batch((genesis,), {})], genesis.id)
        self.genesis = genesis.id

    async def append(self, events: Iterable[Event], blocks: Mapping[bytes, bytes] | None = None) -> None:
        """Make these durable; what is here already stays as it is. All or nothing, and not cancelled halfway.

        `blocks` maps content ids to bytes that were checked against them. Raises StorageFailed.
        """
        batch = _Batch(tuple(events), blocks or {})
        if not batch.events and not batch.blocks:
            return
        self._queue.append(batch)
        with shielded():
            try:
                self._lock.acquire_nowait()  # nearly always, and without a pass through the loop
            except trio.WouldBlock:
                await self._lock.acquire()
            try:
                # Whoever gets the lock first writes for everybody who queued meanwhile.
                if not batch.done:
                    await self._write_queued()
            finally:
                self._lock.release()
        if batch.failure is not None:
            raise StorageFailed(str(batch.failure)) from batch.failure

    async def _write_queued(self) -> None:
        group, self._queue = self._queue, []
        # Whatever goes wrong, even that no thread is free: those who share a commit share its failure.
        failure: Exception | None = StorageFailed(f"{self._path} was not written.")
        try:
            await self._env.executor.run(self._guarded, self._write, group)
            failure = None
        except Exception as error:  # noqa: BLE001  # each of them is told, as StorageFailed
            failure = error
        finally:
            for batch in group:
                batch.done, batch.failure = True, failure

    # -- in a thread -----------------------------------------------------------------------------------------

    def _guarded(self, work: Callable[..., T], *args: object) -> T:
        """Run `work`, naming sqlite's failures as ours and remembering those after which nothing may be trusted."""
        if self._failed:
            raise StorageFailed(self._failed)
        try:
            return work(*args)
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_FULL:
                raise StorageFailed(f"The disk is full; {self._path} was not changed.") from error
            # SQLITE_ERROR: it does not understand a statement of ours, so it is the schema that has changed on disk.
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
                self._failed = f"The event log {self._path} is damaged: {error}."
                self._remember_damage()
                raise IntegrityError(self._failed, advice=self.advice) from error
            self._failed = f"The event log {self._path} cannot be used: {error}."
            raise StorageFailed(self._failed) from error

    @property
    def _damage_path(self) -> Path:
        return self._path.with_name(f"{self._path.name}.damaged")

    def _remember_damage(self) -> None:
        """For the next start: a page that only a write needs reads as sound until then, and would end every life."""
        disk = self._env.disk
        try:
            with disk.open(self._damage_path, "wb") as file:
                disk.sync(file)
            disk.sync_dir(self._path.parent)
        except OSError as error:
            log.warning("damage_not_remembered", why=str(error))

    def _open(self) -> None:
        disk = self._env.disk
        if disk.size(self._damage_path) is not None:
            if disk.size(self._path) is not None:
                raise IntegrityError(f"The event log {self._path} was found damaged in use.", advice=self.advice)
            disk.unlink(self._damage_path)  # somebody moved the log away, as advised
        self._writer = disk.database(self._path)
        self._reader = disk.database(self._path)
        for connection in (self._writer, self._reader):
            connection.text_factory = bytes  # one flipped bit makes text of bytes: they are judged by their seal
        self._writer.executescript(_TABLES)
        found = self._meta("format")
        if found is None:
            self._writer.execute("INSERT INTO meta VALUES ('format', ?)", (FORMAT.to_bytes(2, "big"),))
        elif int.from_bytes(found, "big") > FORMAT:
            raise StorageFailed(
                f"{self._path} was written by a newer p2pnode.", advice="Start the newer version again."
            )
        self.genesis = self._meta("genesis")
        kept = Tally.decode(self._meta("tally") or b"")
        self._tally = self._tallied(Tally()) if kept is None else kept

    def _start_anew(self) -> None:
        disk, number = self._env.disk, 1
        self._close()
        while disk.size(aside := self._path.with_name(f"{self._path.name}.damaged-{number}")) is not None:
            number += 1
        log.error("log_moved_aside", to=str(aside))
        try:
            for suffix in ("-wal", "-shm", ""):
                file = self._path.with_name(self._path.name + suffix)
                if disk.size(file) is not None:
                    disk.rename(file, aside.with_name(aside.name + suffix))
            disk.unlink(self._checkpoint_path)
            disk.unlink(self._damage_path)
            disk.sync_dir(self._path.parent)
        except OSError as error:
            raise StorageFailed(f"{self._path} cannot be moved aside: {error}.") from error
        self._failed, self._tally = "", Tally()
        self._guarded(self._open)

    def _close(self) -> None:
        for connection in (self._reader, self._writer):
            if connection is not None:
                connection.close()
        self._failed = f"The event log {self._path} is closed."

    def _meta(self, name: str) -> bytes | None:
        row = self._reading().execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def _set_genesis(self, genesis: bytes) -> None:
        self._writing().execute("INSERT OR REPLACE INTO meta VALUES ('genesis', ?)", (genesis,))

    def _write(self, group: list[_Batch], genesis: bytes | None = None) -> None:
        writer = self._writing()
        writer.execute("BEGIN IMMEDIATE")
        try:
            for batch in group:
                writer.executemany("INSERT OR IGNORE INTO blocks VALUES (?, ?)", batch.blocks.items())
                writer.executemany(
                    "INSERT OR IGNORE INTO events (id, wire, seal) VALUES (?, ?, ?)",
                    ((event.id, event.wire, seal_of(event.wire)) for event in batch.events),
                )
            if genesis is not None:
                self._set_genesis(genesis)
            self._commit(self._tallied(self._tally))
        except BaseException:
            if writer.in_transaction:
                writer.execute("ROLLBACK")
            raise

    def _tallied(self, before: Tally) -> Tally:
        """With what lies behind it, also what is not committed yet."""
        return before.after(
            self._writing().execute("SELECT place, id FROM events WHERE place > ? ORDER BY place", (before.place,))
        )

    def _commit(self, tally: Tally) -> None:
        self._writing().execute("INSERT OR REPLACE INTO meta VALUES ('tally', ?)", (tally.encode(),))
        self._writing().execute("COMMIT")
        self._tally = tally

    def _rows(self, after: int, most: int = _ROWS) -> list[Row]:
        found = self._reading().execute(
            "SELECT place, id, wire, seal FROM events WHERE place > ? ORDER BY place LIMIT ?", (after, most)
        )
        return [Row(place, event_id, _whole(event_id, wire, seal)) for place, event_id, wire, seal in found]

    def _holds(self, upto: int) -> tuple[int, bytes]:
        # The index of ids is a tenth of the table, and has the places too.
        found = self._reading().execute(
            "SELECT id FROM events INDEXED BY sqlite_autoindex_events_1 WHERE place <= ?", (upto,)
        )
        count = total = 0
        for (event_id,) in found:  # not `sum`, which would hold up the loop for all of them
            count, total = count + 1, total + int.from_bytes(event_id[-DIGEST_BYTES:], "big")
        return count, (total % (1 << 8 * DIGEST_BYTES)).to_bytes(DIGEST_BYTES, "big")

    def _unsound(self, after: int) -> tuple[int, list[bytes]]:
        found = self._reading().execute(
            "SELECT place, id, wire, seal FROM events WHERE place > ? ORDER BY place LIMIT ?", (after, CHECKED)
        )
        last, damaged = 0, []
        for last, event_id, wire, seal in found:  # noqa: B007  # the last place is an answer
            if not _is_sound(event_id, wire, seal):
                damaged.append(event_id)
        return last, damaged

    def _set_aside(self, event_ids: Sequence[bytes]) -> None:
        writer = self._writing()
        writer.execute("BEGIN IMMEDIATE")
        try:
            for event_id in event_ids:
                writer.execute("INSERT INTO damaged SELECT * FROM events WHERE id = ?", (event_id,))
                writer.execute("DELETE FROM events WHERE id = ?", (event_id,))
            self._commit(self._tallied(Tally()))
        except BaseException:
            if writer.in_transaction:
                writer.execute("ROLLBACK")
            raise

    def _damaged_ids(self) -> list[bytes]:
        found = self._reading().execute("SELECT DISTINCT id FROM damaged WHERE id NOT IN (SELECT id FROM events)")
        return sorted(event_id for (event_id,) in found)

    def _wires(self, event_ids: Sequence[bytes]) -> list[bytes | None]:
        return [self._wire(event_id) for event_id in event_ids]

    def _wire(self, event_id: bytes) -> bytes | None:
        row = self._reading().execute("SELECT wire, seal FROM events WHERE id = ?", (event_id,)).fetchone()
        return row[0] if row is not None and _is_sound(event_id, *row) else None

    def _block_ids(self) -> list[bytes]:
        return [row[0] for row in self._reading().execute("SELECT id FROM blocks ORDER BY id")]

    def _block(self, cid: bytes) -> bytes | None:
        row = self._reading().execute("SELECT data FROM blocks WHERE id = ?", (cid,)).fetchone()
        if row is not None and (type(row[0]) is not bytes or record_cid(row[0]) != cid):
            raise IntegrityError(f"Block {cid_text(cid)} in {self._path} has changed on disk.", advice=self.advice)
        return row[0] if row else None

    def _block_is_sound(self, cid: bytes) -> bool:
        row = self._reading().execute("SELECT data FROM blocks WHERE id = ?", (cid,)).fetchone()
        return row is not None and type(row[0]) is bytes and record_cid(row[0]) == cid

    def _drop_blocks(self, cids: Sequence[bytes]) -> None:
        try:
            self._env.disk.unlink(self._checkpoint_path)
            self._env.disk.sync_dir(self._path.parent)  # it must not be back when the blocks are gone
        except OSError as error:
            raise StorageFailed(f"The checkpoint beside {self._path} cannot be removed: {error}.") from error
        self._writing().executemany("DELETE FROM blocks WHERE id = ?", ((cid,) for cid in cids))

    def _mend_block(self, cid: bytes, data: bytes) -> None:
        self._writing().execute("INSERT OR REPLACE INTO blocks VALUES (?, ?)", (cid, data))

    def _reading(self) -> sqlite3.Connection:
        assert self._reader is not None  # opened
        return self._reader

    def _writing(self) -> sqlite3.Connection:
        assert self._writer is not None  # opened
        return self._writer

    @property
    def advice(self) -> str:
        """What to do about a damaged log."""
        return (
            f"Move {self._path.name} (and its -wal, -shm) out of {self._path.parent} and start the node with "
            "--bootstrap at a living member: it fetches every event again. Shards are not touched."
        )


def checkpoint_path(log_path: Path) -> Path:
    """Where the checkpoint of the log in that file lies."""
    return log_path.with_suffix(".checkpoint")


def _whole(event_id: bytes, wire: bytes, seal: bytes) -> Event | None:
    """The event in a row, unless its bytes have changed."""
    try:
        return parse(wire) if _is_sound(event_id, wire, seal) else None
    except BadEvent:
        return None


def _is_sound(event_id: bytes, wire: bytes, seal: bytes) -> bool:
    return type(wire) is bytes and seal_of(wire) == seal and record_cid(wire[:-SIGNATURE_BYTES]) == event_id


def seal_of(wire: bytes) -> bytes:
    """Covers the signature too, which the event's id does not."""
    return hashlib.blake2b(wire, digest_size=_SEAL_BYTES).digest()
