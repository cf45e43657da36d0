"""Random statements over real nodes equal one DuckDB over the input, in names, types and rows."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from simulations.local import LocalSwarm

PLANNER_TESTS = Path(__file__).parents[1] / "p2pnode" / "core" / "planner"
STATEMENTS, NIGHTLY_STATEMENTS = 100, 3000
PUSHED_SHARE_MIN = 0.6
SEED = 20130101


def module(name: str) -> ModuleType:
    """The planner's tests write the statements and know the tables."""
    spec = importlib.util.spec_from_file_location(f"planner_{name}", PLANNER_TESTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found  # where its dataclasses look for themselves
    spec.loader.exec_module(found)
    return found


async def compare(swarm: LocalSwarm, statements: int, seed: int) -> Counter[str]:
    tables, writer = module("conftest"), module("test_differential").Writer(random.Random(seed))
    single = tables.connect()
    tally: Counter[str] = Counter()
    async with swarm.client() as client:
        for name, create, rows in (("flights", tables.FLIGHTS, 17), ("carriers", tables.CARRIERS, 4)):
            single.execute(create)
            await client.shard_dataset(name, single.table(name).to_arrow_table(), shard_size=rows, replication_factor=2)
        while tally["compared"] < statements:
            statement = writer.statement()
            if " nothing" in statement.sql:
                continue  # a table without rows is no data to publish
            wanted = single.sql(statement.sql).to_arrow_table()
            answer = await client.query(query=statement.sql)
            got = answer.to_arrow()
            assert got.schema.names == wanted.schema.names, statement.sql
            assert got.schema.types == wanted.schema.types, statement.sql
            left, right = (_rows(table) for table in (wanted, got))
            assert tables.same_rows(left, right, ordered=statement.ordered), f"{statement.sql}\n{left[:8]}\n{right[:8]}"
            tally["compared"] += 1
            tally["pushed"] += answer.stats["pushed"]
            tally["spread"] += len(answer.stats["fragments"]) > 1
        for name in ("flights", "carriers"):
            await client.delete_dataset(name)
    single.close()
    return tally


def _rows(table: Any) -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


@pytest.mark.trio
async def test_a_hundred_statements(swarm: LocalSwarm) -> None:
    tally = await compare(swarm, STATEMENTS, SEED)
    assert tally["pushed"] >= PUSHED_SHARE_MIN * STATEMENTS, tally
    assert tally["spread"] >= STATEMENTS // 2, "or one holder answered for all"


@pytest.mark.nightly
@pytest.mark.trio
async def test_many_statements(swarm: LocalSwarm) -> None:
    tally = await compare(swarm, NIGHTLY_STATEMENTS, SEED + 1)
    assert tally["pushed"] >= PUSHED_SHARE_MIN * NIGHTLY_STATEMENTS, tally
