"""A node's twin in memory: the same methods as `p2pnode.node.Node`, one process, no network, no disk.

It stands in for `p2pnode.node` in `sys.modules`, so that the tests of managers, command line and HTTP neither
load libp2p nor wait for it. What it answers is simple and checkable: a publish cuts rows, a query is
evaluated by pyarrow.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import trio

from p2pnode.core.cid import make_cid, parse_cid
from p2pnode.core.model import Column, DatasetRecord, Manifest, NodeRole, ShardEntry
from p2pnode.core.settings import Settings
from p2pnode.errors import EmptyData, NotFound, QueryError, ShardUnavailable, SwarmUnreachable

RAW, BLAKE3 = 0x55, 0x1E


@dataclass(frozen=True)
class PeerView:
    node_id: str
    peer_id: str
    role: NodeRole
    state: str
    addresses: tuple[str, ...]
    region: str
    rtt_ms: float | None


@dataclass(frozen=True)
class Progress:
    stage: str
    rows: int
    rows_total: int | None
    shards: int
    bytes: int


@dataclass(frozen=True)
class PlacedShard:
    shard_id: str
    cid: bytes
    rows: int
    bytes: int
    holders: tuple[str, ...]
    short: int = 0


@dataclass(frozen=True)
class Published:
    dataset: DatasetRecord
    shards: tuple[PlacedShard, ...]


@dataclass(frozen=True)
class Answer:
    table: pa.Table
    stats: dict[str, Any]
    coverage: float


@dataclass(frozen=True)
class Readmitted:
    node_id: str
    peer_id: str
    event: bytes
    forgiven: tuple[bytes, ...]


class Node:
    """`opened` and `closed` list the node ids in the order they came and went."""

    opened: ClassVar[list[str]] = []
    closed: ClassVar[list[str]] = []
    latest: ClassVar[Node]

    def __init__(self, settings: Settings) -> None:
        Node.latest = self
        self.settings = settings
        self.node_id = settings.node_id
        self.peer_id = f"12D3KooWTwin{settings.node_id}"
        self.role = settings.role
        self.home: Path = settings.home
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.cancelled = 0
        self.unwound = trio.Event()
        self._records: dict[str, DatasetRecord] = {}
        self._shards: dict[str, tuple[PlacedShard, ...]] = {}
        self._tables: dict[str, pa.Table] = {}

    @property
    def addresses(self) -> list[str]:
        return [f"/ip4/127.0.0.1/tcp/4001/p2p/{self.peer_id}"]

    def peers(self) -> list[PeerView]:
        me = PeerView(self.node_id, self.peer_id, self.role, "alive", tuple(self.addresses), "eu", None)
        return [me, replace(me, node_id="other", peer_id="12D3KooWOther", state="dead", rtt_ms=1.5)]

    def connected(self) -> list[str]:
        return ["12D3KooWOther"]

    def define_locally(
        self, name: str, description: str = "", schema: pa.Schema | None = None, *, dataset_id: str
    ) -> DatasetRecord:
        text = schema.serialize().to_pybytes() if schema is not None else b""
        self._records[dataset_id] = DatasetRecord(dataset_id, name, description, text)
        return self._records[dataset_id]

    async def publish(self, dataset: str, data: Any, **options: Any) -> Published:
        self.calls.append(("publish", {"dataset": dataset, "data": data, **options}))
        await trio.lowlevel.checkpoint()
        if not any(dataset in (record.dataset_id, record.name) for record in self._records.values()):
            if not options.get("create"):
                raise NotFound(f"no dataset {dataset!r}")
            self.define_locally(dataset, dataset_id=f"ds-{dataset}")
        record = await self.dataset(dataset)
        table = _table(data)
        if table.num_rows == 0:
            raise EmptyData("no rows")
        size = options.get("shard_rows") or self.settings.shard_rows
        starts = range(0, table.num_rows, size)
        cids = [make_cid(RAW, BLAKE3, bytes([number % 256]) * 32) for number in range(len(starts))]
        shards = tuple(
            PlacedShard(f"s{number}", cid, min(size, table.num_rows - start), 100, (self.node_id,))
            for number, (start, cid) in enumerate(zip(starts, cids, strict=True))
        )
        progress = options.get("progress")
        for number in range(len(shards)):
            if progress is not None:
                progress(Progress("push", number * size, table.num_rows, number, number * 100))
        schema = table.schema.serialize().to_pybytes()
        entries = tuple(ShardEntry(shard.cid, shard.rows, shard.bytes) for shard in shards)
        columns = tuple(Column(field.name, str(field.type)) for field in table.schema)
        manifest = Manifest(record.dataset_id, "parquet", schema, columns, entries)
        record = replace(record, version=make_cid(0x71, 0x12, b"\1" * 32), manifest=manifest)
        self._records[record.dataset_id], self._shards[record.dataset_id] = record, shards
        self._tables[record.dataset_id] = table
        return Published(record, shards)

    async def dataset(self, name_or_id: str) -> DatasetRecord:
        for record in self._records.values():
            if name_or_id in (record.dataset_id, record.name):
                return record
        raise NotFound(f"no dataset {name_or_id!r}")

    async def datasets(self) -> list[DatasetRecord]:
        return list(self._records.values())

    async def placed(self, name_or_id: str) -> Published:
        record = await self.dataset(name_or_id)
        return Published(record, self._shards.get(record.dataset_id, ()))

    async def should_hold(self, name_or_id: str) -> list[list[str]]:
        return [["other", self.node_id], ["other"]]

    async def delete(self, name_or_id: str) -> None:
        del self._records[(await self.dataset(name_or_id)).dataset_id]

    async def providers(self, name_or_id: str) -> list[str]:
        await self.dataset(name_or_id)
        return [self.node_id]

    async def fetch_shard(self, shard_id: str, node_id: str | None = None) -> bytes:
        if shard_id == "gone":
            raise ShardUnavailable("shard gone has no live holder", coverage=0.5, missing=("gone",))
        return f"{shard_id} from {node_id}".encode()

    async def fetch_shard_to(self, shard_id: str, path: Path) -> int:
        data = (await self.fetch_shard(shard_id)) * 10_000
        return await trio.to_thread.run_sync(path.write_bytes, data)

    async def query(self, sql: str, **options: Any) -> Answer:
        self.calls.append(("query", {"sql": sql, **options}))
        if sql == "SLEEP":
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                self.cancelled += 1
                self.unwound.set()
                raise
        if sql == "CRASH":
            raise ExceptionGroup("two at once", [ValueError("inner"), QueryError("named")])
        if sql == "BUG":
            raise ZeroDivisionError("a bug")
        if sql == "MISSING":
            raise ShardUnavailable("shards s1, s2 have no live holder", coverage=0.5, missing=("s1", "s2"))
        if not sql.startswith("SELECT"):
            raise QueryError(f"not a SELECT: {sql}")
        table = next(iter(self._tables.values()), pa.table({"one": [1], "nan": [float("nan")]}))
        stats = {"shards_total": 1, "shards_scanned": 1, "fragments": [], "elapsed_ms": 1.0, "coverage": 1.0}
        stats["notes"] = ["Ω 😀: gathered"]
        return Answer(table, stats, 1.0)

    async def explain(self, sql: str, *, dataset: str | None = None) -> dict[str, Any]:
        scan = {"table": dataset, "sql": sql, "columns": [], "shards": 2, "shards_pruned": 1, "partial": False}
        return {"scans": [scan], "final": "SELECT 2", "notes": ["a note"]}

    async def health(self, node_id: str) -> dict[str, Any]:
        if node_id != self.node_id:
            raise NotFound(f"no node {node_id!r}")
        return {"status": "healthy", "cpu_usage": 1.0}

    async def health_all(self) -> dict[str, dict[str, Any]]:
        return {self.node_id: await self.health(self.node_id)}

    async def readmit(self, node: str, keep: str | None = None) -> Readmitted:
        if node != "mallory":
            raise NotFound(f"Peer {node} has not forked, as far as is known here.")
        event = make_cid(0x71, 0x12, b"\2" * 32)
        return Readmitted(node, "12D3KooWLiar", event, (event, parse_cid(keep) if keep else event))

    async def doctor(self) -> list[dict[str, Any]]:
        return [{"check": "disk", "ok": False, "detail": "full", "fix": "free some"}]


@asynccontextmanager
async def open_node(settings: Settings, env: object = None) -> AsyncIterator[Node]:
    if "/ip4/192.0.2.1/" in "".join(settings.bootstrap):
        raise SwarmUnreachable("nobody answers")
    async with trio.open_nursery() as nursery:
        settings.home.mkdir(parents=True, exist_ok=True)
        Node.opened.append(settings.node_id)
        nursery.start_soon(trio.sleep_forever)
        yield Node(settings)
        nursery.cancel_scope.cancel()
        Node.closed.append(settings.node_id)


def _table(data: Any) -> pa.Table:
    if isinstance(data, pa.Table):
        return data
    if isinstance(data, list):
        if data and isinstance(data[0], str):
            return pa.table({"path": data})
        return pa.Table.from_pylist(data) if data else pa.table({})
    if isinstance(data, str | Path):
        return pa.table({"path": [str(data)]})
    return pa.Table.from_pandas(data)
