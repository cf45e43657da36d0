"""A shard file that rots on a disk: its bytes go nowhere, its rows into no answer, and a replica takes over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import trio

from p2pnode.errors import P2PNodeError
from simulations.local import LocalNode, LocalSwarm

ROWS, SHARD_ROWS = 4000, 1000
TABLE = pa.table({"id": range(ROWS), "text": [f"line {number}" for number in range(ROWS)]})
SQL = "SELECT count(*) AS n, sum(id) AS s, min(text) AS t FROM rot"


def flip(path: Path) -> None:
    """Change bytes in the middle of the data; the size stays, and Parquet's footer too."""
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 4, len(data) // 2, 7):
        data[at] ^= 0x55
    path.write_bytes(data)


@pytest.mark.trio
async def test_damage_is_passed_over_and_put_aside(
    hurt: LocalSwarm, command: Any, shard_files: Any, holders_on_disk: Any, oracle: Any, tmp_path: Path
) -> None:
    def holder(shard: Any, number: int) -> LocalNode:
        return next(node for node in hurt.nodes if node.node_id == shard.holders[number])

    async def run(node: LocalNode, *arguments: str) -> Any:
        return await trio.to_thread.run_sync(command, node, *arguments)

    async with hurt.client() as client:
        shards = await client.shard_dataset("rot", TABLE, shard_size=SHARD_ROWS, replication_factor=2)
        await client.query(query=SQL)
        judge = oracle({"rot": TABLE})

        # Fetched: refused by name from the damaged disk, and given whole from the other one.
        bad = holder(shards[0], 0)
        flip(shard_files(bad)[shards[0].shard_id])
        with pytest.raises(P2PNodeError) as refused:
            await client.get_shard(shards[0].shard_id, bad.node_id)
        assert refused.value.code in ("integrity", "shard_unavailable")
        good = shard_files(holder(shards[0], 1))[shards[0].shard_id].read_bytes()
        assert await client.get_shard(shards[0].shard_id) == good
        assert (bad.home / "quarantine" / f"{shards[0].shard_id}.parquet").exists()

        # Asked where it lies: the node that has the damaged file answers from the replica.
        bad = holder(shards[1], 0)
        flip(shard_files(bad)[shards[1].shard_id])
        done = await run(bad, "query", SQL)
        assert done.code == 0, done.err
        assert [[int(cell) if str(cell).isdigit() else cell for cell in row] for row in done.document["rows"]] == [
            [int(cell) if isinstance(cell, int) else cell for cell in row] for row in judge.rows(SQL)
        ]
        assert shards[1].shard_id not in shard_files(bad)
        assert judge.agrees(SQL, (await client.query(query=SQL)).to_arrow())
        out = tmp_path / "shard.parquet"
        assert (await run(bad, "dataset", "get", "rot", shards[1].shard_id, "--out", str(out))).code == 0
        assert out.read_bytes() == shard_files(holder(shards[1], 1))[shards[1].shard_id].read_bytes()

        # Both replicas damaged: named, never guessed; and no file appears.
        for number in range(2):
            flip(shard_files(holder(shards[2], number))[shards[2].shard_id])
        for asked in (hurt.nodes[0], holder(shards[2], 0)):
            done = await run(asked, "query", SQL)
            assert (done.code, done.document["details"]["missing"]) == (5, [shards[2].shard_id]), done.err
        lost = tmp_path / "lost.parquet"
        done = await run(hurt.nodes[0], "dataset", "get", "rot", shards[2].shard_id, "--out", str(lost))
        assert done.code == 5
        assert [path.name for path in tmp_path.iterdir()] == [out.name]  # noqa: ASYNC240
        await client.delete_dataset("rot")
