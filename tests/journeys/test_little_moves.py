"""The demo's group-by over the real flights: the holders aggregate, and what moves is next to nothing."""

from __future__ import annotations

import pytest

from simulations import flights
from simulations.local import LocalSwarm

SHARD_ROWS = 30_000
#: Of the bytes scanned.
MOVED_SHARE_MAX = 0.02


@pytest.mark.trio
async def test_partial_aggregates_travel_and_not_rows(swarm: LocalSwarm) -> None:
    table = flights.load_tables()["flights"]
    [question] = [each for each in flights.QUESTIONS if each.kind == "group-by"]
    [wanted] = flights.answer_alone({"flights": table}, [question])
    async with swarm.client() as client:
        shards = await client.shard_dataset("flights", table, shard_size=SHARD_ROWS, replication_factor=3)
        answer = await client.query(query=question.sql)
        assert flights.same_rows(answer.to_arrow(), wanted)
        stats, groups = answer.stats, wanted.num_rows
        assert stats["pushed"]
        assert sum(fragment["shards"] for fragment in stats["fragments"]) == len(shards) == stats["shards_total"]
        assert all(fragment["rows"] <= groups for fragment in stats["fragments"]), "one row a group and holder"
        # An honest count: what is scanned is at least a few bytes for each row of the three columns.
        assert stats["bytes_scanned"] > table.num_rows / 2
        print(f"moved {stats['bytes_moved']} of {stats['bytes_scanned']} bytes scanned")
        assert 0 < stats["bytes_moved"] <= MOVED_SHARE_MAX * stats["bytes_scanned"]
        await client.delete_dataset("flights")
