"""The command that a newcomer runs first: it must end well, say so in one document, and leave nothing behind."""

from __future__ import annotations

import json
import sys

import psutil
import pytest
import trio

pytestmark = pytest.mark.journey

#: The demo promises to be done by then, in seconds.
DONE_S = 90.0


@pytest.mark.trio
async def test_the_demo_is_right_before_and_after_a_worker_is_killed() -> None:
    command = [sys.executable, "-m", "p2pnode", "-o", "json", "demo"]
    with trio.fail_after(DONE_S):
        finished = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    assert finished.returncode == 0, finished.stderr.decode()
    summary = json.loads(finished.stdout)
    assert summary["ok"]
    assert summary["rows"] == {"flights": 336_776, "airlines": 16, "airports": 1_458}

    workers = {node["node_id"] for node in summary["nodes"] if node["role"] == "worker"}
    assert len(workers) == 4
    for shard in summary["shards"]:
        assert len(set(shard["holders"]) & workers) == len(shard["holders"]) == 3
    assert sum(shard["rows"] for shard in summary["shards"] if shard["dataset"] == "flights") == 336_776

    victim = summary["killed"]["node_id"]
    assert summary["killed"]["shards"] > 0
    assert summary["killed"]["seen_dead_s"] <= 8.0
    assert len(summary["questions"]) == 3
    for question in summary["questions"]:
        for record in (question["before"], question["after"]):
            assert record["equal"]
            assert record["coverage"] == 1.0
        assert victim not in question["after"]["nodes"]

    [grouped] = [question for question in summary["questions"] if question["kind"] == "group-by"]
    for record in (grouped["before"], grouped["after"]):
        assert record["moved_share"] <= 0.02
        assert record["fragment_rows"] <= 3 * record["fragments"], "holders sent groups, not rows"

    assert not [node["pid"] for node in summary["nodes"] if psutil.pid_exists(node["pid"])]
