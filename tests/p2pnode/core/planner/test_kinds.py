"""Kinds against DuckDB: whatever kind is claimed, DuckDB's type is of that kind."""

from __future__ import annotations

import itertools
import random

import duckdb
import pytest

from p2pnode.core.model import Column
from p2pnode.core.planner import TableInfo, kinds
from p2pnode.core.planner.kinds import Kind, kind_of, kind_of_type, unify
from p2pnode.core.planner.parse import Unsure, parse

COLUMNS = {
    "ti": "TINYINT", "si": "SMALLINT", "i": "INTEGER", "b": "BIGINT", "ub": "UBIGINT", "ui": "UINTEGER", "f": "DOUBLE",
    "g": "FLOAT", "m": "DECIMAL(10,2)", "w": "DECIMAL(38,4)", "s": "VARCHAR", "z": "BOOLEAN", "d": "DATE",
    "ts": "TIMESTAMP", "tn": "TIMESTAMP_NS", "tz": "TIMESTAMP WITH TIME ZONE", "tm": "TIME", "iv": "INTERVAL",
    "h": "HUGEINT", "u": "UUID", "l": "INTEGER[]",
}  # fmt: skip

TABLE = TableInfo("t", tuple(Column(name, type_) for name, type_ in COLUMNS.items()), ())


def _expressions() -> list[str]:
    operands = [*COLUMNS, "1", "1.5", "1e3", "'x'", "NULL", "INTERVAL 1 DAY", "99999999999999999999"]
    found = []
    for left, right in itertools.product(operands, operands):
        found += [f"{left} {sign} {right}" for sign in ("+", "-", "*", "/", "//", "%", "**", "||", "=")]
        found += [f"{name}({left}, {right})" for name in ("coalesce", "greatest", "nullif", "mod", "ifnull")]
        found += [f"CASE WHEN z THEN {left} ELSE {right} END", f"if(z, {left}, {right})"]
    for column in COLUMNS:
        found += [f"-{column}", f"+{column}", f"NOT {column}", f"{column} IS NULL", f"{column} IN (NULL)"]
        found += [f"{name}({column})" for name in _functions()] + [f"{name}({column}, 1)" for name in _functions()]
        found += [f"{name}('month', {column})" for name in ("date_trunc", "date_part")]
        found += [f"extract({part} FROM {column})" for part in kinds._INT_PARTS]
        found += [f"try_cast({column} AS {type_})" for type_ in (*COLUMNS.values(), "TEXT", "INT", "NUMERIC", "REAL")]
    return found


def _functions() -> list[str]:
    claimed = kinds._INT_FUNCTIONS | kinds._TEXT_FUNCTIONS | kinds._FLOAT_FUNCTIONS | kinds._BOOL_FUNCTIONS
    return sorted(claimed | {"abs", "round", "floor", "ceil", "ceiling", "trunc"})


def test_every_claimed_kind_is_duckdbs_type() -> None:
    connection = duckdb.connect()
    connection.execute(f"CREATE TABLE t({', '.join(f'{name} {type_}' for name, type_ in COLUMNS.items())})")
    claimed = 0
    # All of them pass; a sample keeps the test short.
    for expression in random.Random(5).sample(_expressions(), 3500):
        try:
            node = parse(f"SELECT {expression} FROM t").expressions[0]
        except Unsure:
            continue
        kind = kind_of(node, TABLE)
        if kind is None or kind == Kind.NULL:
            continue
        try:
            described = connection.execute(f"SELECT {expression} FROM t").description or []
        except duckdb.Error:
            continue
        claimed += 1
        assert kind_of_type(str(described[0][1])) == kind, (expression, described[0][1])
    connection.close()
    assert claimed > 700


@pytest.mark.parametrize(
    ("several", "kind"),
    [
        ([Kind.INT, Kind.NULL], Kind.INT),
        ([Kind.INT, Kind.DECIMAL], Kind.DECIMAL),
        ([Kind.INT, Kind.FLOAT, Kind.DECIMAL], Kind.FLOAT),
        ([Kind.INT, Kind.TEXT], None),
        ([Kind.INT, None], None),
        ([Kind.NULL], None),
        ([], None),
    ],
)
def test_unify(several: list[Kind | None], kind: Kind | None) -> None:
    assert unify(several) == kind


@pytest.mark.parametrize(
    "type_", ["HUGEINT", "UUID", "INTEGER[]", "DECIMAL(10,2)[]", "STRUCT(a INTEGER)", "JSON", "ENUM('a')"]
)
def test_types_of_no_kind(type_: str) -> None:
    assert kind_of_type(type_) is None
