"""Three replicas: where they lie, what two deaths change (nothing), what three do, and that all of it comes back."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trio

from p2pnode import DistributedDatasetManager
from p2pnode.errors import ShardUnavailable
from simulations.local import LocalNode, LocalSwarm

ROWS, SHARD_ROWS = 6000, 500
#: More than one chunk of 1 MiB: its content id is a tree.
LARGE_ROWS = 200_000
#: What the swarm promises about a holder that hangs, in seconds.
PAUSED_QUERY_MAX_S = 5.0

QUESTIONS = [
    "SELECT count(*), sum(id), min(word), max(x) FROM {}",
    "SELECT g, count(*) AS n, sum(id) AS s, avg(x) AS a FROM {} GROUP BY g",
    "SELECT id, word FROM {} WHERE word = 'w17' AND id > 1000",
    "SELECT id, x FROM {} ORDER BY x DESC, id LIMIT 7",
    "SELECT DISTINCT g, word FROM {} WHERE id % 5 = 0",
    "SELECT a.g, count(*) AS n FROM {0} a JOIN {0} b ON a.id = b.id + 1 WHERE b.x > 0.5 GROUP BY a.g",
    "SELECT median(x) AS m FROM {}",
]


@dataclass
class Published:
    """A dataset of the swarm and what it was made of."""

    name: str
    table: pa.Table
    #: As the command printed it.
    document: dict[str, Any]

    @property
    def shard_ids(self) -> list[str]:
        return [shard["shard_id"] for shard in self.document["shards"]]


def numbers(rows: int, seed: int) -> pa.Table:
    rng = random.Random(seed)
    return pa.table(
        {
            "id": range(rows),
            "g": [rng.randrange(9) for _ in range(rows)],
            "x": [rng.random() if rng.random() > 0.1 else None for _ in range(rows)],
            "word": [f"w{rng.randrange(40)}" for _ in range(rows)],
        }
    )


@pytest.fixture(scope="session")
def published(six: LocalSwarm, command: Any, tmp_path_factory: pytest.TempPathFactory) -> Published:
    path, table = tmp_path_factory.mktemp("input") / "numbers.parquet", numbers(ROWS, 1)
    pq.write_table(table, path)
    options = ("--name", "numbers", "--shard-rows", str(SHARD_ROWS), "--replicas", "3")
    done = command(six.nodes[0], "dataset", "publish", str(path), *options)
    assert done.code == 0, done.err
    return Published("numbers", table, done.document)


@pytest.fixture
async def asker(hurt: LocalSwarm, published: Published) -> AsyncIterator[DistributedDatasetManager]:
    """A client that has heard from every holder."""
    async with hurt.client() as manager:
        await manager.query(query="SELECT count(*) FROM numbers")
        yield manager


async def all_right(asker: DistributedDatasetManager, published: Published, oracle: Any) -> None:
    """Every question gets a complete answer and the right one."""
    judge = oracle({published.name: published.table})
    for question in QUESTIONS:
        sql = question.format(published.name)
        answer = await asker.query(query=sql)
        assert answer.coverage == 1.0
        assert judge.agrees(sql, answer.to_arrow(), ordered="ORDER BY" in sql), sql


def named(swarm: LocalSwarm, node_ids: Any) -> list[LocalNode]:
    return [node for node in swarm.nodes if node.node_id in set(node_ids)]


def test_each_shard_is_on_three_disks_byte_for_byte(
    six: LocalSwarm, published: Published, holders_on_disk: Any, shard_files: Any
) -> None:
    found = holders_on_disk(six, published.shard_ids)
    assert len(found) == ROWS // SHARD_ROWS
    assert {len(holders) for holders in found.values()} == {3}
    assert {shard["shard_id"]: set(shard["holders"]) for shard in published.document["shards"]} == found
    assert not shard_files(six.nodes[0]), "a coordinator holds no shards"
    paths = {name: path for node in six.nodes for name, path in shard_files(node).items()}
    union = pa.concat_tables([pq.read_table(paths[shard_id]) for shard_id in published.shard_ids])
    assert union.equals(published.table)


@pytest.mark.trio
async def test_a_large_shard_is_a_tree_of_chunks(six: LocalSwarm, holders_on_disk: Any, shard_files: Any) -> None:
    table = numbers(LARGE_ROWS, 2)
    async with six.client() as client:
        [shard] = await client.shard_dataset("large", table, shard_size=LARGE_ROWS, replication_factor=2)
        assert shard.bytes > 1 << 20
        found = holders_on_disk(six, [shard.shard_id])[shard.shard_id]
        assert found == set(shard.holders)
        assert len(found) == 2
        assert await client.get_shard(shard.shard_id) == shard_files(named(six, found)[0])[shard.shard_id].read_bytes()
        assert not list(client.storage_dir.rglob("*.parquet")), "a client holds no shards"
        await client.delete_dataset("large")


@pytest.mark.trio
async def test_two_deaths_change_nothing_three_are_told_and_it_comes_back(
    hurt: LocalSwarm, asker: DistributedDatasetManager, published: Published, holders_on_disk: Any, oracle: Any,
    command: Any,
) -> None:  # fmt: skip
    on_disk = holders_on_disk(hurt, published.shard_ids)
    doomed = named(hurt, on_disk[published.shard_ids[0]])
    before = {node.node_id: (node.peer_id, node.addresses) for node in doomed}

    for node in doomed[:2]:
        node.kill()
    await all_right(asker, published, oracle)

    await doomed[2].kill()
    dead = {node.node_id for node in doomed}
    missing = {shard_id for shard_id, holders in on_disk.items() if holders <= dead}
    with pytest.raises(ShardUnavailable) as refused:
        await asker.query(query="SELECT count(*) FROM numbers")
    assert set(refused.value.missing) == missing
    survivor = next(node for node in hurt.nodes if node.role.stores and node.is_running)
    done = await trio.to_thread.run_sync(command, survivor, "query", "SELECT sum(id) FROM numbers")
    assert done.code == 5
    assert done.document["error"] == "shard_unavailable"
    assert set(done.document["details"]["missing"]) == missing
    assert all(shard_id in done.err for shard_id in missing)

    places = [place for place, shard_id in enumerate(published.shard_ids) if shard_id not in missing]
    rest = pa.concat_tables([published.table.slice(place * SHARD_ROWS, SHARD_ROWS) for place in places])
    sql = "SELECT g, count(*) AS n, sum(id) AS s FROM numbers GROUP BY g"
    answer = await asker.query(query=sql, on_missing="partial")
    assert answer.coverage == pytest.approx(rest.num_rows / ROWS)
    assert oracle({"numbers": rest}).agrees(sql, answer.to_arrow())
    done = await trio.to_thread.run_sync(
        command, survivor, "query", "SELECT count(*) FROM numbers", "--on-missing", "partial"
    )
    assert (done.code, done.document["rows"]) == (0, [[rest.num_rows]])
    assert done.document["stats"]["coverage"] == pytest.approx(rest.num_rows / ROWS)

    for node in doomed:
        await node.kill()
        await node.start()
        assert (node.peer_id, node.addresses) == before[node.node_id]
    await hurt.met()
    await all_right(asker, published, oracle)
    assert holders_on_disk(hurt, published.shard_ids) == on_disk


@pytest.mark.nightly
@pytest.mark.trio
async def test_any_two_may_die(
    hurt: LocalSwarm, asker: DistributedDatasetManager, published: Published, oracle: Any
) -> None:
    for pair in itertools.combinations([node for node in hurt.nodes if node.role.stores], 2):
        for node in pair:
            node.kill()
        await all_right(asker, published, oracle)
        for node in pair:
            await node.kill()
            await node.start()
        await hurt.met()


@pytest.mark.trio
async def test_a_holder_that_hangs_delays_a_query_and_no_more(
    hurt: LocalSwarm, asker: DistributedDatasetManager, published: Published, oracle: Any
) -> None:
    sql = "SELECT g, count(*) AS n, sum(id) AS s FROM numbers GROUP BY g"
    judge = oracle({published.name: published.table})
    answer = await asker.query(query=sql)
    [sleeper] = named(hurt, {answer.stats["fragments"][0]["node_id"]})

    sleeper.pause()
    began = trio.current_time()
    answer = await asker.query(query=sql)
    taken = trio.current_time() - began
    print(f"a query past a stopped holder took {taken:.2f} s")
    assert taken <= PAUSED_QUERY_MAX_S
    assert judge.agrees(sql, answer.to_arrow())
    assert sleeper.node_id not in {fragment["node_id"] for fragment in answer.stats["fragments"]}

    sleeper.resume()
    await hurt.met()
    held = next(shard["shard_id"] for shard in published.document["shards"] if sleeper.node_id in shard["holders"])
    assert await asker.get_shard(held, sleeper.node_id)
