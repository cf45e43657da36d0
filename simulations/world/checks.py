"""What must hold in a world, whatever went wrong: each promise a function of plain views, and what breaks it.

A view is what one honest node knows at one moment, copied out of it (`views`); the checks see neither nodes nor time
and can be tested with views made by hand. Each compares against something computed here in another way than in
production: heads from the events' own references, witnesses counted one by one, copies counted on disks.

Promises: nodes with the same events agree on heads, state and owners, and the order of arrival does not show; what was
acknowledged is on enough disks and stays; buffers keep their bounds; whoever signs two events in one place is exposed;
when the storm is over everybody knows the same and sees who is there, in time; and what nobody writes does not grow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

#: Disks that an acknowledged event is on, where there are so many; and an acknowledged shard of three replicas.
EVENT_DISKS, SHARD_DISKS = 3, 2
#: Names of nodes that one violation lists.
NAMED_MAX = 5


@dataclass(frozen=True, slots=True)
class Fact:
    """An event as far as the checks need it."""

    id: bytes
    author: str
    kind: str
    object_id: str
    #: What it stands on directly.
    past: tuple[bytes, ...]
    #: Of a `down`, the `up` that it ends.
    ends: bytes = b""


@dataclass(frozen=True, slots=True)
class View:
    """What one honest node knows."""

    name: str
    peer_id: str
    events: frozenset[bytes]
    heads: tuple[bytes, ...]
    #: The digest of its fold.
    state: bytes
    #: For each of some sample keys, who should hold it, best first.
    owners: tuple[tuple[str, ...], ...] = ()
    #: Authors that it holds proof against.
    exposed: frozenset[str] = frozenset()
    #: How it sees each member that has not left, by peer id.
    states: Mapping[str, str] = field(default_factory=dict)
    #: Members whose record says that they are down.
    down: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Sight:
    """A look at one node in the middle of things: the members it counts on, and the owners it names."""

    name: str
    #: Everything of each present member's record that placement may use.
    members: tuple[tuple[object, ...], ...]
    #: By version, for each of its shards.
    owners: Mapping[bytes, tuple[tuple[str, ...], ...]]


@dataclass(frozen=True, slots=True)
class Ack:
    """A write that was acknowledged: its events, and how many disks were promised and found at that moment."""

    write: int
    host: str
    events: tuple[bytes, ...]
    promised: int
    found: int


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise: which one, and how it shows."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def same_events_same_answers(views: Sequence[View]) -> list[Violation]:
    """Nodes with equal sets have equal heads, states and owners."""
    found: list[Violation] = []
    first: dict[frozenset[bytes], View] = {}
    for view in views:
        other = first.setdefault(view.events, view)
        for what in ("heads", "state", "owners"):
            if getattr(view, what) != getattr(other, what):
                text = f"{other.name} and {view.name} have the same {len(view.events)} events and other {what}"
                found.append(Violation("disagreement", text))
    return found


def heads_are_heads(view: View, facts: Mapping[bytes, Fact]) -> list[Violation]:
    """Heads are the events that no event stands on."""
    referenced = {past for event in view.events for past in facts[event].past}
    if set(view.heads) == view.events - referenced:
        return []
    text = f"{view.name} has {len(view.heads)} heads, {len(view.events - referenced)} events are on top"
    return [Violation("heads", text)]


def order_does_not_show(view: View, refolded: bytes) -> list[Violation]:
    """The fold of the same events in another order is the same state."""
    if view.state == refolded:
        return []
    return [Violation("order", f"{view.name}'s state is not the fold of its {len(view.events)} events")]


def enough_disks(ack: Ack) -> list[Violation]:
    """When it was acknowledged it was on as many disks as promised."""
    if ack.found >= ack.promised:
        return []
    text = f"write {ack.write} of {ack.host} was acknowledged on {ack.found} of {ack.promised} disks"
    return [Violation("not durable", text)]


def shard_on_disks(write: int, shard: str, found: int, members: int) -> list[Violation]:
    """When its publish was acknowledged, a shard was on a majority of the disks that it belongs on."""
    if found >= min(SHARD_DISKS, members):
        return []
    return [Violation("shard not durable", f"write {write} was acknowledged with shard {shard[-6:]} on {found} disks")]


def owners_follow(sights: Iterable[Sight]) -> list[Violation]:
    """Whoever knows the same members owes a shard to the same owners, whatever else it knows and wherever it stands."""
    first: dict[tuple[object, ...], Sight] = {}
    found: list[Violation] = []
    for sight in sights:
        for version, owners in sight.owners.items():
            other = first.setdefault((sight.members, version), sight)
            if other.owners[version] != owners:
                text = f"{other.name} and {sight.name} know the same members and other owners of {version.hex()[-6:]}"
                found.append(Violation("owners", text))
    return found


def minority_is_silent(name: str, seen: int, members: int, downs: int) -> list[Violation]:
    """Who sees no more than half of the members records nobody's end; in a swarm of two there is no other half."""
    if downs == 0 or members < 3 or 2 * seen > members:
        return []
    return [Violation("minority", f"{name}, which sees {seen} of {members} members, recorded {downs} of them as down")]


def burial_has_a_reason(name: str, peer: str, in_reach_s: float, patience_s: float) -> list[Violation]:
    """Nobody is taken for dead who has been running, and in easy reach, for long: whatever is said of it."""
    if in_reach_s <= patience_s:
        return []
    return [Violation("buried", f"{name} takes {peer} for dead, which has been in its reach for {in_reach_s:.1f} s")]


def end_was_witnessed(name: str, peer: str, witnesses: int, members: int) -> list[Violation]:
    """At the moment at which a record says that somebody is down, enough others have said so."""
    if witnesses >= (2 if members >= 3 else 1):
        return []
    return [Violation("unwitnessed", f"{name} records {peer} as down on the word of {witnesses}")]


def nothing_lost(acks: Iterable[Ack], views: Sequence[View]) -> list[Violation]:
    """After the heal every acknowledged event is in every clock."""
    found: list[Violation] = []
    for ack in acks:
        lacking = [view.name for view in views if not view.events.issuperset(ack.events)]
        if lacking:
            text = f"write {ack.write}, acknowledged by {ack.host}, is missing on {_some(lacking)}"
            found.append(Violation("lost", text))
    return found


def one_set(views: Sequence[View]) -> list[Violation]:
    """Everybody knows everything that anybody knows."""
    everything = frozenset[bytes]().union(*(view.events for view in views))
    lacking = [f"{view.name} ({len(everything - view.events)})" for view in views if view.events != everything]
    if not lacking:
        return []
    return [Violation("not converged", f"of {len(everything)} events some are missing on {_some(lacking)}")]


def sights_agree(views: Sequence[View], alive: frozenset[str], gone: frozenset[str]) -> list[Violation]:
    """Every node sees as alive who runs, and as alive nobody who is gone for good; who runs is not recorded as down."""
    found: list[Violation] = []
    for view in views:
        wrong = [
            f"{peer[-6:]} {view.states.get(peer, 'unknown')}"
            for peer in sorted(alive - {view.peer_id})
            if view.states.get(peer) != "alive"
        ]
        wrong += [f"{peer[-6:]} still alive" for peer in sorted(gone) if view.states.get(peer) == "alive"]
        wrong += [f"{peer[-6:]} recorded down" for peer in sorted(alive & view.down)]
        if wrong:
            found.append(Violation("sights", f"{view.name} sees {_some(wrong)}"))
    return found


def downs_are_witnessed(view: View, facts: Mapping[bytes, Fact], members: int) -> list[Violation]:
    """Who is recorded as down was said to be so by two others (by one in a swarm of two), about one `up` of its."""
    needed = 2 if members >= 3 else 1
    witnesses: dict[tuple[str, bytes], set[str]] = {}
    for event in sorted(view.events):
        fact = facts[event]
        if fact.kind == "down" and fact.author != fact.object_id:
            witnesses.setdefault((fact.object_id, fact.ends), set()).add(fact.author)
    proven = {peer for (peer, _), authors in witnesses.items() if len(authors) >= needed}
    unproven = sorted(view.down - proven)
    if not unproven:
        return []
    return [Violation("unwitnessed", f"{view.name} records {_some([peer[-6:] for peer in unproven])} as down")]


def exposed(views: Sequence[View], equivocators: frozenset[str], hostile: frozenset[str]) -> list[Violation]:
    """Proof against everybody whose fork was heard is everywhere, and against no honest one anywhere."""
    found: list[Violation] = []
    for view in views:
        unproven, wronged = sorted(equivocators - view.exposed), sorted(view.exposed - hostile)
        found += [Violation("unexposed", f"{view.name} has no proof against {peer[-6:]}") for peer in unproven]
        found += [Violation("honest fork", f"{view.name} has proof against honest {peer[-6:]}") for peer in wronged]
    return found


def few_heads(view: View, heads_max: int) -> list[Violation]:
    """Once it has been still for a while the loose ends are tied together."""
    if len(view.heads) <= heads_max:
        return []
    return [Violation("unmerged", f"{view.name} still has {len(view.heads)} heads, not at most {heads_max}")]


def within_bounds(name: str, sizes: Mapping[str, tuple[int, int]]) -> list[Violation]:
    """Each buffer is no larger than its named bound."""
    return [
        Violation("bound", f"{buffer} of {name} has {size}, its bound is {bound}")
        for buffer, (size, bound) in sizes.items()
        if size > bound
    ]


def still(before: Sequence[View], after: Sequence[View], facts: Mapping[bytes, Fact]) -> list[Violation]:
    """While nobody writes nothing is written, but for one protest of each member that had waited for its time."""
    old = frozenset[bytes]().union(*(view.events for view in before))
    new = [facts[event] for event in sorted(frozenset[bytes]().union(*(view.events for view in after)) - old)]
    protests = {fact.author: fact.id for fact in new if fact.kind == "up"}
    kinds = Counter(fact.kind for fact in new if protests.get(fact.author) != fact.id)
    return [Violation("restless", f"{dict(kinds)} were written while nobody asked for anything")] if kinds else []


def strong_enough(writes: int, wanted: int, partitions: int, losses: int) -> list[Violation]:
    """A run that was too quiet proves nothing and does not count."""
    weak = []
    if writes < wanted:
        weak.append(f"{writes} writes of {wanted}")
    if not partitions:
        weak.append("no partition")
    if not losses:
        weak.append("no crash that discarded anything")
    return [Violation("weak seed", ", ".join(weak))] if weak else []


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED_MAX])
    return shown if len(names) <= NAMED_MAX else f"{shown} and {len(names) - NAMED_MAX} more"
