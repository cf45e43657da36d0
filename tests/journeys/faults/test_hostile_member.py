"""A member floods the coordinator with bad events and frames while others publish: acknowledged writes go on, the
flood is throttled, then shut out, and `doctor` says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import trio

from p2pnode import DistributedDatasetManager
from simulations.local import LocalSwarm

WRITES = 30
TABLE = pa.table({"id": range(10)})


async def published(client: DistributedDatasetManager, name: str) -> list[float]:
    """So many datasets, one after the other; how long each took."""
    took: list[float] = []
    for number in range(WRITES):
        began = trio.current_time()
        await client.shard_dataset(f"{name}-{number}", TABLE, replication_factor=2)
        took.append(trio.current_time() - began)
    return sorted(took)


@pytest.mark.trio
async def test_a_member_that_floods(tmp_path: Path, command: Any) -> None:
    async with LocalSwarm(coordinators=1, workers=3, clients=0, base_dir=tmp_path) as swarm:
        victim = swarm.nodes[0]
        peer_id = victim.addresses[0].rpartition("/")[2]
        script = str(Path(__file__).with_name("hostile_member.py"))
        hostile = subprocess.Popen(  # noqa: ASYNC220  # it starts at once
            [sys.executable, script, str(tmp_path / "mallory"), victim.addresses[0], peer_id],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert hostile.stdin is not None
        assert hostile.stdout is not None
        try:
            assert json.loads(await trio.to_thread.run_sync(hostile.stdout.readline))["what"] == "joined"
            async with swarm.client() as client:
                calm = await published(client, "calm")
                hostile.stdin.write("go\n")
                hostile.stdin.flush()
                flooded = await published(client, "flooded")
                assert len(await client.list_datasets()) == 2 * WRITES
            diagnosis = await trio.to_thread.run_sync(command, victim, "doctor")
            hostile.stdin.close()
            told = [json.loads(line) for line in await trio.to_thread.run_sync(hostile.stdout.readlines)]
        finally:
            hostile.kill()
            hostile.wait()
    at = {line["what"]: line["at"] for line in told}
    begun = at["begins"]
    print(
        f"told to wait after {at['told to wait'] - begun:.1f} s, shut out after {at['shut out'] - begun:.1f} s; "
        f"a write took {calm[WRITES // 2] * 1000:.0f} ms before and {flooded[WRITES // 2] * 1000:.0f} ms during the "
        f"flood (longest {calm[-1] * 1000:.0f} and {flooded[-1] * 1000:.0f})"
    )
    assert at["told to wait"] <= at["shut out"]
    (finding,) = [line for line in diagnosis.document if line["check"] == "bad input"]
    assert not finding["ok"]
    assert "mallory" in finding["detail"]
    assert "it is dropped" in finding["detail"] or "it is paused" in finding["detail"]
    assert finding["fix"]
    (faults,) = [line for line in diagnosis.document if line["check"] == "own faults"]
    assert faults["ok"], faults
    said = victim.log.read_text(errors="replace")
    assert "Traceback" not in said
    assert said.count("mallory") + said.count('"refused"') < 200, "a flood does not write the log"
