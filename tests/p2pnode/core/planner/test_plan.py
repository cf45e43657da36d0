"""Hand-written statements where a split could go wrong: names, types, shadowing, NULLs, zeros, nothing at all."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from p2pnode.core.planner import Unsure, plan, plan_opaque, serialization_of
from p2pnode.errors import NotFound

#: Done at the holders as far as it goes.
PUSHED = [
    "SELECT * FROM flights WHERE id > 100",
    "SELECT f.* FROM flights AS f WHERE F.ID BETWEEN 3 AND 7",
    "FROM flights WHERE id < 3",
    "FROM flights SELECT id, s",
    "SELECT count(*) FROM flights",
    "SELECT COUNT( * ), Sum(N), AVG(f.x), min(F.s) FROM flights f",
    "SELECT count() FROM flights WHERE ok",
    "SELECT 1 FROM flights",
    "SELECT 'x', NULL, TRUE, 1.50 FROM flights WHERE id = 1",
    "SELECT sum(n) + 1, -sum(n), sum(n) / count(*), sum(n)::DOUBLE / nullif(count(x), 0) FROM flights",
    "SELECT sum(ok), sum(price), avg(price), sum(big), avg(big), avg(n) FROM flights",
    "SELECT min(d), max(ts), max(s), min(ok), min(price), max(zero) FROM flights",
    "SELECT max(ts) - min(ts), max(d) - min(d) FROM flights",
    "SELECT k, count(*) FROM flights GROUP BY k ORDER BY k",
    "SELECT k, sum(n) AS total FROM flights GROUP BY 1 HAVING count(*) > 3 ORDER BY 2 DESC NULLS LAST, 1 LIMIT 3",
    "SELECT k AS key, count(*) AS c FROM flights GROUP BY key HAVING key > 2 AND c > 1 ORDER BY c, key",
    'SELECT "group", count(*) AS "select", sum(n) AS "from" FROM flights GROUP BY "group" ORDER BY "select", "group"',
    "SELECT year(d), month(d) AS m, count(*) FROM flights GROUP BY ALL ORDER BY ALL",
    "SELECT date_trunc('month', d) AS m, sum(price) FROM flights GROUP BY m",
    "SELECT extract(month FROM d) AS m, count(*) FROM flights GROUP BY m",
    "SELECT s, count(DISTINCT k), sum(DISTINCT n), avg(DISTINCT n), count(DISTINCT zero) FROM flights GROUP BY s",
    "SELECT count(DISTINCT k) FILTER (WHERE n > 10), count(*) FILTER (WHERE ok), sum(n) FILTER (s = 'ab') FROM flights",
    "SELECT zero, count(*) FROM flights GROUP BY zero",
    "SELECT count(DISTINCT s), count(s), count(1) FROM flights",
    "SELECT stddev(x), stddev_samp(n), stddev_pop(price), variance(x), var_samp(n), var_pop(x) FROM flights GROUP BY k",
    "SELECT stddev(big), var_pop(big + 1000000000000) FROM flights",
    "SELECT stddev(n), var_samp(n) FROM flights WHERE id = 5",
    "SELECT bool_and(ok), bool_or(ok), bit_and(k), bit_or(k), bit_xor(k) FROM flights WHERE id > 3 GROUP BY s",
    "SELECT count_if(n > 3), count_if(ok) FROM flights",
    "SELECT CASE WHEN n > 0 THEN 'up' ELSE 'down' END, count(*) FROM flights GROUP BY 1",
    "SELECT CASE WHEN n > 0 THEN 'up' END AS way, sum(CASE WHEN ok THEN 1 ELSE 0 END) FROM flights GROUP BY way",
    "SELECT sum(n) FROM flights HAVING sum(n) > 10",
    "SELECT k, rank() OVER (ORDER BY sum(n) DESC) AS place FROM flights GROUP BY k",
    "SELECT sum(sum(n)) OVER (ORDER BY k) AS running, k FROM flights GROUP BY k",
    "SELECT k FROM flights GROUP BY k QUALIFY row_number() OVER (ORDER BY count(*) DESC, k) <= 2",
    "SELECT DISTINCT k FROM flights",
    "SELECT DISTINCT zero, s FROM flights ORDER BY s",
    "SELECT DISTINCT k % 3 FROM flights ORDER BY 1",
    "SELECT DISTINCT count(*) FROM flights GROUP BY k, ok ORDER BY 1",
    "SELECT DISTINCT * FROM flights WHERE id < 5",
    "SELECT id, s FROM flights ORDER BY s DESC NULLS FIRST, id LIMIT 7 OFFSET 2",
    "SELECT id FROM flights ORDER BY n NULLS FIRST, id LIMIT 12",
    "SELECT s FROM flights ORDER BY id DESC LIMIT 4",
    "SELECT id FROM flights ORDER BY id LIMIT 0",
    "SELECT -id AS id FROM flights ORDER BY id LIMIT 3",
    "SELECT -id AS id FROM flights WHERE id > 110",
    "SELECT id + 1 AS k, k * 2 AS twice FROM flights WHERE id < 6",
    "SELECT id AS q, q + 1 AS r FROM flights WHERE r < 6 ORDER BY r",
    "SELECT * FROM (SELECT k, sum(n) AS t FROM flights GROUP BY k) WHERE t > 10",
    "SELECT max(t) FROM (SELECT k, sum(n) AS t FROM flights GROUP BY k) AS g",
    "WITH g AS (SELECT k, count(*) AS c FROM flights GROUP BY k) SELECT sum(c) FROM g WHERE k > 3",
    "WITH flights AS (SELECT name FROM carriers WHERE ok) SELECT * FROM flights",
    "WITH g AS (SELECT k FROM flights WHERE id < 9), h AS (SELECT k FROM g) SELECT count(*) FROM h",
    "SELECT k FROM flights WHERE id < 9 UNION SELECT k FROM carriers",
    "(SELECT id FROM flights ORDER BY id LIMIT 2) UNION ALL (SELECT k FROM carriers ORDER BY k DESC LIMIT 2)",
    "SELECT count(*) FROM nothing",
    "SELECT sum(price), avg(x), min(s), count(*), stddev(x), bool_and(s = '') FROM nothing",
    "SELECT s, sum(price) FROM nothing GROUP BY s",
    "SELECT sum(n), max(s), avg(x), count(*) FROM flights WHERE id < -1",
    "SELECT k, sum(n) FROM flights WHERE id > 1000 GROUP BY k",
    "SELECT * FROM flights WHERE id > 1000 ORDER BY id LIMIT 3",
    "SELECT try_cast(s AS INTEGER) AS i, count(*) FROM flights GROUP BY i",
    "SELECT id FROM flights WHERE s = 'zoë' OR s = '' ORDER BY id",
    "SELECT id FROM flights WHERE s LIKE 'b%' AND NOT ok",
    "SELECT (id), ((n + 1)), (s) AS t FROM flights WHERE (id) < 3",
    "SELECT d + INTERVAL 1 DAY, d + INTERVAL '2' DAY, INTERVAL '1 day', n ** 2, n ^ 2, +n FROM flights WHERE id < 3",
    "SELECT n::VARCHAR, x::FLOAT, CAST(n AS SMALLINT), try_cast(s AS DATE) FROM flights WHERE id < 3",

    "SELECT struct_pack(k := sum(n)) AS q, {'k': k, 'n': max(n)} AS r FROM flights GROUP BY k",
    "WITH q AS (SELECT count(*) AS c FROM carriers) SELECT k, count(*) FROM flights GROUP BY k",
    "SELECT k::INTEGER, sum(k::INTEGER) FROM flights GROUP BY k",
    "-- note\nSELECT /* all */ count(*) FROM flights -- end",
    "SELECT 1 AS one",
    "SELECT * FROM range(3)",
    "VALUES (1, 'x'), (2, 'y')",
    "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT sum(n) FROM r",
]  # fmt: skip

#: Finished at the asker.
GATHERED = [
    "SELECT median(n), mode(k), mad(x) FROM flights",
    "SELECT quantile_cont(x, [0.25, 0.75]), approx_count_distinct(k) FROM flights",
    "SELECT string_agg(s, ',' ORDER BY id), list(n ORDER BY id DESC) FROM flights",
    "SELECT arg_max(s, big), arg_min(id, big), corr(n, x), kurtosis(x), product(k) FROM flights",
    "SELECT k, first(id ORDER BY id) FROM flights GROUP BY k",
    "SELECT id, row_number() OVER (PARTITION BY k ORDER BY id) FROM flights WHERE id < 50",
    "SELECT id FROM flights QUALIFY row_number() OVER (PARTITION BY k ORDER BY id DESC) = 1",
    "SELECT id, sum(n) OVER w FROM flights WINDOW w AS (PARTITION BY k ORDER BY id)",
    "SELECT max(id) OVER () FROM flights LIMIT 1",
    "SELECT k, ok, count(*) FROM flights GROUP BY ROLLUP (k, ok)",
    "SELECT k, grouping(k), count(*) FROM flights GROUP BY CUBE (k)",
    "SELECT DISTINCT zero + 1 FROM flights",
    "SELECT DISTINCT zero::VARCHAR FROM flights",
    "SELECT DISTINCT ON (k) k, id FROM flights ORDER BY k, id",
    "SELECT -k AS k, count(*) AS c FROM flights GROUP BY k",
    "SELECT n AS a, k AS a FROM flights ORDER BY a, id LIMIT 9",
    "SELECT -k AS k, count(*) AS c FROM flights GROUP BY k HAVING k > 2",
    "SELECT id FROM flights LIMIT 10%",
    "SELECT COLUMNS('^(id|k)$') FROM flights WHERE id < 3",
    "SELECT #2, #1 FROM flights WHERE id < 3",
    "SELECT flights FROM flights WHERE id = 3",
    "SELECT x FROM flights AS y(a, b, x) LIMIT 0",
    "SELECT * FROM flights JOIN carriers USING (k) WHERE fee > 3 AND id < 60",
    "SELECT f.id, c.name FROM flights f LEFT JOIN carriers c ON f.k = c.k WHERE c.fee IS NULL",
    "SELECT f.id, c.name FROM flights f LEFT JOIN carriers c ON f.k = c.k WHERE c.fee > 3 OR f.id < 5",
    "SELECT f.id, c.name FROM flights f RIGHT JOIN carriers c ON f.k = c.k AND f.id < 9 WHERE c.ok",
    "SELECT f.id, c.name FROM flights f FULL JOIN carriers c ON f.id = c.k WHERE f.n < 10 OR f.n IS NULL",
    "SELECT count(*) FROM flights NATURAL JOIN carriers",
    "SELECT id FROM flights SEMI JOIN carriers USING (k) WHERE id < 50",
    "SELECT id FROM flights ANTI JOIN carriers ON flights.k = carriers.k WHERE id < 50",
    "SELECT f.id, c.k FROM flights f ASOF JOIN carriers c ON f.d >= c.since WHERE f.id > 20 AND c.k < 5",
    "SELECT * FROM carriers c POSITIONAL JOIN carriers e WHERE c.k > 3",
    "SELECT count(*) FROM flights a, flights b WHERE a.id = b.n AND a.id < 20 AND b.id > 30",
    "SELECT a.id FROM flights a JOIN flights b ON a.id = b.id + 1 WHERE a.k = 1 AND b.k = 4",
    "SELECT id FROM flights WHERE k IN (SELECT k FROM carriers WHERE ok) AND id < 40",
    "SELECT id FROM flights WHERE NOT EXISTS (SELECT 1 FROM carriers c WHERE c.k = flights.k)",
    "SELECT id, (SELECT max(fee) FROM carriers) FROM flights WHERE id < 4",
    "SELECT (SELECT count(*) FROM flights f WHERE f.k = c.k), c.k FROM carriers c",
    "SELECT count(*) * 100.0 / (SELECT count(*) FROM carriers) FROM flights",
    "SELECT EXISTS(SELECT 1 FROM carriers), id IN (SELECT k FROM carriers) FROM flights WHERE id < 12",
    "SELECT * FROM carriers c, LATERAL (SELECT count(*) AS n FROM flights f WHERE f.k = c.k) q",
    "SELECT * FROM (VALUES (1), (2)) v(id) JOIN flights USING (id) WHERE flights.id >= 1",
    "SELECT * FROM carriers PIVOT (sum(fee) FOR ok IN (true, false))",
    "PIVOT carriers ON ok IN (true, false) USING count(*)",
    "UNPIVOT carriers ON k, fee INTO NAME what VALUE much",
    "SELECT unnest([id, n]) FROM flights WHERE id < 3",
    "SELECT {'a': k}, count(*) FROM flights GROUP BY 1",
    "SELECT [k] AS l, count(*) FROM flights GROUP BY l",
    "SELECT id FROM flights WHERE s.upper() = 'AB' ORDER BY id LIMIT 3",
    "SELECT s.upper().lower(), count(*) FROM flights GROUP BY s",
    "SELECT list_transform([k], lambda n: n + 1) AS q, k FROM flights GROUP BY k",
]

#: Read by DuckDB's parser alone.
OPAQUE = [
    "SELECT substring(s FROM 1 FOR 2), upper(s) FROM flights WHERE id < 9",
    "SELECT trim(BOTH 'a' FROM s) AS t, count(*) FROM flights GROUP BY t",
    "SELECT id FROM Flights WHERE n > 1_0",
    "SELECT @n FROM flights",
    "SELECT id, FROM flights",
    "SELECT e'a\\nb' AS t, id FROM flights WHERE id < 2",
    "WITH q AS (SELECT substring(s FROM 1 FOR 1) AS k FROM flights) SELECT k, count(*) FROM q GROUP BY k",
    "SELECT [x + 1 FOR x IN [k, n] IF x > 2] AS l FROM flights",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY x) AS p FROM flights",
    "SELECT count(*) FROM flights USING SAMPLE 100%",
]


@pytest.mark.parametrize("sql", PUSHED)
def test_pushed(flights: Any, exact_flights: Any, sql: str) -> None:
    flights.check(sql, ordered="ORDER BY" in sql and "OVER" not in sql, pushed=True)
    exact_flights.check(sql, pushed=True)


@pytest.mark.parametrize("sql", GATHERED)
def test_gathered(flights: Any, exact_flights: Any, sql: str) -> None:
    made = flights.check(sql, pushed=False)
    exact_flights.check(sql)
    assert made.notes


@pytest.mark.parametrize("sql", OPAQUE)
def test_opaque(flights: Any, exact_flights: Any, sql: str) -> None:
    with pytest.raises(Unsure):
        plan(sql, flights.resolve, datetime(2024, 1, 1))
    assert flights.check(sql, pushed=False).final == sql
    exact_flights.check(sql)


SEED = "SELECT * FROM dataset WHERE column = 'value'"


def test_the_seeds_query(make_swarm: Callable[..., Any]) -> None:
    swarm = make_swarm()
    swarm.add(
        "mine",
        "CREATE TABLE mine AS SELECT i AS id, ['value', 'other'][1 + i % 2] AS \"column\" FROM range(6) r(i)",
        (2,),
    )
    info = swarm.tables["mine"]
    made = plan(SEED, lambda name: info if name == "dataset" else None, datetime(2024, 1, 1))
    assert made.pushed
    assert swarm.answer(made).rows == [(0, "value"), (2, "value"), (4, "value")]
    assert swarm.answer(made).names == ["id", "column"]


def test_names_that_need_quotes(make_swarm: Callable[..., Any]) -> None:
    swarm = make_swarm()
    columns = ('"two words"', '"Ünï"', '"select"', '"a""b"', '"p_key_0"', '"p_output_0"', '"shard_rows"', '"ä"', '"Ä"')
    items = ", ".join(f"i + {index} AS {name}" for index, name in enumerate(columns))
    swarm.add('my "odd" set', f'CREATE TABLE "my ""odd"" set" AS SELECT {items} FROM range(9) r(i)', (4,))
    table = '"my ""odd"" set"'
    for column in columns:
        swarm.check(f"SELECT {column}, sum({column}), count({column}) + 1 FROM {table} GROUP BY {column}", pushed=True)
        swarm.check(
            f"SELECT {column} FROM {table} WHERE {column} > 5 ORDER BY {column} LIMIT 3", ordered=True, pushed=True
        )
    swarm.check(f'SELECT * FROM {table} AS "t t" WHERE "t t"."TWO WORDS" = 3', pushed=True)
    swarm.check(f'SELECT substring("select"::VARCHAR FROM 1 FOR 1) AS c, "Ünï" FROM {table}')
    swarm.check(f'WITH p_output_0 AS (SELECT 1 AS x) SELECT * FROM p_output_0, {table} WHERE "select" = 4')


#: Types that Arrow does not carry by itself.
ODD_TYPES = """
CREATE TABLE odd AS SELECT
    i AS id, (i * 10)::HUGEINT AS h, md5(i::VARCHAR)::UUID AS u, (i % 3)::UTINYINT AS small, (i::VARCHAR)::JSON AS j,
    CASE i % 2 WHEN 0 THEN 'x' ELSE 'y' END::ENUM('y', 'x') AS e, [i, i + 1] AS l, {'a': i, 'b': 's'} AS st,
    MAP {'k': i} AS mp, '101'::BIT AS bits, 'ab'::BLOB AS raw,
    INTERVAL (i) DAY AS iv, TIME '10:00:00' + INTERVAL (i) MINUTE AS tm,
    (TIMESTAMP '2024-01-01' + INTERVAL (i) HOUR)::TIMESTAMP_NS AS tn, i::UBIGINT AS ub, i::DECIMAL(38, 3) AS wide,
    [md5(i::VARCHAR)::UUID] AS ul, i::FLOAT AS g
FROM range(12) r(i)
"""


@pytest.mark.parametrize("exact_types", [False, True])
def test_types_that_do_not_travel_alike(make_swarm: Callable[..., Any], exact_types: bool) -> None:
    swarm = make_swarm(exact_types=exact_types)
    swarm.add("odd", ODD_TYPES, (5, 9))
    swarm.add("odd, too", ODD_TYPES.replace("TABLE odd", 'TABLE "odd, too"'), (5, 9))
    columns = [column.name for column in swarm.tables["odd"].columns]
    for column in columns:
        swarm.check(f"SELECT {column} FROM odd WHERE id > 3")
        swarm.check(f"SELECT {column}, count(*) FROM odd GROUP BY {column}")
        swarm.check(f"SELECT min({column}), max({column}), count(DISTINCT {column}) FROM odd")
        swarm.check(f"SELECT {column}, id FROM odd ORDER BY {column} DESC, id LIMIT 4", ordered=True)
        swarm.check(f"SELECT DISTINCT {column} FROM odd")
    for column in ("h", "small", "ub", "wide", "g"):
        swarm.check(f"SELECT sum({column}), avg({column}), stddev({column}) FROM odd")
    swarm.check("SELECT st.a, l[1], mp['k'], substring(u::VARCHAR FROM 1 FOR 4) FROM odd")
    swarm.check("WITH q AS (SELECT substring(u::VARCHAR FROM 1 FOR 4) AS c, u, h, e FROM odd) SELECT * FROM q")
    swarm.check('WITH q AS (SELECT substring(u::VARCHAR FROM 1 FOR 4) AS c, h, e FROM "odd, too") SELECT * FROM q')
    swarm.check(
        'SELECT substring(u::VARCHAR FROM 1 FOR 4) AS c, j, bits FROM "odd, too" ORDER BY id LIMIT 2', ordered=True
    )
    swarm.check("SELECT * FROM odd WHERE id > 100")
    swarm.check("SELECT e, u, h, sum(small) FROM odd WHERE id > 100 GROUP BY ALL")


def test_errors_of_the_statement_stay_errors(flights: Any) -> None:
    for sql in (
        "SELECT nope FROM flights",
        "SELECT id FROM flights GROUP BY k",
        "SELECT sum(s) FROM flights",
        "SELECT count(*) FROM flights WHERE s::INTEGER > 5",
        "SELECT id FROM flights ORDER BY 9",
    ):
        with pytest.raises(Exception, match="Error"):
            flights.expected(sql)
        with pytest.raises(Exception, match="Error"):
            flights.answer(flights.plan(sql))


def test_an_error_behind_another_condition_does_not_come_forward(flights: Any) -> None:
    """The cast fails for rows of `flights` that the join leaves out, so it may not go ahead to the holders."""
    sql = "SELECT f.id FROM flights f JOIN carriers c ON f.id = c.k WHERE f.s::VARCHAR || '1' > '' AND 10 / f.k > 0"
    made = flights.check(sql)
    assert all("WHERE" not in scan.sql for scan in made.scans)


@pytest.mark.parametrize(
    ("call", "literal"),
    [
        ("now()", "2024-05-17 12:30:15.123456+00"),
        ("current_timestamp", "2024-05-17 12:30:15.123456+00"),
        ("current_date", "2024-05-17"),
        ("today()", "2024-05-17"),
        ("current_localtimestamp()", "2024-05-17 12:30:15.123456"),
        ("localtime", "12:30:15.123456"),
    ],
)
def test_one_moment_everywhere(flights: Any, call: str, literal: str) -> None:
    now = datetime(2024, 5, 17, 14, 30, 15, 123456, tzinfo=timezone(timedelta(hours=2)))
    made = plan(f"SELECT id, {call} FROM flights WHERE ({call})::VARCHAR <> ''", flights.resolve, now)
    assert literal in made.final
    assert literal in made.scans[0].sql
    wanted = flights.expected(f"SELECT id, {call} FROM flights LIMIT 0")
    made = plan(f"SELECT id, {call} FROM flights LIMIT 0", flights.resolve, now)
    assert (flights.answer(made).names, flights.answer(made).types) == (wanted.names, wanted.types)


def test_a_column_may_be_called_like_a_moment(make_swarm: Callable[..., Any]) -> None:
    swarm = make_swarm()
    swarm.add("t", 'CREATE TABLE t AS SELECT 5 AS "current_date"')
    swarm.check("SELECT current_date FROM t")
    swarm.check("WITH q AS (SELECT 7 AS current_date) SELECT current_date FROM q")


@pytest.mark.parametrize("call", ["random()", "gen_random_uuid()", "uuid()"])
def test_chance_is_the_askers_alone(flights: Any, call: str) -> None:
    for sql in (
        f"SELECT id, {call} AS r FROM flights",
        f"SELECT id FROM flights WHERE {call} IS NOT NULL AND id < 5",
        f"SELECT count({call}) FROM flights GROUP BY k",
        f"SELECT id FROM flights ORDER BY {call} LIMIT 3",
    ):
        made = plan(sql, flights.resolve, datetime(2024, 1, 1, tzinfo=UTC))
        assert not made.pushed
        assert all(call not in scan.sql for scan in made.scans)
        assert call in made.final
        assert len(flights.answer(made).rows) == len(flights.expected(sql).rows)


def test_a_limit_without_order_is_cut_early(flights: Any) -> None:
    made = flights.plan("SELECT id FROM flights WHERE ok LIMIT 4 OFFSET 1")
    assert made.scans[0].sql.endswith("LIMIT 5")
    assert len(flights.answer(made).rows) == 4


def test_only_needed_columns_are_read(flights: Any) -> None:
    made = flights.plan("SELECT sum(n) FROM flights WHERE s = 'ab'")
    assert [column.name for column in made.scans[0].columns] == ["n", "s"]
    made = flights.plan("SELECT count(*) FROM flights")
    assert made.scans[0].columns == (), "rows alone are counted"
    made = flights.plan("SELECT f.id FROM flights f JOIN carriers c USING (k)")
    assert [[column.name for column in scan.columns] for scan in made.scans] == [["id", "k"], ["k"]]
    made = flights.plan("SELECT id FROM flights WHERE price > 3 ORDER BY big LIMIT 2")
    assert [column.name for column in made.scans[0].columns] == ["id", "big", "price"]
    assert made.scans[0].sql.startswith('SELECT "id", "big" FROM')


def test_a_table_twice_with_the_same_need_is_scanned_once(flights: Any) -> None:
    made = flights.check("SELECT count(*) FROM carriers a JOIN carriers b ON a.k = b.k")
    assert len(made.scans) == 1
    made = flights.check("SELECT count(*) FROM carriers a JOIN carriers b ON a.k = b.k WHERE a.fee > 3")
    assert len(made.scans) == 2


def test_conditions_go_ahead_of_a_join(flights: Any) -> None:
    made = flights.check(
        "SELECT f.id FROM flights f LEFT JOIN carriers c ON f.k = c.k WHERE f.n > 3 AND c.ok AND f.x < c.fee"
    )
    assert [scan.sql.partition("WHERE")[2] for scan in made.scans] == [' ("n" > 3)', ' ("ok")']


def test_what_a_plan_says_of_itself(flights: Any) -> None:
    made = flights.plan("SELECT k, sum(n) FROM flights WHERE id < 20 GROUP BY k")
    assert made.tables == ("flights",)
    assert made.shards_total == 5
    assert made.scans[0].partial
    assert "flights: 4 of 5 shards left out by their statistics." in made.notes
    assert "flights: WHERE is applied by the holders." in made.notes
    assert "flights: groups are computed in parts by the holders." in made.notes
    made = flights.plan("SELECT median(n) FROM flights, carriers WHERE id < 20")
    assert any("gathered, because" in note for note in made.notes)
    made = flights.plan("SELECT median(n) FROM flights")
    assert "flights: gathered, because median() needs all rows in one place." in made.notes
    made = flights.plan("SELECT id FROM flights ORDER BY n LIMIT 3")
    assert "flights: the top 3 rows of each holder." in made.notes


def test_a_scan_without_shards_only_selects_columns(flights: Any) -> None:
    for sql in (
        "SELECT k + 1, sum(n * 2) FROM flights WHERE id < -1 GROUP BY k + 1",
        "SELECT max(s) FROM nothing WHERE x > 1",
    ):
        scan = flights.plan(sql).scans[0]
        if not scan.shards:
            assert not scan.partial
            assert "(" not in scan.sql
            assert "WHERE" not in scan.sql


def test_unknown_table(flights: Any) -> None:
    for sql in ("SELECT * FROM flihgts", "SELECT (SELECT max(x) FROM other) FROM flights", "SELECT @n FROM other"):
        with pytest.raises(NotFound):
            flights.plan(sql)


def test_the_opaque_way_finds_tables_in_every_corner(flights: Any) -> None:
    sql = (
        "WITH q AS (SELECT k FROM carriers), r AS (SELECT k FROM q WHERE k IN (SELECT id FROM nothing)) "
        "SELECT substring(s FROM 1 FOR 1) FROM flights LEFT JOIN r USING (k) ORDER BY (SELECT max(fee) FROM carriers)"
    )
    serialized = flights.single.execute(serialization_of(sql)).fetchall()[0][0]
    made = plan_opaque(sql, serialized, flights.resolve)
    assert set(made.tables) == {"flights", "carriers", "nothing"}
    flights.check(sql)
