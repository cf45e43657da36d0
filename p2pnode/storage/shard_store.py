"""The shards on this node's own disk: whole files by content id, and what was found in each.

    HOME/shards/<cid>.parquet     a whole, verified shard; queries read it in place
    HOME/incoming/<cid>.part      the verified beginning of one that is not complete
    HOME/quarantine/<cid>.parquet bytes that were found not to be what their name says
    HOME/shards.db                outlines and facts (rows, statistics) of the files above

A shard appears under `shards/` only whole: temp file, hash while writing, read back for its facts, fdatasync, rename,
fsync of the directory, and only then is it said to be here. The database can be rebuilt from the files and therefore
is not synced at each step; a file that it does not know is hashed again at the next start. A failed fsync ends the
acceptance of new shards until the node is started anew: what the kernel then holds cannot be trusted. A disk that is
nearly full refuses new shards and goes on serving the old ones.

This file refuses to place, to fetch and to delete on its own: it keeps what it is given.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import structlog
import trio

from p2pnode.core.cid import BadContentId, cid_text, parse_cid
from p2pnode.core.holdings import holdings_digest
from p2pnode.core.model import FORMATS, ColumnStats
from p2pnode.core.unixfs import CHUNK_BYTES, ShardHasher, chunk_count, chunk_digest
from p2pnode.env import Env
from p2pnode.env.disk import Stamp
from p2pnode.errors import Busy, IntegrityError, NotFound, StorageFailed
from p2pnode.storage.incoming import Incoming
from p2pnode.storage.shard_index import ShardIndex, open_index
from p2pnode.storage.statistics import ShardFacts, shard_facts

log = structlog.get_logger(__name__)

#: Bytes that stay free for the catalog, logs and queries: below them a shard is refused.
FREE_BYTES_MIN = 32 << 20
#: Bytes read from a shard at once: a few chunks a thread hop, a small buffer a reader.
READ_BYTES = 2 << 20
#: Unfinished shards kept for resuming; past it the first by name goes.
PARTIALS_MAX = 256
#: Seconds to wait for another sender of the same shard before telling this one to come back.
CLAIM_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class StoredShard:
    """A shard that is on this disk, verified, with what this node found in it."""

    cid: bytes
    format: str
    rows: int
    bytes: int
    stats: Mapping[str, ColumnStats]


class ShardStore:
    """One node's shards. Made by `ShardStore.open`."""

    def __init__(self, home: Path, env: Env, index: ShardIndex) -> None:
        self._home = home
        self._env = env
        self._disk = env.disk
        self._index = index
        self._formats: dict[bytes, str] = {}
        #: How each file looked when it was verified.
        self._stamps: dict[bytes, Stamp] = {}
        self._claims: dict[bytes, trio.Lock] = {}
        #: Who is showing or removing a file; short, whereas a claim lasts as long as its sender.
        self._turns: dict[bytes, trio.Lock] = {}
        self._partials: set[bytes] = set()
        self._failed: str | None = None
        self._digest: bytes | None = None

    @classmethod
    async def open(cls, home: Path, env: Env) -> ShardStore:
        """The store of `home`, reconciled with its files. Raises StorageFailed when the disk cannot be used."""
        return await env.executor.run(cls._open, home, env)

    @classmethod
    def _open(cls, home: Path, env: Env) -> ShardStore:
        with _disk_errors("open the shard store"):
            for folder in ("shards", "incoming", "quarantine"):
                env.disk.make_dir(home / folder)
            store = cls(home, env, open_index(env.disk, home / "shards.db"))
            store._reconcile()
        return store

    def close(self) -> None:
        """Let go of the database."""
        self._index.close()

    # -- what is here -------------------------------------------------------------------------------------------

    def has(self, cid: bytes) -> bool:
        """Whether the shard is here, whole."""
        return cid in self._formats

    def cids(self) -> list[bytes]:
        """Every shard that is here, in order."""
        return sorted(self._formats)

    @property
    def digest(self) -> bytes:
        """`holdings_digest` of what is here, for every ping."""
        if self._digest is None:
            self._digest = holdings_digest(self._formats)
        return self._digest

    @property
    def bytes(self) -> int:
        """Bytes of all shards."""
        return sum(size for size, _ in self._stamps.values())

    def path_of(self, cid: bytes) -> Path | None:
        """The file to read in place, None if the shard is not here."""
        kept = self._formats.get(cid)
        return None if kept is None else self._path(cid, kept)

    async def sound_paths(self, cids: Iterable[bytes]) -> dict[bytes, Path]:
        """The files to read in place, of those shards that are here. A file that was written since it was verified is
        verified again first, and in quarantine if it is no longer what its name says.
        """
        present = {cid: path for cid in cids if (path := self.path_of(cid)) is not None}
        for cid, stamp in (await self._env.executor.run(self._changed, present)).items():
            if stamp is None:
                await self.delete(cid)
            elif await self.verify(cid):
                self._stamps[cid] = stamp
        return {cid: path for cid, path in present.items() if self.has(cid)}

    async def stored(self, cid: bytes) -> StoredShard:
        """What was found in a shard. Raises NotFound."""
        kept, found = self._kept(cid), await self._env.executor.run(self._index.facts, cid)
        return StoredShard(cid, kept, found.rows, self._stamps[cid][0], found.stats)

    async def outline(self, cid: bytes) -> tuple[bytes, int]:
        """A shard's chunk digests and its size. Raises NotFound."""
        self._kept(cid)
        return await self._env.executor.run(self._index.outline, cid), self._stamps[cid][0]

    async def read(self, cid: bytes, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Bytes `offset` .. `offset + length` (to the end if None), each chunk verified before any of it is given.

        Raises NotFound, and IntegrityError when the disk no longer gives what was written: the shard is then in
        quarantine.
        """
        outline, size = await self.outline(cid)
        end = size if length is None else min(size, offset + length)
        file = await self._env.executor.run(self._disk.open, self._path(cid, self._kept(cid)), "rb")
        try:
            at = offset
            while at < end:
                start = at - at % CHUNK_BYTES
                block = await self._env.executor.run(
                    _read_verified, file, start, min(READ_BYTES, size - start), outline
                )
                if block is None:
                    await self.quarantine(cid)
                    raise IntegrityError(f"{cid_text(cid)} is damaged on this disk")
                yield block[at - start : end - start]
                at = min(end, start + len(block))
        finally:
            file.close()

    # -- taking in ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def receive(self, cid: bytes, outline: bytes, size: int, format: str) -> AsyncIterator[Incoming]:
        """Room for one shard; pass the `Incoming` to `finish` when it is complete. Whatever was verified of it is kept.

        Raises IntegrityError (outline or format cannot be), StorageFailed (disk full or failed), Busy (another peer
        is sending the same shard).
        """
        if format not in FORMATS:
            raise IntegrityError(f"{format!r} is no shard format")
        lock = self._claims.setdefault(cid, trio.Lock())
        with trio.move_on_after(CLAIM_WAIT_S) as wait:
            await lock.acquire()
        if wait.cancelled_caught:
            raise Busy(f"{cid_text(cid)} is being received already", retry_after_s=CLAIM_WAIT_S)
        try:
            incoming = await self._env.executor.run(self._begin, cid, outline, size)
            try:
                yield incoming
            finally:
                incoming.close()
        finally:
            lock.release()
            if not lock.locked():
                self._claims.pop(cid, None)

    async def take(self, incoming: Incoming, pieces: list[bytes] | list[memoryview]) -> None:
        """Verify and write the next bytes, off the loop. Raises IntegrityError, StorageFailed."""
        await self._env.executor.run(self._take, incoming, pieces)

    async def sync(self, incoming: Incoming) -> None:
        """Begin putting a long file on the platter before its end has come. Raises StorageFailed."""
        await self._env.executor.run(self._sync, incoming)

    async def finish(self, incoming: Incoming, format: str) -> StoredShard:
        """Find out what is in it, make it durable and show it. Idempotent for a shard that is here already.

        Raises IntegrityError for a file that is not whole or no readable `format`, StorageFailed.
        """
        async with self._turn(incoming.cid):
            stored, stamp = await self._env.executor.run(self._finish, incoming, format)
            self._partials.discard(incoming.cid)
            self._show(stored.cid, stored.format, stamp)
        return stored

    # -- letting go ---------------------------------------------------------------------------------------------

    async def verify(self, cid: bytes) -> bool:
        """Whether the file still hashes to its name; one that does not goes to quarantine. Raises NotFound."""
        sound = await self._env.executor.run(self._rehash, self._path(cid, self._kept(cid)))
        if sound != cid:
            await self.quarantine(cid)
        return sound == cid

    async def quarantine(self, cid: bytes) -> None:
        """Take a damaged shard out of sight; its bytes are kept for whoever wants to know what happened."""
        async with self._turn(cid):
            kept = self._hide(cid)
            if kept is not None:
                log.error("shard_damaged", shard=cid_text(cid), advice="it is repaired from a replica")
                await self._env.executor.run(self._set_aside, self._path(cid, kept), cid)

    async def delete(self, cid: bytes) -> None:
        """Remove a shard; one that is not here is fine. Raises StorageFailed."""
        async with self._turn(cid):
            kept = self._hide(cid)
            if kept is not None:
                await self._env.executor.run(self._remove, self._path(cid, kept), cid)

    @asynccontextmanager
    async def _turn(self, cid: bytes) -> AsyncIterator[None]:
        """One change of a file after the other: what has just arrived does not go with what was there before."""
        lock = self._turns.setdefault(cid, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._turns.pop(cid, None)

    def _show(self, cid: bytes, format: str, stamp: Stamp) -> None:
        self._formats[cid] = format
        self._stamps[cid] = stamp
        self._digest = None

    def _hide(self, cid: bytes) -> str | None:
        """The format of what is no longer here; None if it was not."""
        self._digest = None
        self._stamps.pop(cid, None)
        return self._formats.pop(cid, None)

    # -- in threads ---------------------------------------------------------------------------------------------

    def _path(self, cid: bytes, format: str) -> Path:
        return self._home / "shards" / f"{cid_text(cid)}.{format}"

    def _kept(self, cid: bytes) -> str:
        kept = self._formats.get(cid)
        if kept is None:
            raise NotFound(f"shard {cid_text(cid)} is not here")
        return kept

    def _begin(self, cid: bytes, outline: bytes, size: int) -> Incoming:
        path = self._home / "incoming" / f"{cid_text(cid)}.part"
        incoming = Incoming(cid, outline, size, lambda: self._open_part(path))
        self._make_room(cid, size)
        if cid in self._partials:
            with _disk_errors("resume a shard"):
                incoming.resume()
        self._partials.add(cid)
        return incoming

    def _make_room(self, cid: bytes, size: int) -> None:
        if self._failed:
            raise StorageFailed(f"this node takes no more shards: {self._failed}")
        free = self._disk.free_bytes(self._home)
        if free < size + FREE_BYTES_MIN:
            raise StorageFailed(
                f"disk full: {free >> 20} MiB are free, a shard of {max(1, size >> 20)} MiB was refused"
            )
        for other in sorted(self._partials - {cid} - self._claims.keys())[: max(0, len(self._partials) - PARTIALS_MAX)]:
            self._disk.unlink(self._home / "incoming" / f"{cid_text(other)}.part")
            self._partials.discard(other)

    def _open_part(self, path: Path) -> BinaryIO:
        if self._disk.size(path) is None:
            self._disk.open(path, "xb").close()
        return self._disk.open(path, "r+b")

    def _take(self, incoming: Incoming, pieces: list[bytes] | list[memoryview]) -> None:
        with _disk_errors("write a shard"):
            incoming.take(pieces)

    def _sync(self, incoming: Incoming) -> None:
        with self._finally():
            incoming.sync(self._disk.sync)

    def _sync_names(self) -> None:
        with self._finally():
            self._disk.sync_dir(self._home / "shards")

    @contextmanager
    def _finally(self) -> Iterator[None]:
        """A sync that fails is the last one."""
        try:
            yield
        except OSError as error:
            self._failed = f"fsync failed: {error}"
            raise StorageFailed(self._failed) from error

    def _changed(self, paths: Mapping[bytes, Path]) -> dict[bytes, Stamp | None]:
        """The shards whose files are not as they were when they were verified, and how they are now."""
        found = {cid: self._disk.stamp(path) for cid, path in paths.items()}
        return {cid: stamp for cid, stamp in found.items() if stamp != self._stamps.get(cid)}

    def _finish(self, incoming: Incoming, format: str) -> tuple[StoredShard, Stamp]:
        cid, part = incoming.cid, self._home / "incoming" / f"{cid_text(incoming.cid)}.part"
        if not incoming.complete:
            raise IntegrityError(f"{cid_text(cid)} ended at byte {incoming.offset} of {incoming.size}")
        if self.has(cid):
            self._disk.unlink(part)
            facts = self._index.facts(cid)
            return StoredShard(cid, self._formats[cid], facts.rows, incoming.size, facts.stats), self._stamps[cid]
        self._sync(incoming)
        incoming.close()
        with _disk_errors("keep a shard"):
            try:
                facts = self._facts(part, format)
            except IntegrityError:
                self._disk.unlink(part)  # its hash is right, so no other copy would be better
                raise
            stamp = self._disk.stamp(part) or (incoming.size, 0)
            self._index.add(cid, stamp, incoming.outline, facts)
            self._disk.rename(part, self._path(cid, format))
        self._sync_names()
        return StoredShard(cid, format, facts.rows, incoming.size, facts.stats), stamp

    def _facts(self, path: Path, format: str) -> ShardFacts:
        with self._disk.open(path, "rb") as file:
            return shard_facts(file, format)

    def _rehash(self, path: Path) -> bytes:
        hasher = ShardHasher()
        with _disk_errors("read a shard"), self._disk.open(path, "rb") as file:
            while block := file.read(READ_BYTES):
                hasher.update(block)
        return hasher.cid()

    def _set_aside(self, path: Path, cid: bytes) -> None:
        with _disk_errors("quarantine a shard"):
            self._index.remove(cid)
            self._disk.rename(path, self._home / "quarantine" / path.name)
        self._sync_names()

    def _remove(self, path: Path, cid: bytes) -> None:
        with _disk_errors("delete a shard"):
            self._index.remove(cid)
            self._disk.unlink(path)
        self._sync_names()

    def _reconcile(self) -> None:
        """What the files say, the database follows."""
        known = self._index.stamps()
        for path in self._disk.scan(self._home / "shards"):
            cid, format = _named(path)
            if cid is None or format not in FORMATS:
                continue
            stamp = self._disk.stamp(path)
            if stamp is not None and (known.get(cid) == stamp or self._relearn(path, cid, format, stamp)):
                self._show(cid, format, stamp)
        for cid in sorted(known.keys() - self._formats.keys()):
            self._index.remove(cid)
        for path in self._disk.scan(self._home / "incoming"):
            cid, _ = _named(path)
            if cid is not None:
                self._partials.add(cid)

    def _relearn(self, path: Path, cid: bytes, format: str, stamp: Stamp) -> bool:
        """Hash and read a file that the database does not know so; False when it went to quarantine."""
        hasher = ShardHasher()
        try:
            with self._disk.open(path, "rb") as file:
                while block := file.read(READ_BYTES):
                    hasher.update(block)
            if hasher.cid() != cid:
                raise IntegrityError("not what its name says")
            self._index.add(cid, stamp, hasher.outline(), self._facts(path, format))
        except IntegrityError as wrong:
            log.error("shard_damaged", shard=path.name, why=wrong.message)
            self._set_aside(path, cid)
            return False
        return True


def _named(path: Path) -> tuple[bytes | None, str]:
    try:
        return parse_cid(path.stem), path.suffix[1:]
    except BadContentId:
        return None, ""


def _read_verified(file: BinaryIO, start: int, length: int, outline: bytes) -> bytes | None:
    """Whole chunks from `start` on; None when one of them is not as the outline says."""
    file.seek(start)
    block = file.read(length)
    view = memoryview(block)
    first = start // CHUNK_BYTES
    for index in range(chunk_count(length)):
        digest = outline[(first + index) * 32 : (first + index + 1) * 32]
        if chunk_digest(view[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]) != digest:
            return None
    return block if len(block) == length else None


@contextmanager
def _disk_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StorageFailed("disk full" if full else f"cannot {doing}: {error.strerror or error}") from error
    except sqlite3.Error as error:
        raise StorageFailed(f"cannot {doing}: {error}") from error
