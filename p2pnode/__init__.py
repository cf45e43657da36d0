"""p2pnode: a swarm of ordinary machines that shards, replicates and queries datasets over libp2p.

Users import from here and nowhere else. The names load on first use (PEP 562), so that ``import p2pnode.core``
costs neither libp2p nor a column library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p2pnode.api.config import DistributedConfig
    from p2pnode.api.manager import DistributedDatasetManager
    from p2pnode.api.results import Dataset, QueryResult, Shard
    from p2pnode.core.model import NodeRole
    from p2pnode.errors import P2PNodeError

__version__ = "0.1.0"

_HOMES = {
    "DistributedDatasetManager": "p2pnode.api.manager",
    "DistributedConfig": "p2pnode.api.config",
    "NodeRole": "p2pnode.core.model",
    "Dataset": "p2pnode.api.results",
    "Shard": "p2pnode.api.results",
    "QueryResult": "p2pnode.api.results",
    "P2PNodeError": "p2pnode.errors",
}

__all__ = [
    "Dataset",
    "DistributedConfig",
    "DistributedDatasetManager",
    "NodeRole",
    "P2PNodeError",
    "QueryResult",
    "Shard",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "sync":  # `p2pnode.sync.connect(…)` after a plain `import p2pnode`
        return import_module("p2pnode.sync")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'p2pnode' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
