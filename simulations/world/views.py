"""Copies out of running nodes what the checks compare: plain values, taken between two steps of the loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from p2pnode.core import records
from p2pnode.core.catalog import Catalog
from p2pnode.core.clock import MerkleClock
from p2pnode.core.event import Event
from p2pnode.core.model import Member
from p2pnode.core.placement import place
from p2pnode.core.waiting import WAITING_BYTES_MAX, WAITING_EVENTS_MAX, WAITING_TOTAL_BYTES_MAX
from p2pnode.env import Rng
from p2pnode.node import Node
from p2pnode.services.ledger import Ledger
from simulations.world.checks import Fact, Sight, View
from simulations.world.inside import ledger_of, should_hold, state_of, waiting_of


def view_of(node: Node, samples: Sequence[bytes]) -> View:
    """What this node knows now, and who it thinks should hold each of the sample keys."""
    ledger = ledger_of(node)
    clock, catalog = ledger.clock, ledger.catalog
    present = catalog.present()
    return View(
        name=node.node_id,
        peer_id=node.peer_id,
        events=frozenset(clock.between(0)),
        heads=tuple(clock.heads()),
        state=catalog.digest(),
        owners=tuple(tuple(owners(sample, present)) for sample in samples),
        exposed=frozenset(fork.author for fork in clock.forks()),
        states={member.peer_id: state_of(node, member.peer_id).value for member in catalog.members()},
        down=frozenset(member.peer_id for member in catalog.members() if member.down),
    )


def sight_of(node: Node, versions_max: int) -> Sight:
    """Whom this node counts on now, and where it would put the shards of some versions that it knows."""
    catalog = ledger_of(node).catalog
    manifests = {record.version: record.manifest for record in catalog.datasets() if record.version and record.manifest}
    return Sight(
        name=node.node_id,
        members=tuple((m.peer_id, m.node_id, m.role, m.region, m.weight, m.down) for m in catalog.members()),
        owners={
            version: tuple(map(tuple, should_hold(node, manifests[version])))
            for version in sorted(manifests)[:versions_max]
        },
    )


def owners(key: bytes, members: Sequence[Member]) -> list[str]:
    """Who should hold it; nobody where nobody stores."""
    return place(key, members, 3) if any(member.role.stores for member in members) else []


def facts_of(nodes: Iterable[Node]) -> dict[bytes, Fact]:
    """Every event that any of these nodes knows."""
    facts: dict[bytes, Fact] = {}
    for node in nodes:
        clock = ledger_of(node).clock
        for event_id in clock.between(0):
            if event_id not in facts:
                event = clock.get(event_id)
                assert event is not None
                facts[event_id] = _fact(event)
    return facts


def _fact(event: Event) -> Fact:
    ends = records.read_down(event) if event.kind == records.DOWN else b""
    return Fact(event.id, event.author, event.kind, event.object_id, event.past, ends)


def refold(ledger: Ledger, rng: Rng) -> bytes:
    """The digest of the same events' fold when they come in another order, children before parents and all; empty if
    some of them do not enter so.
    """
    events = list(ledger.clock.events())
    rng.shuffle(events)
    clock = MerkleClock(ledger.clock.genesis)
    for event in events:
        for block in records.blocks_of(event):
            clock.add_block(block)
    waiting = list(events)
    while waiting:  # more than the waiting room holds may have to come again
        for event in waiting:
            clock.add(event)
        left = [event for event in waiting if event.id not in clock]
        if len(left) == len(waiting):
            return b""  # in this order not all of them enter
        waiting = left
    return Catalog.fold((event for event in events if clock.counts(event)), ledger.manifest).digest()


def sizes_of(node: Node) -> Mapping[str, tuple[int, int]]:
    """Each buffer that strangers may fill, and its bound."""
    events, size = waiting_of(node)
    return {
        "waiting events of one sender": (max(events, default=0), WAITING_EVENTS_MAX),
        "waiting bytes of one sender": (max(size, default=0), WAITING_BYTES_MAX),
        "waiting bytes": (sum(size), WAITING_TOTAL_BYTES_MAX),
    }
