"""When to tie the clock's heads together although there is nothing else to record.

Every event stands on the heads that its author saw, so writing keeps them few. After a partition, or where many wrote
at once and then fell silent, they stay many, and each sync carries them all. Once they have stood for MERGE_AFTER_S the
member whose turn it is writes a `merge`; if it does not, the next one does, MERGE_AFTER_S later. The turn is drawn from
the heads themselves, so those who see the same heads agree on it. Merging makes heads fewer and a few of them are left
alone, so it ends: nodes that merged each other's merges would go on for ever. This file refuses time and network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from p2pnode.core.turns import turn

#: Heads that are left alone: as many as two events tie together, and half of what one event may (16).
HEADS_MAX = 8
#: Seconds that more heads than that must stand unchanged: until then somebody may write anyway.
MERGE_AFTER_S = 30.0


class Merging:
    """One node's watch on the heads. `look` whenever they changed, and when it says so."""

    def __init__(self, me: str) -> None:
        self._me = me
        self._heads: tuple[bytes, ...] = ()
        self._since = 0.0

    def look(self, now: float, heads: Sequence[bytes], living: Iterable[str]) -> tuple[bool, float]:
        """Whether this node shall tie the (sorted) heads together now, and when to look again at the latest.

        `living` are the members that it reaches; `now` is in seconds that this process was awake.
        """
        if tuple(heads) != self._heads:
            self._heads, self._since = tuple(heads), now
        if len(heads) <= HEADS_MAX:
            return False, math.inf
        due = self._since + MERGE_AFTER_S * (1 + turn(b"".join(heads), self._me, living))
        return now >= due, due if now < due else math.inf
