"""Witnessing: when a node records that a member is down, and when a member recorded as down says that it is up.

A member is down when this node could not reach it for `down_after_s` without a break and others could not either: with
three members or more the catalog asks for two witnesses. The two whose turn it is record it; while there are too few,
one more steps in each WITNESS_STEP_S. A node that reaches no more than half of the present members is the one that is
cut off: it records nothing, and what it saw meanwhile does not count. (In a swarm of two there is no other half to ask:
there one may record the other.)

This file refuses time and network: `now` is given, in seconds that this process was awake.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from p2pnode.core.model import Member
from p2pnode.core.turns import turn

#: Seconds that each further member in turn waits for those before it: more than a push and a sync round take.
WITNESS_STEP_S = 10.0
#: Members from which on only a majority of them speaks for the swarm.
MAJORITY_FROM = 3
#: Seconds between two protests against being recorded as down, doubling up to the maximum: whoever keeps recording us
#: must not make us fill the log.
PROTEST_PAUSE_S = 10.0
PROTEST_PAUSE_S_MAX = 3600.0


@dataclass(frozen=True, slots=True)
class Swarm:
    """What a look needs to know, as this node sees it now."""

    #: Members that neither left nor are down; this node is among them, or has to come back itself first.
    present: Sequence[Member]
    #: Whether this node holds that one for dead or gone.
    is_absent: Callable[[str], bool]
    #: Who said already that this member's last `up` ended, and how many must.
    witnesses: Callable[[str], Iterable[str]]
    needed: int


class Witness:
    """One node's watch on the others. Call `look` whenever something has changed, and when it says so."""

    def __init__(self, me: str, down_after_s: float) -> None:
        self._me = me
        self._down_after_s = down_after_s
        #: Absent member -> (its `up`, since when it is not reached).
        self._since: dict[str, tuple[bytes, float]] = {}

    def look(self, now: float, swarm: Swarm) -> tuple[list[Member], float]:
        """Whose end this node shall record now, and when to look again at the latest."""
        absent = [m for m in swarm.present if m.peer_id != self._me and swarm.is_absent(m.peer_id)]
        seen = len(swarm.present) - len(absent)
        minority = 2 * seen <= len(swarm.present) and len(swarm.present) >= MAJORITY_FROM
        if minority or all(member.peer_id != self._me for member in swarm.present):
            self._since.clear()
            return [], math.inf
        known, self._since = self._since, {}
        gone = {member.peer_id for member in absent}
        living = [member.peer_id for member in swarm.present if member.peer_id not in gone]
        ended: list[Member] = []
        again = math.inf
        for member in absent:
            up, since = known.get(member.peer_id, (member.up, now))
            since = since if up == member.up else now
            self._since[member.peer_id] = (member.up, since)
            witnesses = set(swarm.witnesses(member.peer_id))
            if self._me in witnesses or len(witnesses) >= swarm.needed:
                continue
            late = max(0, turn(member.up, self._me, living) - swarm.needed + 1)
            due = since + self._down_after_s + late * WITNESS_STEP_S
            if now >= due:
                ended.append(member)
            else:
                again = min(again, due)
        return ended, again


class Protest:
    """How often this node says anew that it is up, when others say that it is not. Seconds as in `Witness`."""

    def __init__(self) -> None:
        self._next = -math.inf
        self._pause_s = PROTEST_PAUSE_S

    def due(self, now: float) -> float:
        """When it may protest next; not later than `now` if it may at once."""
        return max(now, self._next)

    def made(self, now: float) -> None:
        """It did. Long quiet makes it quick again."""
        quiet = now - self._next > PROTEST_PAUSE_S_MAX
        self._pause_s = PROTEST_PAUSE_S if quiet else min(2 * self._pause_s, PROTEST_PAUSE_S_MAX)
        self._next = now + self._pause_s
