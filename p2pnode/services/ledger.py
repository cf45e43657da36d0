"""One node's copy of the swarm's facts: the clock, the fold and the file, kept as one.

Events come in as wire bytes from a peer (`take`) or are written here (`write`, `write_many`). Either way: checked
in a thread, admitted by the clock, on disk, folded into the catalog, told to whoever listens, in that order; an
own event is on disk before the clock, and so any peer, can see it. Whoever writes at the same moment shares one
commit. A block that a version names is fetched and stored before the version counts. This file knows no peers:
blocks come through a callable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
import trio

from bootstrap.identity import SIGNATURE_BYTES, Identity
from p2pnode.core import records
from p2pnode.core.catalog import Catalog
from p2pnode.core.cid import cid_text, record_cid
from p2pnode.core.clock import Cursor, MerkleClock, Outcome, Verdict
from p2pnode.core.conduct import Reason
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
from p2pnode.env.shield import shielded
from p2pnode.errors import IntegrityError, P2PNodeError, RoleError, StorageFailed, UsageError
from p2pnode.services.manifests import Manifests
from p2pnode.services.replay import Replay, fold, keep, replay, worth
from p2pnode.storage.event_log import CHECKED, EventLog

log = structlog.get_logger(__name__)

#: Blocks fetched from one peer at once while taking its events.
FETCHES_MAX = 8
#: Events admitted between two looks at the loop: some 10 ms, for lag reads as death to peers.
SLICE_EVENTS = 256
#: Own events in one commit: they enter the clock without a look at the loop, so some 15 ms.
GROUP_EVENTS = 512
#: After so many blocks that a peer did not have, the rest of its events wait for a better source.
FETCH_FAILURES_MAX = 8

#: Seconds between two looks at rows that the opening did not read: a million of them take half a minute.
LOOK_PAUSE_S = 0.25

#: Asks one peer for a block; None when it does not have it.
FetchBlock = Callable[[bytes], Awaitable[bytes | None]]
OnChange = Callable[[Sequence[Event]], None]


@dataclass(frozen=True, slots=True)
class Checked:
    """What wire bytes are worth, in their order: the id of each, and the events among them that are new and signed."""

    ids: tuple[bytes, ...]
    events: tuple[Event, ...]
    #: Ids of those that are no events, and why.
    refused: Mapping[bytes, Reason]


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a batch, in its order: ids on disk here, ids that wait, ids refused."""

    durable: tuple[bytes, ...]
    waiting: tuple[bytes, ...]
    refused: tuple[bytes, ...]
    #: What entered the clock because of it, events that had waited for it included, in the order of admission.
    new: tuple[Event, ...]
    #: Everything that was refused in its course: (the peer that sent it, why, how many).
    faults: tuple[tuple[str, Reason, int], ...]
    #: How many of them were here before.
    known: int


@dataclass(frozen=True, slots=True)
class Draft:
    """An event to be written here: what it says, and the blocks that it names unless they are here already."""

    kind: str
    object_id: str
    body: dict[str, Any]
    blocks: Sequence[bytes] = ()


@dataclass(eq=False, slots=True)
class _Writing:
    """A draft on its way to the disk."""

    draft: Draft
    event: Event | None = None
    failure: P2PNodeError | None = None

    @property
    def done(self) -> bool:
        return self.failure is not None or self.event is not None


class Ledger:
    """The facts as this node has them. `open` first; until a genesis is known there are none."""

    def __init__(self, env: Env, log_: EventLog, identity: Identity) -> None:
        self._env = env
        self._log = log_
        self._identity = identity
        self._session = mint_session(env.rng.token(SESSION_BYTES))
        self._queue: list[_Writing] = []
        self._writing = trio.Lock()
        self._last_time = 0
        self._manifests = Manifests(log_.read_block)
        self._callbacks: list[OnChange] = []
        #: Admitted, not yet known to be on disk, in the order of admission.
        self._volatile: dict[bytes, Event] = {}
        #: On disk, not yet in the catalog, in the order of becoming durable.
        self._unfolded: list[Event] = []
        self._folding = trio.Lock()
        self._clock: MerkleClock | None = None
        self._rulings_folded = 0
        #: Forked authors that the log was told of.
        self._accused: set[str] = set()
        #: Events on this disk that are damaged, or stand on damaged ones, and are not back yet.
        self._missing: set[bytes] = set()
        #: Rows that the opening took a checkpoint's word for.
        self._unread_rows = 0
        #: How many events the last checkpoint has, and the sign that it is time for the next.
        self._kept_events = 0
        self._grown = trio.Event()
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

    async def open(self, *, others: bool = False) -> None:
        """Know what is on disk. `others`: whether there are peers besides the members on record to fetch from.

        Raises IntegrityError if the log is damaged and there is nobody who could have what it lacks.
        """
        if self._log.genesis is None:
            return
        try:
            await self._open(others)
        except IntegrityError:
            if not (others and self._log.is_unreadable):
                raise
            await self._log.start_anew()

    async def _open(self, others: bool) -> None:
        run, genesis = self._env.executor.run, self._log.genesis
        assert genesis is not None  # open looked
        found = await run(replay, self._log, genesis, self._read, self.manifest)
        alone = not others and all(member.peer_id == self._identity.peer_id for member in found.catalog.members())
        try:
            # Decoding every manifest in force now, in a thread, spares the loop from doing it one by one.
            await run(found.catalog.datasets)
        except IntegrityError:
            if alone:
                raise
            blocks = await run(self._log.unsound_blocks)
            log.error("blocks_damaged", damaged=len(blocks))
            await self._log.drop_blocks(blocks)
            self._manifests.lost.difference_update(blocks)
            found = await run(replay, self._log, genesis, self._read, self.manifest)
        if found.missing and alone:
            raise IntegrityError(
                f"The event log is damaged: {len(found.missing)} events are damaged or lack what they stand on.",
                advice=self._log.advice,
            )
        if found.damaged:
            log.error("events_damaged", damaged=len(found.damaged), lacking=len(found.missing))
            await self._log.set_aside(row.id for row in found.damaged)
        self._clock, self.catalog, self._missing = found.clock, found.catalog, found.missing
        self._rulings_folded = found.clock.rulings
        self._kept_events = self._unread_rows = len(found.clock) - found.tail
        if found.is_worth_keeping:
            await self._checkpoint(found)

    @property
    def incomplete(self) -> int:
        """Events that this disk had, that are damaged or stand on damaged ones, and blocks; what is not back yet."""
        return len(self._missing) + len(self._manifests.lost)

    @property
    def lost(self) -> list[bytes]:
        """Those of them that the clock knows and no sync would bring: to be asked for by id. In (height, id) order."""
        lost = [event_id for event_id in self._missing if event_id in self.clock]
        return sorted(lost, key=lambda event_id: (self.clock.height_of(event_id), event_id))

    async def run(self) -> None:
        """Look through what opening did not read, and keep a checkpoint whenever the log has grown enough; until
        cancelled.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_through)
            while True:
                await self._grown.wait()
                self._grown = trio.Event()
                genesis = self.clock.genesis
                try:
                    # From the disk, not from the clock and the catalog in use, which go on changing.
                    found = await self._env.executor.run(replay, self._log, genesis, self._read, self.manifest)
                except P2PNodeError as error:
                    # Whoever writes next is told; what is known here can still be asked for.
                    log.error("log_unreadable", why=error.message)
                    return
                await self._checkpoint(found)

    async def _look_through(self) -> None:
        """Check the rows that a checkpoint stood for at the opening: damage is found while others still have them."""
        place, rows = 0, 0
        while rows < self._unread_rows:
            try:
                place, damaged = await self._env.executor.run(self._log.unsound, place)
            except P2PNodeError as error:
                log.error("log_unreadable", why=error.message)
                return
            await self._lose(damaged)
            rows += CHECKED
            await trio.sleep(LOOK_PAUSE_S)

    async def _lose(self, event_ids: Sequence[bytes]) -> None:
        """These events of the clock are damaged on disk: out of the way with them, so that they can come again."""
        if not event_ids:
            return
        log.error("events_damaged", damaged=len(event_ids))
        try:
            await self._log.set_aside(event_ids)
        except StorageFailed as error:
            # They are found again when somebody asks for them.
            log.error("damage_not_set_aside", why=error.message)
        else:
            self._missing.update(event_ids)

    async def _checkpoint(self, found: Replay) -> None:
        # A disk that refuses is asked again when the log has grown as much once more.
        self._kept_events = len(found.clock)
        if not found.missing:
            await self._env.executor.run(keep, self._log, found)

    async def adopt(self, genesis: bytes) -> None:
        """Belong to that swarm from now on. Raises IntegrityError if this home belongs to another one."""
        await self._log.adopt(genesis)
        if self._clock is None:
            self._clock = MerkleClock(genesis, self._read)

    async def found(self, name: str, *, open_swarm: bool) -> Event:
        """Begin a swarm: write its genesis event. Raises UsageError if this home belongs to one already."""
        if self._clock is not None:
            raise UsageError("This home belongs to a swarm already.")
        draft = Draft(records.GENESIS, "", records.genesis_body(name, open_swarm=open_swarm))
        event = self._compose(None, Position(), draft)
        await self._log.begin(event)
        await self.adopt(event.id)
        self._note(self.clock.add(event))
        await self._let_count([event])
        return event

    # -- writing ---------------------------------------------------------------------------------------------

    async def write(self, kind: str, object_id: str, body: dict[str, Any], blocks: Iterable[bytes] = ()) -> Event:
        """Author an event on everything known here; durable here when this returns.

        Raises UsageError if it cannot be encoded, RoleError if this node may not say it, StorageFailed.
        """
        return (await self.write_many([Draft(kind, object_id, body, tuple(blocks))]))[0]

    async def write_many(self, drafts: Iterable[Draft]) -> list[Event]:
        """Author events one after the other, in as few commits as GROUP_EVENTS allows.

        Each stands for itself: raises as `write` for the first that failed, when the others are durable.
        """
        writings = [_Writing(draft) for draft in drafts]
        self._queue.extend(writings)
        try:
            async with self._writing:
                # Whoever gets the lock first writes for everybody who queued meanwhile, and is not cancelled halfway.
                with shielded():
                    while writings and not writings[-1].done:
                        await self._write_group()
        finally:
            mine = set(map(id, writings))
            self._queue = [writing for writing in self._queue if id(writing) not in mine]
        for writing in writings:
            if writing.failure is not None:
                raise writing.failure
        return [writing.event for writing in writings if writing.event is not None]

    async def _write_group(self) -> None:
        group = self._queue[:GROUP_EVENTS]
        del self._queue[: len(group)]
        try:
            await self._write_together(group)
        finally:
            # Those that something unforeseen kept from being written or refused find out for themselves.
            self._queue[:0] = [writing for writing in group if not writing.done]

    async def _write_together(self, group: Sequence[_Writing]) -> None:
        clock = self.clock
        cursor = clock.cursor(self._identity.peer_id, self._session)
        blocks, events = await self._env.executor.run(self._compose_group, group, clock.genesis, cursor)
        # What they stand on goes with them, if it is not on disk yet: the file never holds a child alone.
        admitted = list(self._volatile.values())
        try:
            await self._log.append([*admitted, *events.values()], blocks)
        except P2PNodeError as error:
            for writing in events:
                writing.failure = error
            return
        # No await between the disk and the clock. An event on disk that the clock missed would have its place taken by
        # the next one: a fork by this node's own hand, which costs it its voice for good.
        named = [cid for event in events.values() for cid in records.blocks_of(event)]
        for cid in [*blocks, *named]:  # one that was fetched may be on the disk and not yet known to the clock
            self._note(clock.add_block(cid))
        for writing, event in events.items():
            self._note(clock.add(event))
            writing.event = event
        await self._let_count([*admitted, *events.values()])

    def _compose_group(
        self, group: Sequence[_Writing], genesis: bytes, cursor: Cursor
    ) -> tuple[dict[bytes, bytes], dict[_Writing, Event]]:
        """In a thread: the group's blocks, and its events, each on the one before."""
        blocks: dict[bytes, bytes] = {}
        events: dict[_Writing, Event] = {}
        for writing in group:
            given = {record_cid(block): block for block in writing.draft.blocks}
            try:
                event = self._compose(genesis, cursor.position, writing.draft)
                refusal = cursor.refusal(event)
                if refusal:
                    raise RoleError(f"This node cannot record {event.kind!r}: {refusal}.")
                for cid in records.blocks_of(event):
                    if cid not in given and cid not in blocks and self._log.read_block(cid) is None:
                        raise UsageError(f"Block {cid_text(cid)} must be given with the event that names it.")
            except P2PNodeError as error:
                writing.failure = error
                continue
            for cid, data in given.items():
                self._manifests.keep(cid, data)
            blocks |= given
            events[writing] = event
            cursor.advance(event)
        return blocks, events

    def _compose(self, genesis: bytes | None, position: Position, draft: Draft) -> Event:
        self._last_time = next_time(self._env.clock.wall(), self._last_time)
        return compose(
            namespace=genesis,
            author=self._identity.peer_id,
            session=self._session,
            position=position,
            time=self._last_time,
            kind=draft.kind,
            object_id=draft.object_id,
            body=draft.body,
            sign=self._identity.sign,
        )

    # -- taking ----------------------------------------------------------------------------------------------

    async def take(self, wires: Sequence[bytes], source: str, fetch: FetchBlock) -> Taken:
        """Take in a batch from the peer `source`; what it says it stored is on disk when this returns.

        Raises StorageFailed. Bad events are not raised but listed: the rest of the batch is still good.
        """
        checked = await self._env.executor.run(self.check, wires)
        return await self.admit(checked, source, fetch)

    def check(self, wires: Sequence[bytes]) -> Checked:
        """What wire bytes are worth, their past aside. For a thread: 70 µs an event."""
        clock = self.clock
        ids: list[bytes] = []
        events: list[Event] = []
        refused: dict[bytes, Reason] = {}
        for wire in wires:
            event_id = record_cid(wire[:-SIGNATURE_BYTES])
            ids.append(event_id)
            if event_id in clock and event_id not in self._missing:
                continue
            try:
                events.append(parse_signed(wire))
            except BadEvent as error:
                refused[event_id] = error.fault
        return Checked(tuple(ids), tuple(events), refused)

    async def admit(self, checked: Checked, source: str, fetch: FetchBlock) -> Taken:
        """Take in what was checked. Otherwise as `take`."""
        clock = self.clock
        fresh = {event.id for event in checked.events}
        known = sum(event_id not in fresh and event_id not in checked.refused for event_id in checked.ids)
        news: list[Event] = []
        refused = dict(checked.refused)
        faults = Counter((source, reason) for reason in refused.values())

        def note(outcome: Outcome) -> None:
            self._note(outcome)
            news.extend(outcome.added)
            refused.update((refusal.event_id, refusal.fault) for refusal in outcome.refused)
            faults.update((refusal.source, refusal.fault) for refusal in outcome.refused)

        for number, event in enumerate(checked.events, start=1):
            outcome = clock.add(event, source)
            note(outcome)
            if outcome.verdict is Verdict.KNOWN and event.id in self._missing:
                self._volatile[event.id] = event
            if number % SLICE_EVENTS == 0:
                await trio.lowlevel.checkpoint()
        await self._fetch_wanted(source, fresh, fetch, note)
        await self.settle()
        # One that waited may have been let in by another batch, which is on its way to the disk: it is not there yet.
        # Nor is one whose record was found damaged meanwhile.
        durable = {e: None for e in checked.ids if e in clock and not (e in self._volatile or e in self._missing)}
        return Taken(
            durable=tuple(durable),
            waiting=tuple(e for e in checked.ids if e not in durable and (e in clock or e not in refused)),
            refused=tuple(e for e in checked.ids if e in refused and e not in clock),
            new=tuple(news),
            faults=tuple((peer, reason, count) for (peer, reason), count in sorted(faults.items())),
            known=known,
        )

    async def _fetch_wanted(
        self, source: str, sent: Container[bytes], fetch: FetchBlock, note: Callable[[Outcome], None]
    ) -> None:
        """Fetch the blocks that the peer's events wait for, as far as it has them. What others' wait for is theirs to
        give: else whoever names blocks that nobody has could keep everybody from asking for any other.
        """
        lacking: set[bytes] = set()
        while len(lacking) < FETCH_FAILURES_MAX:
            wanted = [cid for cid in self.clock.wanted_blocks(source, sent) if cid not in lacking][:FETCHES_MAX]
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
                await self._env.executor.run(self._manifests.keep, cid, data)
                note(self.clock.add_block(cid))

    def _note(self, outcome: Outcome) -> None:
        """Remember what entered the clock until it is on disk."""
        for event in outcome.added:
            self._volatile[event.id] = event

    @property
    def settled(self) -> bool:
        """Whether all that is known here is on disk and counts."""
        return not (self._volatile or self._unfolded) and self._rulings_folded == self.clock.rulings

    async def settle(self) -> None:
        """Make everything admitted so far durable, then let it count."""
        admitted = list(self._volatile.values())
        if admitted:
            await self._log.append(admitted)
        await self._let_count(admitted)

    # -- reading ---------------------------------------------------------------------------------------------

    async def wires(self, event_ids: Sequence[bytes]) -> list[bytes]:
        """The wire bytes of these events, which are in the clock, in that order; damaged ones are left out.

        Raises StorageFailed.
        """
        volatile = {event_id: self._volatile[event_id].wire for event_id in event_ids if event_id in self._volatile}
        wanted = [event_id for event_id in event_ids if event_id not in volatile]
        stored = dict(zip(wanted, await self._log.wires(wanted), strict=True))
        await self._lose(
            [event_id for event_id in wanted if stored[event_id] is None and event_id not in self._missing]
        )
        found = (volatile.get(event_id) or stored[event_id] for event_id in event_ids)
        return [wire for wire in found if wire is not None]

    def _read(self, event_id: bytes) -> Event:
        event = self._volatile.get(event_id)
        return self._log.read(event_id) if event is None else event

    # -- the fold --------------------------------------------------------------------------------------------

    async def _let_count(self, durable: Iterable[Event]) -> None:
        # Another task may have settled the same events meanwhile; each is folded once.
        settled = [event for event in durable if self._volatile.pop(event.id, None) is not None]
        self._missing.difference_update(event.id for event in settled)
        self._unfolded += settled
        rulings = self.clock.rulings
        if self._folding.locked() or self._rulings_folded < rulings:
            async with self._folding:
                # What comes to light meanwhile is folded by whoever brought it: nobody waits for more than he knew of.
                if self._rulings_folded < rulings:
                    await self._fold_anew()
        self._fold()

    def _fold(self) -> None:
        counts, events = self.clock.ruling(), self._unfolded
        self._unfolded = []
        for event in events:
            if counts(event):
                self.catalog.apply(event)
        for callback in self._callbacks if events else ():
            callback(events)
        if len(self.clock) - self._kept_events >= worth(len(self.clock)):
            self._grown.set()

    async def _fold_anew(self) -> None:
        """Events that were here before count no longer, or do now: fold everything again, in a thread."""
        clock = self.clock
        rulings, counts = clock.rulings, clock.ruling()
        for author in clock.accused():
            if author not in self._accused:
                self._accused.add(author)
                proof = clock.forks(author)[0]
                log.error("author_forked", peer=author, events=[cid_text(e) for e in proof.events])
        # What becomes durable meanwhile stays in `_unfolded`; applied twice it changes nothing.
        catalog = await self._env.executor.run(fold, self._log, counts, self.manifest)
        self.catalog, self._rulings_folded = catalog, rulings

    def manifest(self, cid: bytes) -> Manifest | None:
        """A manifest by content id; None if it is not here or is none. Reads the disk when it is not at hand.

        Raises IntegrityError if it has changed on disk.
        """
        return self._manifests.read(cid)

    @property
    def lost_blocks(self) -> list[bytes]:
        """Blocks that have changed on this disk, as far as somebody asked for them: to be fetched again; sorted."""
        return sorted(self._manifests.lost)

    async def mend_block(self, cid: bytes, data: bytes) -> None:
        """Put these bytes, from a peer, in place of a lost block's. Bytes of another block change nothing."""
        if record_cid(data) == cid:
            await self._log.mend_block(cid, data)
            self._manifests.lost.discard(cid)

    async def block(self, cid: bytes) -> bytes | None:
        """A block's bytes, for a peer that wants them. Raises IntegrityError if they have changed on disk."""
        try:
            return await self._log.block(cid)
        except IntegrityError:
            self._manifests.lost.add(cid)
            raise
