"""Who belongs to the swarm, folded from its `up`, `leave`, `down` and `readmit` events.

- A member is what its own last `up` or `leave` says, last by (height, id).
- It is *down* when enough witnesses named that very `up` as ended: two where three members or more have not left (the
  accused counted), else one. Only others witness, each counts once, and a later `up` survives what was said of an
  earlier one. A down member is a member still, dialed and free to return; it is only not counted on.
- Of several members with one node_id the one that claimed it first since it came keeps it; the others are found by
  peer id. A down member keeps its name.

All of it depends on the set of events alone, whatever the order in which they came. This file refuses to say who is
alive: that is `membership`'s, and whoever is merely silent is present here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from p2pnode.core import records
from p2pnode.core.event import RANK_HEIGHT_BYTES, Event
from p2pnode.core.model import Member, NodeRole

#: Members (who have not left) from which on two witnesses are needed: in a swarm of two there is nobody else to ask.
TWO_WITNESSES_FROM = 3


@dataclass(slots=True)
class _Presence:
    """What one peer said of itself, and who witnessed its end."""

    #: As its last `up` has it; None as long as there are only others' words about it.
    record: Member | None = None
    last_up: bytes = b""
    last_leave: bytes = b""
    #: node_id -> the `up`s that claim it, as far as it has not left since.
    claims: dict[str, set[bytes]] = field(default_factory=dict)
    #: id of an `up` -> the authors who say that it ended.
    witnesses: dict[bytes, set[str]] = field(default_factory=dict)
    #: Readmissions granted to it, and those that its `up`s took up.
    granted: set[bytes] = field(default_factory=set)
    taken_up: set[bytes] = field(default_factory=set)

    @property
    def left(self) -> bool:
        return self.last_leave > self.last_up

    def came(self, order: bytes, record: Member) -> None:
        if order > self.last_leave:
            self.claims.setdefault(record.node_id, set()).add(order)
        if order > self.last_up:
            self.last_up, self.record = order, record

    def went(self, order: bytes) -> None:
        if order > self.last_leave:
            self.last_leave = order
            kept = {name: {o for o in orders if o > order} for name, orders in self.claims.items()}
            self.claims = {name: orders for name, orders in kept.items() if orders}


class Roster:
    """The members. `apply` is the incremental fold; lookups after it cost what they return."""

    def __init__(self) -> None:
        self._presence: dict[str, _Presence] = {}
        #: Everyone who ever came, by peer id in order; None when events have changed it.
        self._everyone: dict[str, Member] | None = None

    def apply(self, event: Event) -> None:
        """Add an `up`, `leave`, `down` or `readmit`; applying it twice changes nothing. Others are ignored."""
        if event.kind == records.UP:
            one = self._of(event.author)
            one.came(event.rank, records.read_up(event))
            one.taken_up.update(filter(None, (records.readmission_of(event),)))
        elif event.kind == records.LEAVE:
            self._of(event.author).went(event.rank)
        elif event.kind == records.DOWN:
            ended = records.read_down(event)
            self._of(event.object_id).witnesses.setdefault(ended, set()).add(event.author)
        elif event.kind == records.READMIT:
            self._of(event.object_id).granted.add(event.rank)
        else:
            return
        self._everyone = None

    def _of(self, peer_id: str) -> _Presence:
        presence = self._presence.get(peer_id)
        if presence is None:
            presence = self._presence[peer_id] = _Presence()
        return presence

    def everyone(self) -> dict[str, Member]:
        """Members present and past, by peer id, in its order. Not to be changed."""
        if self._everyone is None:
            came = sorted((peer_id, one) for peer_id, one in self._presence.items() if one.record is not None)
            needed = self._needed(sum(not one.left for _, one in came))
            self._everyone = {peer_id: _as_member(one, needed) for peer_id, one in came}
        return self._everyone

    @staticmethod
    def _needed(staying: int) -> int:
        return 2 if staying >= TWO_WITNESSES_FROM else 1

    @property
    def witnesses_needed(self) -> int:
        """How many must say that a member's `up` ended before it counts as down."""
        return self._needed(sum(not member.left for member in self.everyone().values()))

    def witnesses(self, peer_id: str) -> list[str]:
        """Who said so far that this member's last `up` ended; sorted."""
        one = self._presence.get(peer_id)
        return [] if one is None or one.record is None else sorted(one.witnesses.get(one.record.up, ()))

    def readmissions(self, peer_id: str) -> list[bytes]:
        """The readmit events that this member did not take up yet, oldest first."""
        one = self._presence.get(peer_id, _Presence())
        return [
            order[RANK_HEIGHT_BYTES:] for order in sorted(one.granted) if order[RANK_HEIGHT_BYTES:] not in one.taken_up
        ]

    def named(self, node_id: str) -> Member | None:
        """The member that has not left and owns that node_id."""
        claims = [
            (min(self._presence[member.peer_id].claims[node_id]), member.peer_id)
            for member in self.everyone().values()
            if member.node_id == node_id and not member.left
        ]
        return self.everyone()[min(claims)[1]] if claims else None

    # -- kept over a restart ---------------------------------------------------------------------------------

    def dump(self) -> list[Any]:
        """The fold as plain data."""
        return [
            [
                peer_id,
                None if one.record is None else _plain(one.record),
                one.last_up,
                one.last_leave,
                [[name, sorted(orders)] for name, orders in sorted(one.claims.items())],
                [[up, sorted(authors)] for up, authors in sorted(one.witnesses.items())],
                sorted(one.granted),
                sorted(one.taken_up),
            ]
            for peer_id, one in sorted(self._presence.items())
        ]

    @classmethod
    def load(cls, dump: list[Any]) -> Roster:
        """What `dump` gave."""
        roster = cls()
        for peer_id, record, last_up, last_leave, claims, witnesses, granted, taken_up in dump:
            roster._presence[peer_id] = _Presence(
                None if record is None else _member(peer_id, record),
                last_up,
                last_leave,
                {name: set(orders) for name, orders in claims},
                {up: set(authors) for up, authors in witnesses},
                set(granted),
                set(taken_up),
            )
        return roster


def _as_member(one: _Presence, needed: int) -> Member:
    assert one.record is not None  # only those who came are asked for
    down = not one.left and len(one.witnesses.get(one.record.up, ())) >= needed
    return replace(one.record, left=one.left, down=down) if one.left or down else one.record


def _plain(record: Member) -> list[Any]:
    return [
        record.node_id,
        record.role.value,
        list(record.addresses),
        record.region,
        record.weight,
        list(record.capabilities),
        record.up,
    ]


def _member(peer_id: str, plain: list[Any]) -> Member:
    node_id, role, addresses, region, weight, capabilities, up = plain
    return Member(peer_id, node_id, NodeRole(role), tuple(addresses), region, weight, tuple(capabilities), up)
