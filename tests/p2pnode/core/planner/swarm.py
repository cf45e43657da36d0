"""Tables cut in shards and simulated holders: what the differential tests run plans on.

Holders and asker are one in-process DuckDB each; answers travel as Arrow IPC bytes, as between real nodes.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa

from p2pnode.core.model import Column, ColumnStats, ShardEntry
from p2pnode.core.planner import SERIALIZE_SQL, Plan, Scan, TableInfo, Unsure, plan, plan_opaque

NOW = datetime(2024, 5, 17, 12, 30, 15, 123456, tzinfo=UTC)


def connect() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={"threads": 1})
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@dataclass
class Answer:
    names: list[str]
    types: list[str]
    rows: list[tuple[Any, ...]]


def run(connection: duckdb.DuckDBPyConnection, sql: str) -> Answer:
    done = connection.execute(sql)
    description = done.description or []
    return Answer([each[0] for each in description], [str(each[1]) for each in description], done.fetchall())


class Swarm:
    """Some tables, whole in `single` and in shards at the holders."""

    def __init__(self, holders: int = 2) -> None:
        self.single = connect()
        self.holder = connect()
        self.holders = holders
        self.tables: dict[str, TableInfo] = {}
        self._shard_tables: dict[str, list[str]] = {}

    def add(self, name: str, create: str, cuts: list[int]) -> None:
        """`create` makes the table `name`; its rows are cut at the given row numbers."""
        self.single.execute(create)
        self.holder.execute(create)
        described = self.single.execute(f"DESCRIBE {quoted(name)}").fetchall()
        columns = tuple(Column(row[0], row[1]) for row in described)
        total = run(self.single, f"SELECT count(*) FROM {quoted(name)}").rows[0][0]
        bounds = [0, *cuts, total]
        entries: list[ShardEntry] = []
        self._shard_tables[name] = []
        for index, (start, end) in enumerate(itertools.pairwise(bounds)):
            shard = f"{name} shard {index}"
            self.holder.execute(
                f"CREATE TABLE {quoted(shard)} AS SELECT * FROM {quoted(name)} LIMIT {end - start} OFFSET {start}"
            )
            self._shard_tables[name].append(shard)
            entries.append(ShardEntry(bytes([index]), end - start, 0, self._stats(shard, columns)))
        self.holder.execute(f"DROP TABLE {quoted(name)}")
        self.tables[name.lower()] = TableInfo(name, columns, tuple(entries))

    def _stats(self, shard: str, columns: tuple[Column, ...]) -> dict[str, ColumnStats]:
        found: dict[str, ColumnStats] = {}
        for column in columns:
            name = quoted(column.name)
            nulls = run(self.holder, f"SELECT count(*) - count({name}) FROM {quoted(shard)}").rows[0][0]
            rows = run(self.holder, f"SELECT {name} FROM {quoted(shard)} WHERE {name} IS NOT NULL").rows
            found[column.name] = stats_of(nulls, [row[0] for row in rows])
        return found

    def resolve(self, name: str) -> TableInfo | None:
        return self.tables.get(name.lower())

    def plan(self, sql: str) -> Plan:
        try:
            return plan(sql, self.resolve, NOW)
        except Unsure:
            serialized = self.single.execute(SERIALIZE_SQL, [sql]).fetchone()
            assert serialized is not None
            return plan_opaque(sql, serialized[0], self.resolve)

    def answer(self, made: Plan) -> Answer:
        asker = connect()
        try:
            for scan in made.scans:
                asker.register(scan.output, self._gather(scan))
            return run(asker, made.final)
        finally:
            asker.close()

    def _gather(self, scan: Scan) -> pa.Table:
        names = self._shard_tables[self.tables[scan.table.lower()].name]
        columns = ", ".join(quoted(column.name) for column in scan.columns)
        pieces = []
        if not scan.shards:
            source = f"SELECT {columns} FROM {quoted(names[0])} WHERE false"
            return _travelled(self.holder.sql(source).to_arrow_table())
        for holder in range(self.holders):
            share = [names[index] for index in scan.shards if index % self.holders == holder]
            if share:
                union = " UNION ALL ".join(f"SELECT {columns} FROM {quoted(name)}" for name in share)
                self.holder.execute(f"CREATE OR REPLACE TEMP VIEW {quoted(scan.view)} AS {union}")
                pieces.append(_travelled(self.holder.sql(scan.sql).to_arrow_table()))
        return pa.concat_tables(pieces)


def _travelled(table: pa.Table) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return pa.ipc.open_stream(sink.getvalue()).read_all()


def stats_of(nulls: int, values: list[Any]) -> ColumnStats:
    """Statistics as a holder recomputes them (`ColumnStats` says the rules)."""
    if not values:
        return ColumnStats(nulls)
    first = values[0]
    if isinstance(first, (bool, int)):
        return ColumnStats(nulls, min(values), max(values))
    if isinstance(first, float):
        return ColumnStats(nulls) if any(map(math.isnan, values)) else ColumnStats(nulls, min(values), max(values))
    if isinstance(first, str):
        ordered = sorted(values, key=lambda value: value.encode())
        return ColumnStats(nulls, ordered[0], ordered[-1])
    if isinstance(first, datetime):
        if first.tzinfo is not None:
            return ColumnStats(nulls)
        return ColumnStats(nulls, *(f"{end:%Y-%m-%dT%H:%M:%S.%f}" for end in (min(values), max(values))))
    if isinstance(first, date):
        return ColumnStats(nulls, *(end.isoformat() for end in (min(values), max(values))))
    return ColumnStats(nulls)


def comparable(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row in which values that DuckDB holds for equal are equal, with floats kept apart by `close`."""
    return tuple(0.0 if isinstance(value, float) and value == 0 else value for value in row)


def close(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        if math.isnan(left) or math.isnan(right):
            return math.isnan(left) and math.isnan(right)
        return math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-9)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(close, left, right))
    return type(left) is type(right) and left == right


def sort_key(row: tuple[Any, ...]) -> str:
    def written(value: Any) -> str:
        if isinstance(value, float):
            return "nan" if math.isnan(value) else f"{round(value, 6) + 0.0:.4g}"
        return f"{type(value).__name__}{value!r}" if not isinstance(value, Decimal) else str(value)

    return "|".join(map(written, row))


def same_rows(left: list[tuple[Any, ...]], right: list[tuple[Any, ...]], *, ordered: bool) -> bool:
    if len(left) != len(right):
        return False
    if not ordered:
        left, right = sorted(left, key=sort_key), sorted(right, key=sort_key)
    return all(
        len(a) == len(b) and all(map(close, a, b))
        for a, b in zip(map(comparable, left), map(comparable, right), strict=True)
    )
