"""What the asker itself refuses, before any holder is asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pyarrow as pa
import pytest

from p2pnode.core.cid import cid_text, record_cid
from p2pnode.core.model import Column, DatasetRecord, Manifest, ShardEntry
from p2pnode.core.schema import schema_bytes
from p2pnode.env import Env
from p2pnode.errors import QueryError, UsageError
from p2pnode.services.ask import Asker

SHARD = ShardEntry(record_cid(b"shard"), 10, 100)
SCHEMA = schema_bytes(pa.schema([("a", pa.int64())]))


def record(name: str) -> DatasetRecord:
    manifest = Manifest(f"ds-{name}", "parquet", SCHEMA, (Column("a", "BIGINT"),), (SHARD,))
    return DatasetRecord(f"ds-{name}", name, "", b"", record_cid(name.encode()), manifest)


class Catalog:
    """Two datasets and their versions."""

    def __init__(self) -> None:
        self.records = {each.name: each for each in (record("one"), record("two"))}
        #: What the next round of sync brings.
        self.coming: dict[str, DatasetRecord] = {}
        self.refreshed = 0

    def asker(self) -> Asker:
        nobody = cast("Any", None)
        return Asker(Env(), cast("Any", self), nobody, nobody, manifest_of=self.manifest, timeout_s=10.0)

    async def refresh(self) -> None:
        self.refreshed += 1
        self.records.update(self.coming)

    def known(self, name: str) -> DatasetRecord | None:
        return next((each for each in self.records.values() if name in (each.name, each.dataset_id)), None)

    async def find(self, name: str) -> DatasetRecord:
        return self.records[name]

    async def manifest(self, version: bytes) -> Manifest:
        found = {each.version: each.manifest for each in self.records.values()}[version]
        assert found is not None
        return replace(found)


@pytest.mark.trio
@pytest.mark.parametrize("sql", ["SELECT * FROM one", "SELECT * FROM dataset", "SELECT 1"])
async def test_a_version_of_a_dataset_that_is_not_read_is_no_silent_matter(sql: str) -> None:
    catalog = Catalog()
    version = catalog.records["two"].version
    assert version is not None
    with pytest.raises(UsageError, match="does not read"):
        await catalog.asker().query(sql, dataset="one", at=cid_text(version))


@pytest.mark.trio
async def test_a_version_on_its_way_is_asked_for_before_a_dataset_is_called_empty() -> None:
    catalog = Catalog()
    whole = catalog.records["one"]
    catalog.records["one"] = replace(whole, schema=SCHEMA, version=None, manifest=None)
    catalog.coming = {"one": whole}
    asker = catalog.asker()
    explained = await asker.explain("SELECT * FROM one")
    assert (explained["shards_total"], catalog.refreshed) == (1, 1)

    catalog.records["one"] = replace(whole, schema=SCHEMA, version=None, manifest=None)
    explained = await asker.explain("SELECT * FROM dataset", dataset="one")
    assert (explained["shards_total"], catalog.refreshed) == (1, 2), "also when it is called `dataset`"

    catalog.coming = {}
    catalog.records["one"] = replace(whole, schema=SCHEMA, version=None, manifest=None)
    assert (await asker.explain("SELECT * FROM one"))["shards_total"] == 0, "defined, and nothing published"
    catalog.records["one"] = replace(whole, schema=b"", version=None, manifest=None)
    with pytest.raises(QueryError, match="Nothing was published"):
        await asker.explain("SELECT * FROM one")
