"""SQL that tries to get out, against each wall alone and against all of them.

Three rounds with the same statements: through the runner as a peer would send them; with the check of the statement
taken away, so that DuckDB's settings and the kernel stand alone; and with DuckDB's settings taken away too, so that
only the kernel stands. In every round no secret is read, nothing is written, nothing is dialled, and the shards stay
as they were.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from p2pnode.errors import P2PNodeError

if TYPE_CHECKING:
    from tests.p2pnode.query.conftest import Asked, Shards

SECRET = "s3cr3t-in-a-file"

#: {f}: a file with the secret · {o}: a folder outside · {s}: a shard · {d}: the shard folder · {p}: a listening port.
ESCAPES = """
SELECT * FROM read_csv('{f}', header = false)
SELECT * FROM read_csv_auto('{f}')
SELECT * FROM '{f}'
SELECT content FROM read_text('{f}')
SELECT content FROM read_blob('{f}')
SELECT * FROM read_json('{o}/secret.json')
SELECT * FROM read_json_auto('{o}/secret.json')
SELECT * FROM read_ndjson_objects('{o}/secret.json')
SELECT * FROM read_parquet('{o}/secret.parquet')
SELECT * FROM parquet_scan('{o}/secret.parquet')
SELECT * FROM '{o}/secret.parquet'
SELECT * FROM parquet_metadata('{o}/secret.parquet')
SELECT * FROM parquet_schema('{o}/secret.parquet')
SELECT * FROM parquet_kv_metadata('{o}/secret.parquet')
SELECT * FROM read_duckdb('{o}/secret.duckdb')
SELECT * FROM glob('{o}/*')
SELECT * FROM glob('/etc/*')
SELECT * FROM sniff_csv('{f}')
SELECT * FROM read_text('{d}/../outside/secret.csv')
SELECT * FROM read_text('{d}/link')
SELECT * FROM read_text('{d}/folder-link/secret.csv')
SELECT * FROM read_text('/proc/self/environ')
SELECT * FROM read_text('/proc/self/maps')
SELECT * FROM read_text('/proc/1/cmdline')
SELECT * FROM read_text('/etc/passwd')
SELECT * FROM read_blob('/dev/mem')
SELECT * FROM query('SELECT * FROM read_text(''{f}'')')
SELECT * FROM query_table(['{f}'])
SELECT * FROM query('COPY (SELECT 1) TO ''{o}/written''')
SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT * FROM read_text(''{f}'')'))
PRAGMA json_execute_serialized_sql(json_serialize_sql('SELECT * FROM read_text(''{f}'')'))
SELECT json_serialize_plan('SELECT * FROM read_csv(''{f}'')')
WITH x AS (COPY (SELECT 1) TO '{o}/written') SELECT * FROM x
WITH x AS (INSERT INTO dataset VALUES (1, 'x', 1)) SELECT * FROM x
COPY (SELECT 1) TO '{o}/written.csv'
COPY (SELECT 1) TO '{d}/written.csv'
COPY (SELECT 1 AS a) TO '{s}' (FORMAT parquet)
COPY (SELECT 1 AS a) TO '{s}' (FORMAT parquet, USE_TMP_FILE false)
COPY (SELECT 1 AS a, 2 AS b) TO '{d}' (FORMAT parquet, PARTITION_BY a, OVERWRITE true)
COPY (SELECT 1 AS a, 2 AS b) TO '{s}' (FORMAT parquet, PARTITION_BY a, OVERWRITE true)
COPY (SELECT 1 AS a, 2 AS b) TO '{d}' (FORMAT parquet, PARTITION_BY a, OVERWRITE_OR_IGNORE true)
COPY (SELECT 1) TO '/dev/stdout'
CREATE TABLE t AS SELECT 1; COPY t FROM '{f}'
EXPORT DATABASE '{o}/exported'
EXPORT DATABASE '{d}/exported'
IMPORT DATABASE '{o}'
ATTACH '{o}/attached.duckdb'
ATTACH '{d}/attached.duckdb'
ATTACH '{s}'
ATTACH ':memory:' AS m; COPY (SELECT 1) TO '{o}/written'
ATTACH '{o}/secret.duckdb' AS x (READ_ONLY)
CREATE SECRET leak (TYPE s3, KEY_ID 'a', SECRET 'b')
CREATE PERSISTENT SECRET leak (TYPE http, BEARER_TOKEN 'b')
SELECT * FROM duckdb_secrets()
INSTALL httpfs
INSTALL httpfs FROM 'http://127.0.0.1:{p}'
FORCE INSTALL '{o}/x.duckdb_extension'
LOAD '{o}/x.duckdb_extension'
LOAD httpfs
SELECT * FROM read_csv('http://127.0.0.1:{p}/x.csv')
SELECT * FROM 'https://127.0.0.1:{p}/x.parquet'
SELECT * FROM read_parquet('s3://bucket/x.parquet')
SET enable_external_access = true
SET GLOBAL allowed_directories = ['/']
SET allowed_paths = ['{f}']
RESET lock_configuration
SET lock_configuration = false
SET memory_limit = '100GB'
SET threads = 64
SET temp_directory = '{o}'
SET home_directory = '{o}'
SET extension_directories = ['{o}']
SET secret_directory = '{o}'
SET log_query_path = '{o}/log'
SET profiling_output = '{o}/profile'
SET python_enable_replacements = true
SET allow_unsigned_extensions = true
SET allowed_configs = ['threads']
PRAGMA enable_profiling = 'json'; PRAGMA profiling_output = '{o}/profile'; SELECT 1
CALL enable_logging('QueryLog', storage = 'file', storage_path = '{o}/log')
CALL enable_logging(storage = 'stdout')
SELECT write_log('x', level := 'ERROR')
SELECT current_setting('allowed_directories')
SELECT * FROM duckdb_settings()
SELECT * FROM duckdb_logs()
SELECT getenv('HOME')
SELECT getenv('P2PNODE_SECRET')
SET VARIABLE x = 1; SELECT getvariable('x')
SELECT * FROM SECRET
SELECT * FROM os
SELECT * FROM sys
SELECT * FROM arrow_scan(1::POINTER, 2::POINTER, 3::POINTER)
SELECT * FROM pandas_scan(140000000000000)
SELECT * FROM python_map_function(1)
CREATE TABLE t AS SELECT * FROM read_text('{f}')
CREATE MACRO m() AS TABLE SELECT * FROM read_text('{f}')
CREATE VIEW v AS SELECT * FROM read_text('{f}')
SELECT 1; COPY (SELECT 1) TO '{o}/written'
EXPLAIN ANALYZE COPY (SELECT 1) TO '{o}/written'
SELECT * FROM (DESCRIBE SELECT * FROM '{f}')
SELECT * FROM (SHOW ALL TABLES)
SUMMARIZE SELECT * FROM read_text('{f}')
PREPARE p AS SELECT * FROM read_text('{f}')
EXECUTE p
DETACH memory
DROP VIEW dataset
CHECKPOINT
VACUUM
USE memory
TRUNCATE dataset
""".strip().splitlines()


@dataclass
class World:
    """What may not be reached: a secret in several shapes, an outside folder, shards, a port."""

    outside: Path
    shards: Shards
    listener: socket.socket
    before: dict[str, bytes]

    def statements(self) -> list[str]:
        words = {
            "f": self.outside / "secret.csv",
            "o": self.outside,
            "s": self.shards.files[0],
            "d": self.shards.folder,
            "p": self.listener.getsockname()[1],
        }
        statements = [statement.format(**words) for statement in ESCAPES]
        assert len(statements) == len(set(statements)) > 60
        return statements

    def contents(self) -> dict[str, bytes]:
        outside = {str(file): file.read_bytes() for file in self.outside.rglob("*") if file.is_file()}
        return {**outside, **self.shards.contents()}

    def untouched(self) -> None:
        assert self.contents() == self.before
        with pytest.raises(BlockingIOError):
            self.listener.accept()


@pytest.fixture
def world(tmp_path: Path, shards: Shards) -> World:
    import duckdb

    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.csv").write_text(f"{SECRET}\n")
    (outside / "secret.json").write_text(json.dumps([{"x": SECRET}]))
    (outside / "x.duckdb_extension").write_bytes(b"\0" * 1024)
    duckdb.sql(f"SELECT '{SECRET}' AS x").write_parquet(str(outside / "secret.parquet"))
    with duckdb.connect(str(outside / "secret.duckdb")) as database:
        database.execute(f"CREATE TABLE t AS SELECT '{SECRET}' AS x")
    (shards.folder / "link").symlink_to(outside / "secret.csv")
    (shards.folder / "folder-link").symlink_to(outside)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    world = World(outside, shards, listener, {})
    world.before = world.contents()
    return world


@pytest.mark.trio
async def test_through_the_runner_every_escape_is_a_typed_refusal(ask: Asked, shards: Shards, world: World) -> None:
    os.environ["P2PNODE_SECRET"] = SECRET
    for statement in world.statements():
        with pytest.raises(P2PNodeError) as caught:
            await ask(statement, [shards.table])
        assert caught.value.code in ("sql_refused", "query"), statement
        assert SECRET not in str(caught.value)
    assert (await ask("SELECT count(*) AS n FROM dataset", [shards.table])).to_pylist() == [{"n": 4000}]
    world.untouched()


#: A process that shuts itself in like a worker and runs statements with walls taken away; it prints what came of each.
PRISONER = """
import json, os, sys
from pathlib import Path
import duckdb
from p2pnode.query import engine
from p2pnode.query.fence import Limits, shut_in
SECRET = "a Python variable of this name"
order = json.load(sys.stdin)
report = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
connection = engine.connect()
limits = Limits(Path(order["shards"]), Path(order["spill"]), 256 << 20, 64 << 20)
shut_in(limits)
if order["settings"]:
    engine.Engine(connection, limits)
for statement in order["statements"]:
    try:
        outcome = repr(connection.execute(statement).fetchall())
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    print(json.dumps([statement, outcome]), file=report, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("settings", [True, False], ids=["settings and kernel", "kernel alone"])
def test_without_the_check_of_the_statement_nothing_is_reached_either(
    world: World, tmp_path: Path, settings: bool
) -> None:
    spill = tmp_path / "spill"
    spill.mkdir()
    pending = world.statements()
    if not settings:
        # It ends the process, which is as good as a refusal here and would end the round.
        pending = [statement for statement in pending if "enable_logging" not in statement]
    outcomes: dict[str, str] = {}
    order = {"shards": str(world.shards.folder), "spill": str(spill), "settings": settings, "statements": pending}
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OPENBLAS_NUM_THREADS": "1",
        "JE_ARROW_MALLOC_CONF": "background_thread:false",
        "P2PNODE_SECRET": SECRET,
    }
    done = subprocess.run(
        [sys.executable, "-c", PRISONER],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )
    for line in done.stdout.splitlines():
        statement, outcome = json.loads(line)
        outcomes[statement] = outcome
    assert outcomes.keys() == set(pending), done.stderr
    for statement, outcome in outcomes.items():
        assert SECRET not in outcome.replace(statement, ""), statement
    world.untouched()


def test_the_escapes_do_work_where_there_is_no_wall(world: World, tmp_path: Path) -> None:
    """The control: a suite of refusals proves nothing if the statements are harmless anyway."""
    import duckdb

    reached = 0
    with duckdb.connect() as connection:
        for statement in world.statements():
            if any(
                word in statement
                for word in (
                    "enable_logging",
                    "stdout",
                    "INSTALL",
                    "http",
                    "s3:",
                    "arrow_scan",
                    "pandas_scan",
                    "/dev/",
                    "/proc/",
                )
            ):
                continue
            try:
                outcome = repr(connection.execute(statement).fetchall())
            except Exception:  # noqa: BLE001  whatever is refused here is not counted
                continue
            reached += SECRET in outcome
    assert reached >= 10
    assert world.contents() != world.before
