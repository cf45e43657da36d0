"""What it costs to ask at all: `SELECT count(*)` over sixteen warm shards on four nodes.

Counting takes DuckDB next to nothing, so the time is that of the control: plan, route, one exchange with each holder, a
fenced process there, the partial answers' merge. The baseline is DuckDB alone over the same sixteen files.
Bound: the slowest of four holders that share this machine's cores, and one merge.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import trio

from simulations.bench.figure import Figure, at_most, interleave
from simulations.bench.stage import noise, stage

SHARDS = 16
DATA_MB = 32
COUNT_MAX_MS = 15.0
#: Questions in one round; the round counts as their median.
QUESTIONS = 15
SQL = "SELECT count(*) AS n FROM counted"


async def measure() -> list[Figure]:
    table = noise(DATA_MB)
    rows = -(-table.num_rows // SHARDS)
    with tempfile.TemporaryDirectory(prefix="p2pnode-bench-") as folder, duckdb.connect() as alone:
        for index in range(SHARDS):
            pq.write_table(table.slice(index * rows, rows), Path(folder) / f"{index}.parquet")
        alone.execute(f"CREATE VIEW counted AS SELECT * FROM read_parquet('{folder}/*.parquet')")
        async with stage(workers=4) as (node, _):
            published = await node.publish("counted", table, create=True, shard_rows=rows)
            assert len(published.shards) == SHARDS

            async def ask_alone() -> None:
                [(found,)] = await trio.to_thread.run_sync(lambda: alone.execute(SQL).fetchall())
                assert found == table.num_rows

            async def ask() -> None:
                answer = await node.query(SQL)
                assert answer.table.to_pylist() == [{"n": table.num_rows}]

            base, value = await interleave(lambda: _median_ms(ask_alone), lambda: _median_ms(ask))
    return [at_most("count", value, "ms", base, "DuckDB alone, same files", value_max=COUNT_MAX_MS)]


async def _median_ms(ask: Callable[[], Awaitable[None]]) -> float:
    taken: list[float] = []
    for _ in range(QUESTIONS):
        began = time.perf_counter()
        await ask()
        taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken)
