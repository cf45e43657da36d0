"""`LocalSwarm` itself: what it starts is there, does what it is told, and is gone afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from p2pnode.errors import SwarmUnreachable
from simulations.local import LocalNode, LocalSwarm


def is_there(pid: int | None) -> bool:
    try:
        os.kill(pid or 0, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.trio
async def test_nodes_do_what_they_are_told(tmp_path: Path) -> None:
    async with LocalSwarm(coordinators=1, workers=2, clients=0, base_dir=tmp_path) as swarm:
        coordinator, first, second = swarm.nodes
        assert [node.role for node in swarm.nodes] == ["coordinator", "worker", "worker"]
        assert coordinator.client().get("id")["peer_id"] == coordinator.peer_id
        async with swarm.client() as client:
            assert {node.peer_id for node in swarm.nodes} == set(await client.get_connected_peers())
            addresses, pid = first.addresses, first.pid
            await first.kill()
            assert not first.is_running
            await first.start()
            assert (first.addresses, first.pid != pid) == (addresses, True)  # the same node, another process
            await second.stop()
            assert not second.is_running
            await swarm.met()
            await first.pause()
            assert Path(f"/proc/{first.pid}/stat").read_text().split()[2] == "T"  # noqa: ASYNC240
            first.resume()
            await swarm.met()
        pids = [node.pid for node in swarm.nodes]
    assert not any(is_there(pid) for pid in pids)
    assert (tmp_path / "worker-1.log").exists()


def test_under_asyncio_and_without_async_with(tmp_path: Path) -> None:
    async def main() -> int | None:
        async with LocalSwarm(coordinators=0, hybrids=1, workers=0, clients=0, base_dir=tmp_path) as swarm:
            client = swarm.client()
            await client.shard_dataset("one", [{"a": 1}], replication_factor=1)
            assert len(await client.query(query="SELECT * FROM one")) == 1
            return swarm.nodes[0].pid

    assert not is_there(asyncio.run(main()))


@pytest.mark.trio
async def test_a_node_that_does_not_come_up_says_why(tmp_path: Path) -> None:
    with pytest.raises(SwarmUnreachable, match="--nonsense"):
        async with LocalSwarm(coordinators=1, workers=0, clients=0, base_dir=tmp_path, options=("--nonsense",)):
            pass


def test_the_nodes_die_with_the_process_that_started_them(tmp_path: Path) -> None:
    program = f"""
import os, signal, trio
from simulations.local import LocalSwarm

async def main():
    async with LocalSwarm(coordinators=1, workers=0, clients=0, base_dir={str(tmp_path)!r}) as swarm:
        print(swarm.nodes[0].pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

trio.run(main)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=90)
    assert done.returncode == -signal.SIGKILL, done.stderr
    handle = None
    try:
        handle = os.pidfd_open(int(done.stdout))
    except ProcessLookupError:
        return  # gone already
    try:
        trio.run(_readable_soon, handle)
    finally:
        os.close(handle)


async def _readable_soon(handle: int) -> None:
    with trio.fail_after(5):
        await trio.lowlevel.wait_readable(handle)


def test_a_node_shows_itself(tmp_path: Path) -> None:
    node = LocalSwarm(coordinators=1, workers=0, clients=0, base_dir=tmp_path).nodes[0]
    assert isinstance(node, LocalNode)
    assert repr(node) == "<LocalNode 'coordinator-1', coordinator, down, pid None>"
