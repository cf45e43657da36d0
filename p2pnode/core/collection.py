"""Which shards may go: those that nobody has named for long enough.

A client may push shards and never get a version signed for them: they were never named, and go after an hour. Shards
of a deleted or superseded version were named once: a late event or a slow query may still want them, so they stay a
day. Time counts on this node's monotonic clock from when it first saw the shard unnamed, so a restart only delays.
This file refuses to delete anything itself, and it never speaks of a shard that is named now.
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
        self._was_named: set[bytes] = set()

    def due(self, held: Iterable[bytes], named: Set[bytes], now: float) -> list[bytes]:
        """Content ids that may be deleted now, sorted.

        Args:
            held: every shard on this node's disk.
            named: every shard that a standing version of any dataset names.
        """
        present = set(held)
        self._was_named |= named & present
        self._was_named &= present
        for cid in [cid for cid in self._unnamed_since if cid in named or cid not in present]:
            del self._unnamed_since[cid]
        due = []
        for cid in sorted(present - named):
            since = self._unnamed_since.setdefault(cid, now)
            if now - since >= (NO_LONGER_NAMED_S if cid in self._was_named else NEVER_NAMED_S):
                due.append(cid)
        return due
