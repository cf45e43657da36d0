"""The check of the statement alone, on the trees that DuckDB makes."""

from __future__ import annotations

import json
from typing import Any

import duckdb
import pytest

from p2pnode.errors import SqlRefused
from p2pnode.query.admit import DEPTH_MAX, admit


def tree(sql: str) -> dict[str, Any]:
    rows = duckdb.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
    return json.loads(rows[0][0])


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("SELECT a, sum(b) FROM d WHERE c LIKE 'x%' GROUP BY a HAVING sum(b) > 1 ORDER BY 2 DESC LIMIT 3", ["d"]),
        ("FROM D JOIN e USING (k) LEFT JOIN e AS f ON d.a = f.a", ["D", "e"]),
        ("SELECT a FROM d INTERSECT ALL SELECT b FROM e", ["d", "e"]),
        ("SELECT a FROM d WHERE a IN (SELECT b FROM e WHERE EXISTS (FROM d))", ["d", "e"]),
        ("WITH x AS (FROM d), y AS MATERIALIZED (FROM x) SELECT * FROM X, y", ["d"]),
        ("WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT * FROM t", []),
        ("SELECT row_number() OVER (PARTITION BY a ORDER BY b) r FROM d QUALIFY r = 1", ["d"]),
        ("SELECT * FROM (PIVOT d ON x IN (1, 2) USING sum(y))", ["d"]),
        ("SELECT * FROM d UNPIVOT (x FOR y IN (a, b))", ["d"]),
        ("SELECT unnest(l), [x + 1 FOR x IN l], list_transform(l, lambda x: x + 1) FROM d", ["d"]),
        ("SELECT * FROM d ASOF JOIN e ON d.t >= e.t, LATERAL (SELECT d.t), generate_series(1, 3)", ["d", "e"]),
        ("SELECT count(*) FILTER (WHERE a > 1), COLUMNS('a.*'), * EXCLUDE (b) FROM d TABLESAMPLE 10%", ["d"]),
        ("SELECT DISTINCT ON (a) a, CASE WHEN b THEN TRY_CAST(c AS INTEGER) END FROM d GROUP BY CUBE (a, b, c)", ["d"]),
        ("VALUES (1), (2)", []),
        ('SELECT "column" FROM "my data/set" WHERE "column" = \'value\'', ["my data/set"]),
    ],
)
def test_what_a_query_is(sql: str, tables: list[str]) -> None:
    admit(tree(sql), tables)
    for lacking in tables:
        with pytest.raises(SqlRefused, match="No such table here"):
            admit(tree(sql), [name for name in tables if name != lacking])


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1; SELECT 2",
        "COPY d TO 'x'",
        "SELECT * FROM f",
        "SELECT * FROM main.d",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM duckdb_settings",
        "SELECT * FROM 'x.parquet'",
        "SELECT * FROM d, (SELECT * FROM read_csv('x'))",
        "SELECT (SELECT max(x) FROM glob('*') t(x))",
        "WITH x AS (SELECT * FROM d) SELECT * FROM x WHERE a IN (SELECT * FROM query('SELECT 1'))",
        "WITH \"/s/x.parquet\" AS (SELECT 1) SELECT * FROM d, (FROM '/s/x.parquet')",
        "WITH x AS (DELETE FROM d RETURNING *) FROM x",
        "WITH x AS (UPDATE d SET a = 1 RETURNING *) FROM x",
        "SELECT current_setting('temp_directory')",
        "SELECT sum(getvariable('x')) OVER () FROM d",
        "SELECT d.a.write_log() FROM d",
        "SELECT list_transform([1], lambda x: sleep_ms(x))",
        "SELECT __internal_decompress_string(1::UHUGEINT)",
        "SELECT * FROM d ORDER BY nextval('s')",
        "SELECT * FROM (SUMMARIZE d)",
        "SELECT * FROM arrow_scan(1::POINTER, 1::POINTER, 1::POINTER)",
        "SELECT * FROM histogram_values(f, a)",
    ],
)
def test_what_a_query_is_not(sql: str) -> None:
    with pytest.raises(SqlRefused):
        admit(tree(sql), ["d"])


def test_a_tree_too_deep_is_refused_without_recursion() -> None:
    deep: dict[str, Any] = {"class": "FUNCTION"}
    for _ in range(DEPTH_MAX + 1):
        deep = {"class": "FUNCTION", "children": deep}
    with pytest.raises(SqlRefused, match="deeply"):
        admit({"error": False, "statements": [deep]}, [])


def test_kinds_of_nodes_that_do_not_exist_yet_are_refused() -> None:
    with pytest.raises(SqlRefused, match="TELEPORT"):
        admit({"error": False, "statements": [{"node": {"type": "TELEPORT_REF"}}]}, [])
