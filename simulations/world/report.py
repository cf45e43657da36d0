"""What came of one seed: the line that is printed, and the command that has it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from simulations.world.checks import Violation
from simulations.world.options import WorldOptions


@dataclass(frozen=True, slots=True)
class Report:
    """One seed's run. `digest` covers everything that happened, in order: the same options have the same one."""

    options: WorldOptions
    events: int
    #: Writes that were begun, and those of them that were acknowledged.
    writes: int
    acknowledged: int
    virtual_s: float
    wall_s: float
    digest: str
    violations: tuple[Violation, ...]
    #: Seconds after each storm until the swarm was one again.
    converged_s: tuple[float, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.violations

    def as_document(self) -> dict[str, Any]:
        """The line of `sim world`."""
        return {
            "seed": self.options.seed,
            "nodes": self.options.nodes,
            "events": self.events,
            "virtual_s": round(self.virtual_s, 3),
            "wall_s": round(self.wall_s, 3),
            "digest": self.digest,
            "violations": [str(violation) for violation in self.violations],
        }


def replay_command(options: WorldOptions) -> str:
    """What to type to have exactly this run again."""
    words = ["p2pnode sim world", f"--nodes {options.nodes}", f"--seeds {options.seed}..{options.seed}"]
    if options.faults is not None:
        words.append(f"--faults {_comma(options.faults)}")
    if options.drop:
        words.append(f"--drop {_comma(options.drop)}")
    if options.libp2p:
        words.append("--libp2p")
    return " ".join(words)


def _comma(values: Sequence[object]) -> str:
    return ",".join(map(str, values)) or "none"
