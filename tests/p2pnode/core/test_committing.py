"""What becomes of a draft: a block that every peer can carry and read, or an error that says why not."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest

from p2pnode.core import committing
from p2pnode.core.cid import record_cid
from p2pnode.core.committing import manifest_block
from p2pnode.core.model import EVERYWHERE, ColumnStats, DatasetRecord, Manifest
from p2pnode.core.receipts import Receipt, VersionDraft
from p2pnode.core.records import decode_manifest
from p2pnode.core.schema import schema_bytes
from p2pnode.errors import NotDurable, SchemaMismatch, UsageError

STORES = frozenset(("h1", "h2", "h3"))
RECORD = DatasetRecord("ds-x", "flights", "", b"")


def draft(*numbers: int, holders: int = 2, columns: int = 1, append: bool = False) -> VersionDraft:
    stats = {f"c{n}": ColumnStats(0, 1, 9) for n in range(columns)}
    schema = pa.schema([(name, pa.int64()) for name in stats])
    cids = [record_cid(bytes([number])) for number in numbers]
    receipts = {cid: tuple(Receipt(f"h{n + 1}", cid, 10, 100, stats, b"") for n in range(holders)) for cid in cids}
    return VersionDraft("ds-x", "parquet", schema_bytes(schema), 3, {}, append, tuple(cids), receipts)


def committed(wish: VersionDraft, record: DatasetRecord = RECORD, everywhere: int = 3) -> Manifest:
    return decode_manifest(manifest_block(wish, record, STORES, everywhere))


def test_a_version_names_its_shards_in_order_and_what_it_stands_on() -> None:
    manifest = committed(draft(2, 1))
    assert [shard.cid for shard in manifest.shards] == [record_cid(b"\2"), record_cid(b"\1")]
    version = record_cid(b"v")
    again = replace(RECORD, version=version, manifest=manifest)
    added = committed(draft(3, append=True), again)
    assert [shard.rows for shard in added.shards] == [10, 10, 10]
    assert added.base == version
    assert [shard.cid for shard in committed(draft(3), again).shards] == [record_cid(b"\3")], "it replaces"


def test_appended_data_of_another_shape_is_refused() -> None:
    again = replace(RECORD, manifest=committed(draft(1)))
    with pytest.raises(SchemaMismatch):
        committed(draft(2, columns=2, append=True), again)
    with pytest.raises(SchemaMismatch):
        committed(replace(draft(2, append=True), format="arrow"), again)


def test_everywhere_wants_a_majority_of_all_who_are_there_to_store() -> None:
    everywhere = replace(draft(1, holders=1), replicas=EVERYWHERE)
    with pytest.raises(NotDurable):
        committed(everywhere)
    assert committed(replace(draft(1), replicas=EVERYWHERE)).replicas == EVERYWHERE
    assert committed(everywhere, everywhere=1).shards, "who is down is not counted on"


def test_a_manifest_that_no_peer_would_take_is_refused_before_it_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    block = manifest_block(draft(1, 2), RECORD, STORES, 3)
    monkeypatch.setattr(committing, "BLOCK_BYTES_MAX", len(block))
    assert manifest_block(draft(1, 2), RECORD, STORES, 3) == block
    with pytest.raises(UsageError, match="3 shards of 1 columns"):
        manifest_block(draft(1, 2, 3), RECORD, STORES, 3)
