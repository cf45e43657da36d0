"""One node's copy of the swarm's facts: the clock, the fold and the file, kept as one.

Events come in as wire bytes from a peer (`take`) or are written here (`write`). Either way: checked in a
thread, admitted by the clock, on disk, folded into the catalog, told to whoever listens, in that order; an
own event is on disk before the clock, and so any peer, can see it. A block that a version names is fetched
and stored before the version counts. This file knows no peers: blocks come through a callable.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
import trio

from bootstrap.identity import SIGNATURE_BYTES, Identity
from p2pnode.core import records
from p2pnode.core.catalog import Catalog
from p2pnode.core.cid import cid_text, record_cid
from p2pnode.core.clock import MerkleClock, Outcome
from p2pnode.core.event import (
    SESSION_BYTES,
    BadEvent,
    Event,
    Position,
    compose,
    mint_session,
    next_time,
    parse_signed,
)
from p2pnode.core.model import Manifest
from p2pnode.env import Env
from p2pnode.errors import IntegrityError, RoleError, UsageError
from p2pnode.storage.event_log import EventLog

log = structlog.get_logger(__name__)

#: Decoded manifests kept: those in force are held by the catalog anyway, this serves unions and time travel.
MANIFESTS_MAX = 64
#: Blocks fetched from one peer at once while taking its events.
FETCHES_MAX = 8
#: Events admitted between two looks at the loop: some 10 ms, for lag reads as death to peers.
SLICE_EVENTS = 256
#: After so many blocks that a peer did not have, the rest of its events wait for a better source.
FETCH_FAILURES_MAX = 8

#: Asks one peer for a block; None when it does not have it.
FetchBlock = Callable[[bytes], Awaitable[bytes | None]]
OnChange = Callable[[Sequence[Event]], None]


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a batch, in its order: ids on disk here, ids that wait, ids refused; and what was new."""

    durable: tuple[bytes, ...]
    waiting: tuple[bytes, ...]
    refused: tuple[bytes, ...]
    new: int


class Ledger:
    """The facts as this node has them. `open` first; until a genesis is known there are none."""

    def __init__(self, env: Env, log_: EventLog, identity: Identity) -> None:
        self._env = env
        self._log = log_
        self._identity = identity
        self._session = mint_session(env.rng.token(SESSION_BYTES))
        self._writing = trio.Lock()
        self._last_time = 0
        self._manifests: OrderedDict[bytes, Manifest | None] = OrderedDict()
        self._callbacks: list[OnChange] = []
        #: Admitted, not yet known to be on disk, in the order of admission.
        self._volatile: dict[bytes, Event] = {}
        self._clock: MerkleClock | None = None
        self._rulings_folded = 0
        self.catalog = Catalog(self.manifest)

    @property
    def genesis(self) -> bytes | None:
        """The swarm's name; None while this node belongs to none."""
        return self._clock.genesis if self._clock else None

    @property
    def clock(self) -> MerkleClock:
        """Only once `genesis` is known."""
        if self._clock is None:
            raise UsageError("This node belongs to no swarm yet.", advice="Start it with --bootstrap, or found one.")
        return self._clock

    def on_change(self, callback: OnChange) -> None:
        """Call back with every batch of events that was made durable and folded."""
        self._callbacks.append(callback)

    async def open(self) -> None:
        """Replay the log. Raises IntegrityError if it does not replay."""
        if self._log.genesis is None:
            return
        events = await self._log.load()
        blocks = await self._log.block_ids()
        await self._env.executor.run(self._replay, self._log.genesis, events, blocks)

    def _replay(self, genesis: bytes, events: Sequence[Event], blocks: Iterable[bytes]) -> None:
        clock = MerkleClock(genesis)
        for block in blocks:
            clock.add_block(block)
        for event in events:
            clock.add(event)
        if len(clock) != len(events):
            raise IntegrityError(
                f"The event log is damaged: {len(events) - len(clock)} events lack what they stand on.",
                advice=self._log.advice,
            )
        self._clock = clock
        self._refold()
        # Decoding every manifest in force now, in this thread, spares the loop from doing it one by one.
        self.catalog.datasets()

    async def adopt(self, genesis: bytes) -> None:
        """Belong to that swarm from now on. Raises IntegrityError if this home belongs to another one."""
        await self._log.adopt(genesis)
        if self._clock is None:
            self._clock = MerkleClock(genesis)

    async def found(self, name: str, *, open_swarm: bool) -> Event:
        """Begin a swarm: write its genesis event. Raises UsageError if this home belongs to one already."""
        if self._clock is not None:
            raise UsageError("This home belongs to a swarm already.")
        event = self._compose(None, Position(), records.GENESIS, "", records.genesis_body(name, open_swarm=open_swarm))
        await self._log.begin(event)
        await self.adopt(event.id)
        self.clock.add(event)
        self._fold([event])
        return event

    # -- writing ---------------------------------------------------------------------------------------------

    async def write(self, kind: str, object_id: str, body: dict[str, Any], blocks: Iterable[bytes] = ()) -> Event:
        """Author an event on everything known here; durable here when this returns.

        Raises UsageError if it cannot be encoded, RoleError if this node may not say it, StorageFailed.
        """
        stored = {record_cid(block): block for block in blocks}
        async with self._writing:
            clock = self.clock
            position = clock.next_position(self._identity.peer_id, self._session)
            event = self._compose(clock.genesis, position, kind, object_id, body)
            refusal = clock.refusal(event)
            if refusal:
                raise RoleError(f"This node cannot record {kind!r}: {refusal}.")
            for block in records.blocks_of(event):
                if block not in stored and await self._log.block(block) is None:
                    raise UsageError(f"Block {cid_text(block)} must be given with the event that names it.")
            for cid, block in stored.items():
                await self._remember(cid, block)
            # What it stands on goes with it, if it is not on disk yet: the file never holds a child alone.
            admitted = list(self._volatile.values())
            await self._log.append([*admitted, event], stored)
            # No await from here on. An event on disk that the clock missed would have its place taken by the next one:
            # a fork by this node's own hand, which costs it its voice for good.
            for cid in stored:
                clock.add_block(cid)
            self._note(clock.add(event))
            self._let_count([*admitted, event])
        return event

    def _compose(
        self, genesis: bytes | None, position: Position, kind: str, object_id: str, body: dict[str, Any]
    ) -> Event:
        self._last_time = next_time(self._env.clock.wall(), self._last_time)
        return compose(
            namespace=genesis,
            author=self._identity.peer_id,
            session=self._session,
            position=position,
            time=self._last_time,
            kind=kind,
            object_id=object_id,
            body=body,
            sign=self._identity.sign,
        )

    # -- taking ----------------------------------------------------------------------------------------------

    async def take(self, wires: Sequence[bytes], source: str, fetch: FetchBlock) -> Taken:
        """Take in a batch from the peer `source`; what it says it stored is on disk when this returns.

        Raises StorageFailed. Bad events are not raised but listed: the rest of the batch is as good as ever.
        """
        clock = self.clock
        ids, events = await self._env.executor.run(_parse_new, wires, clock.__contains__)
        refused = {event_id for event_id in ids if event_id not in clock} - {event.id for event in events}
        before = len(clock)
        for number, event in enumerate(events, start=1):
            refused |= self._note(clock.add(event, source))
            if number % SLICE_EVENTS == 0:
                await trio.lowlevel.checkpoint()
        refused |= await self._fetch_wanted(fetch)
        await self.settle()
        known = [event_id for event_id in ids if event_id in clock]
        return Taken(
            durable=tuple(known),
            waiting=tuple(e for e in ids if e not in clock and e not in refused),
            refused=tuple(e for e in ids if e in refused),
            new=len(clock) - before,
        )

    async def _fetch_wanted(self, fetch: FetchBlock) -> set[bytes]:
        """Fetch the blocks that events wait for, as far as the peer has them. Returns the events refused then."""
        refused: set[bytes] = set()
        lacking: set[bytes] = set()
        while len(lacking) < FETCH_FAILURES_MAX:
            wanted = [cid for cid in self.clock.wanted_blocks() if cid not in lacking][:FETCHES_MAX]
            if not wanted:
                break
            fetched: dict[bytes, bytes] = {}

            async def fetch_one(cid: bytes, found: dict[bytes, bytes]) -> None:
                data = await fetch(cid)
                if data is None or record_cid(data) != cid:
                    lacking.add(cid)
                else:
                    found[cid] = data

            async with trio.open_nursery() as nursery:
                for cid in wanted:
                    nursery.start_soon(fetch_one, cid, fetched)
            await self._log.append((), fetched)
            for cid, data in sorted(fetched.items()):
                await self._remember(cid, data)
                refused |= self._note(self.clock.add_block(cid))
        return refused

    def _note(self, outcome: Outcome) -> set[bytes]:
        """Remember what entered the clock until it is on disk; returns the ids it refused."""
        for event in outcome.added:
            self._volatile[event.id] = event
        for refusal in outcome.refused:
            log.warning(
                "event_refused",
                event_id=cid_text(refusal.event_id),
                peer=refusal.source,
                why=refusal.reason,
            )
        return {refusal.event_id for refusal in outcome.refused}

    @property
    def settled(self) -> bool:
        """Whether all that is known here is on disk and counts."""
        return not self._volatile

    async def settle(self) -> None:
        """Make everything admitted so far durable, then let it count."""
        admitted = list(self._volatile.values())
        if admitted:
            await self._log.append(admitted)
            self._let_count(admitted)

    def _let_count(self, durable: Iterable[Event]) -> None:
        # Another task may have settled the same events meanwhile; each is folded once.
        settled = [event for event in durable if self._volatile.pop(event.id, None) is not None]
        if settled:
            self._fold(settled)

    # -- the fold --------------------------------------------------------------------------------------------

    def _fold(self, events: Sequence[Event]) -> None:
        clock = self.clock
        if clock.rulings != self._rulings_folded:
            for fork in clock.forks():
                log.error("author_forked", peer=fork.author, events=[cid_text(e) for e in fork.events])
            self._refold()
        else:
            for event in events:
                if clock.counts(event):
                    self.catalog.apply(event)
        for callback in self._callbacks:
            callback(events)

    def _refold(self) -> None:
        clock = self.clock
        settled = (e for e in clock.events() if clock.counts(e) and e.id not in self._volatile)
        self.catalog = Catalog.fold(settled, self.manifest)
        self._rulings_folded = clock.rulings

    def manifest(self, cid: bytes) -> Manifest | None:
        """A manifest by content id; None if it is not here or is none. Reads the disk when it is not at hand."""
        if cid not in self._manifests:
            data = self._log.read_block(cid)
            self._keep(cid, None if data is None else _decode(data))
        self._manifests.move_to_end(cid)
        return self._manifests[cid]

    async def block(self, cid: bytes) -> bytes | None:
        """A block's bytes, for a peer that wants them."""
        return await self._log.block(cid)

    async def _remember(self, cid: bytes, data: bytes) -> None:
        self._keep(cid, await self._env.executor.run(_decode, data))

    def _keep(self, cid: bytes, manifest: Manifest | None) -> None:
        self._manifests[cid] = manifest
        while len(self._manifests) > MANIFESTS_MAX:
            self._manifests.popitem(last=False)


def _decode(data: bytes) -> Manifest | None:
    try:
        return records.decode_manifest(data)
    except IntegrityError:
        return None


def _parse_new(wires: Sequence[bytes], known: Callable[[bytes], bool]) -> tuple[list[bytes], list[Event]]:
    """(the id of every wire event, those that are new and well signed). For a thread: 70 µs an event."""
    ids: list[bytes] = []
    events: list[Event] = []
    for wire in wires:
        event_id = record_cid(wire[:-SIGNATURE_BYTES])
        ids.append(event_id)
        if known(event_id):
            continue
        try:
            events.append(parse_signed(wire))
        except BadEvent as error:
            log.warning("event_refused", event_id=cid_text(event_id), why=error.message)
    return ids, events
