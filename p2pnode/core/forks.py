"""Authors who signed two events in one place: the proof, what of theirs counts, and how they come back.

Two events with one (author, session, sequence) are a fork. From then on only what lies before it on every
branch counts, until a member who may define readmits the author: a readmission forgives the forks all of whose
branches it names, whereupon the chain up to the event it keeps counts, and everything on the chain from the
`up` by which the author took it up. A branch that turns up later is a new reason. A readmission counts as any
event does: that of a forked author, not before its fork, is worth nothing, so two of them cannot forgive each
other.

All of it is a function of the set of events; `rulings` tells when it may have changed for events that were
here before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from p2pnode.core.event_index import NO_ROW, EventIndex
from p2pnode.core.records import Readmission


@dataclass(frozen=True, slots=True)
class Fork:
    """Proof that an author's key was used twice: different events of one (author, session, sequence)."""

    author: str
    session: bytes
    sequence: int
    events: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _Reason:
    """Why events of an author may not count: not before these forks, which these readmissions forgive."""

    #: The last row that lies before all of them, or NO_ROW.
    before: int
    #: Rows of the readmissions that forgive all of them.
    forgiven_by: frozenset[int]
    #: Last rows of the chains that those keep.
    kept: frozenset[int]


@dataclass(frozen=True, slots=True)
class Ruling:
    """What counts, as of one moment: it stays as it is, so that a thread may fold by it."""

    _index: EventIndex
    #: Row of a readmission -> the `up`s that took it up. It only grows, by rows that nobody asked about before.
    _taken_up: dict[int, list[int]]
    #: Forked author -> why its events may not count.
    accused: dict[str, frozenset[_Reason]]

    def counts(self, row: int) -> bool:
        """Whether the fold takes the event of that row."""
        reasons = self.accused.get(self._index.author(row), ())
        return all(self._is_spared(row, reason) for reason in reasons)

    def _is_spared(self, row: int, reason: _Reason) -> bool:
        on_chain = self._index.is_on_chain
        return (
            on_chain(row, reason.before)
            or any(on_chain(row, last) for last in reason.kept)
            or any(on_chain(up, row) for given in reason.forgiven_by for up in self._taken_up.get(given, ()))
        )


class Forks:
    """Every fork and readmission of one clock."""

    def __init__(self, index: EventIndex) -> None:
        self._index = index
        #: Number of a session -> its forks by sequence: every branch's row, in order of arrival.
        self._forks: dict[int, dict[int, list[int]]] = {}
        #: Forked author -> its sessions among these, and the last row that lies before all its forks.
        self._accused: dict[str, list[int]] = {}
        self._trunks: dict[str, int] = {}
        #: Row of the readmit event -> (whom it readmits, what branches it names, up to what it keeps).
        self._readmissions: dict[int, tuple[str, frozenset[bytes], bytes | None]] = {}
        self._taken_up: dict[int, list[int]] = {}
        #: Events that readmissions keep and that were not here when they came.
        self._awaited: set[bytes] = set()
        #: Events that are a branch of some fork.
        self.count = 0
        self._stale = False
        self._ruling = Ruling(index, self._taken_up, {})
        self._rulings = 0

    # -- what happened ---------------------------------------------------------------------------------------

    def record(self, first: int, other: int) -> None:
        """`other` came to a place that `first` has."""
        index = self._index
        session, sequence = index.session[first], index.sequence[first]
        if session not in self._forks:
            self._accused.setdefault(index.author(first), []).append(session)
        slots = self._forks.setdefault(session, {})
        for row in (other,) if sequence in slots else (first, other):
            self._branch(session, sequence, row)

    def _branch(self, session: int, sequence: int, row: int) -> None:
        author, before = self._index.author(row), self._index.previous[row]
        self._forks[session].setdefault(sequence, []).append(row)
        self._trunks[author] = self._index.common(self._trunks.get(author, before), before)
        self.count += 1
        self._stale = True

    def readmit(self, row: int, readmitted: str, said: Readmission) -> None:
        """The event of that row readmits that author."""
        self._readmissions[row] = (readmitted, frozenset(said.forks), said.keep)
        if said.keep is not None and self._index.row(said.keep) == NO_ROW:
            self._awaited.add(said.keep)
        self._stale = self._stale or readmitted in self._accused

    def arrived(self, event_id: bytes) -> None:
        """That event is here now; it may be the one that a readmission keeps."""
        if event_id in self._awaited:
            self._awaited.discard(event_id)
            self._stale = True

    def readmits(self, row: int, author: str) -> bool:
        """Whether that row is a readmission of that author."""
        return row in self._readmissions and self._readmissions[row][0] == author

    def take_up(self, readmission: int, up: int) -> None:
        """The `up` of that row takes up that readmission. What its author said before on this chain stays the first."""
        ups = self._taken_up.setdefault(readmission, [])
        if not any(self._index.is_on_chain(earlier, up) for earlier in ups):
            ups.append(up)

    # -- what follows ----------------------------------------------------------------------------------------

    def at(self, session: int) -> dict[int, list[int]]:
        """A session's forks by sequence: every branch's row, in order of arrival."""
        return self._forks.get(session, {})

    def sessions(self, author: str) -> list[int]:
        """The author's sessions with forks, by number."""
        return self._accused.get(author, [])

    def accused(self) -> list[str]:
        """Authors with forks; sorted."""
        return sorted(self._accused)

    @property
    def ruling(self) -> Ruling:
        """What counts now."""
        self._judge()
        return self._ruling

    @property
    def rulings(self) -> int:
        """Grows whenever what counts may have changed: a fold made before that is out of date."""
        self._judge()
        return self._rulings

    def _judge(self) -> None:
        if not self._stale:
            return
        self._stale = False
        # The least fixed point: a readmission is heard once it counts without the help of those not heard yet.
        heard: frozenset[int] = frozenset()
        while True:
            ruling = Ruling(self._index, self._taken_up, self._weigh_all(heard))
            now = frozenset(row for row in self._readmissions if ruling.counts(row))
            if now == heard:
                break
            heard = now
        if ruling != self._ruling:
            self._ruling = ruling
            self._rulings += 1

    def _weigh_all(self, heard: frozenset[int]) -> dict[str, frozenset[_Reason]]:
        offered: dict[str, list[int]] = {author: [] for author in self._accused}
        for row in sorted(heard):
            offered.get(self._readmissions[row][0], []).append(row)
        return {author: self._weigh(author, rows) for author, rows in offered.items()}

    def _weigh(self, author: str, offered: Sequence[int]) -> frozenset[_Reason]:
        if not offered:
            return frozenset((_Reason(self._trunks[author], frozenset(), frozenset()),))
        index = self._index
        #: By who forgives it: the last row before all such forks.
        before: dict[frozenset[int], int] = {}
        for rows in (rows for session in self._accused[author] for rows in self._forks[session].values()):
            branches = {index.id(row) for row in rows}
            forgiven_by = frozenset(row for row in offered if branches <= self._readmissions[row][1])
            for row in rows:
                last = before.setdefault(forgiven_by, index.previous[row])
                before[forgiven_by] = index.common(last, index.previous[row])
        return frozenset(
            _Reason(last, forgiven_by, self._kept(author, forgiven_by)) for forgiven_by, last in before.items()
        )

    def _kept(self, author: str, forgiven_by: frozenset[int]) -> frozenset[int]:
        index = self._index
        keeps = (self._readmissions[row][2] for row in forgiven_by)
        kept = (index.row(keep) for keep in keeps if keep is not None)
        return frozenset(row for row in kept if row != NO_ROW and index.author(row) == author)

    # -- kept over a restart ---------------------------------------------------------------------------------

    def dump(self) -> dict[str, Any]:
        """Plain data for `load`; what counts follows from it."""
        return {
            "forks": [
                [session, sequence, rows] for session, slots in self._forks.items() for sequence, rows in slots.items()
            ],
            "readmissions": [
                [row, readmitted, sorted(branches), keep]
                for row, (readmitted, branches, keep) in self._readmissions.items()
            ],
            "taken_up": [[row, ups] for row, ups in self._taken_up.items()],
        }

    @classmethod
    def load(cls, index: EventIndex, dump: Mapping[str, Any]) -> Forks:
        """What gave that dump, over the same index."""
        forks = cls(index)
        for _, _, (first, *others) in dump["forks"]:
            for other in others:
                forks.record(first, other)
        for row, readmitted, branches, keep in dump["readmissions"]:
            forks.readmit(row, readmitted, Readmission(tuple(branches), keep))
        forks._taken_up.update((row, ups) for row, ups in dump["taken_up"])
        return forks
