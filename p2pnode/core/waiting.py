"""Events whose past or whose blocks are not here yet, bounded per sender and in all.

A sender's oldest make room for its newest, so whoever sends children without parents crowds out only its own.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from p2pnode.core import records
from p2pnode.core.event import Event

#: Waiting events of one sender: a burst of pushes that overtook each other, no more; sync serves parents first.
WAITING_EVENTS_MAX = 1024
WAITING_BYTES_MAX = 8 << 20
#: Waiting bytes of all senders together, so that many senders are no way around the bound for one.
WAITING_TOTAL_BYTES_MAX = 64 << 20


@dataclass(frozen=True, slots=True)
class _Guest:
    event: Event
    source: str
    needs: bytes

    @property
    def size(self) -> int:
        return len(self.event.encoded)


class WaitingRoom:
    """Who waits, by sender and by what is needed."""

    def __init__(self) -> None:
        self._by_source: dict[str, dict[bytes, _Guest]] = {}
        self._bytes: dict[str, int] = {}
        self._by_need: dict[bytes, dict[bytes, _Guest]] = {}
        #: Those who wait for nothing but a block, by event.
        self._for_block: dict[bytes, _Guest] = {}

    def __len__(self) -> int:
        return sum(len(guests) for guests in self._by_source.values())

    def admit(self, event: Event, source: str, needs: bytes) -> None:
        guest = _Guest(event, source, needs)
        if event.id in self._by_need.get(needs, {}):
            return
        guests = self._by_source.setdefault(source, {})
        guests[event.id] = guest
        self._bytes[source] = self._bytes.get(source, 0) + guest.size
        self._by_need.setdefault(needs, {})[event.id] = guest
        if needs in records.blocks_of(event):
            self._for_block[event.id] = guest
        # One event is far smaller than the bounds, so the newest itself always stays.
        while len(guests) > WAITING_EVENTS_MAX or self._bytes[source] > WAITING_BYTES_MAX:
            self._dismiss(next(iter(guests.values())))
        while sum(self._bytes.values()) > WAITING_TOTAL_BYTES_MAX:
            largest = max(sorted(self._bytes), key=lambda name: self._bytes[name])
            self._dismiss(next(iter(self._by_source[largest].values())))

    def release(self, needed: bytes) -> list[tuple[Event, str]]:
        """Take out what waited for that id."""
        if needed not in self._by_need:
            return []
        released = list(self._by_need[needed].values())
        for guest in released:
            self._dismiss(guest)
        return [(guest.event, guest.source) for guest in released]

    def wanted_blocks(self, source: str | None = None, events: Container[bytes] = ()) -> list[bytes]:
        """Ids of blocks that are waited for; with `source` only by what that peer sent, and by `events` whoever sent
        them. Sorted.
        """
        waiting = self._for_block.items()
        return sorted(
            {guest.needs for event_id, guest in waiting if source in (None, guest.source) or event_id in events}
        )

    def _dismiss(self, guest: _Guest) -> None:
        guests = self._by_source[guest.source]
        del guests[guest.event.id]
        self._bytes[guest.source] -= guest.size
        if not guests:
            del self._by_source[guest.source], self._bytes[guest.source]
        self._for_block.pop(guest.event.id, None)
        waiting = self._by_need.get(guest.needs, {})
        waiting.pop(guest.event.id, None)
        if not waiting:
            self._by_need.pop(guest.needs, None)
