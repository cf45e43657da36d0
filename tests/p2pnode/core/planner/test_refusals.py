"""What no query may do, whichever parser reads it, and errors that say where and what to do."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from p2pnode.core.planner import plan, plan_opaque, serialization_of
from p2pnode.core.planner.parse import NESTING_MAX, SQL_CHARS_MAX
from p2pnode.errors import NotFound, QueryError, SqlRefused

NOW = datetime(2024, 5, 17)

STATEMENTS = [
    "COPY flights TO 'out.csv'",
    "COPY (SELECT 1) TO '/etc/passwd'",
    "ATTACH 'other.db'",
    "ATTACH 'other.db' AS o (READ_ONLY)",
    "DETACH memory",
    "PRAGMA database_list",
    "PRAGMA enable_profiling",
    "SET memory_limit = '1GB'",
    "SET GLOBAL enable_external_access = true",
    "RESET memory_limit",
    "INSTALL httpfs",
    "LOAD httpfs",
    "FORCE INSTALL httpfs",
    "EXPLAIN SELECT 1",
    "EXPLAIN ANALYZE SELECT * FROM flights",
    "DESCRIBE flights",
    "SUMMARIZE flights",
    "SHOW TABLES",
    "SHOW ALL TABLES",
    "FROM (DESCRIBE flights)",
    "SELECT * FROM (SUMMARIZE flights)",
    "CALL pragma_version()",
    "CREATE TABLE x AS SELECT 1",
    "CREATE VIEW x AS SELECT 1",
    "CREATE MACRO f(x) AS x",
    "CREATE SECRET s (TYPE s3)",
    "DROP TABLE flights",
    "ALTER TABLE flights ADD COLUMN z INT",
    "INSERT INTO flights VALUES (1)",
    "UPDATE flights SET n = 1",
    "DELETE FROM flights",
    "MERGE INTO flights USING carriers ON true WHEN MATCHED THEN DELETE",
    "TRUNCATE flights",
    "BEGIN",
    "COMMIT",
    "CHECKPOINT",
    "VACUUM",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "USE memory",
    "EXPORT DATABASE 'd'",
    "IMPORT DATABASE 'd'",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE flights",
    "WITH x AS (INSERT INTO flights VALUES (1) RETURNING id) SELECT * FROM x",
    "WITH x AS (DELETE FROM flights RETURNING id) SELECT * FROM x",
    "SELECT * INTO other FROM flights",
    "SELECT n FROM flights FOR UPDATE",
    "SELECT n FROM flights WHERE n = ?",
    "SELECT n FROM flights WHERE n = $1",
    "SELECT n FROM flights WHERE n = $name",
    "SELECT * FROM flights AT (VERSION => 1)",
    "PIVOT carriers ON ok USING count(*)",
]

FUNCTIONS = [
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_csv_auto('x')",
    "SELECT * FROM read_parquet('x')",
    "SELECT * FROM parquet_scan('x')",
    "SELECT * FROM parquet_metadata('x')",
    "SELECT * FROM parquet_schema('x')",
    "SELECT * FROM read_json('x')",
    "SELECT * FROM read_json_auto('x')",
    "SELECT * FROM read_ndjson('x')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM READ_TEXT('/etc/passwd')",
    "SELECT * FROM \"read_text\"('/etc/passwd')",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM sniff_csv('x')",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_tables()",
    "SELECT * FROM pragma_table_info('flights')",
    "SELECT * FROM query('SELECT 1')",
    "SELECT * FROM query_table('flights')",
    "SELECT * FROM json_execute_serialized_sql('{}')",
    "SELECT * FROM seq_scan('flights')",
    "SELECT * FROM arrow_scan(1, 2, 3)",
    "SELECT * FROM python_map_function()",
    "SELECT * FROM which_secret('x', 's3')",
    "SELECT * FROM test_all_types()",
    "SELECT * FROM flights, LATERAL (SELECT * FROM read_text('x'))",
    "SELECT (SELECT content FROM read_text('x'))",
    "SELECT n FROM flights WHERE n IN (SELECT size FROM read_blob('x'))",
    "WITH q AS (SELECT * FROM read_csv('x')) SELECT 1",
    "SELECT n FROM flights UNION SELECT 1 FROM glob('x')",
    "SELECT getenv('HOME')",
    "SELECT GetEnv('HOME')",
    "SELECT current_setting('temp_directory')",
    "SELECT sleep_ms(1000)",
    "SELECT pg_sleep(1)",
    "SELECT nextval('s')",
    "SELECT currval('s')",
    "SELECT setval('s', 1)",
    "SELECT setseed(0.5)",
    "SELECT getvariable('x')",
    "SELECT txid_current()",
    "SELECT write_log('x')",
    "SELECT current_query()",
    "SELECT version()",
    "SELECT json_serialize_plan('SELECT 1')",
    "SELECT http_get('http://localhost')",
    "SELECT error('x')",
    "SELECT pg_get_viewdef(1)",
    "SELECT count(*) FROM flights GROUP BY getenv('HOME')",
    "SELECT n FROM flights ORDER BY getenv('HOME')",
    "SELECT sum(n) FILTER (WHERE getenv('HOME') = 'x') FROM flights",
    "SELECT list_transform([1], lambda x: getenv('HOME'))",
    "SELECT 'HOME'.getenv()",
    "SELECT main.getenv('HOME')",
    "SELECT substring(getenv('HOME') FROM 1 FOR 2)",
]

TABLES = [
    "SELECT * FROM main.flights",
    "SELECT * FROM memory.main.flights",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM pg_catalog.pg_class",
]

FILES = [
    "SELECT * FROM 'x.parquet'",
    'SELECT * FROM "x.csv"',
    "SELECT * FROM '/etc/passwd'",
    "FROM 'https://example.org/x.parquet'",
    "SELECT * FROM duckdb_tables",
    "SELECT * FROM sqlite_master",
    "FROM (SHOW TABLES)",
]


@pytest.mark.parametrize("sql", STATEMENTS + FUNCTIONS + TABLES)
def test_refused(flights: Any, sql: str) -> None:
    with pytest.raises(SqlRefused) as refusal:
        flights.plan(sql)
    assert refusal.value.advice


@pytest.mark.parametrize("sql", STATEMENTS + FUNCTIONS + TABLES)
def test_refused_on_the_opaque_way_too(flights: Any, sql: str) -> None:
    serialized = flights.single.execute(serialization_of(sql)).fetchall()[0][0]
    # Not every text is DuckDB's; then it is a QueryError. Either way nothing is planned.
    with pytest.raises((SqlRefused, QueryError)):
        plan_opaque(sql, serialized, flights.resolve)


@pytest.mark.parametrize("sql", FILES)
def test_a_file_is_no_dataset(flights: Any, sql: str) -> None:
    with pytest.raises(NotFound) as missing:
        flights.plan(sql)
    assert missing.value.details["dataset"]
    serialized = flights.single.execute(serialization_of(sql)).fetchall()[0][0]
    with pytest.raises((NotFound, SqlRefused)):
        plan_opaque(sql, serialized, flights.resolve)


def test_a_misspelt_function_gets_a_hint(flights: Any) -> None:
    with pytest.raises(SqlRefused, match="median"):
        flights.plan("SELECT mediann(n) FROM flights")


@pytest.mark.parametrize(
    ("sql", "position"),
    [
        ("SELECT * FRM flights WHERE", 13),
        ("SELECT n FROM flights WHERE n = ", None),
        ("SELECT n,, k FROM flights", 9),
        ("SELEKT 1", 0),
        ("SELECT 'open", None),
        ("SELECT (1", None),
        ("hello", 0),
    ],
)
def test_bad_sql_says_where(flights: Any, sql: str, position: int | None) -> None:
    with pytest.raises(QueryError) as bad:
        flights.plan(sql)
    if position is not None:
        assert bad.value.details["position"] == position
    assert bad.value.message.endswith(".")


@pytest.mark.parametrize("sql", ["", "   ", ";", "-- nothing"])
def test_empty(flights: Any, sql: str) -> None:
    with pytest.raises(QueryError):
        flights.plan(sql)


def test_bounds(flights: Any) -> None:
    with pytest.raises(QueryError, match="longer"):
        flights.plan("SELECT " + "1 + " * SQL_CHARS_MAX + "1")
    with pytest.raises(QueryError, match="nests"):
        flights.plan("SELECT " + "(" * (NESTING_MAX + 1) + "1" + ")" * (NESTING_MAX + 1))


def test_a_long_chain_of_operators_is_no_crash(flights: Any) -> None:
    with pytest.raises(QueryError):
        flights.plan("SELECT " + "1 + " * 20_000 + "1 FROM flights")
    flights.check("SELECT id FROM flights WHERE " + " OR ".join(f"id = {index}" for index in range(400)))
    flights.check("SELECT id FROM flights WHERE " + " AND ".join(f"id <> {index}" for index in range(90)), pushed=True)


def test_unknown_dataset_names_it_and_a_near_cte(flights: Any) -> None:
    with pytest.raises(NotFound, match="totals"):
        plan("WITH totals AS (SELECT 1) SELECT * FROM total", flights.resolve, NOW)
