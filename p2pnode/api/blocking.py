"""The manager without a loop, for scripts and notebooks: every call waits in the caller's thread.

The node runs in the shared thread, so it answers its peers while the caller thinks. Works inside a running
loop too (a notebook's cell), which it blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from p2pnode.api.manager import DistributedDatasetManager
from p2pnode.api.portal import waiting_in_this_thread
from p2pnode.api.results import Dataset
from p2pnode.core.model import NodeRole

P = ParamSpec("P")
T = TypeVar("T")


def connect(*args: Any, **options: Any) -> BlockingDatasetManager:
    """A started node; arguments are those of `DistributedDatasetManager`. Close it, or use `with`."""
    blocking = BlockingDatasetManager(DistributedDatasetManager(*args, **options))
    blocking.start()
    return blocking


def _blocking(
    method: Callable[Concatenate[DistributedDatasetManager, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[BlockingDatasetManager, P], T]:
    @wraps(method)
    def call(self: BlockingDatasetManager, *args: P.args, **options: P.kwargs) -> T:
        with waiting_in_this_thread():
            coroutine = method(self.manager, *args, **options)
            try:
                coroutine.send(None)
            except StopIteration as done:
                return done.value
        raise AssertionError("a blocking call has suspended")

    return call


class BlockingDatasetManager:
    """The same surface as `DistributedDatasetManager`, blocking."""

    def __init__(self, manager: DistributedDatasetManager) -> None:
        self.manager = manager

    start = _blocking(DistributedDatasetManager.start)
    stop = _blocking(DistributedDatasetManager.stop)
    close = stop
    shard_dataset = _blocking(DistributedDatasetManager.shard_dataset)
    list_datasets = _blocking(DistributedDatasetManager.list_datasets)
    delete_dataset = _blocking(DistributedDatasetManager.delete_dataset)
    get_shard = _blocking(DistributedDatasetManager.get_shard)
    find_dataset_providers = _blocking(DistributedDatasetManager.find_dataset_providers)
    query = _blocking(DistributedDatasetManager.query)
    explain = _blocking(DistributedDatasetManager.explain)
    get_connected_peers = _blocking(DistributedDatasetManager.get_connected_peers)
    get_node_health = _blocking(DistributedDatasetManager.get_node_health)
    get_all_nodes_health = _blocking(DistributedDatasetManager.get_all_nodes_health)

    def create_dataset(self, name: str, description: str = "", schema: Any = None) -> Dataset:
        """As `DistributedDatasetManager.create_dataset`, which does not wait either."""
        return self.manager.create_dataset(name, description, schema)

    @property
    def node_id(self) -> str:
        return self.manager.node_id

    @property
    def peer_id(self) -> str:
        return self.manager.peer_id

    @property
    def role(self) -> NodeRole:
        return self.manager.role

    @property
    def addresses(self) -> list[str]:
        return self.manager.addresses

    @property
    def storage_dir(self) -> Path:
        return self.manager.storage_dir

    def __enter__(self) -> BlockingDatasetManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return repr(self.manager).replace("DistributedDatasetManager", "BlockingDatasetManager", 1)
