"""What a simulated world is made of: one flat object, every magnitude in it.

The seed decides everything that the options leave open: which faults of the menu happen, when, to whom and how badly,
and what is written meanwhile. Options and seed together therefore name a run: it can be repeated, bit by bit. This file
refuses to draw anything itself; `plan` and `workload` do, each from a stream of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from p2pnode.core.model import NodeRole
from p2pnode.errors import UsageError

#: Fewer than three members cannot lose one and agree on it; more than two hundred no longer fit one core's patience.
NODES_MIN, NODES_MAX = 3, 200


@dataclass(frozen=True, slots=True)
class WorldOptions:
    """One world. Times in virtual seconds, sizes in bytes, chances 0–1."""

    seed: int = 1
    #: Members that are there from the beginning, hostile ones included.
    nodes: int = 20
    #: Items of `plan.MENU` that happen besides those that always do; None: each with `fault_chance`.
    faults: tuple[str, ...] | None = None
    #: Numbers of faults that are left out: how a failing seed is made small.
    drop: tuple[int, ...] = ()
    fault_chance: float = 0.5
    #: Nodes run their real libp2p stack over simulated sockets: slower, and repeated closely rather than exactly.
    libp2p: bool = False

    #: Storms, each followed by a calm in which the swarm must become one again.
    rounds: int = 2
    storm_s: float = 15.0
    #: Writes begun at least, over all storms, and the share of them that really cuts, pushes and places shards.
    writes: int = 110
    publish_share: float = 0.06
    append_share: float = 0.05
    #: Until the swarm stands; a world that does not get there fails at once.
    assembly_limit_s: float = 60.0
    #: From the end of a storm until every honest node knows the same and sees everybody.
    converge_limit_s: float = 30.0
    #: Stillness after the last calm: what still writes then writes for ever.
    rest_s: float = 36.0
    #: The nodes' own setting of that name (300 by default), short enough to pass within a storm.
    down_after_s: float = 3.0

    #: One way of a link at rest: least and most, and the share by which each packet varies.
    latency_s: tuple[float, float] = (0.0005, 0.02)
    jitter: float = 0.2
    #: Most of what a storm does to every link.
    loss_max: float = 0.3
    duplication_max: float = 0.1
    reorder_max_s: float = 0.2
    #: What it does to a few: a delay spike, and how long it lasts.
    spike_s: float = 10.0
    #: Wall clocks are wrong by up to this, and every clock runs up to so much too fast or too slow.
    skew_max_s: float = 3600.0
    drift_max: float = 0.05
    #: How long a crashed machine stays away, least and most.
    away_s: tuple[float, float] = (1.0, 8.0)
    #: A process stands still for so long, which must not read as death.
    pause_s: float = 3.0
    #: Most that one fsync takes on a slow disk.
    slow_fsync_max_s: float = 2.0
    #: Members that lie. They are real members with real keys, and no more than a third.
    hostiles_max: int = 2

    def __post_init__(self) -> None:
        """Raises UsageError for a world that cannot be."""
        if not NODES_MIN <= self.nodes <= NODES_MAX:
            raise UsageError(f"a world has {NODES_MIN} to {NODES_MAX} nodes, not {self.nodes}")

    @property
    def roles(self) -> tuple[NodeRole, ...]:
        """One coordinator, which founds the swarm; then hybrids and workers in turn."""
        others = (NodeRole.HYBRID, NodeRole.WORKER)
        return (NodeRole.COORDINATOR, *(others[index % 2] for index in range(self.nodes - 1)))

    def changed(self) -> dict[str, object]:
        """What differs from a plain world, the seed and the number of nodes apart."""
        plain = WorldOptions()
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("seed", "nodes") and getattr(self, field.name) != getattr(plain, field.name)
        }
