"""Shards: their sizes, their names, the same bytes for the same rows, flat memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from p2pnode.core.unixfs import ShardHasher, cid_of_outline
from p2pnode.env import Env, LocalDisk
from p2pnode.errors import EmptyData, StorageFailed, UsageError
from p2pnode.storage import splitter
from p2pnode.storage.sources import Source, open_source
from p2pnode.storage.splitter import CutShard, Cutter, cut_shards

TABLE = pa.table({"id": range(1000), "text": [f"row {n}" for n in range(1000)]})


def cut_all(source: Source, folder: Path, *, shard_rows: int, format: str = "parquet") -> list[CutShard]:
    cutter = Cutter(source, LocalDisk(), folder, format=format, shard_rows=shard_rows)
    return list(iter(cutter.cut, None))


def read(shard: CutShard) -> pa.Table:
    return pq.read_table(shard.path) if shard.path.suffix == ".parquet" else pa.ipc.open_file(shard.path).read_all()


@pytest.mark.parametrize("format", ["parquet", "arrow"])
@pytest.mark.parametrize(("shard_rows", "sizes"), [(300, [300, 300, 300, 100]), (1000, [1000]), (5000, [1000])])
def test_shards_are_whole_files_of_so_many_rows(format: str, shard_rows: int, sizes: list[int], tmp_path: Path) -> None:
    shards = cut_all(open_source(TABLE), tmp_path, shard_rows=shard_rows, format=format)
    assert [shard.rows for shard in shards] == sizes
    assert pa.concat_tables(read(shard) for shard in shards).equals(TABLE)
    for shard in shards:
        data = shard.path.read_bytes()
        hasher = ShardHasher()
        hasher.update(data)
        assert (shard.cid, shard.outline, shard.bytes) == (hasher.cid(), hasher.outline(), len(data))
        assert cid_of_outline(shard.outline, shard.bytes) == shard.cid


@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_the_same_rows_are_the_same_bytes_however_batched(format: str, tmp_path: Path) -> None:
    def cids(source: Source, name: str) -> list[bytes]:
        (tmp_path / name).mkdir()
        return [shard.cid for shard in cut_all(source, tmp_path / name, shard_rows=300, format=format)]

    whole = cids(open_source(TABLE), "whole")
    assert cids(open_source(TABLE.to_reader(max_chunksize=7)), "crumbs") == whole
    assert cids(open_source(TABLE.to_pandas()), "pandas") == whole


def test_row_groups_are_bounded_in_rows_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitter, "ROW_GROUP_ROWS", 128)
    [shard] = cut_all(open_source(TABLE), tmp_path, shard_rows=1000)
    metadata = pq.ParquetFile(shard.path).metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [128] * 7 + [104]
    monkeypatch.setattr(splitter, "ROW_GROUP_BYTES", 1000)
    [shard] = cut_all(open_source(TABLE.to_reader(max_chunksize=10)), tmp_path, shard_rows=1000)
    assert pq.ParquetFile(shard.path).metadata.num_row_groups > 8
    assert read(shard).equals(TABLE)


def test_no_rows_are_no_shards(tmp_path: Path) -> None:
    source = open_source(TABLE.slice(0, 0).to_reader())
    with pytest.raises(EmptyData):
        cut_all(source, tmp_path, shard_rows=10)


@pytest.mark.parametrize(("shard_rows", "format", "said"), [(0, "parquet", "0 rows"), (10, "orc", "'orc'")])
def test_shards_that_cannot_be(shard_rows: int, format: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        Cutter(open_source(TABLE), LocalDisk(), tmp_path, format=format, shard_rows=shard_rows)


@pytest.mark.trio
async def test_cutting_leaves_the_loop(tmp_path: Path) -> None:
    shards = [shard async for shard in cut_shards(open_source(TABLE), Env(), tmp_path, shard_rows=400)]
    assert [shard.rows for shard in shards] == [400, 400, 200]


@pytest.mark.nightly
def test_a_gibibyte_is_cut_in_half_of_it(tmp_path: Path) -> None:
    """A Parquet file of 1 GiB, shards larger than a row group, in a fresh process: peak RSS under 500 MiB."""
    script = """
import sys
from pathlib import Path
from typing import BinaryIO
from p2pnode.env import LocalDisk
from p2pnode.storage.sources import open_source
from p2pnode.storage.splitter import Cutter
source = open_source(sys.argv[1])
cutter = Cutter(source, LocalDisk(), Path(sys.argv[2]), format="parquet", shard_rows=2_000_000)
rows = 0
while shard := cutter.cut():
    rows += shard.rows
    shard.path.unlink()
# Not ru_maxrss: that of a child begins with its parent's.
[peak] = [line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')]
print(rows, int(peak) // 1024)
"""
    path = tmp_path / "big.parquet"
    rows = gibibyte(path)
    assert path.stat().st_size >= 1 << 30
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), str(tmp_path)], capture_output=True, text=True, check=True
    )
    read_rows, peak_mib = map(int, done.stdout.split())
    assert read_rows == rows
    assert peak_mib < 500


def gibibyte(path: Path) -> int:
    """Random numbers and text, in row groups of a million rows (what pandas writes by default)."""
    rng = np.random.default_rng(7)
    rows = 0
    with pq.ParquetWriter(path, pa.schema({"id": pa.int64(), "x": pa.float64(), "text": pa.string()})) as writer:
        while not path.exists() or path.stat().st_size < (1 << 30) + (1 << 20):
            count = 1 << 20
            ids = rng.integers(0, 1 << 62, count)
            table = pa.table({"id": ids, "x": rng.normal(size=count), "text": np.char.mod("%x", ids)})
            writer.write_table(table.cast(writer.schema), row_group_size=count)
            rows += count
    return rows


class FullDisk(LocalDisk):
    """Every file is the one that takes nothing."""

    def open(self, path: Path, mode: str) -> BinaryIO:
        return super().open(Path("/dev/full"), mode)


@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_a_full_disk_is_named_as_such(format: str, tmp_path: Path) -> None:
    noise = pa.table({"x": np.random.default_rng(1).normal(size=100_000)})
    for table in (TABLE, noise):
        cutter = Cutter(open_source(table), FullDisk(), tmp_path, format=format, shard_rows=1 << 20)
        with pytest.raises(StorageFailed, match="No space left"):
            cutter.cut()
