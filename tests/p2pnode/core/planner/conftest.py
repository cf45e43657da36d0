"""Tables cut in shards and simulated holders, on which plans are run for comparison with one DuckDB.

Holders and asker are in-process DuckDBs; answers travel as Arrow IPC bytes, as between real nodes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from p2pnode.core.model import Column, ColumnStats, ShardEntry
from p2pnode.core.planner import Plan, Scan, TableInfo, Unsure, plan, plan_opaque, serialization_of

NOW = datetime(2024, 5, 17, 12, 30, 15, 123456, tzinfo=UTC)

Row = tuple[Any, ...]


@dataclass
class Answer:
    names: list[str]
    types: list[str]
    rows: list[Row]


class Swarm:
    """Some tables, whole in `single` and cut in shards at the holders."""

    def __init__(self, holders: int = 2, *, exact_types: bool = False) -> None:
        self.single, self.holder, self.asker = connect(), connect(), connect()
        self.holder.execute(f"SET arrow_lossless_conversion = {exact_types}")
        self.holders = holders
        self.tables: dict[str, TableInfo] = {}
        self._shards: dict[str, list[str]] = {}

    def close(self) -> None:
        for connection in (self.single, self.holder, self.asker):
            connection.close()

    def add(self, name: str, create: str, cuts: tuple[int, ...] = ()) -> None:
        """`create` makes the table `name`; its rows are cut into shards at the row numbers `cuts`."""
        self.single.execute(create)
        self.holder.execute(create)
        columns = tuple(Column(row[0], row[1]) for row in run(self.single, f"DESCRIBE {quoted(name)}").rows)
        total = run(self.single, f"SELECT count(*) FROM {quoted(name)}").rows[0][0]
        entries: list[ShardEntry] = []
        self._shards[name] = []
        for index, (start, end) in enumerate(itertools.pairwise((0, *cuts, total))):
            shard = f"{name} shard {index}"
            rows = f"SELECT * FROM {quoted(name)} LIMIT {end - start} OFFSET {start}"
            self.holder.execute(f"CREATE TABLE {quoted(shard)} AS {rows}")
            self._shards[name].append(shard)
            entries.append(ShardEntry(bytes([index]), end - start, 0, self._statistics(shard, columns)))
        self.holder.execute(f"DROP TABLE {quoted(name)}")
        self.tables[name.lower()] = TableInfo(name, columns, tuple(entries))

    def _statistics(self, shard: str, columns: tuple[Column, ...]) -> dict[str, ColumnStats]:
        found = {}
        for column in columns:
            values = [row[0] for row in run(self.holder, f"SELECT {quoted(column.name)} FROM {quoted(shard)}").rows]
            present = [value for value in values if value is not None]
            found[column.name] = statistics_of(len(values) - len(present), present)
        return found

    def resolve(self, name: str) -> TableInfo | None:
        return self.tables.get(name.lower())

    def plan(self, sql: str) -> Plan:
        try:
            return plan(sql, self.resolve, NOW)
        except Unsure:
            serialized = run(self.single, serialization_of(sql)).rows[0][0]
            return plan_opaque(sql, serialized, self.resolve)

    def expected(self, sql: str) -> Answer:
        return run(self.single, sql)

    def answer(self, made: Plan) -> Answer:
        for scan in made.scans:
            self.asker.register(scan.output, self.gather(scan))
        try:
            return run(self.asker, made.final)
        finally:
            for scan in made.scans:
                self.asker.unregister(scan.output)

    def gather(self, scan: Scan) -> pa.Table:
        """The union of the holders' answers; an empty relation of the declared columns when nobody is asked."""
        shards = self._shards[scan.table]
        columns = ", ".join(quoted(column.name) for column in scan.columns) or "true AS row"
        if not scan.shards:
            casts = ", ".join(f"CAST(NULL AS {column.type}) AS {quoted(column.name)}" for column in scan.columns)
            return self.holder.sql(f"SELECT {casts} WHERE false").to_arrow_table()
        pieces = []
        for holder in range(self.holders):
            share = [shards[index] for index in scan.shards if index % self.holders == holder]
            if share:
                union = " UNION ALL ".join(f"SELECT {columns} FROM {quoted(shard)}" for shard in share)
                self.holder.execute(f"CREATE OR REPLACE TEMP VIEW {quoted(scan.view)} AS {union}")
                pieces.append(travelled(self.holder.sql(scan.sql).to_arrow_table()))
        return pa.concat_tables(pieces)

    def check(self, sql: str, *, ordered: bool = False, pushed: bool | None = None) -> Plan:
        """Assert that the plan of `sql` answers as one DuckDB does, in names, types and rows; give the plan."""
        made = self.plan(sql)
        wanted, got = self.expected(sql), self.answer(made)
        story = f"{sql}\n{made}\n{wanted.rows[:8]}\n{got.rows[:8]}"
        assert got.names == wanted.names, story
        assert got.types == wanted.types, story
        assert same_rows(wanted.rows, got.rows, ordered=ordered), story
        if pushed is not None:
            assert made.pushed is pushed, story
        return made


def connect() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={"threads": 1})
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def run(connection: duckdb.DuckDBPyConnection, sql: str) -> Answer:
    done = connection.execute(sql)
    description = done.description or []
    return Answer([each[0] for each in description], [str(each[1]) for each in description], done.fetchall())


def travelled(table: pa.Table) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return pa.ipc.open_stream(sink.getvalue()).read_all()


def statistics_of(nulls: int, values: list[Any]) -> ColumnStats:
    """Statistics as a holder recomputes them (`ColumnStats` says the rules)."""
    first = values[0] if values else None
    if isinstance(first, float):
        return ColumnStats(nulls) if any(map(math.isnan, values)) else ColumnStats(nulls, min(values), max(values))
    if isinstance(first, (bool, int)):
        return ColumnStats(nulls, min(values), max(values))
    if isinstance(first, str):
        low, high = (pick(values, key=str.encode) for pick in (min, max))
        return ColumnStats(nulls, low[:64], high if len(high) <= 64 else None)
    if isinstance(first, datetime):
        bounds = (f"{end:%Y-%m-%dT%H:%M:%S.%f}" for end in (min(values), max(values)))
        return ColumnStats(nulls) if first.tzinfo is not None else ColumnStats(nulls, *bounds)
    if isinstance(first, date):
        return ColumnStats(nulls, *(end.isoformat() for end in (min(values), max(values))))
    return ColumnStats(nulls)


def close(left: Any, right: Any) -> bool:
    """Equal, floats up to the order in which they were added."""
    if isinstance(left, float) and isinstance(right, float):
        both_nan = math.isnan(left) and math.isnan(right)
        return both_nan or math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-9)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(close, left, right))
    return type(left) is type(right) and left == right


def same_rows(left: list[Row], right: list[Row], *, ordered: bool) -> bool:
    if len(left) != len(right):
        return False
    if not ordered:
        left, right = sorted(left, key=_sort_key), sorted(right, key=_sort_key)
    return all(len(a) == len(b) and all(map(close, a, b)) for a, b in zip(left, right, strict=True))


def _sort_key(row: Row) -> str:
    # Five digits of a float: enough to pair rows, too few for the order of additions to show.
    return "|".join(f"{value + 0.0:.5g}" if isinstance(value, float) else repr(value) for value in row)


@pytest.fixture
def make_swarm() -> Iterator[Callable[..., Swarm]]:
    """Builds swarms and closes them."""
    made: list[Swarm] = []

    def build(*arguments: Any, **keywords: Any) -> Swarm:
        made.append(Swarm(*arguments, **keywords))
        return made[-1]

    yield build
    for swarm in made:
        swarm.close()


@pytest.fixture
def unpruned() -> Callable[[Swarm, Plan], Plan]:
    """The same plan with every shard asked."""

    def everything(swarm: Swarm, made: Plan) -> Plan:
        scans = tuple(
            replace(scan, shards=tuple(range(len(swarm.tables[scan.table.lower()].shards)))) for scan in made.scans
        )
        return replace(made, scans=scans)

    return everything


FLIGHTS = """
CREATE TABLE flights AS SELECT
    i AS id,
    (i * 7 % 11)::INTEGER AS k,
    CASE WHEN i % 9 = 0 THEN NULL ELSE (i * 37 % 101 - 50)::INTEGER END AS n,
    (i * 1000003 % 9999991)::BIGINT AS big,
    CASE WHEN i % 8 = 0 THEN NULL ELSE ((i * 31 % 97) - 40) / 7.0 END::DOUBLE AS x,
    CASE i % 6 WHEN 0 THEN -0.0 WHEN 1 THEN 0.0 WHEN 2 THEN NULL ELSE i % 4 END::DOUBLE AS zero,
    (i * 7919 % 100000 / 100.0)::DECIMAL(10, 2) AS price,
    ['ab', 'Abc', '', NULL, 'zoë', 'b%d', 'ab'][1 + i % 7] AS s,
    CASE WHEN i % 13 = 0 THEN NULL ELSE 'code-' || (i % 5) END AS "group",
    DATE '2023-11-20' + (i * 3)::INTEGER AS d,
    TIMESTAMP '2024-01-01 00:00:00' + INTERVAL (i * 7919) SECOND AS ts,
    CASE WHEN i % 10 = 0 THEN NULL ELSE i % 3 = 0 END AS ok
FROM range(120) r(i)
"""

CARRIERS = """
CREATE TABLE carriers AS SELECT
    i::INTEGER AS k, 'carrier ' || i AS name, i % 2 = 0 AS ok, (i * 2.5)::DOUBLE AS fee,
    DATE '2024-01-01' + i::INTEGER AS since
FROM range(9) r(i)
"""

EMPTY = "CREATE TABLE nothing(id INTEGER, s VARCHAR, price DECIMAL(10, 2), x DOUBLE)"


def _flights(swarm: Swarm) -> Swarm:
    swarm.add("flights", FLIGHTS, (30, 30, 61, 99))
    swarm.add("carriers", CARRIERS, (4,))
    swarm.add("nothing", EMPTY)
    return swarm


@pytest.fixture(scope="module")
def flights() -> Iterator[Swarm]:
    """Two tables with every usual type, NULLs, both zeros and empty text, and one table without rows."""
    swarm = _flights(Swarm())
    yield swarm
    swarm.close()


@pytest.fixture(scope="module")
def exact_flights() -> Iterator[Swarm]:
    """The same over three holders and Arrow with DuckDB's own types."""
    swarm = _flights(Swarm(3, exact_types=True))
    yield swarm
    swarm.close()
