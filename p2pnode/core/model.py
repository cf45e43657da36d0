"""The nouns that every part shares: roles, members, shards, manifests, datasets.

All of them are immutable values. This file refuses behaviour: how an event changes them stands in `catalog`, where
a shard should lie in `placement`, how bytes become a content id in `cid`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class NodeRole(StrEnum):
    """What a node does in the swarm. The seed's `NodeRole.COORDINATOR == "coordinator"` holds."""

    COORDINATOR = "coordinator"
    WORKER = "worker"
    HYBRID = "hybrid"
    CLIENT = "client"

    @property
    def defines(self) -> bool:
        """May author dataset definitions, versions and deletions."""
        return self in (NodeRole.COORDINATOR, NodeRole.HYBRID)

    @property
    def stores(self) -> bool:
        """Holds shards and runs fragments."""
        return self in (NodeRole.WORKER, NodeRole.HYBRID)

    @property
    def is_member(self) -> bool:
        """Has a member record and authors events."""
        return self is not NodeRole.CLIENT


@dataclass(frozen=True, slots=True)
class Member:
    """A member record as its own author last signed it. `weight` is in thousandths (1.0 is 1000).

    A member that `left` said so itself; one that is `down` was witnessed to be dead, and may return.
    """

    peer_id: str
    node_id: str
    role: NodeRole
    addresses: tuple[str, ...] = ()
    region: str = ""
    weight: int = 1000
    capabilities: tuple[str, ...] = ()
    #: The `up` event that says so.
    up: bytes = b""
    left: bool = False
    down: bool = False


Scalar = int | float | str | bool | None


@dataclass(frozen=True, slots=True)
class ColumnStats:
    """What a holder found in one column of one shard.

    `low` and `high` bound every non-null value, or are None when no bound is known (then nothing may be pruned):
    integers as int, floats as float (None as soon as a NaN occurs), text as str (`low` may be a 64-character prefix,
    `high` is None then), dates as "YYYY-MM-DD", timestamps without zone as "YYYY-MM-DDTHH:MM:SS.ffffff", booleans
    as bool. Every other type has no bounds. Text order is that of UTF-8 bytes, as in DuckDB.
    """

    nulls: int = 0
    low: Scalar = None
    high: Scalar = None


@dataclass(frozen=True, slots=True)
class Column:
    """A column as SQL sees it: its name and its DuckDB type."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One shard in a manifest. The same content may stand in a manifest twice: its rows then count twice."""

    cid: bytes
    rows: int
    bytes: int
    stats: dict[str, ColumnStats] = field(default_factory=dict)


#: The file formats of shards; also the suffix of their files.
FORMATS = ("parquet", "arrow")

#: `Manifest.replicas` when every storage member shall hold every shard.
EVERYWHERE = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """One immutable version of a dataset. Its content id is the version."""

    dataset_id: str
    format: str
    #: Arrow schema, as an IPC message.
    schema: bytes
    columns: tuple[Column, ...]
    shards: tuple[ShardEntry, ...]
    #: Replicas of each shard; EVERYWHERE (0) for all.
    replicas: int = 3
    #: Placement words beyond R: see `core.policy`.
    policy: dict[str, Any] = field(default_factory=dict)
    base: bytes | None = None

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)


@dataclass(frozen=True, slots=True)
class DatasetRecord:
    """A dataset as the fold of all events sees it now. `manifest` is None until something was published."""

    dataset_id: str
    name: str
    description: str
    #: The declared Arrow schema (IPC message), empty if none was declared.
    schema: bytes
    #: Content id of the current manifest (None: defined, nothing published).
    version: bytes | None = None
    manifest: Manifest | None = None
    #: Manifests that lost to a concurrent version, visible for audit.
    siblings: tuple[bytes, ...] = ()
