"""Pruning never loses a row, and does leave shards out where statistics allow it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2pnode.core.model import Column, ColumnStats, ShardEntry
from p2pnode.core.planner import TableInfo
from p2pnode.core.planner.filters import conjuncts
from p2pnode.core.planner.parse import parse
from p2pnode.core.planner.prune import prune

CREATE = """
CREATE TABLE t AS SELECT
    i::INTEGER AS n, (i * 1000000000000)::BIGINT AS big, i / 4.0::DOUBLE AS x, i::FLOAT AS small,
    CASE WHEN i < 10 THEN NULL ELSE chr((97 + i // 4)::INTEGER) || repeat('z', i) END AS s,
    DATE '2024-01-01' + i::INTEGER AS d, TIMESTAMP '2024-01-01' + INTERVAL (i * 6) HOUR AS ts, i >= 20 AS ok,
    (i / 10.0)::DECIMAL(6, 2) AS m, CASE WHEN i = 7 THEN 'NaN'::DOUBLE ELSE i END AS odd
FROM range(40) r(i)
"""

_small = st.integers(-3, 44)
_signs = st.sampled_from(["=", "<", "<=", ">", ">=", "<>"])
_dates = _small.map(lambda day: f"'2024-{1 + max(day, 0) // 31:02}-{1 + max(day, 0) % 28:02}'")

_plain = st.one_of(
    st.builds("n {} {}".format, _signs, _small),
    st.builds("{} {} n".format, _small, _signs),
    st.builds("n {} {}.5".format, _signs, st.integers(0, 41)),
    st.builds("n {} {}e0".format, _signs, st.integers(0, 41)),
    st.builds("big {} {}000000000000".format, _signs, st.integers(1, 41)),
    st.builds("x {} {}".format, _signs, st.floats(-2, 12).map("{:.3f}".format)),
    st.builds("small {} {}.1".format, _signs, st.integers(0, 41)),
    st.builds("odd {} {}".format, _signs, _small),
    st.builds("m {} {}".format, _signs, st.decimals(-1, 5, places=2)),
    st.builds(
        "s {} '{}'".format, _signs, st.sampled_from(["", "a", "b", "dz", "dzzzz", "j", "k" + "z" * 39, "zz", "é"])
    ),
    st.builds("s LIKE '{}'".format, st.sampled_from(["d%", "dz%", "%z", "a_", "j", "", "é%", "dzzzzzzzzzzzzzz%"])),
    st.builds("d {} {}".format, _signs, _dates),
    st.builds("d {} DATE {}".format, _signs, _dates),
    st.builds("ts {} {}".format, _signs, _dates),
    st.builds("ts {} TIMESTAMP '2024-01-0{} 06:00:00'".format, _signs, st.integers(1, 9)),
    st.builds("d {} TIMESTAMP '2024-01-1{} 06:00:00'".format, _signs, st.integers(0, 9)),
    st.builds("n BETWEEN {} AND {}".format, _small, _small),
    st.builds("n IN ({}, {}, NULL)".format, _small, _small),
    st.builds("n NOT IN ({}, {})".format, _small, _small),
    st.builds("d IN ({}, {})".format, _dates, _dates),
    st.sampled_from(
        ["ok", "NOT ok", "ok = true", "ok = false", "s IS NULL", "s IS NOT NULL", "NOT (s IS NULL)", "n IS NULL"]
    ),
    st.builds("n + 0 {} {}".format, _signs, _small),
    st.builds("n::DOUBLE {} {}".format, _signs, _small),
)

_conditions = st.recursive(
    _plain,
    lambda inner: st.one_of(
        st.builds("({} AND {})".format, inner, inner),
        st.builds("({} OR {})".format, inner, inner),
        st.builds("NOT ({})".format, inner),
    ),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def shards(exact_flights: Any) -> Any:
    if "t" not in exact_flights.tables:
        exact_flights.add("t", CREATE, (8, 16, 16, 23, 31))
    return exact_flights


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_conditions)
def test_pruned_equals_unpruned(shards: Any, condition: str) -> None:
    made = shards.check(f"SELECT n FROM t WHERE {condition}", pushed=True)
    table = shards.tables["t"]
    for index, found in enumerate(_holding(shards, condition)):
        if found:
            assert index in made.scans[0].shards, (condition, index)
    assert len(table.shards) == 6


def _holding(shards: Any, condition: str) -> list[bool]:
    """Which shards hold a row for which `condition` is true, as DuckDB sees it."""
    bounds = ((0, 8), (8, 16), (16, 16), (16, 23), (23, 31), (31, 40))
    count = "SELECT count(*) FROM t WHERE n >= {} AND n < {} AND ({})"
    return [shards.expected(count.format(*bound, condition)).rows[0][0] > 0 for bound in bounds]


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ("n = 3", (0,)),
        ("n < 8", (0,)),
        ("8 > n", (0,)),
        ("n <= 8", (0, 1)),
        ("n > 30 AND n < 33", (5,)),
        ("n = 3 OR n = 39", (0, 5)),
        ("n IN (3, 39)", (0, 5)),
        ("n BETWEEN 9 AND 17", (1, 3)),
        ("s IS NULL", (0, 1)),
        ("s IS NOT NULL", (1, 3, 4, 5)),
        ("s LIKE 'j%'", (5,)),
        ("s = 'zz'", ()),
        ("d = '2024-02-05'", (5,)),
        ("ts < '2024-01-03'", (0,)),
        ("d > TIMESTAMP '2024-02-04 00:00:00'", (5,)),
        ("ok = false", (0, 1, 3)),
        ("n = -5", ()),
        ("n > 1e300", ()),
        ("x >= 9.75", (5,)),
        ("odd = 35", (0, 5)),
        # In doubt: every shard with rows or not.
        ("small = 3.1", (0, 1, 2, 3, 4, 5)),
        ("m = 3.1", (0, 1, 2, 3, 4, 5)),
        ("n + 0 = 3", (0, 1, 2, 3, 4, 5)),
        ("n = '3'", (0, 1, 2, 3, 4, 5)),
        ("NOT (n = 3)", (0, 1, 2, 3, 4, 5)),
        ("n <> 3", (0, 1, 2, 3, 4, 5)),
        ("d = '2024-02-05 10:00:00'", (0, 1, 2, 3, 4, 5)),
    ],
)
def test_what_is_left_out(shards: Any, condition: str, kept: tuple[int, ...]) -> None:
    made = shards.check(f"SELECT * FROM t WHERE {condition}")
    assert made.scans[0].shards == kept


def test_a_join_is_pruned_by_the_conditions_that_go_ahead(shards: Any) -> None:
    made = shards.check("SELECT a.n FROM t a LEFT JOIN t b ON a.n = b.n WHERE a.n < 4 AND b.n > 1")
    assert sorted(scan.shards for scan in made.scans) == [(0,), (0, 1, 3, 4, 5)]
    # IS NULL is true of rows that found no partner, so nothing may be left out.
    made = shards.check("SELECT a.n FROM t a LEFT JOIN t b ON a.n = b.n + 30 WHERE b.s IS NULL")
    assert all(scan.shards == (0, 1, 2, 3, 4, 5) for scan in made.scans)


def _table(stats: ColumnStats | None, type_: str = "INTEGER", rows: int = 3) -> TableInfo:
    return TableInfo("t", (Column("n", type_),), (ShardEntry(b"", rows, 0, {"n": stats} if stats else {}),))


@pytest.mark.parametrize(
    ("stats", "type_", "condition", "kept"),
    [
        (None, "INTEGER", "n = 1", True),
        (ColumnStats(0), "INTEGER", "n = 1", True),
        (ColumnStats(3), "INTEGER", "n = 1", False),
        (ColumnStats(3), "INTEGER", "n IS NOT NULL", False),
        (ColumnStats(0, 5, 9), "INTEGER", "n IS NULL", False),
        (ColumnStats(0, 5, 9), "INTEGER", "n = 4", False),
        # The statistics and the type do not fit together: no proof.
        (ColumnStats(0, "5", "9"), "INTEGER", "n = 4", True),
        (ColumnStats(0, True, True), "INTEGER", "n = 4", True),
        (ColumnStats(0, 5, 9), "VARCHAR", "n = 'a'", True),
        (ColumnStats(0, "b", None), "VARCHAR", "n = 'a'", False),
        (ColumnStats(0, "b", None), "VARCHAR", "n = 'zzz'", True),
        (ColumnStats(0, "2024-01-01", "12024-01-01"), "DATE", "n > '2025-01-01'", True),
        (ColumnStats(0, "2024-01-01", "2024-12-31"), "DATE", "n > '2025-01-01'", False),
        (ColumnStats(0, "2024-01-01", "2024-12-31"), "DATE", "n > '2025-13-01'", True),
        (ColumnStats(0, "2024-01-01", "2024-12-31"), "DATE", "n > '2025'", True),
        (ColumnStats(0, 5.0, float("inf")), "DOUBLE", "n > 1e10", True),
        (ColumnStats(0, 5.0, 6.0), "DOUBLE", "n > 1e999", True),
        (ColumnStats(0, 2**53 + 1, 2**53 + 1), "BIGINT", "n = 9007199254740992.0", True),
        (ColumnStats(0, 2**53 + 1, 2**53 + 1), "BIGINT", "n > 9007199254740992.0", True),
        (ColumnStats(0, -3, -3), "BIGINT", "n = -3", True),
        (ColumnStats(0, -3, -3), "BIGINT", "n = 3", False),
    ],
)
def test_doubt_keeps_a_shard(stats: ColumnStats | None, type_: str, condition: str, kept: bool) -> None:
    where = parse(f"SELECT 1 FROM t WHERE {condition}").args["where"].this
    assert prune(conjuncts(where), _table(stats, type_)) == ((0,) if kept else ())


def test_statistics_are_found_by_the_columns_own_spelling(make_swarm: Callable[..., Any]) -> None:
    swarm = make_swarm()
    swarm.add("c", 'CREATE TABLE c AS SELECT i AS "Mixed Case" FROM range(10) r(i)', (5,))
    made = swarm.check('SELECT * FROM C WHERE "mixed case" < 3')
    assert made.scans[0].shards == (0,)
