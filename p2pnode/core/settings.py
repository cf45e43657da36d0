"""What a node is told when it starts, already checked: plain values, no files, no environment.

`p2pnode.api.config` builds one from flags, environment and TOML and knows where each value came from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from p2pnode.core.model import NodeRole

#: Listening beyond loopback needs `open_swarm` or a swarm key: roles are self-asserted in an open swarm.
LOOPBACK_ANY_PORT = "/ip4/127.0.0.1/tcp/0"


@dataclass(frozen=True, slots=True)
class Settings:
    """One node's settings. Times in seconds, sizes in bytes."""

    home: Path
    node_id: str
    role: NodeRole = NodeRole.HYBRID
    listen: tuple[str, ...] = (LOOPBACK_ANY_PORT,)
    bootstrap: tuple[str, ...] = ()
    region: str = ""
    weight: float = 1.0
    capabilities: tuple[str, ...] = ()
    open_swarm: bool = False
    #: 32-byte pre-shared key as 64 hex characters, or empty.
    swarm_key: str = field(default="", repr=False)

    #: How long a newcomer waits for a bootstrap peer; None waits (and dials) for ever.
    join_timeout_s: float | None = 30.0

    shard_rows: int = 1000
    replicas: int = 3
    use_consistent_hashing: bool = True

    #: Times that a push which may yet succeed is repeated, each pause `backoff_factor` times the last.
    retries: int = 5
    backoff_factor: float = 2.0
    #: Pushes to one holder that fail in a row, retries and all, until it is left alone for so long.
    breaker_threshold: int = 5
    breaker_timeout_s: float = 60.0
    #: Transfers at work at once, each way, and statements that other peers may have running here.
    transfers_max: int = 10
    queries_max: int = 5

    probe_s: float = 1.0
    #: Seconds for which a member must be unreachable without a break before this node records that it is down.
    down_after_s: float = 300.0

    query_timeout_s: float = 60.0
    query_memory_bytes: int = 512 << 20
    query_workers: int = 2
    allow_unfenced_sql: bool = False
