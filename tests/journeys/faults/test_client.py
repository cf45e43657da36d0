"""A client that knows one address: it finds who holds what, asks, publishes by ticket, and keeps nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from p2pnode import DistributedDatasetManager, NodeRole
from p2pnode.errors import RoleError, Unauthorized
from protocols.metadata import METADATA, Push
from protocols.shard_transfer import SHARD_TRANSFER, Put
from simulations.local import LocalSwarm

TABLE = pa.table({"id": range(900), "text": [f"t{number}" for number in range(900)]})
SQL = "SELECT count(*) AS n, sum(id) AS s FROM found"


@pytest.mark.trio
async def test_a_stranger_finds_the_holders(six: LocalSwarm, holders_on_disk: Any, oracle: Any, tmp_path: Path) -> None:
    async with six.client() as publisher:
        shards = await publisher.shard_dataset("found", TABLE, shard_size=100, replication_factor=2)
        on_disk = holders_on_disk(six, [shard.shard_id for shard in shards])
        assert {shard.shard_id: set(shard.holders) for shard in shards} == on_disk
        assert not [path for path in publisher.storage_dir.rglob("*") if path.suffix in (".parquet", ".part", ".arrow")]

    one_address = six.nodes[0].addresses[:1]
    async with DistributedDatasetManager(
        "stranger", NodeRole.CLIENT, bootstrap_peers=one_address, storage_dir=tmp_path / "stranger"
    ) as stranger:
        assert set(await stranger.find_dataset_providers("found")) == set().union(*on_disk.values())
        assert {node.peer_id for node in six.nodes} <= set(await stranger.get_connected_peers())
        answer = await stranger.query(query=SQL)
        assert oracle({"found": TABLE}).agrees(SQL, answer.to_arrow())
        assert await stranger.get_shard(shards[3].shard_id)
        assert not list(stranger.storage_dir.rglob("*.parquet"))
        await stranger.delete_dataset("found")


@pytest.mark.trio
@pytest.mark.parametrize("role", [NodeRole.CLIENT, NodeRole.WORKER])
async def test_who_may_not_define_is_told_so(six: LocalSwarm, role: NodeRole, tmp_path: Path) -> None:
    manager = DistributedDatasetManager("nobody", role, bootstrap_peers=six.addresses, storage_dir=tmp_path)
    with pytest.raises(RoleError) as refused:
        manager.create_dataset("forbidden")
    assert str(role) in str(refused.value)
    assert refused.value.advice


@pytest.mark.trio
async def test_the_holders_refuse_a_client_that_goes_round_its_own_rules(six: LocalSwarm) -> None:
    worker = six.nodes[1]
    async with six.client() as client:
        net = client._runner.running()._net  # a client program of someone else's making would have its own
        with pytest.raises(Unauthorized):
            await net.ask(worker.peer_id, METADATA, Push(sizes=[3]), b"abc")
        put = Put(cid=b"\x01\x55\x1e\x20" + bytes(32), size=5, format="parquet", ticket=b"")
        with pytest.raises(Unauthorized):
            await net.ask(worker.peer_id, SHARD_TRANSFER, put, bytes(32))
        with pytest.raises(Unauthorized):
            await net.ask(worker.peer_id, SHARD_TRANSFER, Put(**{**_fields(put), "ticket": b"forged"}), bytes(32))
        assert len(await client.query(query="SELECT 1 AS one")) == 1


def _fields(put: Put) -> dict[str, Any]:
    return {name: getattr(put, name) for name in put.__struct_fields__}
