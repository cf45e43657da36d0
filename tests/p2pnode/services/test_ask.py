"""What the asker itself refuses, before any holder is asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pyarrow as pa
import pytest

from p2pnode.core.cid import cid_text, record_cid
from p2pnode.core.model import Column, DatasetRecord, Manifest
from p2pnode.core.schema import schema_bytes
from p2pnode.env import Env
from p2pnode.errors import UsageError
from p2pnode.services.ask import Asker

SCHEMA = schema_bytes(pa.schema([("a", pa.int64())]))


def record(name: str) -> DatasetRecord:
    manifest = Manifest(f"ds-{name}", "parquet", SCHEMA, (Column("a", "BIGINT"),), ())
    return DatasetRecord(f"ds-{name}", name, "", b"", record_cid(name.encode()), manifest)


class Catalog:
    """Two datasets and their versions."""

    def __init__(self) -> None:
        self.records = {each.name: each for each in (record("one"), record("two"))}

    def known(self, name: str) -> DatasetRecord | None:
        return self.records.get(name)

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
    nobody = cast("Any", None)
    asker = Asker(Env(), cast("Any", catalog), nobody, nobody, manifest_of=catalog.manifest, timeout_s=10.0)
    version = catalog.records["two"].version
    assert version is not None
    with pytest.raises(UsageError, match="does not read"):
        await asker.query(sql, dataset="one", at=cid_text(version))
