"""What the faults of a moment make of the network: every link's conditions, and who cannot reach whom.

Pure: the faults that act now go in, links come out, so that two faults on one link add up however they began and end.
Hosts are known by index.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from simulations.world.chance import stream
from simulations.world.network import Link
from simulations.world.options import WorldOptions
from simulations.world.plan import Fault

#: Kinds that are the network's.
KINDS = ("partition", "one_way", "loss", "duplication", "reorder", "spike")
#: Of the packets of a host whose link has spikes so many are delayed.
SPIKE_SHARE = 0.2

_Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Conditions:
    """Conditions by (source, destination)."""

    links: dict[_Pair, Link]
    #: Directions that nothing passes.
    blocked: frozenset[_Pair]


def calm(options: WorldOptions, hosts: int) -> dict[_Pair, Link]:
    """Every direction at rest: some links are long, most are short."""
    rng = stream(options.seed, "links")
    least, most = options.latency_s
    links: dict[_Pair, Link] = {}
    for source in range(hosts):
        for destination in range(hosts):
            latency_s = least * (most / least) ** rng.random()
            links[source, destination] = Link(latency_s=latency_s, jitter_s=options.jitter * latency_s)
    return links


def conditions(links: dict[_Pair, Link], hosts: int, acting: Iterable[Fault]) -> Conditions:
    """What these faults, all at once, make of links at rest."""
    blocked: set[_Pair] = set()
    for fault in acting:
        here = set(fault.hosts)
        if fault.kind in ("partition", "one_way"):
            apart = {(a, b) for a in here for b in range(hosts) if b not in here}
            blocked |= apart if fault.kind == "one_way" else apart | {(b, a) for a, b in apart}
        elif fault.kind in KINDS:
            links = {pair: _worse(link, fault) if _concerns(fault, pair) else link for pair, link in links.items()}
    return Conditions(links, frozenset(blocked))


def _concerns(fault: Fault, pair: _Pair) -> bool:
    return not fault.hosts or pair[0] in fault.hosts


def _worse(link: Link, fault: Fault) -> Link:
    if fault.kind == "loss":
        return replace(link, loss=1 - (1 - link.loss) * (1 - fault.amount))
    if fault.kind == "duplication":
        return replace(link, duplicate=1 - (1 - link.duplicate) * (1 - fault.amount))
    if fault.kind == "reorder":
        return replace(link, reorder_s=link.reorder_s + fault.amount)
    return replace(link, spike=SPIKE_SHARE, spike_s=max(link.spike_s, fault.amount))
