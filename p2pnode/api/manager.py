"""`DistributedDatasetManager`: a node and its datasets, from Python.

The same class under trio (`async with`: the node runs in the caller's own loop), under asyncio (it runs in
the shared thread of `portal`) and without a loop (`p2pnode.sync`). It starts on entering, on `start()`, or on
the first awaited call, and leaves the swarm on leaving, on `stop()`, or when the interpreter exits. It
decides nothing: each method is one call on the node, its results made into what `results` describes.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from p2pnode.api.config import DistributedConfig
from p2pnode.api.home import default_home
from p2pnode.api.portal import caller
from p2pnode.api.results import Dataset, QueryResult, Shard, dataset_of, shards_of
from p2pnode.api.runner import Runner
from p2pnode.api.snapshot import snapshot
from p2pnode.core.model import EVERYWHERE, NodeRole
from p2pnode.core.schema import declared_schema
from p2pnode.errors import RoleError, UsageError

if TYPE_CHECKING:
    from p2pnode.node import Node
    from p2pnode.services.publish import Progress

T = TypeVar("T")

#: Random bytes of a new dataset's id: 26 characters of base32.
DATASET_ID_BYTES = 17
_DATASET_ID_CHARS = 26
_DATASET_ID_PREFIX = "ds-"


class DistributedDatasetManager:
    """One node, as the guide describes it. Constructor arguments beat the environment beats `config.toml`.

    Raises `ConfigError` at once for values that cannot be, `AddressError` when it starts for addresses that
    do not parse. A client without `node_id` and `storage_dir` is a throwaway: its home goes when it stops.
    """

    def __init__(
        self,
        node_id: str | None = None,
        role: NodeRole | str = NodeRole.HYBRID,
        listen_addresses: Sequence[str] | None = None,
        bootstrap_peers: Sequence[str] | None = None,
        capabilities: Sequence[str] | None = None,
        *,
        config: DistributedConfig | None = None,
        storage_dir: str | Path | None = None,
        region: str | None = None,
        weight: float = 1.0,
    ) -> None:
        home = None if storage_dir is None else Path(storage_dir).expanduser().absolute()
        given = {
            "node_id": node_id,
            "role": None if role == NodeRole.HYBRID else role,
            "listen_addresses": None if listen_addresses is None else list(listen_addresses),
            "bootstrap_peers": None if bootstrap_peers is None else list(bootstrap_peers),
            "capabilities": None if capabilities is None else list(capabilities),
            "region": region,
            "weight": None if weight == 1.0 else weight,
        }
        given = {key: value for key, value in given.items() if value is not None}
        if config is None:
            own_home = default_home(node_id) if home is None and node_id else home
            config = DistributedConfig.load(own_home, **given)
        elif given:
            config = config.with_flags(**given)
        self._config = config
        self._runner = Runner(config, home)
        #: Datasets created here, by id; brought up to date by every publish.
        self._created: dict[str, Dataset] = {}
        #: Those of them that the node has not been told yet.
        self._undefined: dict[str, Dataset] = {}

    # -- life ------------------------------------------------------------------

    async def start(self) -> None:
        """Start the node and join the swarm, if it does not run. Raises what keeps it from starting."""
        await self._runner.start(again=True)
        self._define_pending()

    async def stop(self) -> None:
        """Leave the swarm cleanly (under 3 s), if the node runs. It may be started again."""
        await self._runner.stop()

    async def __aenter__(self) -> DistributedDatasetManager:
        await self._runner.enter()
        self._define_pending()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return await self._runner.leave(error)

    # -- what it is ------------------------------------------------------------

    @property
    def node_id(self) -> str:
        return self._runner.node_id

    @property
    def role(self) -> NodeRole:
        return self._config.role

    @property
    def storage_dir(self) -> Path:
        """The node's home."""
        return self._runner.home

    @property
    def peer_id(self) -> str:
        """Raises `UsageError` before the start."""
        return self._runner.running().peer_id

    @property
    def addresses(self) -> list[str]:
        """Full multiaddrs that others can dial. Raises `UsageError` before the start."""
        return self._runner.now(lambda node: node.addresses)

    def __repr__(self) -> str:
        state = "running" if self._runner.is_running else "not started"
        return f"<DistributedDatasetManager {self.node_id!r}, {self.role}, {state}>"

    # -- datasets --------------------------------------------------------------

    def create_dataset(self, name: str, description: str = "", schema: Any = None) -> Dataset:
        """Define a dataset. `schema` is an Arrow schema or words (`{"id": "integer", "v": "float[]"}`).

        Works before the start: the swarm is told when the node runs. Raises `RoleError` unless the role
        defines datasets, `UsageError` for a name or schema that cannot be.
        """
        if not self.role.defines:
            raise RoleError(f"{self.node_id} is a {self.role}, which defines no datasets")
        if not isinstance(name, str) or not name.strip():
            raise UsageError("a dataset needs a name", advice='create_dataset("trips")')
        dataset = Dataset(_new_dataset_id(), name, description, declared_schema(schema))
        if self._runner.is_running:
            self._runner.now(lambda node: _define(node, dataset))
        else:
            self._undefined[dataset.dataset_id] = dataset
        self._created[dataset.dataset_id] = dataset
        return dataset

    async def shard_dataset(
        self,
        dataset_id: str | Dataset,
        data: Any,
        format: Literal["parquet", "arrow"] = "parquet",
        shard_size: int | None = None,
        replication_factor: int | Literal["all"] | None = None,
        placement_strategy: Literal["consistent_hash", "balanced_load"] | None = None,
        node_preferences: Sequence[Mapping[str, Any]] | None = None,
        *,
        append: bool = False,
        min_regions: int | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> list[Shard]:
        """Split `data` into shards of `shard_size` rows and put each on `replication_factor` nodes.

        `data`: pandas, Arrow table, reader or dataset, polars, list of dicts, path or glob. Returns when
        every shard is durable on a majority of its holders. `None` takes the configuration's default.
        `progress` is called on the caller's own loop. Raises `SchemaMismatch`, `EmptyData`, `Infeasible`,
        `NotDurable`, `NotFound`, `RoleError`.
        """
        if shard_size is not None:
            _at_least_one("shard_size", shard_size)
        if replication_factor not in (None, "all"):
            _at_least_one("replication_factor", replication_factor)
        node = await self._node()
        published = await self._call(
            node.publish,
            _id(dataset_id),
            snapshot(data),
            format=format,
            shard_rows=shard_size,
            replicas=EVERYWHERE if replication_factor == "all" else replication_factor,
            strategy=placement_strategy,
            preferences=None if node_preferences is None else [dict(wish) for wish in node_preferences],
            min_regions=min_regions,
            # A client cannot define; its coordinator does that for it, with the publish.
            create=self.role is NodeRole.CLIENT and not _id(dataset_id).startswith(_DATASET_ID_PREFIX),
            append=append,
            progress=None if progress is None else caller(progress),
        )
        created = self._created.get(published.dataset.dataset_id)
        if created is not None:
            fresh = dataset_of(published.dataset)
            created.version, created.schema = fresh.version, fresh.schema or created.schema
            created.shards = shards_of(published)
        return shards_of(published)

    async def list_datasets(self) -> list[Dataset]:
        """Every dataset of the swarm that this node knows of."""
        node = await self._node()
        return [dataset_of(record) for record in await self._call(node.datasets)]

    async def delete_dataset(self, dataset_id: str | Dataset) -> None:
        """Delete by id or name. Raises `NotFound`, `RoleError`."""
        node = await self._node()
        await self._call(node.delete, _id(dataset_id))

    async def get_shard(self, shard_id: str, node_id: str | None = None) -> bytes:
        """One shard's bytes, verified, from any holder or from `node_id`. Raises `NotFound`,
        `ShardUnavailable`.
        """
        node = await self._node()
        return await self._call(node.fetch_shard, shard_id, node_id)

    async def find_dataset_providers(self, dataset_id: str | Dataset) -> list[str]:
        """Node ids that hold shards of it now. Raises `NotFound`."""
        node = await self._node()
        return await self._call(node.providers, _id(dataset_id))

    # -- questions -------------------------------------------------------------

    async def query(
        self,
        dataset_id: str | Dataset | None = None,
        query: str | None = None,
        *,
        on_missing: Literal["error", "partial"] = "error",
        timeout: float | None = None,
        at: str | None = None,
    ) -> QueryResult:
        """Answer a SELECT. Tables are dataset names; with `dataset_id`, `dataset` is that one.

        `at` is a version's content id, `timeout` in seconds. Raises `QueryError`, `SqlRefused`, `NotFound`,
        `Timeout`, and `ShardUnavailable` rather than an incomplete answer, unless `on_missing="partial"`.
        """
        node = await self._node()
        answer = await self._call(
            node.query,
            _sql(query),
            dataset=None if dataset_id is None else _id(dataset_id),
            on_missing=on_missing,
            timeout_s=timeout,
            at=at,
        )
        return QueryResult(answer.table, answer.stats, answer.coverage)

    async def explain(self, dataset_id: str | Dataset | None = None, query: str | None = None) -> dict[str, Any]:
        """How `query` would run: shards kept and pruned, what holders do and what the asker does."""
        node = await self._node()
        dataset = None if dataset_id is None else _id(dataset_id)
        return await self._call(node.explain, _sql(query), dataset=dataset)

    # -- the swarm -------------------------------------------------------------

    async def get_connected_peers(self) -> list[str]:
        """Peer ids with a live connection."""
        await self._node()
        return self._runner.now(lambda node: node.connected())

    async def get_node_health(self, node_id: str) -> dict[str, Any]:
        """Status, CPU, memory and disk in percent, network in KB/s, loop lag in ms. Raises `NotFound`."""
        node = await self._node()
        return await self._call(node.health, node_id)

    async def get_all_nodes_health(self) -> dict[str, dict[str, Any]]:
        """The health of every known member, by node id."""
        node = await self._node()
        return await self._call(node.health_all)

    # -- inside ----------------------------------------------------------------

    async def _node(self) -> Node:
        """The running node, which knows every dataset that was created here."""
        node = await self._runner.start()
        self._define_pending()
        return node

    def _define_pending(self) -> None:
        while self._undefined:
            dataset = next(iter(self._undefined.values()))
            self._runner.now(lambda node, dataset=dataset: _define(node, dataset))
            self._undefined.pop(dataset.dataset_id, None)

    async def _call(self, method: Callable[..., Awaitable[T]], *args: Any, **options: Any) -> T:
        return await self._runner.call(method, *args, **options)


def _define(node: Node, dataset: Dataset) -> None:
    node.define_locally(dataset.name, dataset.description, dataset.schema, dataset_id=dataset.dataset_id)


def _new_dataset_id() -> str:
    """Minted here rather than by the node, so that it can be used before the node runs."""
    text = base64.b32encode(secrets.token_bytes(DATASET_ID_BYTES)).decode().lower()
    return _DATASET_ID_PREFIX + text[:_DATASET_ID_CHARS]


def _id(dataset: str | Dataset) -> str:
    return dataset.dataset_id if isinstance(dataset, Dataset) else dataset


def _at_least_one(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name}={value!r} cannot be", advice="Give a whole number from 1.")


def _sql(query: str | None) -> str:
    if not isinstance(query, str) or not query.strip():
        raise UsageError("no SQL given", advice='query(dataset_id, "SELECT …") or query(query="SELECT …")')
    return query
