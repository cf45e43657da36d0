"""The manager: one class under trio, asyncio and no loop; what crosses between threads and how."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import trio

import p2pnode.sync
from p2pnode import DistributedConfig, DistributedDatasetManager, NodeRole
from p2pnode.errors import (
    AddressError,
    ConfigError,
    NotFound,
    QueryError,
    RoleError,
    ShardUnavailable,
    SwarmUnreachable,
    UsageError,
)

FRAME = pd.DataFrame({"id": range(10), "text": [f"line {i}" for i in range(10)]})


def manager(tmp_path: Path, **options: Any) -> DistributedDatasetManager:
    return DistributedDatasetManager(storage_dir=tmp_path / "home", **{"node_id": "ada", **options})


async def journey(ada: DistributedDatasetManager) -> None:
    """What everybody does, on whatever loop."""
    dataset = ada.create_dataset("trips", "some", {"id": "integer", "text": "string"})
    shards = await ada.shard_dataset(dataset.dataset_id, FRAME, shard_size=4, replication_factor="all")
    assert [shard.rows for shard in shards] == [4, 4, 2]
    assert shards[0].holders == ("ada",)
    assert shards[0].cid.startswith("b")
    assert dataset.version
    assert dataset.shards == shards
    result = await ada.query(dataset.dataset_id, "SELECT * FROM dataset")
    assert list(result)[9] == {"id": 9, "text": "line 9"}
    assert await ada.get_shard("s1", "w1") == b"s1 from w1"
    assert await ada.get_connected_peers() == ["12D3KooWOther"]
    assert await ada.find_dataset_providers("trips") == ["ada"]
    assert [known.name for known in await ada.list_datasets()] == ["trips"]
    assert (await ada.explain(dataset, "SELECT 1"))["scans"][0]["table"] == dataset.dataset_id
    assert (await ada.get_node_health("ada"))["status"] == "healthy"
    assert set(await ada.get_all_nodes_health()) == {"ada"}
    with pytest.raises(ShardUnavailable) as missing:
        await ada.query(query="MISSING")
    assert missing.value.missing == ("s1", "s2")
    with pytest.raises(QueryError, match="named"):  # one error, not a group
        await ada.query(query="CRASH")
    with pytest.raises(UsageError):
        await ada.query("trips")
    await ada.delete_dataset(dataset)
    with pytest.raises(NotFound):
        await ada.find_dataset_providers("trips")
    assert ada.peer_id == "12D3KooWTwinada"
    assert ada.addresses[0].endswith(ada.peer_id)


def test_the_journey_under_asyncio(twin: ModuleType, tmp_path: Path) -> None:
    async def main() -> None:
        async with manager(tmp_path) as ada:
            await journey(ada)
        with pytest.raises(UsageError, match="stopped"):
            await ada.query(query="SELECT 1")

    asyncio.run(main())
    assert twin.Node.closed == ["ada"]


@pytest.mark.trio
async def test_the_journey_under_trio(twin: ModuleType, tmp_path: Path) -> None:
    async with manager(tmp_path) as ada:
        await journey(ada)
    assert twin.Node.closed == ["ada"]
    with pytest.raises(UsageError, match="stopped"):
        await ada.query(query="SELECT 1")


@pytest.mark.trio
async def test_under_trio_without_async_with(twin: ModuleType, tmp_path: Path) -> None:
    ada = manager(tmp_path)
    await journey(ada)
    with trio.move_on_after(0.05) as scope:
        await ada.query(query="SLEEP")
    assert scope.cancelled_caught
    await ada.stop()
    assert twin.Node.closed == ["ada"]


def test_asyncio_starts_on_the_first_await_and_stops_when_told(twin: ModuleType, tmp_path: Path) -> None:
    async def main() -> None:
        ada = manager(tmp_path)
        dataset = ada.create_dataset("trips")  # before the start
        assert twin.Node.opened == []
        with pytest.raises(UsageError, match="not started"):
            ada.peer_id  # noqa: B018
        results = await asyncio.gather(*(ada.list_datasets() for _ in range(5)))
        assert twin.Node.opened == ["ada"]  # started once
        assert [known.dataset_id for known in results[0]] == [dataset.dataset_id]
        await ada.stop()
        assert twin.Node.closed == ["ada"]
        await ada.start()
        assert twin.Node.opened == ["ada", "ada"]
        await ada.stop()
        await ada.stop()

    asyncio.run(main())


def test_cancelling_under_asyncio_cancels_the_work_at_the_node(twin: ModuleType, tmp_path: Path) -> None:
    async def main() -> None:
        async with manager(tmp_path) as ada:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(ada.query(query="SLEEP"), 0.05)
            node = twin.Node.latest
            await ada._runner.call(node.unwound.wait)
            assert node.cancelled == 1

    asyncio.run(main())


@pytest.mark.trio
async def test_an_error_in_the_body_is_the_callers_own(twin: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(KeyError):  # not a group, though the node has a nursery
        async with manager(tmp_path):
            raise KeyError("mine")
    assert twin.Node.closed == ["ada"]
    with trio.move_on_after(0.05) as scope:
        async with manager(tmp_path):
            await trio.sleep_forever()
    assert scope.cancelled_caught


def test_progress_runs_on_the_callers_loop(twin: ModuleType, tmp_path: Path) -> None:
    import threading

    async def main() -> None:
        seen: list[tuple[int, int]] = []

        def progress(step: Any) -> None:
            seen.append((threading.get_ident(), step.shards))

        async with manager(tmp_path) as ada:
            dataset = ada.create_dataset("trips")
            await ada.shard_dataset(dataset.dataset_id, FRAME, shard_size=5, progress=progress)
        await asyncio.sleep(0)
        assert seen == [(threading.get_ident(), 0), (threading.get_ident(), 1)]

    asyncio.run(main())


def test_the_callers_data_may_change_while_it_is_published(twin: ModuleType, tmp_path: Path) -> None:
    frame = FRAME.copy()
    rows = [{"a": 1}]
    with p2pnode.sync.connect("ada", storage_dir=tmp_path) as ada:
        ada.create_dataset("trips")
        ada.shard_dataset("trips", frame)
        frame.loc[0, "id"] = 99
        ada.shard_dataset("trips", rows)
        rows.append({"a": 2})
        calls = twin.Node.latest.calls
    assert calls[0][1]["data"]["id"][0] == 0
    assert calls[1][1]["data"] == [{"a": 1}]


def test_blocking_with_and_without_a_loop(twin: ModuleType, tmp_path: Path) -> None:
    with p2pnode.sync.connect(node_id="ada", storage_dir=tmp_path / "home") as ada:
        dataset = ada.create_dataset("trips", schema={"id": "integer"})
        assert len(ada.shard_dataset(dataset.dataset_id, FRAME, shard_size=5)) == 2
        assert len(ada.query(dataset.dataset_id, "SELECT 1")) == 10
        assert ada.node_id == "ada"
        with pytest.raises(QueryError):
            ada.query(query="DROP")

        async def notebook() -> int:  # a notebook's cell runs inside a loop
            return len(ada.query(dataset.dataset_id, "SELECT 1"))

        assert asyncio.run(notebook()) == 10
    assert twin.Node.closed == ["ada"]


def test_options_reach_the_node_and_what_was_not_said_is_left_to_it(twin: ModuleType, tmp_path: Path) -> None:
    config = DistributedConfig(node_id="ada")
    with p2pnode.sync.connect(config=config, storage_dir=tmp_path) as ada:
        ada.create_dataset("trips")
        ada.shard_dataset("trips", FRAME)
        ada.shard_dataset(
            "trips",
            FRAME,
            placement_strategy="consistent_hash",
            replication_factor=2,
            node_preferences=[{"node_id": "w", "preference": 0.8}],
            min_regions=2,
            append=True,
        )
        (_, plain), (_, chosen) = twin.Node.latest.calls
    assert (plain["strategy"], plain["replicas"], plain["shard_rows"], plain["append"]) == (
        None, None, None, False,
    )  # fmt: skip
    assert (chosen["strategy"], chosen["replicas"], chosen["append"]) == ("consistent_hash", 2, True)
    assert chosen["preferences"] == [{"node_id": "w", "preference": 0.8}]
    assert (plain["min_regions"], chosen["min_regions"]) == (None, 2)


@pytest.mark.parametrize("role", [NodeRole.WORKER, "client"])
def test_roles_that_define_nothing(twin: ModuleType, tmp_path: Path, role: str) -> None:
    with pytest.raises(RoleError):
        manager(tmp_path, role=role).create_dataset("trips")


def test_only_a_client_may_publish_under_a_new_name(twin: ModuleType, tmp_path: Path) -> None:
    with p2pnode.sync.connect("ada", storage_dir=tmp_path / "ada") as ada, pytest.raises(NotFound):
        ada.shard_dataset("trips", FRAME)
    with p2pnode.sync.connect("bob", role="client", storage_dir=tmp_path / "bob") as bob:
        assert len(bob.shard_dataset("trips", FRAME, shard_size=5)) == 2
        with pytest.raises(NotFound):
            bob.shard_dataset("ds-unknown", FRAME)


@pytest.mark.parametrize(
    "wrong",
    [{"shard_size": 0}, {"shard_size": 2.5}, {"replication_factor": 0}, {"replication_factor": "two"}],
)
def test_counts_that_cannot_be_are_named(twin: ModuleType, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with p2pnode.sync.connect("ada", storage_dir=tmp_path / "ada") as ada:
        dataset = ada.create_dataset("trips")
        with pytest.raises(UsageError, match=next(iter(wrong))):
            ada.shard_dataset(dataset, FRAME, **wrong)


def test_what_cannot_be_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="role"):
        manager(tmp_path, role="boss")
    with pytest.raises(ConfigError, match="weight"):
        manager(tmp_path, weight=-1.0)
    with pytest.raises(UsageError):
        manager(tmp_path).create_dataset("  ")


def test_a_start_that_fails_says_why_and_may_be_repeated(twin: ModuleType, tmp_path: Path) -> None:
    peer = "/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"

    async def main() -> None:
        with pytest.raises(AddressError, match=r"bootstrap_peers\[0\]"):
            await manager(tmp_path, bootstrap_peers=["nowhere"]).start()
        lost = manager(tmp_path, bootstrap_peers=[f"/ip4/192.0.2.1/tcp/1{peer}"])
        for _ in range(2):
            with pytest.raises(SwarmUnreachable):
                await lost.start()
        await lost.stop()

    asyncio.run(main())


def test_configuration_from_the_home_and_from_the_seed(twin: ModuleType, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.toml").write_text('[distributed]\nregion = "eu"\nrole = "coordinator"\n')
    assert manager(tmp_path).role is NodeRole.COORDINATOR
    config = DistributedConfig(node_id="node-1", role="coordinator", capabilities=["high_memory"])
    assert DistributedDatasetManager(config=config).node_id == "node-1"
    assert DistributedDatasetManager(config=config).role is NodeRole.COORDINATOR
    assert DistributedDatasetManager("node-2", config=config, role="worker").role is NodeRole.WORKER
    assert DistributedDatasetManager("node-3").storage_dir.name == "node-3"


def test_a_nameless_client_leaves_nothing_behind(twin: ModuleType) -> None:
    with p2pnode.sync.connect(role="client") as one, p2pnode.sync.connect(role="client") as two:
        assert one.node_id != two.node_id
        assert one.storage_dir.is_dir()
    assert not one.storage_dir.exists()


def test_a_manager_never_stopped_is_closed_at_exit(tmp_path: Path) -> None:
    twin_path = Path(__file__).with_name("twin.py")
    program = f"""
    import asyncio, importlib.util, sys, atexit
    spec = importlib.util.spec_from_file_location("twin", {str(twin_path)!r})
    sys.modules["p2pnode.node"] = sys.modules["twin"] = twin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(twin)
    atexit.register(lambda: print("closed", twin.Node.closed))  # runs after ours, which registers later
    from p2pnode import DistributedDatasetManager

    async def main():
        manager = DistributedDatasetManager("ada", storage_dir={str(tmp_path)!r})
        print(len(await manager.query(query="SELECT 1")))

    asyncio.run(main())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=20)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["1", "closed ['ada']"]


def test_the_blocking_surface_is_there_after_a_plain_import() -> None:
    program = "import p2pnode; print(p2pnode.sync.connect.__name__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert done.stdout == "connect\n", done.stderr


def test_an_answer_keeps_its_arrow_types(twin: ModuleType, tmp_path: Path) -> None:
    with p2pnode.sync.connect("ada", storage_dir=tmp_path) as ada:
        ada.create_dataset("trips")
        ada.shard_dataset("trips", pa.table({"a": pa.array([1], pa.int8())}))
        assert ada.query(query="SELECT 1").schema.field("a").type == pa.int8()
