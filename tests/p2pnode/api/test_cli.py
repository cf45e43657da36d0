"""The command line against a served twin: documents, exit codes, and failures that fit on a line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio

from p2pnode.api.cli import globals_first, run
from p2pnode.api.home import ApiAccess, default_home, find_access, write_api_file
from p2pnode.api.portal import Hosted
from p2pnode.api.server import serve_api
from p2pnode.core.settings import Settings
from p2pnode.env import Env
from p2pnode.errors import SwarmUnreachable, UsageError


class Shell:
    """Runs commands in this process and keeps what they printed."""

    def __init__(self, capfd: pytest.CaptureFixture[str], *options: str) -> None:
        self._capfd = capfd
        self._options = options

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self._capfd.readouterr()
        code = run([*self._options, *arguments])
        out, err = self._capfd.readouterr()
        assert "Traceback" not in err + out
        return code, out, err

    def json(self, *arguments: str, code: int = 0) -> Any:
        found, out, err = self(*arguments, "-o", "json")
        assert found == code, err
        [line] = out.splitlines()
        return json.loads(line)


@pytest.fixture
def bare(capfd: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capfd)


@pytest.fixture
def shell(twin: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Shell]:
    """Commands for a node that is served from another thread."""
    with served(twin, tmp_path / "home"):
        yield Shell(capfd, "--home", str(tmp_path / "home"))


@contextmanager
def served(twin: ModuleType, home: Path) -> Iterator[None]:
    @asynccontextmanager
    async def both() -> AsyncIterator[ApiAccess]:
        env = Env()
        async with (
            twin.open_node(Settings(home, "ada")) as node,
            serve_api(node, env, host="127.0.0.1", port=0, token="") as access,
        ):
            yield access

    hosted = Hosted(both)
    hosted.started.result(10)
    try:
        yield
    finally:
        hosted.stop().result(10)


def test_what_a_node_is_and_sees(shell: Shell, tmp_path: Path) -> None:
    found = shell.json("id")
    assert set(found) == {"node_id", "peer_id", "role", "addresses", "api", "home", "version"}
    assert found["home"] == str(tmp_path / "home")
    peers = shell.json("peers")
    assert [set(peer) for peer in peers] == [
        {"node_id", "peer_id", "role", "state", "addresses", "region", "rtt_ms"}
    ] * 2
    assert shell.json("health") == {"ada": {"status": "healthy", "cpu_usage": 1.0}}
    assert shell.json("health", "ada") == shell.json("health")
    assert shell.json("health", "bob", code=1)["error"] == "not_found"
    assert shell.json("doctor")[0]["check"] == "disk"
    code, out, _ = shell("peers")
    assert (code, out.splitlines()[0]) == (0, "node_id\trole\tstate\tregion\trtt_ms\tpeer_id")


def test_a_member_that_forked_is_readmitted(shell: Shell) -> None:
    found = shell.json("node", "readmit", "mallory")
    assert (found["node_id"], found["peer_id"], found["forgiven"]) == ("mallory", "12D3KooWLiar", 2)
    assert shell.json("node", "readmit", "mallory", "--keep", found["event"]) == found
    assert shell.json("node", "readmit", "mallory", "--keep", "nonsense", code=2)["error"] == "content_id"
    assert shell.json("node", "readmit", "bob", code=1)["error"] == "not_found"
    assert shell("node", "readmit", "mallory")[1] == "readmitted mallory (12D3KooWLiar): 2 events forgiven\n"


def test_a_datasets_life(shell: Shell, tmp_path: Path) -> None:
    published = shell.json("dataset", "publish", "a.csv", "b.csv", "--name", "trips", "--shard-rows", "1")
    assert (published["name"], published["rows"], len(published["shards"])) == ("trips", 2, 2)
    assert set(published["shards"][0]) == {"shard_id", "cid", "rows", "bytes", "holders"}
    assert shell.json("dataset", "show", "trips") == published
    explained = shell.json("dataset", "show", "trips", "--explain")["shards"]
    assert [(list(shard["why"]), shard["lacking"]) for shard in explained] == [(["ada"], ["other"])] * 2
    assert "2 of 2" in explained[0]["why"]["ada"]
    assert "earlier" in explained[1]["why"]["ada"]
    assert "LACKS IT" in shell("dataset", "show", "trips", "--explain")[1]
    assert [each["name"] for each in shell.json("dataset", "ls")] == ["trips"]
    answer = shell.json("query", "SELECT * FROM trips")
    assert [Path(path).is_absolute() for [path] in answer["rows"]] == [True, True]  # the node may stand elsewhere
    out = tmp_path / "shard.parquet"
    cid = published["shards"][0]["cid"]
    assert shell.json("dataset", "get", "trips", cid, "--out", str(out))["bytes"] == out.stat().st_size > 0
    assert shell.json("dataset", "get", "trips", "nope", "--out", str(tmp_path / "n"), code=1)["error"] == "not_found"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "shard.parquet"]
    assert shell.json("dataset", "rm", "trips")["deleted"] == "trips"
    assert shell.json("dataset", "show", "trips", code=1)["error"] == "not_found"


def test_publish_for_people(shell: Shell) -> None:
    code, out, err = shell("dataset", "publish", "a.csv", "--name", "trips", "--replicas", "all")
    assert code == 0
    assert out.startswith("trips: 1 row, 100 B in 1 shard (")
    assert err == ""  # no bar without a terminal
    for wrong in ("0", "many", "-1"):
        code, out, err = shell("dataset", "publish", "a.csv", "--name", "trips", "--replicas", wrong)
        assert (code, out) == (2, "")


@pytest.mark.parametrize(
    ("sql", "code", "name"),
    [("DROP", 2, "query"), ("CRASH", 2, "query"), ("MISSING", 5, "shard_unavailable"), ("BUG", 1, "internal")],
)
def test_failures_have_a_line_an_advice_and_a_code(shell: Shell, sql: str, code: int, name: str) -> None:
    found, out, err = shell("query", sql)
    assert (found, out) == (code, "")
    first, advice = err.splitlines()
    assert first.startswith("p2pnode: ")
    assert advice.startswith("  → ")
    assert shell.json("query", sql, code=code)["error"] == name
    if sql == "MISSING":
        assert "s1, s2" in first


def test_answers_in_tables(shell: Shell) -> None:
    code, out, _ = shell("query", "SELECT 1")
    assert (code, out) == (0, "one\tnan\n1\tNaN\n")
    code, out, _ = shell("query", "SELECT 1", "--explain", "--dataset", "trips")
    assert out.splitlines() == [
        "at the holders of trips (2 shards, 1 skipped by their statistics):",
        "  SELECT 1",
        "at the asker:",
        "  SELECT 2",
        "note: a note",
    ]


def test_no_node_is_exit_3(bare: Shell, tmp_path: Path) -> None:
    assert bare.json("id", code=3)["error"] == "swarm_unreachable"
    assert bare.json("--home", str(tmp_path), "peers", code=3)["error"] == "swarm_unreachable"
    write_api_file(tmp_path, ApiAccess("http://127.0.0.1:9", "t", 1, "ada"))  # init runs, but no API there
    assert bare.json("--home", str(tmp_path), "peers", code=3)["error"] == "swarm_unreachable"
    assert bare.json("doctor", code=3)[0]["ok"] is False


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["query"],
        ["query", "SELECT 1", "--on-missing", "shrug"],
        ["query", "SELECT 1", "--timeout", "soon"],
        ["dataset", "publish", "x.csv"],
        ["dataset", "get", "trips", "s1"],
        ["-o", "yaml", "id"],
        ["--api", "ftp://x", "id"],
        ["--api", "http://127.0.0.1:1", "id"],
        ["up", "--role", "boss"],
        ["up", "--weight", "0"],
        ["up", "--api-listen", "here"],
        ["up", "--node-id", "a/b"],
        ["up", "--config", "/no/such/file.toml"],
        ["up", "--bootstrap", "nonsense"],
        ["up", "--listen", "/ip4/0.0.0.0/tcp/0"],
    ],
)
def test_misuse_is_exit_2(bare: Shell, arguments: list[str]) -> None:
    code, out, err = bare(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("p2pnode: ")
    assert "\n  → " in err
    assert "Value error" not in err
    if arguments[0] != "-o":
        assert bare.json(*arguments, code=2)["error"] in ("usage", "config", "address")


def test_a_group_without_a_command_shows_its_help(bare: Shell) -> None:
    code, out, err = bare("dataset")
    assert (code, out) == (2, "")
    assert err.startswith("Usage: p2pnode dataset ")


def test_any_name_of_a_dataset_reaches_the_node(shell: Shell, tmp_path: Path) -> None:
    for name in ("a/b", "a/shards/b", "50 %?#", "Ω 😀"):
        [shard] = shell.json("dataset", "publish", "a.csv", "--name", name)["shards"]
        assert shell.json("dataset", "show", name)["name"] == name
        out = tmp_path / "shard.parquet"
        assert shell.json("dataset", "get", name, shard["cid"], "--out", str(out))["bytes"] > 0
        assert shell.json("dataset", "rm", name)["deleted"] == name


@pytest.mark.parametrize("out", [".", "no/such/folder/file"])
def test_where_a_shard_cannot_be_written(shell: Shell, tmp_path: Path, out: str) -> None:
    code, _, err = shell("dataset", "get", "trips", "s", "--out", str(tmp_path / out))
    assert code == 2
    assert "folder" in err


def test_the_one_running_node_is_found_and_several_are_asked_about(twin: ModuleType, bare: Shell) -> None:
    with served(twin, default_home("ada")):
        assert bare.json("id")["node_id"] == "ada"
        access = find_access(None, None, None)
        assert bare.json("--api", access.url, "id")["node_id"] == "ada"  # its token is found by its address
        write_api_file(default_home("ada").parent, access)
        other = default_home("bob")
        other.mkdir()
        write_api_file(other, ApiAccess("http://127.0.0.1:9", "t", access.pid, "bob"))
        with pytest.raises(UsageError, match="several"):
            find_access(None, None, None)
    with pytest.raises(SwarmUnreachable):
        find_access(default_home("ada"), None, None)


def test_global_options_may_follow_the_command() -> None:
    assert globals_first(["query", "SELECT 1", "-o", "json", "-v"]) == ["-o", "json", "-v", "query", "SELECT 1"]
    assert globals_first(["up", "--home=/h", "--node-id", "a"]) == ["--home=/h", "up", "--node-id", "a"]
    assert globals_first(["query", "--", "-o"]) == ["query", "--", "-o"]
    assert globals_first(["id", "-o"]) == ["-o", "id"]


def test_environment_stands_in_for_flags(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: Shell
) -> None:
    monkeypatch.setenv("P2PNODE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("P2PNODE_OUTPUT", "json")
    code, out, _ = bare("id")
    assert (code, json.loads(out)["node_id"]) == (0, "ada")
    code, out, _ = bare("query", "DROP")
    assert (code, json.loads(out)["error"]) == (2, "query")


def test_configuration_and_where_it_came_from(bare: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_text('[distributed]\nregion = "eu"\n[api]\ntoken = "secret"\n')
    monkeypatch.setenv("P2PNODE_QUERY__WORKERS", "7")
    found = bare.json("--home", str(tmp_path), "config", "show", "--origin")
    assert found["distributed.region"] == {"value": "eu", "origin": str(tmp_path / "config.toml")}
    assert found["query.workers"] == {"value": 7, "origin": "P2PNODE_QUERY__WORKERS"}
    assert found["api.token"]["value"] == "(set)"


def test_help_is_quick_because_it_loads_nothing_heavy() -> None:
    program = (
        "import sys; from p2pnode.api.cli import run; code = run(['--help']); "
        "print(sorted({name.split('.')[0] for name in sys.modules} & "
        "{'libp2p', 'pyarrow', 'trio', 'fastapi', 'httpx', 'pydantic', 'rich', 'duckdb', 'pandas'}), code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.splitlines()[-1] == "[] 0"
    for command in ("up", "id", "peers", "dataset", "query", "health", "doctor", "demo", "bench"):
        assert f"  {command} " in done.stdout
    assert "..." not in done.stdout.partition("Commands:")[2]  # each line is whole


def test_a_reader_that_goes_away_is_no_drama(shell: Shell, tmp_path: Path) -> None:
    command = f"{sys.executable} -m p2pnode --home {tmp_path / 'home'} peers | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=20)
    assert done.stderr == ""


@pytest.mark.trio
async def test_up_tells_its_life_and_ends_on_a_signal(
    twin: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import os
    import signal

    from p2pnode.api.commands import up
    from p2pnode.api.config import Api

    async with trio.open_nursery() as nursery:
        nursery.start_soon(up._serve, Settings(tmp_path, "ada"), Api(), True)
        lines: list[str] = []
        with trio.fail_after(5):
            while not lines:
                await trio.sleep(0.01)
                lines = capfd.readouterr().out.splitlines()
        ready = json.loads(lines[0])
        assert list(ready) == ["event", "node_id", "peer_id", "role", "addresses", "api", "home"]
        assert ready["event"] == "ready"
        os.kill(os.getpid(), signal.SIGTERM)
    events = [json.loads(line)["event"] for line in capfd.readouterr().out.splitlines()]
    assert events == ["stopping", "stopped"]
    assert twin.Node.closed == ["ada"]
    assert not (tmp_path / "api").exists()
