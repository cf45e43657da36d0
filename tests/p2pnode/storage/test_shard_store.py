"""The store: only whole and verified shards show, nothing verified is lost, every way a disk fails is said."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pytest
import trio
import trio.testing

from p2pnode.core.cid import cid_text
from p2pnode.core.holdings import holdings_digest
from p2pnode.core.unixfs import CHUNK_BYTES, ShardHasher
from p2pnode.env import Env, LocalDisk
from p2pnode.errors import Busy, IntegrityError, NotFound, StorageFailed
from p2pnode.storage import shard_store
from p2pnode.storage.incoming import Incoming
from p2pnode.storage.shard_index import ShardIndex
from p2pnode.storage.shard_store import ShardStore, StoredShard
from p2pnode.storage.sources import open_source
from p2pnode.storage.splitter import CutShard, Cutter


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> list[CutShard]:
    """Three shards, two of them of a few chunks and one of a few rows."""
    rng = np.random.default_rng(1)
    table = pa.table({"n": rng.integers(0, 1 << 60, 1_000_100), "x": rng.normal(size=1_000_100)})
    folder = tmp_path_factory.mktemp("cuts")
    cutter = Cutter(open_source(table), LocalDisk(), folder, format="parquet", shard_rows=500_000)
    made = list(iter(cutter.cut, None))
    assert [cut.rows for cut in made] == [500_000, 500_000, 100]
    assert made[0].bytes > 4 * CHUNK_BYTES
    return made


@dataclass
class FaultyDisk(LocalDisk):
    """A disk that runs full or fails to sync when it is told to."""

    free: int = 1 << 40
    write_error: int = 0
    sync_error: int = 0
    names_error: int = 0

    def free_bytes(self, path: Path) -> int:
        return self.free

    def open(self, path: Path, mode: str) -> BinaryIO:
        if self.write_error and mode != "rb":
            raise OSError(self.write_error, os.strerror(self.write_error))
        return super().open(path, mode)

    def sync(self, file: BinaryIO) -> None:
        if self.sync_error:
            raise OSError(self.sync_error, os.strerror(self.sync_error))
        super().sync(file)

    def sync_dir(self, path: Path) -> None:
        if self.names_error:
            raise OSError(self.names_error, os.strerror(self.names_error))
        super().sync_dir(path)


@asynccontextmanager
async def opened(home: Path, disk: LocalDisk | None = None) -> AsyncIterator[ShardStore]:
    store = await ShardStore.open(home, Env(disk=disk or LocalDisk()))
    try:
        yield store
    finally:
        store.close()


def blocks(cut: CutShard, start: int = 0, size: int = 300_000) -> Iterator[bytes]:
    data = cut.path.read_bytes()
    for at in range(start, len(data), size):
        yield data[at : at + size]


async def keep(store: ShardStore, cut: CutShard) -> StoredShard:
    async with store.receive(cut.cid, cut.outline, cut.bytes, cut.format) as incoming:
        for block in blocks(cut, incoming.offset):
            await store.take(incoming, [block])
        return await store.finish(incoming, cut.format)


async def read(store: ShardStore, cid: bytes, offset: int = 0, length: int | None = None) -> bytes:
    return b"".join([block async for block in store.read(cid, offset, length)])


def content(path: Path | None) -> bytes:
    assert path is not None
    return path.read_bytes()


def files(home: Path, folder: str) -> list[str]:
    return sorted(path.name for path in (home / folder).iterdir())


@pytest.mark.trio
async def test_a_shard_is_one_whole_file_of_its_name(cuts: list[CutShard], tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        cut = cuts[0]
        stored = await keep(store, cut)
        assert (stored.cid, stored.format, stored.rows, stored.bytes) == (cut.cid, "parquet", cut.rows, cut.bytes)
        assert stored.stats["n"].nulls == 0
        assert isinstance(stored.stats["x"].low, float)
        assert files(tmp_path, "shards") == [cid_text(cut.cid) + ".parquet"]
        assert files(tmp_path, "incoming") == []
        assert content(store.path_of(cut.cid)) == content(cut.path)
        assert await store.outline(cut.cid) == (cut.outline, cut.bytes)
        assert await store.stored(cut.cid) == stored
        assert (store.has(cut.cid), store.cids(), store.bytes) == (True, [cut.cid], cut.bytes)
        assert await store.verify(cut.cid)


@pytest.mark.trio
async def test_any_range_reads(cuts: list[CutShard], tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await keep(store, cuts[0])
        data, size = cuts[0].path.read_bytes(), cuts[0].bytes
        for offset, length in (
            (0, None),
            (0, 1),
            (CHUNK_BYTES - 1, 2),
            (5, 3 * CHUNK_BYTES),
            (size - 1, None),
            (size - 1, 99),
            (size, None),
            (3, 0),
        ):
            expected = data[offset:] if length is None else data[offset : offset + length]
            assert await read(store, cuts[0].cid, offset, length) == expected


@pytest.mark.trio
async def test_everything_is_there_after_a_restart(cuts: list[CutShard], tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        kept = [await keep(store, cut) for cut in cuts]
    async with opened(tmp_path) as store:
        assert store.cids() == sorted(cut.cid for cut in cuts)
        assert store.digest == holdings_digest(cut.cid for cut in cuts)
        assert [await store.stored(cut.cid) for cut in cuts] == kept


@pytest.mark.trio
async def test_a_lost_database_is_made_again_from_the_files(cuts: list[CutShard], tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        kept = await keep(store, cuts[0])
        await keep(store, cuts[2])
    for name in ("shards.db", "shards.db-wal", "shards.db-shm"):
        LocalDisk().unlink(tmp_path / name)
    damaged = tmp_path / "shards" / (cid_text(cuts[2].cid) + ".parquet")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    (tmp_path / "shards" / "notes.txt").write_text("not ours")
    async with opened(tmp_path) as store:
        assert store.cids() == [cuts[0].cid]
        assert await store.stored(cuts[0].cid) == kept
        assert await store.outline(cuts[0].cid) == (cuts[0].outline, cuts[0].bytes)
        assert files(tmp_path, "quarantine") == [damaged.name]


@pytest.mark.parametrize("where", [0, 4096 + 100], ids=["the header", "a page"])
@pytest.mark.trio
async def test_a_damaged_database_is_made_again_from_the_files(
    where: int, cuts: list[CutShard], tmp_path: Path
) -> None:
    async with opened(tmp_path) as store:
        kept = await keep(store, cuts[0])
    with (tmp_path / "shards.db").open("r+b") as file:
        file.seek(where)
        file.write(os.urandom(2000))
    for again in range(2):
        async with opened(tmp_path) as store:
            assert await store.stored(cuts[0].cid) == kept, again
            assert await store.outline(cuts[0].cid) == (cuts[0].outline, cuts[0].bytes)


@pytest.mark.trio
async def test_a_file_removed_from_outside_is_not_claimed(cuts: list[CutShard], tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await keep(store, cuts[2])
    (tmp_path / "shards" / (cid_text(cuts[2].cid) + ".parquet")).unlink()
    async with opened(tmp_path) as store:
        assert store.cids() == []
        with pytest.raises(NotFound):
            await store.stored(cuts[2].cid)
        with pytest.raises(NotFound):
            await read(store, cuts[2].cid)


@pytest.mark.trio
@pytest.mark.parametrize("restart", [False, True])
async def test_a_broken_transfer_goes_on_where_it_was(restart: bool, cuts: list[CutShard], tmp_path: Path) -> None:
    cut = cuts[1]
    async with opened(tmp_path) as store:
        with pytest.raises(ConnectionError):
            async with store.receive(cut.cid, cut.outline, cut.bytes, "parquet") as incoming:
                await store.take(incoming, [cut.path.read_bytes()[: 2 * CHUNK_BYTES + 1000]])
                raise ConnectionError
        assert not store.has(cut.cid)
        assert files(tmp_path, "shards") == []
        if not restart:
            async with store.receive(cut.cid, cut.outline, cut.bytes, "parquet") as incoming:
                assert incoming.offset == 2 * CHUNK_BYTES
    async with opened(tmp_path) as store:
        async with store.receive(cut.cid, cut.outline, cut.bytes, "parquet") as incoming:
            assert incoming.offset == 2 * CHUNK_BYTES
            await store.take(incoming, [cut.path.read_bytes()[2 * CHUNK_BYTES :]])
            await store.finish(incoming, "parquet")
        assert await read(store, cut.cid) == cut.path.read_bytes()


@pytest.mark.trio
async def test_a_shard_that_is_not_whole_does_not_show(cuts: list[CutShard], tmp_path: Path) -> None:
    cut = cuts[0]
    async with opened(tmp_path) as store:
        async with store.receive(cut.cid, cut.outline, cut.bytes, "parquet") as incoming:
            await store.take(incoming, [cut.path.read_bytes()[:-1]])
            with pytest.raises(IntegrityError, match="ended at byte"):
                await store.finish(incoming, "parquet")
        assert store.cids() == []


@pytest.mark.trio
async def test_bytes_that_are_no_shard_are_refused(tmp_path: Path) -> None:
    hasher = ShardHasher()
    hasher.update(b"honestly hashed nonsense")
    async with opened(tmp_path) as store:
        async with store.receive(hasher.cid(), hasher.outline(), hasher.size, "parquet") as incoming:
            await store.take(incoming, [b"honestly hashed nonsense"])
            with pytest.raises(IntegrityError, match="not a readable parquet"):
                await store.finish(incoming, "parquet")
        assert files(tmp_path, "incoming") == files(tmp_path, "shards") == []
        with pytest.raises(IntegrityError, match="'orc' is no shard format"):
            async with store.receive(hasher.cid(), hasher.outline(), hasher.size, "orc"):
                pass


@pytest.mark.trio
async def test_finishing_twice_is_the_same_as_once(cuts: list[CutShard], tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        assert await keep(store, cuts[2]) == await keep(store, cuts[2])
        assert files(tmp_path, "incoming") == []


@pytest.mark.trio
async def test_two_senders_of_one_shard(cuts: list[CutShard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = cuts[2]
    async with (
        opened(tmp_path) as store,
        trio.open_nursery() as nursery,
        store.receive(cut.cid, cut.outline, cut.bytes, "parquet") as incoming,
    ):
        nursery.start_soon(keep, store, cut)  # waits, then finds it there
        await trio.testing.wait_all_tasks_blocked()
        assert incoming.offset == 0
        for block in blocks(cut):
            await store.take(incoming, [block])
        await store.finish(incoming, "parquet")
    async with opened(tmp_path / "second") as store:
        monkeypatch.setattr(shard_store, "CLAIM_WAIT_S", 0.01)
        async with store.receive(cut.cid, cut.outline, cut.bytes, "parquet"):
            with pytest.RaisesGroup(Busy):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(keep, store, cut)
        await keep(store, cut)


@pytest.mark.trio
async def test_damage_is_found_and_set_aside(cuts: list[CutShard], tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        for cut in cuts[:2]:
            await keep(store, cut)
            path = store.path_of(cut.cid)
            assert path is not None
            with path.open("r+b") as file:
                file.seek(3 * CHUNK_BYTES + 5)
                file.write(b"rot")
        # A reader gets what is sound before the damage, then an error, never the damage.
        got = b""
        with pytest.raises(IntegrityError, match="damaged on this disk"):
            async for block in store.read(cuts[0].cid):
                got += block
        assert got == cuts[0].path.read_bytes()[: 2 * CHUNK_BYTES]
        assert not await store.verify(cuts[1].cid)
        assert store.cids() == []
        assert len(files(tmp_path, "quarantine")) == 2
        await keep(store, cuts[0])
        assert await read(store, cuts[0].cid) == cuts[0].path.read_bytes()


@pytest.mark.trio
async def test_a_file_that_was_written_since_is_verified_before_it_is_read_in_place(
    cuts: list[CutShard], tmp_path: Path
) -> None:
    cids = [cut.cid for cut in cuts[:3]]
    async with opened(tmp_path) as store:
        for cut in cuts[:3]:
            await keep(store, cut)
        paths = await store.sound_paths([*cids, b"nobody's"])
        assert list(paths) == cids
        paths[cids[0]].touch()
        with paths[cids[1]].open("r+b") as file:
            file.write(b"rot")
        paths[cids[2]].unlink()
        assert await store.sound_paths(cids) == {cids[0]: paths[cids[0]]}
        assert store.cids() == [cids[0]]
        assert len(files(tmp_path, "quarantine")) == 1
        with paths[cids[0]].open("r+b") as file:
            file.write(b"rot")
    async with opened(tmp_path) as store:
        assert store.cids() == [], "what was written while nobody looked is found at the next start"


@pytest.mark.trio
async def test_delete(cuts: list[CutShard], tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await keep(store, cuts[2])
        assert store.digest == holdings_digest([cuts[2].cid])
        await store.delete(cuts[2].cid)
        await store.delete(cuts[2].cid)
        assert store.digest == holdings_digest([])
        assert (store.has(cuts[2].cid), store.path_of(cuts[2].cid), store.bytes) == (False, None, 0)
        assert files(tmp_path, "shards") == []


# -- disks that fail -------------------------------------------------------------------------------------------


class SlowRemover:
    """An executor on which removing a file waits until it may."""

    def __init__(self) -> None:
        self.may = trio.Event()

    async def run(self, work: Callable[..., Any], *args: Any) -> Any:
        if getattr(work, "__name__", "") == "_remove":
            await self.may.wait()
        return work(*args)


@pytest.mark.trio
async def test_what_arrives_while_its_older_self_is_removed_stays(cuts: list[CutShard], tmp_path: Path) -> None:
    executor = SlowRemover()
    store = await ShardStore.open(tmp_path, Env(executor=executor))
    await keep(store, cuts[2])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.delete, cuts[2].cid)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(keep, store, cuts[2])
        await trio.testing.wait_all_tasks_blocked()
        executor.may.set()
    assert store.has(cuts[2].cid)
    assert await read(store, cuts[2].cid) == cuts[2].path.read_bytes()
    store.close()


@pytest.mark.trio
async def test_a_full_disk_refuses_and_goes_on_serving(cuts: list[CutShard], tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with opened(tmp_path, disk) as store:
        await keep(store, cuts[2])
        disk.free = cuts[0].bytes + shard_store.FREE_BYTES_MIN - 1
        with pytest.raises(StorageFailed, match="disk full"):
            await keep(store, cuts[0])
        assert await read(store, cuts[2].cid) == cuts[2].path.read_bytes()
        disk.free += 1
        await keep(store, cuts[0])


@pytest.mark.trio
async def test_running_full_in_the_middle_is_said(cuts: list[CutShard], tmp_path: Path) -> None:
    disk = FaultyDisk(write_error=errno.ENOSPC)
    async with opened(tmp_path, disk) as store:
        with pytest.raises(StorageFailed, match="disk full"):
            await keep(store, cuts[2])
        disk.write_error = 0
        await keep(store, cuts[2])


@pytest.mark.trio
async def test_a_database_that_fails_is_the_disk_failing(
    cuts: list[CutShard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    async with opened(tmp_path) as store:
        monkeypatch.setattr(ShardIndex, "add", full)
        with pytest.raises(StorageFailed, match="disk is full"):
            await keep(store, cuts[2])
        assert not store.has(cuts[2].cid)
        monkeypatch.undo()
        assert (await keep(store, cuts[2])).cid == cuts[2].cid


@pytest.mark.parametrize("failing", ["sync_error", "names_error"])
@pytest.mark.trio
async def test_a_failed_fsync_is_final(failing: str, cuts: list[CutShard], tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with opened(tmp_path, disk) as store:
        await keep(store, cuts[2])
        setattr(disk, failing, errno.EIO)
        with pytest.raises(StorageFailed, match="fsync failed"):
            await keep(store, cuts[0])
        setattr(disk, failing, 0)
        with pytest.raises(StorageFailed, match="takes no more shards"):
            await keep(store, cuts[0])
        assert store.cids() == [cuts[2].cid]
        assert await read(store, cuts[2].cid) == cuts[2].path.read_bytes()
    async with opened(tmp_path, disk) as store:
        await keep(store, cuts[0])


@pytest.mark.trio
async def test_partials_are_bounded(cuts: list[CutShard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_store, "PARTIALS_MAX", 1)
    async with opened(tmp_path) as store:
        for cut in cuts:
            async with store.receive(cut.cid, cut.outline, cut.bytes, "parquet") as incoming:
                await store.take(incoming, [cut.path.read_bytes()[: CHUNK_BYTES + 1]])
    assert len(files(tmp_path, "incoming")) <= 2


@pytest.mark.trio
async def test_the_directory_is_synced_after_the_file(cuts: list[CutShard], tmp_path: Path) -> None:
    steps: list[str] = []

    class Watched(LocalDisk):
        def sync(self, file: BinaryIO) -> None:
            steps.append("sync")
            super().sync(file)

        def rename(self, source: Path, target: Path) -> None:
            steps.append("rename")
            super().rename(source, target)

        def sync_dir(self, path: Path) -> None:
            steps.append(f"sync {path.name}")
            super().sync_dir(path)

    async with opened(tmp_path, Watched()) as store:
        steps.clear()
        await keep(store, cuts[2])
    assert steps == ["sync", "rename", "sync shards"]


def test_incoming_of_an_impossible_outline_never_opens_a_file(cuts: list[CutShard]) -> None:
    def refuse() -> BinaryIO:
        raise AssertionError("opened")

    with pytest.raises(IntegrityError):
        Incoming(cuts[0].cid, cuts[1].outline, cuts[0].bytes, refuse)
