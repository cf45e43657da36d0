"""The merkle clock: a set of signed events that any two replicas can compare, complete and agree on.

An event enters when everything it stands on is here (its parents, its author's previous event, the readmission
it takes up, its blocks) and it is valid; until then it waits, in a buffer bounded per sender. Validity is a pure
function of the causal past, so every replica admits the same set whatever the order of arrival:

- h is 1 + the largest height it stands on; q follows its `pa` in one session, or opens a new session at 0;
- everything but the genesis event has parents, so all of it descends from one genesis;
- the author is entitled: its standing (the role of its last `up`, nothing after a `leave`) travels along its
  own `pa` chain, and a chain that has no past begins with `up`.

Whether an event of a forked author counts, `forks` says. The clock keeps the place of every event
(`event_index`) and only the newest events themselves; others are read where the caller of the constructor says.
Ranges of events are therefore answered as ids, in (height, id) order, parents first; they may be asked for in a
thread while the loop adds events. Signatures are checked before `add` (`event.check_signature`); this file
refuses time, randomness and IO.

Sources: Merkle-CRDTs (arXiv 2004.00107) for the clock, Kleppmann, PaPoC 2022, for validity from the causal
past.
"""

from __future__ import annotations

import hashlib
import heapq
from array import array
from collections import OrderedDict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from p2pnode.core import records
from p2pnode.core.cid import DIGEST_BYTES
from p2pnode.core.conduct import Reason
from p2pnode.core.event import PARENTS_MAX, BadEvent, Event, Position
from p2pnode.core.event_index import NO_ROW, EventIndex
from p2pnode.core.forks import Fork, Forks
from p2pnode.core.model import NodeRole
from p2pnode.core.waiting import WaitingRoom

#: Events kept as they are, so that what is pushed and folded now is not read back from the disk: some 8 MB.
EVENTS_KEPT = 4096
#: Events that `missing_beyond` looks at before it gives up: 0.2 s of the loop.
BEYOND_STEPS_MAX = 1 << 17

_MODULUS = 1 << 256
#: How a standing is numbered in the index; 0: not, or no longer, a member.
_ROLES: tuple[NodeRole | None, ...] = (None, *sorted(NodeRole))
_DEFINING = (records.DEFINE, records.VERSION, records.DELETE, records.READMIT)

Read = Callable[[bytes], Event]
#: Rows, and how many of them, whose heights rise.
_Run: TypeAlias = tuple[Sequence[int], int]


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
    fault: Reason


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an event, and of those that had waited for it."""

    verdict: Verdict
    added: tuple[Event, ...] = ()
    refused: tuple[Refusal, ...] = ()


@dataclass(slots=True)
class _Author:
    """What is known of one author."""

    #: Its sessions' numbers, by name.
    sessions: dict[bytes, int] = field(default_factory=dict)
    #: Its events that none of its own follows.
    leaves: set[bytes] = field(default_factory=set)
    #: Its last event by (height, id).
    tip: int = NO_ROW


class MerkleClock:
    """The set. Adding is O(parents); every answer is a function of the set alone.

    `read` fetches an event that is no longer kept, from the disk; without it every event is kept.
    """

    def __init__(self, genesis: bytes, read: Read | None = None) -> None:
        #: The id of the genesis event, whether or not it is here yet.
        self.genesis = genesis
        self._read = read
        self._kept: OrderedDict[bytes, Event] = OrderedDict()
        self._index = EventIndex()
        self._heads: set[bytes] = set()
        self._sum = 0
        self._authors: dict[str, _Author] = {}
        #: By number of the session: the rows at its places, the first that came where there are several.
        self._slots: list[array[int]] = []
        self._forks = Forks(self._index)
        self._blocks: set[bytes] = set()
        self._waiting = WaitingRoom()

    # -- adding --------------------------------------------------------------------------------------------

    def add(self, event: Event, source: str = "") -> Outcome:
        """Take in an event whose signature is good. `source` is the peer that sent it, for bounds and blame."""
        if event.id in self:
            return Outcome(Verdict.KNOWN)
        added, refused = self._settle([(event, source)])
        # It was looked at first; others only if it entered.
        verdict = Verdict.ADDED if added else Verdict.REFUSED if refused else Verdict.WAITING
        return Outcome(verdict, added, refused)

    def add_block(self, cid: bytes) -> Outcome:
        """That block is on disk now: what waited for it enters."""
        self._blocks.add(cid)
        return Outcome(Verdict.KNOWN, *self._settle(self._waiting.release(cid)))

    def wanted_blocks(self, source: str | None = None, events: Container[bytes] = ()) -> list[bytes]:
        """Blocks that otherwise admissible events wait for; sorted. With `source` those that it can be asked for: what
        it sent itself, or what is among `events`, which it sent as well as others.
        """
        return self._waiting.wanted_blocks(source, events)

    def cursor(self, author: str, session: bytes) -> Cursor:
        """Where that author writes next."""
        return Cursor(self, author, session)

    def _settle(self, queue: list[tuple[Event, str]]) -> tuple[tuple[Event, ...], tuple[Refusal, ...]]:
        added: list[Event] = []
        refused: list[Refusal] = []
        while queue:
            event, source = queue.pop()
            past = event.past
            rows = list(map(self._index.row, past))
            try:
                lacking = self._lacking(event, past, rows)
            except BadEvent as error:
                refused.append(Refusal(event.id, source, error.message, error.fault))
                continue
            if lacking is not None:
                self._waiting.admit(event, source, lacking)
                continue
            self._insert(event, rows, NO_ROW if event.previous is None else rows[past.index(event.previous)])
            added.append(event)
            queue.extend(guest for guest in self._waiting.release(event.id) if guest[0].id not in self)
        return tuple(added), tuple(refused)

    def _lacking(self, event: Event, past: Sequence[bytes], rows: Sequence[int]) -> bytes | None:
        """The first thing the event waits for; None when it may enter. Raises BadEvent when it never may.

        `past` is what it stands on, and `rows` where that is.
        """
        records.check(event)
        if event.kind == records.GENESIS:
            self._check_genesis(event)
        elif event.namespace != self.genesis:
            raise BadEvent("it belongs to another swarm", Reason.FOREIGN)
        elif not event.parents:
            raise BadEvent("it has no parents")
        for needed, row in zip(past, rows, strict=True):
            if row == NO_ROW:
                return needed
        readmission = records.readmission_of(event)
        if readmission is not None and readmission not in self:
            return readmission
        if event.kind != records.GENESIS:
            previous = NO_ROW if event.previous is None else rows[past.index(event.previous)]
            self._check_place(event, rows, previous)
            self._check_entitled(event, self._standing(previous))
        for block in records.blocks_of(event):
            if block not in self._blocks:
                return block
        return None

    def _check_genesis(self, event: Event) -> None:
        plain = not event.past and event.namespace is None and event.sequence == 0 and event.height == 1
        if event.id != self.genesis or not plain:
            raise BadEvent("it is another swarm's genesis", Reason.FOREIGN)

    def _check_place(self, event: Event, past: Sequence[int], previous: int) -> None:
        index = self._index
        height = 1 + max([index.height[row] for row in past])
        if event.height != height:
            raise BadEvent(f"its height is {event.height} and must be {height}", Reason.FORGED_HEIGHT)
        expected = 0
        if previous != NO_ROW:
            author, session = index.sessions[index.session[previous]]
            if author != event.author:
                raise BadEvent("its previous event is another author's", Reason.FORGED_SEQUENCE)
            if session == event.session:
                expected = index.sequence[previous] + 1
        if event.sequence != expected:
            raise BadEvent(f"its sequence is {event.sequence} and must be {expected}", Reason.FORGED_SEQUENCE)

    def _check_entitled(self, event: Event, standing: int) -> None:
        """`standing` is its author's before it."""
        if event.kind in (records.UP, records.LEAVE) and event.object_id != event.author:
            raise BadEvent("only a member itself says that it is up or leaves", Reason.NOT_ENTITLED)
        if event.kind == records.UP:
            readmission = records.readmission_of(event)
            if readmission is not None and not self._forks.readmits(self._index.row(readmission), event.author):
                raise BadEvent("what it takes up is no readmission of its author", Reason.NOT_ENTITLED)
            return
        role = _ROLES[standing]
        if role is None:
            raise BadEvent("its author was no member when it said so", Reason.NOT_ENTITLED)
        if event.kind in _DEFINING and not role.defines:
            raise BadEvent(f"a {role.value} may not {event.kind}", Reason.NOT_ENTITLED)

    def _standing(self, row: int) -> int:
        return 0 if row == NO_ROW else self._index.standing[row]

    def _insert(self, event: Event, past: Sequence[int], previous: int) -> None:
        index = self._index
        author = self._authors.setdefault(event.author, _Author())
        session = author.sessions.get(event.session)
        if session is None:
            session = author.sessions[event.session] = len(index.sessions)
            index.sessions.append((event.author, event.session))
            self._slots.append(array("i"))
        row = index.add(
            event.id,
            height=event.height,
            session=session,
            sequence=event.sequence,
            previous=previous,
            standing=_standing_after(event, self._standing(previous)),
            past=past,
        )
        self._keep(event)
        self._heads.difference_update(event.past)
        self._heads.add(event.id)
        self._sum = (self._sum + int.from_bytes(event.id[-DIGEST_BYTES:], "big")) % _MODULUS
        author.leaves.add(event.id)
        if event.previous is not None:
            author.leaves.discard(event.previous)
        if author.tip == NO_ROW or index.order(author.tip) < event.order:
            author.tip = row
        self._take_place(row)
        self._forks.arrived(event.id)
        readmission = records.readmission_of(event)
        if readmission is not None:
            self._forks.take_up(index.row(readmission), row)
        if event.kind == records.READMIT:
            self._forks.readmit(row, event.object_id, records.read_readmit(event))

    def _take_place(self, row: int) -> None:
        slots, sequence = self._slots[self._index.session[row]], self._index.sequence[row]
        if sequence == len(slots):
            slots.append(row)
        else:
            self._forks.record(slots[sequence], row)

    def _keep(self, event: Event) -> None:
        self._kept[event.id] = event
        if self._read is not None and len(self._kept) > EVENTS_KEPT:
            self._kept.popitem(last=False)

    # -- forks ---------------------------------------------------------------------------------------------

    @property
    def fork_count(self) -> int:
        """Events that are a branch of some fork."""
        return self._forks.count

    def accused(self) -> list[str]:
        """Authors who ever signed two events in one place, forgiven or not; sorted."""
        return self._forks.accused()

    def is_heard(self, author: str) -> bool:
        """Whether the last word of any of the author's chains counts."""
        known = self._authors.get(author, _Author())
        return any(self._forks.ruling.counts(self._row(leaf)) for leaf in known.leaves)

    @property
    def rulings(self) -> int:
        """Grows whenever what counts may have changed for events that were here before: a fold made then is out of
        date.
        """
        return self._forks.rulings

    def forks(self, author: str | None = None) -> list[Fork]:
        """Every proof of a fork here, of that author or of all, forgiven or not; sorted."""
        index = self._index
        found = [
            Fork(*index.sessions[session], sequence, tuple(sorted(map(index.id, rows))))
            for accused in (self.accused() if author is None else (author,))
            for session in self._forks.sessions(accused)
            for sequence, rows in self._forks.at(session).items()
        ]
        return sorted(found, key=lambda fork: (fork.author, fork.session, fork.sequence))

    def counts(self, event: Event) -> bool:
        """Whether the fold takes this event: false for what is not here, and what a forked author said and nobody
        forgave.
        """
        return self.ruling()(event)

    def ruling(self) -> Callable[[Event], bool]:
        """`counts` as of this moment, for a thread."""
        find, ruling = self._index.row, self._forks.ruling
        accused = ruling.accused
        return lambda event: (row := find(event.id)) != NO_ROW and (event.author not in accused or ruling.counts(row))

    # -- answers -------------------------------------------------------------------------------------------

    def __contains__(self, event_id: bytes) -> bool:
        return self._index.row(event_id) != NO_ROW

    def __len__(self) -> int:
        return len(self._index)

    def get(self, event_id: bytes) -> Event | None:
        """That event, if it is here. Reads the disk when it is not one of the newest."""
        event = self._kept.get(event_id)
        if event is None and self._read is not None and event_id in self:
            return self._read(event_id)
        return event

    def height_of(self, event_id: bytes) -> int:
        """Raises KeyError if it is not here, as the next two."""
        return self._index.height[self._row(event_id)]

    def previous_of(self, event_id: bytes) -> bytes | None:
        """Its author's event before it."""
        previous = self._index.previous[self._row(event_id)]
        return None if previous == NO_ROW else self._index.id(previous)

    def author_of(self, event_id: bytes) -> str:
        return self._index.author(self._row(event_id))

    def _row(self, event_id: bytes) -> int:
        row = self._index.row(event_id)
        if row == NO_ROW:
            raise KeyError(event_id)
        return row

    def events(self) -> Iterator[Event]:
        """All of it, in (height, id) order: parents first. Reads the disk, so it is for threads."""
        return (event for _, event_id in self._rising(0, None) if (event := self.get(event_id)) is not None)

    @property
    def fingerprint(self) -> bytes:
        """32 bytes that are equal for equal sets (the sum of the ids' digests modulo 2^256)."""
        return self._sum.to_bytes(32, "big")

    @property
    def height(self) -> int:
        return max((self.height_of(head) for head in self._heads), default=0)

    def heads(self) -> list[bytes]:
        """Events that no event here stands on; sorted."""
        return sorted(self._heads)

    def authors(self) -> list[str]:
        """Everybody of whom an event is here; sorted."""
        return sorted(self._authors)

    def leaves(self, author: str) -> list[bytes]:
        """The author's events that none of its own follows; sorted. They determine all of its events, forks included,
        for each stands on its previous one.
        """
        return sorted(self._authors[author].leaves) if author in self._authors else []

    def between(self, low: int, high: int | None = None) -> list[bytes]:
        """The events of heights low ≤ h < high, in (height, id) order."""
        return list(self.rising(low, high))

    def rising(self, low: int, high: int | None = None) -> Iterator[bytes]:
        """The same one by one, as of this moment, also when it is drawn later: a million need no list."""
        return (event_id for _, event_id in self._rising(low, high))

    def _rising(self, low: int, high: int | None) -> Iterator[tuple[int, bytes]]:
        runs: list[_Run] = []
        for number, slots in enumerate(list(self._slots)):
            fork = min(list(self._forks.at(number)), default=None)
            runs.append((slots, len(slots) if fork is None else fork))
            if fork is not None:
                branches = self._branches(number, fork)
                runs.append((branches, len(branches)))
        rising = self._index.rising
        return heapq.merge(*(self._orders(rows, rising(rows, stop, low, high)) for rows, stop in runs if stop))

    def _orders(self, rows: Sequence[int], places: range) -> Iterator[tuple[int, bytes]]:
        return (self._index.order(rows[place]) for place in places)

    def missing_beyond(self, heads: Sequence[bytes]) -> list[bytes] | None:
        """What a peer with these heads lacks, in (height, id) order: what is neither one of them nor before one.

        None if one of them is not here, or if too much lies between to look at on the loop.
        """
        index = self._index
        theirs = {index.row(head) for head in heads}
        if NO_ROW in theirs:
            return None
        if not theirs:
            return self.between(0)
        seen = theirs | {index.row(head) for head in list(self._heads)}
        pending = [(-index.height[row], row) for row in seen]
        heapq.heapify(pending)
        lacking = len(seen) - len(theirs)
        beyond: list[int] = []
        steps = 0
        # Down from all heads at once, the highest first, so that a row's children have all had their say before it.
        while lacking:
            steps += 1
            if steps > BEYOND_STEPS_MAX:
                return None
            row = heapq.heappop(pending)[1]
            has_it = row in theirs
            if not has_it:
                beyond.append(row)
                lacking -= 1
            for past in index.past(row):
                if past not in seen:
                    seen.add(past)
                    heapq.heappush(pending, (-index.height[past], past))
                    lacking += not has_it
                elif has_it and past not in theirs:
                    lacking -= 1
                if has_it:
                    theirs.add(past)
        return [event_id for _, event_id in sorted(map(index.order, beyond))]

    def _branches(self, session: int, fork: int) -> list[int]:
        """The rows of a session from its first fork on, in (height, id) order."""
        rows = set(self._slots[session][fork:])
        rows.update(row for branches in list(self._forks.at(session).values()) for row in list(branches))
        return sorted(rows, key=self._index.order)

    def next_position(self, author: str, session: bytes) -> Position:
        """Where the author's next event of that session stands: on the heads, after its own last one."""
        if not len(self):
            return Position()
        known = self._authors.get(author, _Author())
        number = known.sessions.get(session)
        slots = self._slots[number] if number is not None else ()
        previous = slots[-1] if slots else known.tip
        parents = self._heads_for(author)
        stands_on = [self.height_of(parent) for parent in parents]
        if previous != NO_ROW:
            stands_on.append(self._index.height[previous])
        return Position(
            sequence=len(slots),
            previous=self._index.id(previous) if previous != NO_ROW else None,
            parents=parents,
            height=1 + max(stands_on),
        )

    def _heads_for(self, author: str) -> tuple[bytes, ...]:
        """The heads that this author ties together: all, or a choice of its own, so that many who write at once tie
        up nearly all of them among them.
        """
        heads = self.heads()
        if len(heads) > PARENTS_MAX:
            heads.sort(key=lambda head: hashlib.sha256(author.encode() + head).digest())
        return tuple(sorted(heads[:PARENTS_MAX]))

    # -- kept over a restart ---------------------------------------------------------------------------------

    def dump(self) -> dict[str, Any]:
        """All but the events and what waits, as plain data for `load`."""
        return {
            "index": self._index.dump(),
            "slots": [slots.tobytes() for slots in self._slots],
            "forks": self._forks.dump(),
            "authors": [[author, sorted(known.leaves), known.tip] for author, known in self._authors.items()],
            "heads": sorted(self._heads),
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def load(cls, genesis: bytes, dump: Mapping[str, Any], read: Read) -> MerkleClock:
        """The clock that gave that dump. The dump is trusted: whoever keeps it checks that it is whole."""
        clock = cls(genesis, read)
        clock._index = EventIndex.load(dump["index"])
        clock._forks = Forks.load(clock._index, dump["forks"])
        clock._slots = [array("i", slots) for slots in dump["slots"]]
        clock._authors = {author: _Author({}, set(leaves), tip) for author, leaves, tip in dump["authors"]}
        for number, (author, session) in enumerate(clock._index.sessions):
            clock._authors[author].sessions[session] = number
        clock._heads = set(dump["heads"])
        clock._sum = int.from_bytes(dump["fingerprint"], "big")
        return clock

    @property
    def waiting(self) -> int:
        """Events that wait for their past or their blocks."""
        return len(self._waiting)


class Cursor:
    """An author's end of the clock: where its next event stands and what it may say there.

    It runs ahead of the clock, so that a group of events can be written, stored and only then added.
    """

    def __init__(self, clock: MerkleClock, author: str, session: bytes) -> None:
        self._clock = clock
        self.position = clock.next_position(author, session)
        previous = self.position.previous
        self._standing = clock._standing(NO_ROW if previous is None else clock._row(previous))

    def refusal(self, event: Event) -> str:
        """Why this event at `position` would be refused, its blocks aside; empty if it would not."""
        try:
            records.check(event)
            self._clock._check_entitled(event, self._standing)
        except BadEvent as error:
            return error.message
        return ""

    def advance(self, event: Event) -> None:
        """This event stands at `position`; the next one follows it."""
        self._standing = _standing_after(event, self._standing)
        self.position = Position(event.sequence + 1, event.id, (event.id,), event.height + 1)


def _standing_after(event: Event, before: int) -> int:
    """An author's standing after an event, from that before it."""
    if event.kind == records.UP:
        return _ROLES.index(records.read_up(event).role)
    return 0 if event.kind == records.LEAVE else before
