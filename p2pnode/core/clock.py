"""The merkle clock: a set of signed events that any two replicas can compare, complete and agree on.

An event enters when everything it stands on is here (its parents, its author's previous event, its blocks)
and it is valid; until then it waits, in a buffer bounded per sender. Validity is a pure function of the
causal past, so every replica admits the same set whatever the order of arrival:

- h is 1 + the largest height it stands on; q follows its `pa` in one session, or opens a new session at 0;
- everything but the genesis event has parents, so all of it descends from one genesis;
- the author is entitled: its standing (the role of its last `up`, nothing after a `leave`) travels along its
  own `pa` chain, and a chain that has no past begins with `up`.

Two events with one (author, session, sequence) are a fork: both are kept, and of that author only what lies
before the fork on every branch counts (`counts`), until somebody readmits it. Signatures are checked before
`add` (`event.check_signature`); this file refuses time, randomness and IO.

Sources: Merkle-CRDTs (arXiv 2004.00107) for the clock, Kleppmann, PaPoC 2022, for validity from the causal
past.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from p2pnode.core import records
from p2pnode.core.event import PARENTS_MAX, BadEvent, Event, Position
from p2pnode.core.model import NodeRole

#: Waiting events of one sender: a burst of pushes that overtook each other, no more; sync serves parents
#: first.
WAITING_EVENTS_MAX = 1024
WAITING_BYTES_MAX = 8 << 20
#: Waiting bytes of all senders together, so that many senders are no way around the bound for one.
WAITING_TOTAL_BYTES_MAX = 64 << 20

_MODULUS = 1 << 256

#: (author, session) -> how many of its events are known: 0…n-1.
Marks = Mapping[tuple[str, bytes], int]


class Verdict(Enum):
    ADDED = "added"
    KNOWN = "known"
    WAITING = "waiting"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An invalid event, who sent it and why it was refused."""

    event_id: bytes
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an event, and of those that had waited for it."""

    verdict: Verdict
    added: tuple[Event, ...] = ()
    refused: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class Fork:
    """Proof that an author's key spoke with two tongues: different events of one (author, session, sequence)."""

    author: str
    session: bytes
    sequence: int
    events: tuple[bytes, ...]


class MerkleClock:
    """The set. Adding is O(parents); every answer is a function of the set alone."""

    def __init__(self, genesis: bytes) -> None:
        #: The id of the genesis event, whether or not it is here yet.
        self.genesis = genesis
        self._events: dict[bytes, Event] = {}
        self._heads: set[bytes] = set()
        self._sum = 0
        self._sessions: dict[tuple[str, bytes], list[Event]] = {}
        self._tips: dict[str, Event] = {}
        #: event id -> its author's role right after it; None: not (or no longer) a member.
        self._standing: dict[bytes, NodeRole | None] = {}
        self._forks: dict[tuple[str, bytes, int], list[bytes]] = {}
        self._before_fork: dict[str, frozenset[bytes]] = {}
        self._blocks: set[bytes] = set()
        self._waiting = _WaitingRoom()

    # -- adding --------------------------------------------------------------------------------------------

    def add(self, event: Event, source: str = "") -> Outcome:
        """Take in an event whose signature is good. `source` is the peer that sent it, for bounds and blame."""
        if event.id in self._events:
            return Outcome(Verdict.KNOWN)
        added, refused = self._settle([(event, source)])
        if event.id in self._events:
            return Outcome(Verdict.ADDED, added, refused)
        if any(refusal.event_id == event.id for refusal in refused):
            return Outcome(Verdict.REFUSED, added, refused)
        return Outcome(Verdict.WAITING, added, refused)

    def add_block(self, cid: bytes) -> Outcome:
        """That block is on disk now: what waited for it enters."""
        self._blocks.add(cid)
        return Outcome(Verdict.KNOWN, *self._settle(self._waiting.release(cid)))

    def wanted_blocks(self) -> list[bytes]:
        """Blocks that otherwise admissible events wait for; sorted."""
        return self._waiting.wanted_blocks()

    def refusal(self, event: Event) -> str:
        """Why this event, of which nothing but its blocks is lacking, would be refused; empty if it would not."""
        try:
            self._lacking(event)
        except BadEvent as error:
            return error.message
        return ""

    def _settle(self, queue: list[tuple[Event, str]]) -> tuple[tuple[Event, ...], tuple[Refusal, ...]]:
        added: list[Event] = []
        refused: list[Refusal] = []
        while queue:
            event, source = queue.pop()
            if event.id in self._events:
                continue
            try:
                lacking = self._lacking(event)
            except BadEvent as error:
                refused.append(Refusal(event.id, source, error.message))
                continue
            if lacking is not None:
                self._waiting.admit(event, source, lacking)
                continue
            self._insert(event)
            added.append(event)
            queue.extend(self._waiting.release(event.id))
        return tuple(added), tuple(refused)

    def _lacking(self, event: Event) -> bytes | None:
        """The first thing the event waits for; None when it may enter. Raises BadEvent when it never may."""
        records.check(event)
        if event.kind == records.GENESIS:
            self._check_genesis(event)
        elif event.namespace != self.genesis:
            raise BadEvent("it belongs to another swarm")
        elif not event.parents:
            raise BadEvent("it has no parents")
        for needed in event.past:
            if needed not in self._events:
                return needed
        if event.kind != records.GENESIS:
            self._check_place(event)
            self._check_entitled(event)
        for block in records.blocks_of(event):
            if block not in self._blocks:
                return block
        return None

    def _check_genesis(self, event: Event) -> None:
        plain = not event.past and event.namespace is None and event.sequence == 0 and event.height == 1
        if event.id != self.genesis or not plain:
            raise BadEvent("it is another swarm's genesis")

    def _check_place(self, event: Event) -> None:
        height = 1 + max(self._events[needed].height for needed in event.past)
        if event.height != height:
            raise BadEvent(f"its height is {event.height} and must be {height}")
        previous = self._events[event.previous] if event.previous is not None else None
        if previous is not None and previous.author != event.author:
            raise BadEvent("its previous event is another author's")
        expected = 0
        if previous is not None and previous.session == event.session:
            expected = previous.sequence + 1
        if event.sequence != expected:
            raise BadEvent(f"its sequence is {event.sequence} and must be {expected}")

    def _check_entitled(self, event: Event) -> None:
        standing = self._standing[event.previous] if event.previous is not None else None
        if event.kind in (records.UP, records.LEAVE) and event.object_id != event.author:
            raise BadEvent("only a member itself says that it is up or leaves")
        if event.kind == records.UP:
            return
        if standing is None:
            raise BadEvent("its author was no member when it said so")
        if event.kind in (records.DEFINE, records.VERSION, records.DELETE) and not standing.defines:
            raise BadEvent(f"a {standing.value} may not {event.kind}")

    def _insert(self, event: Event) -> None:
        self._events[event.id] = event
        self._heads.difference_update(event.past)
        self._heads.add(event.id)
        self._sum = (self._sum + int.from_bytes(event.id[-32:], "big")) % _MODULUS
        self._standing[event.id] = self._standing_after(event)
        tip = self._tips.get(event.author)
        if tip is None or tip.order < event.order:
            self._tips[event.author] = event
        slots = self._sessions.setdefault((event.author, event.session), [])
        if event.sequence == len(slots):
            slots.append(event)
        else:
            self._record_fork(event, slots[event.sequence])

    def _standing_after(self, event: Event) -> NodeRole | None:
        if event.kind == records.UP:
            return records.read_up(event).role
        if event.kind == records.LEAVE or event.previous is None:
            return None
        return self._standing[event.previous]

    # -- forks ---------------------------------------------------------------------------------------------

    def _record_fork(self, event: Event, first: Event) -> None:
        slot = (event.author, event.session, event.sequence)
        self._forks.setdefault(slot, [first.id]).append(event.id)
        branches = [
            self._chain_before(self._events[event_id])
            for (author, _, _), ids in self._forks.items()
            if author == event.author
            for event_id in ids
        ]
        self._before_fork[event.author] = frozenset.intersection(*branches)

    def _chain_before(self, event: Event) -> frozenset[bytes]:
        chain: list[bytes] = []
        while event.previous is not None:
            chain.append(event.previous)
            event = self._events[event.previous]
        return frozenset(chain)

    @property
    def fork_count(self) -> int:
        """Grows with every fork that is found: a fold made before that is out of date."""
        return sum(len(ids) for ids in self._forks.values())

    def forks(self) -> list[Fork]:
        """Every proof of a fork here, sorted."""
        return [Fork(*slot, tuple(sorted(ids))) for slot, ids in sorted(self._forks.items())]

    def counts(self, event: Event) -> bool:
        """Whether the fold takes this event: false for a forked author's events not before its fork."""
        before = self._before_fork.get(event.author)
        return before is None or event.id in before

    # -- answers -------------------------------------------------------------------------------------------

    def __contains__(self, event_id: bytes) -> bool:
        return event_id in self._events

    def __len__(self) -> int:
        return len(self._events)

    def get(self, event_id: bytes) -> Event | None:
        return self._events.get(event_id)

    def events(self) -> list[Event]:
        """All of it, in (height, id) order: parents first."""
        return sorted(self._events.values(), key=_order)

    @property
    def fingerprint(self) -> bytes:
        """32 bytes that are equal for equal sets (the sum of the ids' digests modulo 2^256)."""
        return self._sum.to_bytes(32, "big")

    @property
    def height(self) -> int:
        return max((self._events[head].height for head in self._heads), default=0)

    def heads(self) -> list[bytes]:
        """Events that no event here stands on; sorted."""
        return sorted(self._heads)

    def marks(self) -> dict[tuple[str, bytes], int]:
        """How far each author's sessions are known, in sorted order."""
        return {key: len(slots) for key, slots in sorted(self._sessions.items())}

    def missing(self, marks: Marks) -> list[Event]:
        """What a peer with these marks lacks, in (height, id) order.

        A session that forked is served from its first fork on: marks cannot tell the branches apart.
        """
        lacking: dict[bytes, Event] = {}
        for key, slots in self._sessions.items():
            for event in slots[marks.get(key, 0) :]:
                lacking[event.id] = event
        for (author, session, sequence), ids in self._forks.items():
            for event_id in ids:
                lacking[event_id] = self._events[event_id]
            for event in self._sessions[author, session][sequence:]:
                lacking[event.id] = event
        return sorted(lacking.values(), key=_order)

    def next_position(self, author: str, session: bytes) -> Position:
        """Where the author's next event of that session stands: on the heads, after its own last one."""
        if not self._events:
            return Position()
        slots = self._sessions.get((author, session))
        previous = slots[-1] if slots else self._tips.get(author)
        parents = tuple(self.heads()[:PARENTS_MAX])
        stands_on = [self._events[parent].height for parent in parents]
        if previous is not None:
            stands_on.append(previous.height)
        return Position(
            sequence=len(slots) if slots else 0,
            previous=previous.id if previous else None,
            parents=parents,
            height=1 + max(stands_on),
        )

    @property
    def waiting(self) -> int:
        """Events that wait for their past or their blocks."""
        return len(self._waiting)


@dataclass(frozen=True, slots=True)
class _Guest:
    event: Event
    source: str
    needs: bytes

    @property
    def size(self) -> int:
        return len(self.event.encoded)


class _WaitingRoom:
    """Events whose past is not here yet; the oldest of a sender make room for its newest."""

    def __init__(self) -> None:
        self._by_source: dict[str, dict[bytes, _Guest]] = {}
        self._bytes: dict[str, int] = {}
        self._by_need: dict[bytes, dict[bytes, _Guest]] = {}

    def __len__(self) -> int:
        return sum(len(guests) for guests in self._by_source.values())

    def admit(self, event: Event, source: str, needs: bytes) -> None:
        guest = _Guest(event, source, needs)
        if event.id in self._by_need.get(needs, {}):
            return
        guests = self._by_source.setdefault(source, {})
        guests[event.id] = guest
        self._bytes[source] = self._bytes.get(source, 0) + guest.size
        self._by_need.setdefault(needs, {})[event.id] = guest
        # One event is far smaller than the bounds, so the newest itself always stays.
        while len(guests) > WAITING_EVENTS_MAX or self._bytes[source] > WAITING_BYTES_MAX:
            self._dismiss(next(iter(guests.values())))
        while sum(self._bytes.values()) > WAITING_TOTAL_BYTES_MAX:
            largest = max(sorted(self._bytes), key=lambda name: self._bytes[name])
            self._dismiss(next(iter(self._by_source[largest].values())))

    def release(self, needed: bytes) -> list[tuple[Event, str]]:
        """Take out what waited for that id."""
        released = list(self._by_need.get(needed, {}).values())
        for guest in released:
            self._dismiss(guest)
        return [(guest.event, guest.source) for guest in released]

    def wanted_blocks(self) -> list[bytes]:
        return sorted(
            needed
            for needed, guests in self._by_need.items()
            if any(needed not in guest.event.past for guest in guests.values())
        )

    def _dismiss(self, guest: _Guest) -> None:
        guests = self._by_source[guest.source]
        del guests[guest.event.id]
        self._bytes[guest.source] -= guest.size
        if not guests:
            del self._by_source[guest.source], self._bytes[guest.source]
        waiting = self._by_need.get(guest.needs, {})
        waiting.pop(guest.event.id, None)
        if not waiting:
            self._by_need.pop(guest.needs, None)


def _order(event: Event) -> tuple[int, bytes]:
    return event.order
