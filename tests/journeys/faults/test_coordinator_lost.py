"""The only coordinator dies: queries go on, a newcomer joins through a worker, and only defining waits, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import trio

from p2pnode import NodeRole
from p2pnode.errors import SwarmUnreachable
from simulations.local import LocalNode, LocalSwarm

TABLE = pa.table({"id": range(1200), "g": [number % 5 for number in range(1200)]})
OTHER = pa.table({"id": range(5000, 6200)})
SQL = "SELECT g, count(*) AS n, sum(id) AS s FROM kept GROUP BY g ORDER BY g"


@pytest.mark.trio
async def test_without_a_coordinator(tmp_path: Path, command: Any, oracle: Any) -> None:
    judge = oracle({"kept": TABLE})
    async with LocalSwarm(coordinators=1, workers=3, clients=0, base_dir=tmp_path) as swarm:
        coordinator, worker = swarm.nodes[0], swarm.nodes[1]
        async with swarm.client() as client:
            await client.shard_dataset("kept", TABLE, shard_size=100, replication_factor=2)
            await coordinator.kill()
            assert judge.agrees(SQL, (await client.query(query=SQL)).to_arrow(), ordered=True)

            newcomer = LocalNode(swarm, "worker-4", NodeRole.WORKER)
            assert set(swarm.bootstrap_for(newcomer)).isdisjoint(coordinator.addresses)
            swarm.nodes.append(newcomer)
            await newcomer.start()
            await swarm.met()
            for asked in (newcomer, worker):
                done = await trio.to_thread.run_sync(command, asked, "query", SQL)
                assert done.code == 0, done.err
                assert [[int(cell) for cell in row] for row in done.document["rows"]] == [
                    [int(cell) for cell in row] for row in judge.rows(SQL)
                ]

            with pytest.raises(SwarmUnreachable, match="coordinator") as refused:
                await client.shard_dataset("new", OTHER, replication_factor=2)
            assert refused.value.advice
            with pytest.raises(SwarmUnreachable, match="coordinator"):
                await client.shard_dataset("kept", TABLE, append=True, replication_factor=2)
            assert judge.agrees(SQL, (await client.query(query=SQL)).to_arrow(), ordered=True)

            await coordinator.start()
            await swarm.met()
            with trio.fail_after(15):
                shards = await client.shard_dataset("new", OTHER, replication_factor=2, shard_size=100)
            assert {len(shard.holders) for shard in shards} == {2}
            assert "worker-4" in {holder for shard in shards for holder in shard.holders}
