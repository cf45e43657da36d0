"""What people get wrong: each a typed error with one line what is wrong and one what to do, and nothing lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from p2pnode import DistributedDatasetManager, NodeRole
from p2pnode.errors import (
    AddressError,
    EmptyData,
    GenesisMismatch,
    HomeInUse,
    Infeasible,
    NodeIdTaken,
    NotFound,
    QueryError,
    SchemaMismatch,
    UsageError,
)
from simulations.local import LocalSwarm

PEER = "12D3KooWHHzSeKaY8xuZVzkLbKFfvNgPPeKhFBGrMbNzbm5akpqu"


def is_clear(done: Any, code: int, error: str, *words: str) -> bool:
    """The right exit code, the error's document on stdout, two lines on stderr: what is wrong, what to do."""
    document = done.document
    said, advised = done.err.splitlines()
    assert done.code == code, done.err
    assert document["error"] == error
    assert set(document) == {"error", "message", "advice", "retryable", "details"}
    assert said.startswith("p2pnode: ")
    assert advised.startswith("  → ")
    assert document["advice"]
    for word in words:
        assert word in f"{document['message']} {document['advice']}", (word, document)
    return True


@pytest.fixture(scope="module")
def fruit(six: LocalSwarm, command: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset `fruit`, and the file it was made of."""
    path = tmp_path_factory.mktemp("input") / "fruit.csv"
    path.write_text("name,weight\napple,3\npear,4\n")
    assert command(six.nodes[0], "dataset", "publish", str(path), "--name", "fruit", "--replicas", "2").code == 0
    return path


@pytest.mark.parametrize(
    ("arguments", "code", "error", "words"),
    [
        (("query", "SELEC name FROM fruit"), 2, "query", ("SELEC",)),
        (("query", "SELECT name FROM"), 2, "query", ()),
        (("query", "SELECT nam FROM fruit"), 2, "query", ("nam", "name")),
        (("query", "SELECT * FROM friut"), 1, "not_found", ("friut", "fruit")),
        (("query", "SELECT * FROM fruit; DROP TABLE fruit"), 4, "sql_refused", ()),
        (("query", "DELETE FROM fruit"), 4, "sql_refused", ()),
        (("query", "COPY fruit TO 'out.csv'"), 4, "sql_refused", ()),
        (("query", "SELECT * FROM 'fruit.parquet'"), 1, "not_found", ()),
        (("query", "SELECT CAST(name AS INTEGER) FROM fruit"), 2, "query", ("apple",)),
        (("query", "SELECT * FROM dataset"), 1, "not_found", ("dataset",)),
        (("query", "  "), 2, "query", ()),
        (("dataset", "show", "friut"), 1, "not_found", ("friut", "fruit")),
        (("dataset", "rm", "friut"), 1, "not_found", ("friut", "fruit")),
        (("dataset", "get", "fruit", "bafnonsense", "--out", "x"), 1, "not_found", ("bafnonsense",)),
        (("health", "worker-99"), 1, "not_found", ("worker-99",)),
        (("dataset", "publish", "absent.parquet", "--name", "new"), 2, "usage", ("absent.parquet",)),
    ],
)  # fmt: skip
def test_commands(
    six: LocalSwarm, fruit: Path, command: Any, arguments: tuple[str, ...], code: int, error: str,
    words: tuple[str, ...],
) -> None:  # fmt: skip
    done = command(six.nodes[0], *arguments)
    assert is_clear(done, code, error, *words)


@pytest.mark.parametrize(
    ("text", "options", "code", "error", "words"),
    [
        ("a,b\n", (), 2, "empty_data", ()),
        ("", (), 2, "empty_data", ()),
        ("a,b\n1,2\n", ("--replicas", "11"), 1, "infeasible", ("11",)),
        ("a,b\n1,2\n", ("--min-regions", "3"), 1, "infeasible", ("region",)),
        ("a,b\n1,2\n", ("--replicas", "0"), 2, "usage", ("0",)),
    ],
)  # fmt: skip
def test_publishing(
    six: LocalSwarm, command: Any, tmp_path: Path, text: str, options: tuple[str, ...], code: int, error: str,
    words: tuple[str, ...],
) -> None:  # fmt: skip
    path = tmp_path / "data.csv"
    path.write_text(text)
    done = command(six.nodes[0], "dataset", "publish", str(path), "--name", "never", *options)
    assert is_clear(done, code, error, *words)
    [rows] = [each["rows"] for each in command(six.nodes[0], "dataset", "ls").document if each["name"] == "never"] or [
        0
    ]
    assert rows == 0


def test_appending_other_columns(six: LocalSwarm, fruit: Path, command: Any, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("name,colour\napple,green\n")
    done = command(six.nodes[0], "dataset", "publish", str(other), "--name", "fruit", "--append")
    assert is_clear(done, 2, "schema_mismatch", "colour")
    assert command(six.nodes[0], "query", "SELECT sum(weight) FROM fruit").document["rows"] in ([[7]], [["7"]])


@pytest.mark.trio
async def test_data_that_cannot_be_published(six: LocalSwarm, tmp_path: Path) -> None:
    async with DistributedDatasetManager(
        "publisher", NodeRole.COORDINATOR, bootstrap_peers=six.addresses[:1], storage_dir=tmp_path
    ) as manager:
        dataset = manager.create_dataset("strict", schema={"id": "integer", "text": "string"})
        for data, kind, word in [
            ([{"id": "many", "text": "a"}], SchemaMismatch, "id"),
            ([{"id": 1, "text": "a", "more": 2}], SchemaMismatch, "more"),
            ([], EmptyData, ""),
            (pa.table({}), EmptyData, ""),
            (pa.table({"id": pa.array([], pa.int64())}), EmptyData, ""),
            (17, UsageError, ""),
        ]:
            with pytest.raises(kind) as refused:
                await manager.shard_dataset(dataset.dataset_id, data, replication_factor=2)
            assert word in str(refused.value)
            assert refused.value.advice
        with pytest.raises(Infeasible):
            await manager.shard_dataset(dataset.dataset_id, [{"id": 1, "text": "a"}], replication_factor=11)
        with pytest.raises(NotFound, match="ds-absent"):
            await manager.shard_dataset("ds-absent", [{"id": 1}])
        with pytest.raises(UsageError):
            manager.create_dataset("words", schema={"id": "integre"})
        with pytest.raises(QueryError):
            await manager.query(dataset.dataset_id, "SELECT id FROM dataset WHERE")
        # Nothing was lost: the same dataset takes good data afterwards.
        await manager.shard_dataset(dataset.dataset_id, [{"id": 1, "text": "a"}], replication_factor=2)
        assert list(await manager.query(dataset.dataset_id, "SELECT * FROM dataset")) == [{"id": 1, "text": "a"}]
        await manager.delete_dataset(dataset.dataset_id)


@pytest.mark.trio
async def test_column_names_that_cannot_be(six: LocalSwarm) -> None:
    async with six.client() as client:
        for name in ("", "__p2p_rank", "ID", "n" * 70_000):
            with pytest.raises(UsageError) as refused:
                await client.shard_dataset("awkward", pa.table({"id": [1], name: ["x"]}), replication_factor=2)
            assert refused.value.advice
            assert len(str(refused.value)) < 500


@pytest.mark.trio
async def test_column_names_that_mean_something_elsewhere(six: LocalSwarm) -> None:
    names = ["filename", "file_row_number", "file_index", "rowid", "hive_partitioning", "a.b", "select", " ", 'q"uote']
    table = pa.table({"id": [1, 2, 3], **{name: ["x", "y", f"z{name}"] for name in names}})
    async with six.client() as client:
        await client.shard_dataset("awkward", table, replication_factor=2)
        for name in names:
            quoted = '"' + name.replace('"', '""') + '"'
            sql = f"SELECT {quoted} AS v FROM awkward WHERE {quoted} >= 'y' ORDER BY id"
            assert [row["v"] for row in await client.query(query=sql)] == ["y", f"z{name}"]
        answer = await client.query(query="SELECT * FROM awkward ORDER BY id")
        assert answer.to_arrow().equals(table)
        await client.delete_dataset("awkward")


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("nonsense", "nonsense"),
        ("/ip4/127.0.0.1/tcp/4001/p2p/QmCoord...", "QmCoord"),
        ("/ip4/127.0.0.1/tcp/99999/p2p/" + PEER, "99999"),
        ("/ip4/300.0.0.1/tcp/4001/p2p/" + PEER, "300.0.0.1"),
        ("/ip4/127.0.0.1/tcp/4001", "p2p"),
    ],
)  # fmt: skip
@pytest.mark.trio
async def test_malformed_addresses_name_key_and_index(
    six: LocalSwarm, command: Any, tmp_path: Path, address: str, word: str
) -> None:
    good = six.addresses[0]
    manager = DistributedDatasetManager(
        "lost", NodeRole.WORKER, bootstrap_peers=[good, address], storage_dir=tmp_path / "api"
    )
    with pytest.raises(AddressError, match=r"bootstrap_peers\[1\]") as refused:
        await manager.start()
    assert word in str(refused.value)
    done = command(tmp_path / "cli", "up", "--node-id", "lost", "--bootstrap", good, "--bootstrap", address)
    assert is_clear(done, 2, "address", "bootstrap_peers[1]", word)


def test_a_malformed_listen_address(command: Any, tmp_path: Path) -> None:
    done = command(tmp_path, "up", "--node-id", "lost", "--listen", "/ip4/127.0.0.1/udp/4001")
    assert is_clear(done, 2, "address", "listen_addresses[0]")


def test_a_second_node_on_one_home_and_a_second_of_one_name(six: LocalSwarm, command: Any, tmp_path: Path) -> None:
    worker = six.nodes[1]
    assert is_clear(command(worker, "up", "--node-id", "second"), 4, "home_in_use", str(worker.home))
    done = command(tmp_path, "up", "--node-id", worker.node_id, "--role", "worker", "--bootstrap", six.addresses[0])
    assert is_clear(done, 4, "node_id_taken", worker.node_id, worker.peer_id)
    assert command(worker, "id").document["peer_id"] == worker.peer_id


@pytest.mark.trio
async def test_the_same_from_python(six: LocalSwarm, tmp_path: Path) -> None:
    worker = six.nodes[1]
    with pytest.raises(HomeInUse):
        await DistributedDatasetManager("second", NodeRole.WORKER, storage_dir=worker.home).start()
    taken = DistributedDatasetManager(
        worker.node_id, NodeRole.WORKER, bootstrap_peers=six.addresses[:1], storage_dir=tmp_path / "taken"
    )
    with pytest.raises(NodeIdTaken, match=worker.peer_id):
        await taken.start()


@pytest.mark.trio
async def test_two_swarms_that_meet_stay_two_and_one_without_storage_says_so(
    six: LocalSwarm, command: Any, tmp_path: Path
) -> None:
    alone = DistributedDatasetManager("alone", NodeRole.COORDINATOR, storage_dir=tmp_path)
    async with alone:
        dataset = alone.create_dataset("homeless")
        with pytest.raises(Infeasible, match="storage"):
            await alone.shard_dataset(dataset.dataset_id, [{"id": 1}], replication_factor=1)
    stranger = DistributedDatasetManager(
        "alone", NodeRole.COORDINATOR, storage_dir=tmp_path, bootstrap_peers=six.addresses[:1]
    )
    with pytest.raises(GenesisMismatch) as refused:
        await stranger.start()
    assert refused.value.advice
    done = command(tmp_path, "up", "--node-id", "alone", "--role", "coordinator", "--bootstrap", six.addresses[0])
    assert is_clear(done, 4, "genesis_mismatch", "swarm")
    seen = {peer["node_id"] for peer in command(six.nodes[0], "peers").document}
    assert "alone" not in seen


def test_no_node_runs(command: Any, tmp_path: Path) -> None:
    assert is_clear(command(tmp_path, "query", "SELECT 1"), 3, "swarm_unreachable", str(tmp_path))
