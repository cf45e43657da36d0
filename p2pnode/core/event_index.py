"""Where every event stands, in columns: all that the clock must know of an event, without the event.

An event has a *row*, the number of its admission, and a row has a height, a place in its author's session, the
rows that it stands on, and its author's rights right after it. A million events take some 90 MB so, a tenth of
what they take as objects, and go to disk and come back as a few runs of bytes (`dump`, `load`).

Ids are found through buckets of (tag, row) entries. The bucket is chosen by Python's keyed hash, so that nobody
can mint ids that fill one; it decides where to look and nothing that shows. An author's chain is gone along in jumps
(Myers, An applicative random-access stack, 1983), in as many steps as its length has digits. This file refuses
meaning: what a row's numbers must be, `clock` says.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

from p2pnode.core.cid import CID_BYTES, DIGEST_BYTES, record_cid

#: The row of an event that is not here, or that there is none.
NO_ROW = -1

_PREFIX = record_cid(b"")[:-DIGEST_BYTES]
#: At a million events a bucket has some fifteen entries, which one search of 120 bytes looks through.
_BUCKETS = 1 << 16
_TAG_BYTES = 4
_ENTRY_BYTES = 8
#: Bytes of digests copied at once: a millisecond.
_RUN = 1 << 20
#: Columns of one number a row, by array typecode: rows, heights and places stay under 2³¹, which is 200 GB of events.
_COLUMNS = {
    "height": "i",
    "session": "i",
    "sequence": "i",
    "previous": "i",
    #: The rights of its author right after it, as the clock numbers them.
    "standing": "b",
    #: How long its author's chain is that ends here, and an earlier row of it to jump to.
    "depth": "i",
    "jump": "i",
    #: Where its row of `past` ends in the run of all pasts.
    "past_end": "i",
}


class EventIndex:
    """The columns. Adding and finding are O(1); nothing is ever taken out."""

    def __init__(self) -> None:
        self._digests = bytearray()
        self._buckets: dict[int, bytearray] = {}
        self._pasts: array[int] = array("i")
        #: What `session` numbers: (author, session).
        self.sessions: list[tuple[str, bytes]] = []
        self.height: array[int] = array(_COLUMNS["height"])
        self.session: array[int] = array(_COLUMNS["session"])
        self.sequence: array[int] = array(_COLUMNS["sequence"])
        self.previous: array[int] = array(_COLUMNS["previous"])
        self.standing: array[int] = array(_COLUMNS["standing"])
        self.depth: array[int] = array(_COLUMNS["depth"])
        self.jump: array[int] = array(_COLUMNS["jump"])
        self.past_end: array[int] = array(_COLUMNS["past_end"])

    def __len__(self) -> int:
        return len(self.height)

    def row(self, event_id: bytes) -> int:
        """The row of that event, or NO_ROW."""
        bucket = self._buckets.get(hash(event_id) % _BUCKETS)
        if bucket is None or len(event_id) != CID_BYTES or not event_id.startswith(_PREFIX):
            return NO_ROW
        digest, tag = event_id[-DIGEST_BYTES:], event_id[-_TAG_BYTES:]
        at = bucket.find(tag)
        while at >= 0:
            if at % _ENTRY_BYTES == 0:
                row = int.from_bytes(bucket[at + _TAG_BYTES : at + _ENTRY_BYTES], "little")
                if self._digests.startswith(digest, row * DIGEST_BYTES):
                    return row
            at = bucket.find(tag, at + 1)
        return NO_ROW

    def id(self, row: int) -> bytes:
        return _PREFIX + self._digests[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES]

    def author(self, row: int) -> str:
        return self.sessions[self.session[row]][0]

    def order(self, row: int) -> tuple[int, bytes]:
        """(height, id): the one total order."""
        return self.height[row], self.id(row)

    def past(self, row: int) -> Sequence[int]:
        """The rows that it stands on."""
        return self._pasts[self.past_end[row - 1] if row else 0 : self.past_end[row]]

    def add(
        self,
        event_id: bytes,
        *,
        height: int,
        session: int,
        sequence: int,
        previous: int,
        standing: int,
        past: Sequence[int],
    ) -> int:
        """A row for an event that has none. Returns it."""
        row = len(self.height)
        self._digests += event_id[-DIGEST_BYTES:]
        self.height.append(height)
        self.session.append(session)
        self.sequence.append(sequence)
        self.previous.append(previous)
        self.standing.append(standing)
        self.jump.append(self._jump_from(previous))
        self.depth.append(1 + self._depth(previous))
        self._pasts.extend(past)
        self.past_end.append(len(self._pasts))
        # Last, so that a thread that finds the row finds all of it.
        self._find_by(event_id, row)
        return row

    def _find_by(self, event_id: bytes, row: int) -> None:
        entry = event_id[-_TAG_BYTES:] + row.to_bytes(_ENTRY_BYTES - _TAG_BYTES, "little")
        number = hash(event_id) % _BUCKETS
        bucket = self._buckets.get(number)
        if bucket is None:
            self._buckets[number] = bytearray(entry)
        else:
            bucket += entry

    # -- chains ------------------------------------------------------------------------------------------------

    def is_on_chain(self, row: int, last: int) -> bool:
        """Whether that row is `last` or one that its author said before it; nothing is on the chain of NO_ROW."""
        return self._depth(last) >= self.depth[row] and self._ancestor(last, self.depth[row]) == row

    def common(self, one: int, other: int) -> int:
        """The last row that both chains have, or NO_ROW."""
        depth = min(self._depth(one), self._depth(other))
        one, other = self._ancestor(one, depth), self._ancestor(other, depth)
        # Equally deep rows jump equally far, so both get to where they meet.
        while one != other:
            step = self.previous if self.jump[one] == self.jump[other] else self.jump
            one, other = step[one], step[other]
        return one

    def _ancestor(self, row: int, depth: int) -> int:
        while self._depth(row) > depth:
            jump = self.jump[row]
            row = jump if self._depth(jump) >= depth else self.previous[row]
        return row

    def _depth(self, row: int) -> int:
        return 0 if row == NO_ROW else self.depth[row]

    def _jump_from(self, previous: int) -> int:
        """Where the next row jumps: two jumps of one length are joined by a third that spans both."""
        if previous == NO_ROW:
            return NO_ROW
        near = self.jump[previous]
        far = NO_ROW if near == NO_ROW else self.jump[near]
        equal = self._depth(previous) - self._depth(near) == self._depth(near) - self._depth(far)
        return far if equal else previous

    def rising(self, rows: Sequence[int], stop: int, low: int, high: int | None) -> range:
        """The places before `stop` in `rows`, whose heights rise, with low ≤ height < high."""
        places = range(stop)
        first = bisect_left(places, low, key=lambda place: self.height[rows[place]])
        last = stop if high is None else bisect_left(places, high, key=lambda place: self.height[rows[place]])
        return range(first, max(first, last))

    # -- to disk and back --------------------------------------------------------------------------------------

    def dump(self) -> dict[str, Any]:
        """The columns as this machine keeps numbers: for its own disk alone."""
        columns = {name: getattr(self, name).tobytes() for name in _COLUMNS}
        return {
            **columns,
            "digests": [bytes(self._digests[start : start + _RUN]) for start in range(0, len(self._digests), _RUN)],
            "pasts": self._pasts.tobytes(),
            "sessions": [list(session) for session in self.sessions],
        }

    @classmethod
    def load(cls, dump: Mapping[str, Any]) -> EventIndex:
        """The index that gave that dump."""
        index = cls()
        for name in _COLUMNS:
            getattr(index, name).frombytes(dump[name])
        for run in dump["digests"]:
            index._digests += run
        index._pasts.frombytes(dump["pasts"])
        index.sessions = [(author, session) for author, session in dump["sessions"]]
        for row in range(len(index)):
            index._find_by(index.id(row), row)
        return index
