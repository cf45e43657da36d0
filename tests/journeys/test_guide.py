"""The guide's snippets on sharding, querying, roles and discovery, as written, under `asyncio.run`.

Only the elided addresses are real ones here.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pandas as pd
import pytest

from p2pnode import DistributedConfig, DistributedDatasetManager, NodeRole
from simulations.local import LocalSwarm


@pytest.fixture(autouse=True)
def _own_data_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The snippets name no home: the default ones lie here."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def test_sharding_querying_and_discovery(swarm: LocalSwarm) -> None:
    async def guide() -> None:
        manager = DistributedDatasetManager(
            node_id="coordinator-node", role=NodeRole.COORDINATOR, bootstrap_peers=swarm.addresses[:1]
        )

        dataset = manager.create_dataset(
            name="Distributed Dataset",
            description="A dataset distributed across multiple nodes",
            schema={"id": "integer", "text": "string", "vector": "float[]"},
        )

        df = pd.DataFrame({"id": list(range(1000)), "text": [f"Sample text {i}" for i in range(1000)]})

        shards = await manager.shard_dataset(
            dataset_id=dataset.dataset_id,
            data=df,
            format="parquet",
            shard_size=100,
            replication_factor=3,
        )
        assert [shard.rows for shard in shards] == [100] * 10
        assert all(len(set(shard.holders)) == 3 for shard in shards)

        results = await manager.query(
            dataset_id=dataset.dataset_id, query="SELECT id, text FROM dataset WHERE id > 500 LIMIT 10"
        )
        assert len(results) == 10
        assert all(row["id"] > 500 and row["text"] == f"Sample text {row['id']}" for row in results)

        results = await manager.query(
            dataset_id=dataset.dataset_id, query="SELECT * FROM dataset WHERE text = 'Sample text 7'"
        )
        assert list(results) == [{"id": 7, "text": "Sample text 7", "vector": None}]

        peers = await manager.get_connected_peers()
        assert {node.peer_id for node in swarm.nodes if node.role.is_member} <= set(peers)

        dataset_providers = await manager.find_dataset_providers(dataset.dataset_id)
        assert set(dataset_providers) == {holder for shard in shards for holder in shard.holders}

        node_health = await manager.get_node_health("worker-1")
        assert {"status", "cpu_usage", "memory_usage", "disk_usage", "network_usage"} <= set(node_health)
        all_node_health = await manager.get_all_nodes_health()
        assert {node.node_id for node in swarm.nodes if node.role.is_member} <= set(all_node_health)

        # Shard placement (of other rows: copies of the same ones already lie elsewhere)
        df["id"] += 1000
        shards = await manager.shard_dataset(
            dataset_id=dataset.dataset_id,
            data=df,
            format="parquet",
            shard_size=100,
            replication_factor=3,
            placement_strategy="balanced_load",
            node_preferences=[
                {"node_id": "worker-1", "preference": 0.8},
                {"node_id": "worker-2", "preference": 0.5},
            ],
        )
        assert all(len(set(shard.holders)) == 3 for shard in shards)
        assert await manager.get_shard(shards[0].shard_id, shards[0].holders[0])
        await manager.stop()

    asyncio.run(guide())


def test_roles() -> None:
    async def guide() -> None:
        coordinator = DistributedDatasetManager(
            node_id="coordinator", listen_addresses=["/ip4/0.0.0.0/tcp/0"], role=NodeRole.COORDINATOR
        )
        await coordinator.start()

        worker = DistributedDatasetManager(
            node_id="worker-1",
            listen_addresses=["/ip4/0.0.0.0/tcp/0"],
            bootstrap_peers=coordinator.addresses[:1],
            role=NodeRole.WORKER,
            capabilities=["vector_search", "high_memory"],
        )

        hybrid = DistributedDatasetManager(
            config=DistributedConfig(
                node_id="hybrid-1",
                role="hybrid",
                listen_addresses=["/ip4/0.0.0.0/tcp/0"],
                bootstrap_peers=coordinator.addresses[:1],
            )
        )

        client = DistributedDatasetManager(
            node_id="client-1", bootstrap_peers=coordinator.addresses[:1], role=NodeRole.CLIENT
        )
        await asyncio.gather(worker.start(), hybrid.start(), client.start())

        dataset = hybrid.create_dataset("roles")
        shards = await hybrid.shard_dataset(dataset.dataset_id, [{"a": 1}, {"a": 2}], replication_factor=2)
        assert sorted(shards[0].holders) == ["hybrid-1", "worker-1"]
        for manager in (coordinator, worker, client):
            result = await manager.query(query="SELECT sum(a) AS total FROM roles")
            assert list(result) == [{"total": 3}]
        await asyncio.gather(*(manager.stop() for manager in (client, worker, hybrid, coordinator)))

    asyncio.run(guide())
