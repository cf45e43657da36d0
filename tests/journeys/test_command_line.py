"""The command line against real nodes: a dataset's life, typed failures, and a clean end."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simulations.local import LocalNode, LocalSwarm

#: Seconds in which a node must be gone after a signal.
LEAVE_S = 3.0


def p2pnode(*arguments: str, code: int = 0) -> Any:
    """Run one command with `-o json`; its document, after its exit code was seen to be `code`."""
    done = subprocess.run(
        [sys.executable, "-m", "p2pnode", "-o", "json", *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    [line] = done.stdout.splitlines()
    return json.loads(line)


def at(node: LocalNode) -> tuple[str, str]:
    return ("--home", str(node.home))


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "numbers.parquet"
    pq.write_table(pa.table({"n": range(1000), "third": [n % 3 for n in range(1000)]}), path)
    return path


def test_the_log_is_whole_on_every_node_and_says_who_said_what(swarm: LocalSwarm) -> None:
    for node in swarm.nodes:
        found = p2pnode(*at(node), "log", "verify")
        assert (found["ok"], found["running"]) == (True, True), found["checks"]
    node = swarm.nodes[1]
    done = subprocess.run(
        [sys.executable, "-m", "p2pnode", *at(node), "-o", "json", "log"], capture_output=True, text=True, timeout=60
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert told[0]["kind"] == "genesis"
    members = {other.node_id for other in swarm.nodes[:-1]}
    assert {event["node_id"] for event in told if event["kind"] == "up"} == members
    newest = p2pnode(*at(node), "log", "--last", "1")
    assert newest["height"] >= told[-1]["height"]


def test_a_datasets_life(swarm: LocalSwarm, numbers: Path, tmp_path: Path) -> None:
    coordinator, worker, client = swarm.nodes[0], swarm.nodes[1], swarm.nodes[-1]
    published = p2pnode(
        *at(coordinator), "dataset", "publish", str(numbers), "--name", "life", "--shard-rows", "100", "--replicas", "3"
    )
    assert (published["rows"], len(published["shards"])) == (1000, 10)
    for asked in (worker, client):
        shown = p2pnode(*at(asked), "dataset", "show", "life")
        assert [(shard["cid"], sorted(shard["holders"])) for shard in shown["shards"]] == [
            (shard["cid"], sorted(shard["holders"])) for shard in published["shards"]
        ]
        answer = p2pnode(
            *at(asked), "query", "SELECT third, count(*) AS c, sum(n) AS s FROM life GROUP BY 1 ORDER BY 1"
        )
        assert [column["name"] for column in answer["columns"]] == ["third", "c", "s"]
        assert [[int(cell) for cell in row] for row in answer["rows"]] == [
            [third, len(range(third, 1000, 3)), sum(range(third, 1000, 3))] for third in range(3)
        ]
        assert answer["stats"]["coverage"] == 1.0

    for shard in p2pnode(*at(worker), "dataset", "show", "life", "--explain")["shards"]:
        assert all(why.startswith("placement names it") for why in shard["why"].values())
        assert shard["lacking"] == []

    shard = published["shards"][4]
    out = tmp_path / "shard.parquet"
    p2pnode(*at(client), "dataset", "get", "life", shard["shard_id"], "--out", str(out))
    assert pq.read_table(out)["n"].to_pylist() == list(range(400, 500))
    digests = {
        hashlib.sha256(path.read_bytes()).hexdigest()
        for node in swarm.nodes
        for path in (node.home / "shards").rglob("*")
        if path.is_file() and shard["cid"] in path.name and path.stat().st_size == out.stat().st_size
    }
    assert digests == {hashlib.sha256(out.read_bytes()).hexdigest()}  # byte-identical wherever it lies

    p2pnode(*at(coordinator), "dataset", "rm", "life")
    assert p2pnode(*at(worker), "query", "SELECT 1 FROM life", code=1)["error"] == "not_found"


def test_a_client_publishes_too(swarm: LocalSwarm, numbers: Path) -> None:
    client = swarm.nodes[-1]
    published = p2pnode(
        *at(client), "dataset", "publish", str(numbers), "--name", "by-client", "--shard-rows", "250", "--replicas", "2"
    )
    assert all(len(set(shard["holders"])) == 2 for shard in published["shards"])
    assert p2pnode(*at(swarm.nodes[0]), "query", 'SELECT count(*) FROM "by-client"')["rows"] == [[1000]]
    p2pnode(*at(client), "dataset", "rm", "by-client")


def test_failures_are_typed(swarm: LocalSwarm, numbers: Path, tmp_path: Path) -> None:
    coordinator, worker = swarm.nodes[0], swarm.nodes[1]
    empty = tmp_path / "empty.csv"
    empty.write_text("a,b\n")
    for arguments, code, error in [
        (("query", "SELEC 1"), 2, "query"),
        (("query", "SELECT * FROM nowhere"), 1, "not_found"),
        (("query", "SELECT * FROM read_csv('/etc/passwd')"), 4, "sql_refused"),
        (("dataset", "show", "nowhere"), 1, "not_found"),
        (("dataset", "publish", str(tmp_path / "absent.csv"), "--name", "x"), 2, "usage"),
        (("dataset", "publish", str(empty), "--name", "x"), 2, "empty_data"),
        (("health", "nobody"), 1, "not_found"),
    ]:
        assert p2pnode(*at(coordinator), *arguments, code=code)["error"] == error
    refused = p2pnode(*at(worker), "dataset", "publish", str(numbers), "--name", "x", code=4)
    assert refused["error"] == "role"
    assert [each["name"] for each in p2pnode(*at(coordinator), "dataset", "ls") if each["name"] == "x"] == []
    second = p2pnode(*at(worker), "up", "--node-id", "second", code=4)
    assert second["error"] == "home_in_use"
    taken = p2pnode(
        "--home", str(tmp_path / "h"), "up", "--node-id", "worker-1", "--bootstrap", coordinator.addresses[0], code=4
    )
    assert taken["error"] == "node_id_taken"


def test_the_api_file_is_private_and_peers_are_all_there(swarm: LocalSwarm) -> None:
    for node in swarm.nodes:
        assert stat.S_IMODE((node.home / "api").stat().st_mode) == 0o600
        found = {peer["node_id"]: peer for peer in p2pnode(*at(node), "peers")}
        assert {each.node_id for each in swarm.nodes if each.role.is_member} <= set(found)
        assert found[node.node_id]["state"] == "alive"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_up_ends_cleanly_and_comes_back_where_it_was(tmp_path: Path, number: signal.Signals) -> None:
    addresses = []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-m", "p2pnode", "--home", str(tmp_path), "-o", "json", "up", "--node-id", "alone"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "P2PNODE_DISTRIBUTED__ROLE": "worker"},
        )
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert (ready["event"], ready["role"]) == ("ready", "worker")
        addresses.append(ready["addresses"])
        process.send_signal(number)
        began = time.monotonic()
        out, err = process.communicate(timeout=20)
        assert time.monotonic() - began < LEAVE_S
        assert [json.loads(line)["event"] for line in out.splitlines()] == ["stopping", "stopped"]
        assert err == ""
        assert process.returncode == 0
        assert not (tmp_path / "api").exists()
    assert addresses[0] == addresses[1]
