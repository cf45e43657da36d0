"""Authors who spoke with two tongues: the proof, what of theirs counts, and how they come back.

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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from p2pnode.core.event_index import NO_ROW, EventIndex
from p2pnode.core.records import Readmission

#: (number of the session, sequence).
_Slot = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Fork:
    """Proof that an author's key spoke with two tongues: different events of one (author, session, sequence)."""

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
    #: What `EventIndex.cleared` numbers: the rows of the readmissions that a chain took up. It only grows.
    _cleared: list[frozenset[int]]
    #: Forked author -> why its events may not count, and beside each reason the rows that count in spite of it.
    accused: dict[str, dict[_Reason, frozenset[int]]]

    def counts(self, row: int) -> bool:
        """Whether the fold takes the event of that row."""
        reasons = self.accused.get(self._index.author(row), {})
        cleared = self._cleared[self._index.cleared[row]]
        return all(row in spared or not cleared.isdisjoint(reason.forgiven_by) for reason, spared in reasons.items())


class Forks:
    """Every fork and readmission of one clock."""

    def __init__(self, index: EventIndex) -> None:
        self._index = index
        #: Forked author -> its forks: every branch's row, in order of arrival.
        self._forks: dict[str, dict[_Slot, list[int]]] = {}
        #: Row of the readmit event -> (whom it readmits, what it says).
        self._readmissions: dict[int, tuple[str, Readmission]] = {}
        self._cleared: list[frozenset[int]] = [frozenset()]
        self._stale = False
        self._ruling = Ruling(index, self._cleared, {})
        self._rulings = 0

    # -- what happened ---------------------------------------------------------------------------------------

    def record(self, first: int, other: int) -> None:
        """`other` came to a place that `first` has."""
        author, slot = self._index.author(first), (self._index.session[first], self._index.sequence[first])
        self._forks.setdefault(author, {}).setdefault(slot, [first]).append(other)
        self._stale = True

    def readmit(self, row: int, readmitted: str, said: Readmission) -> None:
        """The event of that row readmits that author."""
        self._readmissions[row] = (readmitted, said)
        self._stale = True

    def grew(self, author: str) -> None:
        """A new event of that author is here; it may be the one that a readmission keeps."""
        self._stale = self._stale or author in self._forks

    def readmits(self, row: int, author: str) -> bool:
        """Whether that row is a readmission of that author."""
        return row in self._readmissions and self._readmissions[row][0] == author

    def take_up(self, cleared: int, readmission: int) -> int:
        """The number of what is cleared when a chain with `cleared` takes up one more readmission."""
        wanted = self._cleared[cleared] | {readmission}
        if wanted not in self._cleared:
            self._cleared.append(wanted)
        return self._cleared.index(wanted)

    # -- what follows ----------------------------------------------------------------------------------------

    def of(self, author: str) -> dict[_Slot, list[int]]:
        """The author's forks: every branch's row, in order of arrival."""
        return self._forks.get(author, {})

    def accused(self) -> list[str]:
        """Authors with forks; sorted."""
        return sorted(self._forks)

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
            ruling = Ruling(self._index, self._cleared, {author: self._weigh(author, heard) for author in self._forks})
            now = frozenset(row for row in self._readmissions if ruling.counts(row))
            if now == heard:
                break
            heard = now
        if ruling != self._ruling:
            self._ruling = ruling
            self._rulings += 1

    def _weigh(self, author: str, heard: frozenset[int]) -> dict[_Reason, frozenset[int]]:
        index = self._index
        offered = {row: self._readmissions[row][1] for row in sorted(heard) if self.readmits(row, author)}
        #: By who forgives it: the last row before all such forks.
        before: dict[frozenset[int], int] = {}
        for rows in self._forks[author].values():
            branches = {index.id(row) for row in rows}
            forgiven_by = frozenset(row for row, said in offered.items() if branches.issubset(said.forks))
            for row in rows:
                last = before.setdefault(forgiven_by, index.previous[row])
                before[forgiven_by] = index.common(last, index.previous[row])
        reasons = [_Reason(last, forgiven_by, self._kept(author, forgiven_by)) for forgiven_by, last in before.items()]
        known = self._ruling.accused.get(author, {})
        return {reason: known[reason] if reason in known else self._spared(reason) for reason in reasons}

    def _spared(self, reason: _Reason) -> frozenset[int]:
        return frozenset(row for last in {reason.before, *reason.kept} for row in self._index.chain(last))

    def _kept(self, author: str, forgiven_by: frozenset[int]) -> frozenset[int]:
        index = self._index
        kept = (index.row(said.keep) for row in forgiven_by if (said := self._readmissions[row][1]).keep is not None)
        return frozenset(row for row in kept if row != NO_ROW and index.author(row) == author)

    # -- kept over a restart ---------------------------------------------------------------------------------

    def dump(self) -> dict[str, Any]:
        """Plain data for `load`; what counts follows from it."""
        return {
            "forks": [[author, *slot, rows] for author, slots in self._forks.items() for slot, rows in slots.items()],
            "readmissions": [
                [row, readmitted, list(said.forks), said.keep] for row, (readmitted, said) in self._readmissions.items()
            ],
            "cleared": [sorted(rows) for rows in self._cleared],
        }

    @classmethod
    def load(cls, index: EventIndex, dump: Mapping[str, Any]) -> Forks:
        """What gave that dump, over the same index."""
        forks = cls(index)
        for author, session, sequence, rows in dump["forks"]:
            forks._forks.setdefault(author, {})[session, sequence] = rows
        for row, readmitted, branches, keep in dump["readmissions"]:
            forks._readmissions[row] = (readmitted, Readmission(tuple(branches), keep))
        forks._cleared[:] = map(frozenset, dump["cleared"])
        forks._stale = True
        return forks
