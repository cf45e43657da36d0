"""The same steps under asyncio without a `stop`, under trio, and without a loop: whole programs, which end well."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from simulations.local import LocalSwarm

#: Seconds for the whole program: its imports take two, its end three at most.
PROGRAM_S = 40

ASYNCIO = """
    import asyncio
    from p2pnode import DistributedDatasetManager, NodeRole

    async def main():
        manager = DistributedDatasetManager(node_id="as-asyncio", role=NodeRole.COORDINATOR, bootstrap_peers=PEERS)
        dataset = manager.create_dataset(name="as asyncio", schema={"id": "integer"})
        await manager.shard_dataset(dataset_id=dataset.dataset_id, data=DATA, replication_factor=2)
        result = await manager.query(dataset_id=dataset.dataset_id, query="SELECT sum(id) AS s FROM dataset")
        print(int(next(iter(result))["s"]), len(await manager.find_dataset_providers(dataset.dataset_id)))
        await manager.delete_dataset(dataset.dataset_id)

    asyncio.run(main())
"""

TRIO = """
    import trio
    from p2pnode import DistributedDatasetManager, NodeRole

    async def main():
        async with DistributedDatasetManager("as-trio", NodeRole.COORDINATOR, bootstrap_peers=PEERS) as manager:
            dataset = manager.create_dataset("as trio", schema={"id": "integer"})
            await manager.shard_dataset(dataset, DATA, replication_factor=2)
            result = await manager.query(dataset, "SELECT sum(id) AS s FROM dataset")
            print(int(next(iter(result))["s"]), len(await manager.find_dataset_providers(dataset)))
            await manager.delete_dataset(dataset)

    trio.run(main)
"""

SYNC = """
    import p2pnode.sync
    from p2pnode import NodeRole

    manager = p2pnode.sync.connect("as-sync", NodeRole.COORDINATOR, bootstrap_peers=PEERS)
    dataset = manager.create_dataset("as sync", schema={"id": "integer"})
    manager.shard_dataset(dataset, DATA, replication_factor=2)
    result = manager.query(dataset, "SELECT sum(id) AS s FROM dataset")
    print(int(next(iter(result))["s"]), len(manager.find_dataset_providers(dataset)))
    manager.delete_dataset(dataset)
"""


@pytest.mark.parametrize("program", [ASYNCIO, TRIO, SYNC], ids=["asyncio", "trio", "sync"])
def test_a_program(swarm: LocalSwarm, tmp_path: Path, program: str) -> None:
    given = f"PEERS = {swarm.addresses[:1]!r}\nDATA = [{{'id': number}} for number in range(100)]\n"
    done = subprocess.run(
        [sys.executable, "-c", given + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=PROGRAM_S,
        env={**os.environ, "XDG_DATA_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "4950 2\n"
    assert done.stderr == ""
