"""Which shards may go: those that nobody has named for long enough.

A client may push shards and never get a version signed for them: they were never named, and go after an hour. Shards
of a deleted or superseded version were named once: a late event or a slow query may still want them, so they stay a
day, and so does whatever a node finds on its disk when it starts, for it cannot tell. Time counts on this node's
monotonic clock from when it first saw the shard unnamed, or last promised somebody that it holds it: a version that
stands on the promise may be on its way. This file refuses to delete anything itself, and it never speaks of a shard
that is named now.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

#: Seconds that a shard may lie here without any version ever having named it.
NEVER_NAMED_S = 3600.0
#: Seconds that a shard stays after the last version that named it was deleted or replaced.
NO_LONGER_NAMED_S = 24 * 3600.0


class Collection:
    """What one node has seen of its unnamed shards."""

    def __init__(self) -> None:
        self._unnamed_since: dict[bytes, float] = {}
        #: None until the first look.
        self._was_named: set[bytes] | None = None

    def promised(self, cid: bytes) -> None:
        """Somebody was told that this node holds it; its time begins anew."""
        self._unnamed_since.pop(cid, None)

    def is_due(self, cid: bytes) -> bool:
        """Whether one that `due` gave is due still: nobody was promised it since."""
        return cid in self._unnamed_since

    def due(self, held: Iterable[bytes], named: Set[bytes], now: float) -> list[bytes]:
        """Content ids that may be deleted now, sorted.

        Args:
            held: every shard on this node's disk.
            named: every shard that a standing version of any dataset names.
        """
        present = set(held)
        was_named = present if self._was_named is None else (self._was_named | named) & present
        self._was_named = set(was_named)
        for cid in [cid for cid in self._unnamed_since if cid in named or cid not in present]:
            del self._unnamed_since[cid]
        due = []
        for cid in sorted(present - named):
            since = self._unnamed_since.setdefault(cid, now)
            if now - since >= (NO_LONGER_NAMED_S if cid in was_named else NEVER_NAMED_S):
                due.append(cid)
        return due
