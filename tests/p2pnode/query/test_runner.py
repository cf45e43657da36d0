"""SqlRunner from its caller's side: right answers, typed failures, deadlines, a bounded queue."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trio
import trio.testing

from p2pnode.core.model import Column
from p2pnode.env import Env
from p2pnode.errors import Busy, IntegrityError, QueryError, SqlRefused, Timeout
from p2pnode.query import runner as runner_module
from p2pnode.query.fence import FenceReport
from p2pnode.query.frames import PIECE_BYTES_MAX
from p2pnode.query.pool import WAITING_MAX
from p2pnode.query.runner import SqlRunner
from p2pnode.query.spool import SPOOL_MEMORY_BYTES
from p2pnode.query.tables import LocalTable, Relation

if TYPE_CHECKING:
    from tests.p2pnode.query.conftest import Asked, Shards

pytestmark = pytest.mark.trio

#: One value of each kind that a shard may hold, beside a row of NULLs, as DuckDB and Arrow agree on it.
EVERY_TYPE = """
    SELECT * FROM (VALUES (1)) t(row), (SELECT
        true::BOOLEAN bo, 1::TINYINT ti, -2::SMALLINT si, 3::INTEGER i, 4::BIGINT bi, 5::UBIGINT ub,
        1.5::FLOAT f, 2.25::DOUBLE d, 12345678901234567890.123456789::DECIMAL(38,9) de, 'täxt' v, '\\x00\\xff'::BLOB bl,
        DATE '2013-01-31' da, TIME '01:02:03.000004' tm, TIMESTAMP '2013-01-31 01:02:03.000004' ts,
        TIMESTAMPTZ '2013-01-31 01:02:03+05' tz, TIMESTAMP_NS '2013-01-31 01:02:03.123456789' tn,
        INTERVAL '1 month 2 days' iv, [1, NULL, 3] li, [['x'], []] ll, {'a': 1, 'b': {'c': 'd'}} st,
        MAP {'k': 1, 'l': NULL} ma, NULL::VARCHAR nu)
    UNION ALL SELECT 2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
        NULL, NULL, NULL, NULL, NULL, NULL
"""
#: Types that plain Arrow has no word for: they survive with `exact_types` only.
DUCKDB_TYPES = """
    SELECT 170141183460469231731687303715884105727::HUGEINT h, '10101'::BIT b, '12:00:00+02'::TIMETZ tz,
        'c2a1ff0e-0000-4000-8000-0123456789ab'::UUID u, '{"a": 1}'::JSON j
"""


def described(select: str) -> tuple[Column, ...]:
    return tuple(Column(row[0], row[1]) for row in duckdb.sql(f"DESCRIBE {select}").fetchall())


async def test_a_count_over_shards_and_its_stats(ask: Asked, shards: Shards) -> None:
    answer = await ask("SELECT count(*) AS n, sum(a) AS s FROM dataset", [shards.table])
    assert answer.to_pylist() == [{"n": 4000, "s": Decimal(3999 * 2000)}]
    assert ask.stats is not None
    assert ask.stats.rows == 1
    footers_and_columns = ask.stats.bytes_scanned
    assert footers_and_columns < sum(file.stat().st_size for file in shards.files)
    await ask("SELECT count(*) FROM dataset", [LocalTable("dataset", shards.files, (Column("a", "BIGINT"),))])
    assert ask.stats.bytes_scanned < footers_and_columns


async def test_a_file_named_twice_counts_twice(ask: Asked, shards: Shards) -> None:
    twice = LocalTable("dataset", (shards.files[0], shards.files[0]), shards.columns)
    assert (await ask("SELECT count(*) AS n FROM dataset", [twice])).to_pylist() == [{"n": 2000}]


async def test_without_columns_rows_are_counted(ask: Asked, shards: Shards) -> None:
    bare = LocalTable("dataset", shards.files, ())
    assert (await ask("SELECT count(*) AS n FROM dataset", [bare])).to_pylist() == [{"n": 4000}]
    with pytest.raises(QueryError, match="not found"):
        await ask("SELECT a FROM dataset", [bare])


@pytest.mark.parametrize("format", ["parquet", "arrow"])
async def test_every_type_comes_out_as_it_went_in(ask: Asked, shards: Shards, format: str) -> None:
    expected = duckdb.sql(EVERY_TYPE).to_arrow_table()
    file = shards.folder / f"types.{format}"
    if format == "parquet":
        duckdb.sql(EVERY_TYPE).write_parquet(str(file))
        expected = duckdb.sql(f"SELECT * FROM '{file}'").to_arrow_table()
    else:
        with pa.ipc.new_file(file, expected.schema) as writer:
            writer.write_table(expected)
    columns = described(f"SELECT * FROM '{file}'" if format == "parquet" else EVERY_TYPE)
    answer = await ask("SELECT * FROM t ORDER BY row", [LocalTable("t", (file,), columns, format)])
    assert answer.schema.names == expected.schema.names
    assert answer.sort_by("row").to_pylist() == expected.sort_by("row").to_pylist()


@pytest.mark.parametrize("format", ["parquet", "arrow"])
async def test_a_shard_that_lacks_a_column_shows_null_of_its_type(ask: Asked, shards: Shards, format: str) -> None:
    narrow, wide = shards.folder / f"narrow.{format}", shards.folder / f"wide.{format}"
    for file, table in (
        (narrow, pa.table({"a": pa.array([1], pa.int32())})),
        (wide, pa.table({"b": [["x"]], "a": pa.array([2], pa.int64()), "unseen": ["y"]})),
    ):
        if format == "parquet":
            pq.write_table(table, file)
        else:
            with pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
    columns = (Column("a", "BIGINT"), Column("b", "VARCHAR[]"), Column("nowhere", "STRUCT(x UUID)"))
    answer = await ask("SELECT * FROM t ORDER BY a", [LocalTable("t", (narrow, wide), columns, format)])
    assert answer.to_pylist() == [{"a": 1, "b": None, "nowhere": None}, {"a": 2, "b": ["x"], "nowhere": None}]
    kinds = await ask("SELECT DISTINCT typeof(nowhere) AS k FROM t", [LocalTable("t", (narrow, wide), columns, format)])
    assert kinds.to_pylist() == [{"k": "STRUCT(x UUID)"}]


async def test_no_files_is_an_empty_table_with_the_declared_types(ask: Asked) -> None:
    columns = (Column("a", "DECIMAL(10,2)"), Column('we"ird', "TIMESTAMP WITH TIME ZONE"))
    answer = await ask("SELECT * FROM t", [LocalTable("t", (), columns)])
    assert answer.num_rows == 0
    assert answer.schema.field("a").type == pa.decimal128(10, 2)
    assert answer.schema.field('we"ird').type.tz is not None
    assert (await ask("SELECT count(*) AS n FROM t", [LocalTable("t", (), columns)])).to_pylist() == [{"n": 0}]


async def test_a_declared_type_is_not_a_way_in(ask: Asked, shards: Shards) -> None:
    hidden = shards.files[0]
    for kind in (
        f"BIGINT) AS a, (SELECT first(a) FROM read_parquet('{hidden}')) AS b, (NULL",
        f"BIGINT) FROM '{hidden}' --",
        "BIGINT); DROP VIEW x; --",
    ):
        with pytest.raises((SqlRefused, QueryError)):
            await ask("SELECT * FROM t", [LocalTable("t", (), (Column("a", kind),))])
        with pytest.raises((SqlRefused, QueryError, IntegrityError)):
            await ask("SELECT * FROM t", [LocalTable("t", (hidden,), (Column("a", kind),))])


async def test_names_need_quoting_and_get_it(ask: Asked, shards: Shards) -> None:
    file = shards.folder / "it's a 'shard'.parquet"
    pq.write_table(pa.table({'co"l': [1], "select": ["x"]}), file)
    columns = (Column('co"l', "BIGINT"), Column("select", "VARCHAR"))
    answer = await ask(
        'SELECT "co""l", "select" FROM "my ""data"" set"', [LocalTable('my "data" set', (file,), columns)]
    )
    assert answer.to_pylist() == [{'co"l': 1, "select": "x"}]


async def test_answers_gathered_from_holders_become_one_relation(ask: Asked, shards: Shards) -> None:
    pieces = []
    for file in shards.files:
        spool = ask.runner.spool()
        partial = "SELECT a % 7 AS k, sum(a) AS s, count(*) AS n FROM dataset GROUP BY k"
        await spool.write(await ask.stream(partial, [LocalTable("dataset", (file,), shards.columns)], exact_types=True))
        pieces.append(spool)
    final = "SELECT k, sum(s) AS s, sum(n)::BIGINT AS n, any_value(typeof(s)) AS t FROM parts GROUP BY k ORDER BY k"
    answer = await ask(final, (), [Relation("parts", pieces)])
    assert [row["n"] for row in answer.to_pylist()] == [len(range(k, 4000, 7)) for k in range(7)]
    assert [row["s"] for row in answer.to_pylist()] == [sum(range(k, 4000, 7)) for k in range(7)]
    assert {row["t"] for row in answer.to_pylist()} == {"HUGEINT"}
    for spool in pieces:
        spool.close()


async def test_exact_types_survive_the_way_through_a_relation(ask: Asked) -> None:
    spool = ask.runner.spool()
    await spool.write(await ask.stream(DUCKDB_TYPES, exact_types=True))
    answer = await ask(
        "SELECT h::VARCHAR h, b::VARCHAR b, tz::VARCHAR tz, typeof(u) u, typeof(j) j FROM r",
        (),
        [Relation("r", [spool])],
    )
    assert answer.to_pylist() == [
        {"h": "170141183460469231731687303715884105727", "b": "10101", "tz": "12:00:00+02", "u": "UUID", "j": "JSON"}
    ]
    plain = await ask("SELECT u FROM r", (), [Relation("r", [spool])])
    assert plain.schema.field("u").type == pa.string()


async def test_a_large_answer_goes_through_a_file_and_comes_in_pieces(ask: Asked, tmp_path: Path) -> None:
    async with ask.runner.run("SELECT i, md5(i::VARCHAR) AS h FROM range(400000) t(i)") as run:
        pieces = [piece async for piece in run.batches()]
    assert len(pieces) > 3
    assert max(map(len, pieces)) <= PIECE_BYTES_MAX
    spools = [ask.runner.spool(), ask.runner.spool()]
    for spool in spools:
        for piece in pieces:
            await spool.write(piece)
        assert spool.bytes > SPOOL_MEMORY_BYTES
        assert len(spool.in_memory()) <= SPOOL_MEMORY_BYTES
    assert not list((tmp_path / "spill").glob("spool-*")), "a spool's file has no name"
    answer = await ask("SELECT count(*) AS n, count(DISTINCT h) AS d FROM r", (), [Relation("r", spools)])
    assert answer.to_pylist() == [{"n": 800_000, "d": 400_000}]
    for spool in spools:
        spool.close()


async def test_a_relation_without_pieces_has_its_declared_columns(ask: Asked) -> None:
    answer = await ask("SELECT sum(x) AS s FROM r", (), [Relation("r", [], (Column("x", "HUGEINT"),))])
    assert answer.to_pylist() == [{"s": None}]


async def test_pieces_may_differ_in_nullability_but_not_in_type(ask: Asked) -> None:
    def stream(field: pa.Field) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, pa.schema([field])) as writer:
            writer.write_batch(pa.record_batch([pa.array([1], field.type)], schema=pa.schema([field])))
        return sink.getvalue().to_pybytes()

    async def total(*fields: pa.Field) -> Any:
        spools = []
        for field in fields:
            spools.append(ask.runner.spool())
            await spools[-1].write(stream(field))
        return (await ask("SELECT sum(x)::BIGINT AS s FROM r", (), [Relation("r", spools)])).to_pylist()

    assert await total(pa.field("x", pa.int64(), nullable=False), pa.field("x", pa.int64())) == [{"s": 2}]
    with pytest.raises(IntegrityError, match="differ"):
        await total(pa.field("x", pa.int64()), pa.field("x", pa.float64()))


async def test_bytes_that_are_not_arrow_are_refused(ask: Asked) -> None:
    for junk in (b"", b"junk" * 100, b"\xff\xff\xff\xff\xff\xff\xff\x7f" * 10):
        spool = ask.runner.spool()
        await spool.write(junk)
        with pytest.raises(IntegrityError):
            await ask("SELECT * FROM r", (), [Relation("r", [spool])])
    assert (await ask("SELECT 1 AS x")).to_pylist() == [{"x": 1}]


@pytest.mark.parametrize(
    ("sql", "error", "says"),
    [
        ("SELECT nope FROM dataset", QueryError, "nope"),
        ("SELEC 1", QueryError, "syntax error"),
        ("SELECT 'x'::INTEGER FROM dataset", QueryError, "Could not convert"),
        ("SELECT error('late') FROM dataset WHERE a = 3999", QueryError, "late"),
        ("SELECT * FROM another", SqlRefused, "another"),
        ("SELECT 1; SELECT 2", SqlRefused, "one SELECT"),
        ("", SqlRefused, "one SELECT"),
    ],
)
async def test_what_the_asker_got_wrong_is_said(
    ask: Asked, shards: Shards, sql: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        await ask(sql, [shards.table])
    assert str(shards.folder) not in str(caught.value)
    assert "LINE " not in str(caught.value)  # the statement that ran is not the one that was asked
    assert (await ask("SELECT count(*) AS n FROM dataset", [shards.table])).to_pylist() == [{"n": 4000}]


async def test_a_damaged_or_missing_shard_is_the_shard_s_fault(ask: Asked, shards: Shards) -> None:
    damaged = shards.folder / "damaged.parquet"
    damaged.write_bytes(shards.files[0].read_bytes()[:-100])
    for file in (damaged, shards.folder / "missing.parquet"):
        for format in ("parquet", "arrow"):
            with pytest.raises(IntegrityError) as caught:
                await ask("SELECT sum(a) FROM t", [LocalTable("t", (file,), shards.columns, format)])
            assert str(shards.folder) not in str(caught.value)
    assert "LINE " not in str(caught.value)  # the statement that ran is not the one that was asked


async def test_runs_leave_nothing_for_the_next(ask: Asked, shards: Shards) -> None:
    await ask("SELECT 1 FROM dataset LIMIT 1", [shards.table])
    with pytest.raises(SqlRefused, match="dataset"):
        await ask("SELECT 1 FROM dataset LIMIT 1")
    await ask("SELECT 1 AS x", exact_types=True)
    assert (await ask("SELECT sum(1) AS s")).schema.field("s").type == pa.decimal128(38, 0)


@pytest.mark.parametrize(
    "bomb",
    [
        "SELECT levenshtein(repeat('a', 100000), repeat('b', 100000))",
        "SELECT count(*) FROM range(1000000000) a, range(1000) b WHERE a.range % 7 = b.range",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
    ],
)
async def test_a_bomb_ends_at_the_deadline_and_the_next_statement_works(ask: Asked, bomb: str) -> None:
    await ask.runner.warm()
    begun = trio.current_time()
    with pytest.raises(Timeout):
        await ask(bomb, timeout_s=0.3)
    assert trio.current_time() - begun < 0.3 + 0.5 + 0.7  # the last is for a busy machine
    assert (await ask("SELECT 1 AS x")).to_pylist() == [{"x": 1}]


@pytest.mark.parametrize(
    "bomb",
    [
        "SELECT count(*) FROM (SELECT unnest(range(1000000000)))",
        "SELECT length(string_agg(repeat('x', 1000000))) FROM range(100000)",
        "SELECT list(repeat('x', 100000)) FROM range(100000)",
        "SELECT length(lpad('x', 2000000000, 'y')) + length(lpad('x', 2000000000, 'z'))",
    ],
)
async def test_a_memory_bomb_takes_the_worker_s_share_at_most(ask: Asked, bomb: str) -> None:
    before = resident_bytes()
    with pytest.raises((QueryError, Timeout, runner_module.WorkerDied)):
        await ask(bomb, timeout_s=2.0)
    assert (await ask("SELECT 1 AS x")).to_pylist() == [{"x": 1}]
    assert resident_bytes() - before < 32 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def test_a_reader_that_stalls_is_stopped_at_the_deadline(ask: Asked) -> None:
    with pytest.raises(Timeout):
        async with ask.runner.run("SELECT i, md5(i::VARCHAR) FROM range(10000000) t(i)", timeout_s=0.3) as run:
            async for _piece in run.batches():
                await trio.sleep_forever()
    assert (await ask("SELECT 1 AS x")).to_pylist() == [{"x": 1}]


async def test_leaving_early_or_being_cancelled_stops_the_run(ask: Asked) -> None:
    endless = "SELECT i, md5(i::VARCHAR) FROM range(1000000000) t(i)"
    async with ask.runner.run(endless) as run:
        async for _piece in run.batches():
            break
    with trio.move_on_after(0.2) as scope:
        await ask("SELECT count(*) FROM range(1000000000) a, range(1000) b WHERE a.range % 7 = b.range")
    assert scope.cancelled_caught
    with trio.fail_after(5):
        assert (await ask("SELECT 1 AS x")).to_pylist() == [{"x": 1}]


async def test_the_queue_before_the_workers_is_bounded(ask: Asked) -> None:
    refused: list[Busy] = []

    async def wait_in_line() -> None:
        try:
            await ask("SELECT 1")
        except Busy as error:
            refused.append(error)

    # Both workers are taken.
    async with trio.open_nursery() as nursery, ask.runner.run("SELECT 1"), ask.runner.run("SELECT 2"):
        for _ in range(WAITING_MAX + 3):
            nursery.start_soon(wait_in_line)
        await trio.testing.wait_all_tasks_blocked()
        assert len(refused) == 3
        nursery.cancel_scope.cancel()
    assert refused[0].retryable


async def test_waiting_for_a_worker_counts_towards_the_deadline(ask: Asked) -> None:
    async with ask.runner.run("SELECT 1"), ask.runner.run("SELECT 2"):
        with pytest.raises(Timeout):
            await ask("SELECT 3", timeout_s=0.1)


async def test_a_worker_is_replaced_after_enough_runs(ask: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pnode.query.pool.RUNS_MAX", 3)
    for number in range(8):
        assert (await ask(f"SELECT {number} AS x")).to_pylist() == [{"x": number}]


async def test_a_sort_beyond_memory_spills_to_the_worker_s_own_folder(shards: Shards, tmp_path: Path) -> None:
    sql = "SELECT max(r) AS m FROM (SELECT row_number() OVER (ORDER BY md5(i::VARCHAR)) AS r FROM range(1000000) t(i))"
    spill = tmp_path / "spill"
    seen: set[str] = set()

    async def watch() -> None:
        while not seen:
            seen.update(path.parent.name for path in spill.glob("*/*"))
            await trio.sleep(0.01)

    async with (
        SqlRunner(Env(), shards.folder, spill, memory_bytes=48 << 20, workers=1, timeout_s=60.0) as small,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(watch)
        async with small.run(sql) as run:
            pieces = [piece async for piece in run.batches()]
        assert pa.ipc.open_stream(b"".join(pieces)).read_all().to_pylist() == [{"m": 1_000_000}]
        nursery.cancel_scope.cancel()
    assert seen == {"worker-0"}


async def test_without_a_fence_only_our_own_sql_runs(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "fence_available", lambda: FenceReport(False, 0, "no Landlock"))
    options: dict[str, Any] = {"memory_bytes": 64 << 20, "workers": 1, "timeout_s": 10.0}
    async with SqlRunner(Env(), shards.folder, tmp_path / "spill", **options) as careful:
        with pytest.raises(SqlRefused, match="no Landlock") as caught:
            async with careful.run("SELECT 1"):
                pass
        assert "allow_unfenced_sql" in caught.value.advice
        async with careful.run("SELECT 1", own=True) as run:
            assert [piece async for piece in run.batches()]
    async with (
        SqlRunner(Env(), shards.folder, tmp_path / "spill", **options, allow_unfenced=True) as trusting,
        trusting.run("SELECT 1") as run,
    ):
        assert [piece async for piece in run.batches()]
