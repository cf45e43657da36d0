"""Bringing own events to other members' disks, and counting the disks.

Each member has an outbox, emptied in batches by one task at a time; what does not get through is left to
anti-entropy. Whoever waits for durability is told of every acknowledgement. This file refuses to choose who
is asked and how many are enough: `metadata` does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import trio

from p2pnode.core.event import Event
from protocols.metadata import EVENTS_BYTES_MAX, EVENTS_MAX

#: Events that wait for one member. A member that lags further gets the rest by sync.
OUTBOX_MAX = 4096

#: Pushes a batch to a member; returns the ids that are on its disk. Failing means none.
Push = Callable[[str, Sequence[Event]], Awaitable[Iterable[bytes]]]


@dataclass(eq=False, slots=True)
class Copies:
    """Where one event is durable besides here, as far as we were told."""

    holders: set[str] = field(default_factory=set)
    _changed: trio.Event = field(default_factory=trio.Event)

    def add(self, peer_id: str) -> None:
        self.holders.add(peer_id)
        self._changed.set()
        self._changed = trio.Event()

    async def reach(self, count: int) -> None:
        """Return when that many members have it."""
        while len(self.holders) < count:
            await self._changed.wait()


class Spreader:
    """The outboxes of one node. `run` empties them until cancelled."""

    def __init__(self, push: Push) -> None:
        self._push = push
        self._outboxes: dict[str, dict[bytes, Event]] = {}
        self._sending: set[str] = set()
        self._copies: dict[bytes, Copies] = {}
        self._wake = trio.Event()

    def watch(self, event: Event) -> Copies:
        """Count the disks that this event reaches, until `unwatch`."""
        return self._copies.setdefault(event.id, Copies())

    def unwatch(self, event: Event) -> None:
        self._copies.pop(event.id, None)

    def spread(self, event: Event, peer_ids: Iterable[str]) -> None:
        """Put the event into these members' outboxes, the oldest in a full one making room."""
        for peer_id in peer_ids:
            outbox = self._outboxes.setdefault(peer_id, {})
            outbox[event.id] = event
            if len(outbox) > OUTBOX_MAX:
                del outbox[next(iter(outbox))]
        self._wake.set()

    def busy_with(self, peer_id: str) -> bool:
        """Whether something is on its way to that member or waits to be."""
        return peer_id in self._sending or bool(self._outboxes.get(peer_id))

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                for peer_id in sorted(self._outboxes.keys() - self._sending):
                    self._sending.add(peer_id)
                    nursery.start_soon(self._empty, peer_id)
                await self._wake.wait()

    async def _empty(self, peer_id: str) -> None:
        try:
            while outbox := self._outboxes.pop(peer_id, None):
                for batch in batches(list(outbox.values())):
                    for event_id in await self._push(peer_id, batch):
                        copies = self._copies.get(event_id)
                        if copies is not None:
                            copies.add(peer_id)
        finally:
            self._sending.discard(peer_id)
            self._wake.set()


def batches(events: Sequence[Event]) -> Iterator[list[Event]]:
    """Cut a run of events so that each piece fits one message."""
    batch: list[Event] = []
    size = 0
    for event in events:
        length = len(event.encoded) + len(event.signature)
        if batch and (len(batch) == EVENTS_MAX or size + length > EVENTS_BYTES_MAX):
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += length
    if batch:
        yield batch
