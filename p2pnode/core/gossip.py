"""Which news about members to tell next: SWIM's rumour mongering, bounded.

News is told to peers the fewest-told first and drops out after a multiple of log n tellings, by which time
everybody has heard it with high probability (Das, Gupta, Motivala, "SWIM", DSN 2002, §4.1). This file refuses
to judge the news: what a claim changes is `membership`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from protocols.health import CLAIMS_MAX, Claim

#: Tellings of one piece of news, in multiples of log2(members + 1). SWIM's analysis asks for a small
#: constant; three leave a chance of about n^-2 that a given member never hears of it.
TELLINGS_PER_LOG = 3


class Gossip:
    """News by subject: one claim each, the newest, so it is as small as the membership."""

    def __init__(self) -> None:
        self._news: dict[str, tuple[int, Claim]] = {}

    def spread(self, claim: Claim) -> None:
        """From now on tell this instead of anything older about the same peer."""
        self._news[claim.peer_id] = (0, claim)

    def forget(self, peer_id: str) -> None:
        self._news.pop(peer_id, None)

    def pick(self, first: Iterable[Claim], reminders: Iterable[Claim], members: int) -> list[Claim]:
        """At most CLAIMS_MAX claims for one message: `first`, then the least-told news, then `reminders`.

        Reminders fill what room is left, so that a newcomer learns of the suspect and the dead without
        asking.
        """
        chosen = {claim.peer_id: claim for claim in first}
        tellings_max = TELLINGS_PER_LOG * math.ceil(math.log2(members + 2))
        for told, claim in sorted(self._news.values(), key=lambda entry: (entry[0], entry[1].peer_id)):
            if len(chosen) >= CLAIMS_MAX:
                break
            chosen.setdefault(claim.peer_id, claim)
            self._told(claim, told + 1, tellings_max)
        for claim in reminders:
            if len(chosen) >= CLAIMS_MAX:
                break
            chosen.setdefault(claim.peer_id, claim)
        return list(chosen.values())[:CLAIMS_MAX]

    def _told(self, claim: Claim, times: int, tellings_max: int) -> None:
        if times >= tellings_max:
            del self._news[claim.peer_id]
        else:
            self._news[claim.peer_id] = (times, claim)
