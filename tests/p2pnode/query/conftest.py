"""Shards on disk and a running SQL runner over them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from p2pnode.core.model import Column
from p2pnode.env import Env
from p2pnode.query.runner import SqlRunner
from p2pnode.query.tables import LocalTable, RunStats

MEMORY_BYTES = 256 << 20


@dataclass(frozen=True)
class Shards:
    """Four small Parquet shards of one table: 4,000 rows, `a` = 0..3999, `b` text, `c` halves."""

    folder: Path
    files: tuple[Path, ...]

    columns = (Column("a", "BIGINT"), Column("b", "VARCHAR"), Column("c", "DOUBLE"))

    @property
    def table(self) -> LocalTable:
        return LocalTable("dataset", self.files, self.columns)

    def contents(self) -> dict[str, bytes]:
        return {str(file): file.read_bytes() for file in self.folder.rglob("*") if file.is_file()}


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    folder = tmp_path / "shards"
    folder.mkdir()
    files = []
    for number in range(4):
        rows = range(number * 1000, (number + 1) * 1000)
        table = pa.table(
            {"a": list(rows), "b": [f"text {row}" for row in rows], "c": [row / 2 for row in rows]},
            schema=pa.schema([("a", pa.int64()), ("b", pa.string()), ("c", pa.float64())]),
        )
        files.append(folder / f"shard-{number}.parquet")
        pq.write_table(table, files[-1])
    return Shards(folder, tuple(files))


@pytest.fixture
async def runner(shards: Shards, tmp_path: Path) -> AsyncIterator[SqlRunner]:
    async with SqlRunner(
        Env(), shards.folder, tmp_path / "spill", memory_bytes=MEMORY_BYTES, workers=2, timeout_s=20.0
    ) as running:
        yield running


@dataclass
class Asked:
    """Runs statements to their end; `stats` are those of the last one."""

    runner: SqlRunner
    stats: RunStats | None = None

    async def __call__(self, sql: str, *args: Any, **kwargs: Any) -> pa.Table:
        return pa.ipc.open_stream(await self.stream(sql, *args, **kwargs)).read_all()

    async def stream(self, sql: str, *args: Any, **kwargs: Any) -> bytes:
        async with self.runner.run(sql, *args, **kwargs) as run:
            pieces = [piece async for piece in run.batches()]
        self.stats = run.stats
        return b"".join(pieces)


@pytest.fixture
async def ask(runner: SqlRunner) -> Asked:
    return Asked(runner)
