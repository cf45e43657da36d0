"""Bringing events to other members: own ones to their disks, counting the disks, and others' news as rumours.

Each member has an outbox, emptied in batches by one task at a time; what does not get through is left to anti-entropy.
Whoever waits for durability is told of every acknowledgement. Whoever hears news for the first time passes it on once,
to a few random members, so that it is everywhere after a few hops. This file refuses to choose who is asked to store
and how many are enough: `authoring` does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from p2pnode.core.event import Event
from p2pnode.env import Rng
from p2pnode.errors import Busy
from protocols.metadata import EVENTS_BYTES_MAX, EVENTS_MAX

#: Events that wait for one member. A member that lags further gets the rest by sync.
OUTBOX_MAX = 4096

#: Seconds at most for which a member that asks to come back later is left alone.
BUSY_S_MAX = 30.0
#: Members that news is passed on to: twenty members have it after four hops, a thousand after eight.
RUMOUR_PEERS = 3
#: Events of one piece of news that are pushed one by one. With more of them a comparison finds out what the other
#: lacks, for it may have heard most of it from others.
RUMOUR_EVENTS_MAX = 128

T = TypeVar("T")

#: Pushes a batch to a member; returns the ids that are on its disk. Failing means none. Raises Busy.
Push = Callable[[str, Sequence[Event]], Awaitable[Iterable[bytes]]]
#: Compares notes with a member; never raises for it.
Compare = Callable[[str], Awaitable[object]]


@dataclass(eq=False, slots=True)
class Copies:
    """Where one event is durable besides here, as far as we were told."""

    holders: set[str] = field(default_factory=set)
    #: How many wait for it: a wish may be put twice, and one of the two given up.
    watchers: int = 0
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
        """Count the disks that this event reaches, until as many `unwatch`."""
        copies = self._copies.setdefault(event.id, Copies())
        copies.watchers += 1
        return copies

    def unwatch(self, event: Event) -> None:
        self._copies[event.id].watchers -= 1
        if not self._copies[event.id].watchers:
            del self._copies[event.id]

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
                for batch in batches(list(outbox.values()), _size):
                    for event_id in await self._push(peer_id, batch):
                        copies = self._copies.get(event_id)
                        if copies is not None:
                            copies.add(peer_id)
        except Busy as busy:
            await trio.sleep(min(busy.retry_after_s, BUSY_S_MAX))
        finally:
            self._sending.discard(peer_id)
            if peer_id in self._outboxes:  # it filled again while we waited: else there is nothing to be woken for
                self._wake.set()


class Rumours:
    """Passes on what was new here: pushes a little, compares notes where there is much, while `run` runs."""

    def __init__(self, rng: Rng, candidates: Callable[[], Sequence[str]], push: Push, compare: Compare) -> None:
        """`candidates` are the members that this node is connected to, in a fixed order."""
        self._rng = rng
        self._candidates = candidates
        self._outboxes = Spreader(push)
        self._compare = compare
        self._comparing: set[str] = set()
        self._pending: list[str] = []
        self._wake = trio.Event()

    def heard(self, events: Sequence[Event], source: str) -> None:
        """These events were new here and came from that peer."""
        others = [peer_id for peer_id in self._candidates() if peer_id != source]
        if not events or not others:
            return
        chosen = self._rng.sample(others, min(RUMOUR_PEERS, len(others)))
        if len(events) > RUMOUR_EVENTS_MAX:
            self._pending += [peer_id for peer_id in chosen if peer_id not in self._pending]
            self._wake.set()
            return
        for event in events:
            self._outboxes.spread(event, [peer_id for peer_id in chosen if peer_id != event.author])

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._outboxes.run)
            while True:
                self._wake = trio.Event()
                ready = [peer_id for peer_id in self._pending if peer_id not in self._comparing]
                self._pending = [peer_id for peer_id in self._pending if peer_id in self._comparing]
                for peer_id in ready:
                    self._comparing.add(peer_id)
                    nursery.start_soon(self._compare_with, peer_id)
                await self._wake.wait()

    async def _compare_with(self, peer_id: str) -> None:
        try:
            await self._compare(peer_id)
        finally:
            self._comparing.discard(peer_id)
            self._wake.set()


def batches(items: Sequence[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
    """Cut a run of events, of so many bytes each on the wire, so that each piece fits one message."""
    batch: list[T] = []
    size = 0
    for item in items:
        length = size_of(item)
        if batch and (len(batch) == EVENTS_MAX or size + length > EVENTS_BYTES_MAX):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += length
    if batch:
        yield batch


def _size(event: Event) -> int:
    return len(event.encoded) + len(event.signature)
