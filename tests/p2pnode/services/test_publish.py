"""Publishing: the words a user chose, or the configuration's, are what the version records."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from p2pnode.core.model import DatasetRecord, Manifest, Member, NodeRole
from p2pnode.core.receipts import Receipt, VersionDraft
from p2pnode.core.schema import columns_of, schema_bytes, schema_of_bytes
from p2pnode.core.settings import Settings
from p2pnode.env import Env, LocalDisk
from p2pnode.errors import (
    Infeasible,
    IntegrityError,
    NotDurable,
    NotFound,
    RoleError,
    SchemaMismatch,
    StorageFailed,
    UsageError,
)
from p2pnode.services.publish import Publisher
from p2pnode.storage.splitter import CutShard

WORKERS = [Member(f"peer-{place}", f"worker-{place}", NodeRole.WORKER) for place in range(4)]
ROWS = [{"id": number} for number in range(10)]


class Swarm:
    """The datasets and the holders of a swarm in which everything succeeds; what was committed is kept."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)
        self.drafts: list[VersionDraft] = []
        self.manifest: Manifest | None = None

    def members(self) -> list[Member]:
        return WORKERS

    async def refresh(self) -> None:
        pass

    async def find(self, name: str) -> DatasetRecord:
        if name not in self.names:
            raise NotFound(f"There is no dataset {name!r}.")
        return DatasetRecord(f"ds-{name}", name, "", b"", manifest=self.manifest)

    def define_locally(self, name: str, *_: object) -> DatasetRecord:
        self.names.add(name)
        return DatasetRecord(f"ds-{name}", name, "", b"")

    def give_up(self, dataset_id: str) -> None:
        self.names.discard(dataset_id.removeprefix("ds-"))

    async def commit(self, draft: VersionDraft) -> DatasetRecord:
        self.drafts.append(draft)
        return await self.find(draft.dataset_id.removeprefix("ds-"))

    def note_holders(self, cid: bytes, peers: Iterable[str]) -> None:
        pass

    def placed(self, record: DatasetRecord) -> DatasetRecord:
        return record

    async def push(self, peer_id: str, cut: CutShard, ticket: bytes) -> Receipt:
        return Receipt(peer_id, cut.cid, cut.rows, cut.bytes, {}, b"")

    async def have(self, peer_id: str, cids: Sequence[bytes]) -> set[bytes]:
        return set(cids)


def publisher(swarm: Swarm, home: Path, **settings: Any) -> Publisher:
    chosen = Settings(home, "ann", **{"role": NodeRole.COORDINATOR, **settings})
    return Publisher(Env(), chosen, swarm, swarm, swarm, home / "cutting", alive=lambda _: True)  # type: ignore[arg-type]


@pytest.mark.trio
async def test_what_is_not_said_is_the_configurations(tmp_path: Path) -> None:
    swarm = Swarm("trips")
    plain = publisher(swarm, tmp_path, shard_rows=4, replicas=2)
    balanced = publisher(swarm, tmp_path, use_consistent_hashing=False)
    await plain.publish("trips", ROWS)
    await balanced.publish("trips", ROWS)
    await balanced.publish("trips", ROWS, strategy="consistent_hash", replicas=1, shard_rows=5)
    first, second, third = swarm.drafts
    assert (first.policy["strategy"], first.replicas, len(first.order)) == ("consistent_hash", 2, 3)
    assert (second.policy["strategy"], second.replicas, len(second.order)) == ("balanced_load", 3, 1)
    assert (third.policy["strategy"], third.replicas, len(third.order)) == ("consistent_hash", 1, 2)
    assert {len(receipts) for receipts in first.receipts.values()} == {2}
    assert list((tmp_path / "cutting").iterdir()) == [], "what was cut is gone when it is held"


@pytest.mark.trio
async def test_what_is_appended_is_fitted_to_what_is_there_before_a_byte_travels(tmp_path: Path) -> None:
    swarm = Swarm("trips")
    schema = pa.schema([("id", pa.float64()), ("note", pa.string())])
    swarm.manifest = Manifest("ds-trips", "parquet", schema_bytes(schema), columns_of(schema), ())
    publishing = publisher(swarm, tmp_path)
    await publishing.publish("trips", ROWS, append=True)
    assert schema_of_bytes(swarm.drafts[0].schema) == schema
    with pytest.raises(SchemaMismatch, match="extra"):
        await publishing.publish("trips", [{"extra": 1}], append=True)
    assert not list((tmp_path / "cutting").iterdir())
    await publishing.publish("trips", [{"extra": 1}])
    assert schema_of_bytes(swarm.drafts[1].schema).names == ["extra"], "a version that replaces may have other columns"


@pytest.mark.trio
async def test_bad_data_defines_no_dataset_and_a_new_name_must_be_wanted(tmp_path: Path) -> None:
    swarm = Swarm()
    publishing = publisher(swarm, tmp_path)
    with pytest.raises(NotFound):
        await publishing.publish("trips", ROWS)
    with pytest.raises(UsageError):
        await publishing.publish("trips", object(), create=True)
    assert swarm.names == set()
    await publishing.publish("trips", ROWS, create=True)
    assert swarm.names == {"trips"}


@pytest.mark.trio
async def test_a_new_name_whose_publish_failed_is_no_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swarm = Swarm()

    async def refuse(*_: object) -> Receipt:
        raise IntegrityError("no")

    monkeypatch.setattr(swarm, "push", refuse)
    with pytest.raises(NotDurable):
        await publisher(swarm, tmp_path).publish("trips", ROWS, create=True)
    assert swarm.names == set()
    with pytest.raises(Infeasible):
        await publisher(swarm, tmp_path).publish("trips", ROWS, create=True, min_regions=2)
    assert swarm.names == set()


@pytest.mark.trio
@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"strategy": "round_robin"}, "no placement strategy"),
        ({"replicas": -1}, "-1 replicas"),
        ({"preferences": [{"node": "worker-1"}]}, "A preference looks like"),
    ],
)
async def test_a_policy_that_cannot_be_is_refused_before_anything_is_cut(
    wish: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        await publisher(Swarm("trips"), tmp_path).publish("trips", ROWS, **wish)
    assert not (tmp_path / "cutting").exists()


@pytest.mark.trio
async def test_a_worker_publishes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RoleError):
        await publisher(Swarm("trips"), tmp_path, role=NodeRole.WORKER).publish("trips", ROWS)


@pytest.mark.trio
async def test_a_disk_that_takes_no_folder_is_said_so_and_one_that_keeps_a_cut_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm = Swarm("trips")
    publishing = publisher(swarm, tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(LocalDisk, "make_dir", refuse)
        with pytest.raises(StorageFailed, match="No space left"):
            await publishing.publish("trips", ROWS)
    assert swarm.drafts == []
    with monkeypatch.context() as stuck:
        stuck.setattr(LocalDisk, "unlink", refuse)
        await publishing.publish("trips", ROWS)
    assert len(swarm.drafts) == 1
