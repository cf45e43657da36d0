"""Nodes stop: one on purpose, in the middle of work, and all at once, as in a power cut. Nothing is lost."""

from __future__ import annotations

import time
from typing import Any

import pyarrow as pa
import pytest
import trio

from p2pnode.errors import P2PNodeError
from simulations.local import LocalSwarm

LEAVE_S = 3.0
TABLE = pa.table({"id": range(20_000), "g": [number % 11 for number in range(20_000)]})
SQL = "SELECT g, count(*) AS n, sum(id) AS s FROM work GROUP BY g"


@pytest.mark.trio
async def test_one_leaves_in_the_middle_of_work(hurt: LocalSwarm, oracle: Any) -> None:
    judge = oracle({"work": TABLE})
    async with hurt.client() as client, trio.open_nursery() as nursery:
        await client.shard_dataset("work", TABLE, shard_size=1000, replication_factor=3)
        answers = 0

        async def keep_asking() -> None:
            nonlocal answers
            while True:
                assert judge.agrees(SQL, (await client.query(query=SQL)).to_arrow())
                answers += 1

        for _ in range(4):
            nursery.start_soon(keep_asking)
        await trio.sleep(0.5)
        leaving = hurt.nodes[1]
        log_bytes = leaving.log.stat().st_size
        process = leaving._process
        began = time.monotonic()
        await leaving.stop()
        taken = time.monotonic() - began
        print(f"a busy node was gone after {taken:.2f} s")
        assert taken < LEAVE_S
        assert process is not None
        assert process.returncode == 0
        assert leaving.log.read_bytes()[log_bytes:].decode() == "", "it leaves without a word on stderr"
        states = {peer["node_id"]: peer["state"] for peer in hurt.nodes[0].client().get("peers")}
        assert states[leaving.node_id] in ("left", "dead"), "it said good-bye; nobody has to find out"
        before = answers
        with trio.fail_after(10):
            while answers < before + 10:  # noqa: ASYNC110
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_power_cut(hurt: LocalSwarm, holders_on_disk: Any, oracle: Any) -> None:
    judge = oracle({"work": TABLE})
    async with hurt.client() as client:
        shards = await client.shard_dataset("work", TABLE, shard_size=1000, replication_factor=3)
    before = holders_on_disk(hurt, [shard.shard_id for shard in shards])
    identities = [(node.peer_id, node.addresses) for node in hurt.nodes]
    for node in hurt.nodes:
        node.kill()
    for node in hurt.nodes:
        await node.kill()
    async with trio.open_nursery() as nursery:
        for node in hurt.nodes:
            nursery.start_soon(_start, node)
    await hurt.met()
    assert [(node.peer_id, node.addresses) for node in hurt.nodes] == identities
    assert holders_on_disk(hurt, [shard.shard_id for shard in shards]) == before
    async with hurt.client() as client:
        assert judge.agrees(SQL, (await client.query(query=SQL)).to_arrow())
        await client.delete_dataset("work")
        with pytest.raises(P2PNodeError):
            await client.query(query=SQL)


async def _start(node: Any) -> None:
    await node.start()
