"""Is this event log whole? Every record read anew, believed nothing, and folded from scratch.

Each record is parsed, hashed, compared with its seal, its signature checked, and given to a fresh clock in the order
in which it lies there, which checks links, heights, sequences and entitlement as it would for a stranger's events.
What comes of it is then compared with whoever claims to know it: the log's own tally, the checkpoint with the records
behind it, and the node that runs on the log. What is wrong is told by check, with the first records concerned; nothing
is repaired here.

What a log cannot prove by itself is that nobody took away its newest events and wrote the tally anew: that shows when
it meets a peer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from p2pnode.core import records
from p2pnode.core.catalog import Catalog
from p2pnode.core.checkpoint import BadCheckpoint, Checkpoint, ForeignCheckpoint, decode
from p2pnode.core.cid import cid_text, record_cid
from p2pnode.core.clock import Fork, MerkleClock, Verdict
from p2pnode.core.event import BadEvent, Event, check_signature, parse
from p2pnode.core.model import Manifest
from p2pnode.errors import IntegrityError
from p2pnode.services.replay import MAKER
from p2pnode.storage.event_log import seal_of
from p2pnode.storage.log_reader import LogReader, Row
from p2pnode.storage.tally import Tally

#: Records of one step: some 30 ms, most of it for signatures.
STEP_ROWS = 256
#: Damaged records that are named; beyond that they are counted.
NAMED_MAX = 100

FILE, RECORDS, SIGNATURES, ORDER = "file", "records", "signatures", "order"
LINKS, VALIDITY, BLOCKS, FORKS = "links", "validity", "blocks", "forks"
TALLY, FOLD, CHECKPOINT = "tally", "fold", "checkpoint"

_TALLIED = "no record was taken away or has moved"


@dataclass(frozen=True, slots=True)
class Known:
    """What a running node knew at a moment when all of it was on disk, up to `place`."""

    place: int
    events: int
    fingerprint: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class Step:
    """How far an audit is: so many of `total` records (or blocks) of this stage are done."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at, and what was found."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Damage:
    """One record or block that is not what it should be."""

    check: str
    #: Its place in the log; 0 for a block.
    place: int
    id: bytes
    why: str


@dataclass(frozen=True, slots=True)
class Report:
    """What an audit found. `events` and the rest are of the causally closed, valid part."""

    genesis: bytes | None
    running: bool
    events: int
    blocks: int
    height: int
    heads: Sequence[bytes]
    fingerprint: bytes
    digest: bytes
    forks: Sequence[Fork]
    #: The first NAMED_MAX of them.
    damaged: Sequence[Damage]
    checks: Sequence[Check]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)


@dataclass(slots=True)
class Audit:
    """One audit: take all `steps`, then read the `report`."""

    reader: LogReader
    known: Known | None = None
    _clock: MerkleClock | None = None
    _catalog: Catalog | None = None
    _records: int = 0
    _blocks: int = 0
    #: The last record that is looked at; what a running node appends meanwhile lies behind it.
    _end: int = 0
    _tally: Tally = field(default_factory=Tally)
    #: Places of records that a node took out of the way, and the ids that they had.
    _aside: dict[int, bytes] = field(default_factory=dict)
    _good_blocks: list[bytes] = field(default_factory=list)
    _damaged: list[Damage] = field(default_factory=list)
    _counts: dict[str, int] = field(default_factory=dict)
    #: What there is to say of the checkpoint if nothing is wrong with it.
    _checkpoint: str = "none is kept yet"

    def steps(self) -> Iterator[Step]:
        """Do it, piece by piece. Each step blocks for some tens of milliseconds, the first for as long as sqlite
        needs to look through its file. Raises StorageFailed if the disk refuses.
        """
        try:
            yield from self._steps()
        except IntegrityError as error:
            self._blame(FILE, 0, b"", error.message)

    def _steps(self) -> Iterator[Step]:
        yield Step(FILE, 0, 1)
        for flaw in self.reader.flaws():
            self._blame(FILE, 0, b"", flaw)
        genesis = self.reader.meta("genesis")
        self._end = self.reader.last_place() if self.known is None else self.known.place
        if genesis is None:
            if self._end:
                self._blame(FILE, 0, b"", "there are records and no word to which swarm they belong")
            return
        self._aside = self.reader.set_aside()
        self._clock = MerkleClock(genesis, self._event)
        yield from self._check_blocks(self._clock)
        yield from self._check_records(self._clock)
        self._check_tally()
        yield from self._fold(self._clock)
        yield from self._check_checkpoint(self._clock)

    def _check_blocks(self, clock: MerkleClock) -> Iterator[Step]:
        ids = self.reader.block_ids()
        for number, cid in enumerate(ids, 1):
            data = self.reader.block(cid)
            if data is None or record_cid(data) != cid:
                self._blame(BLOCKS, 0, cid, "its bytes have changed")
            else:
                clock.add_block(cid)
                self._good_blocks.append(cid)
            self._blocks += 1
            yield Step(BLOCKS, number, len(ids))

    def _check_records(self, clock: MerkleClock) -> Iterator[Step]:
        place = 0
        waiting: dict[bytes, int] = {}
        while rows := self._rows(place):
            for row in rows:
                lost = [gap for gap in range(place + 1, min(row.place, place + NAMED_MAX)) if gap not in self._aside]
                if lost:
                    self._blame(ORDER, lost[0], b"", "nothing lies there")
                place = row.place
                self._records += 1
                event = self._parsed(row)
                if event is not None:
                    self._admit(clock, event, row, waiting)
            self._tally = self._tally.after((row.place, row.id) for row in rows)
            yield Step(RECORDS, place, self._end)
        self._check_waiting(clock, waiting)
        for gone in sorted(event_id for event_id in self._aside.values() if event_id not in clock):
            self._blame(RECORDS, 0, gone, "it was damaged and has not come again")

    def _rows(self, after: int) -> list[Row]:
        return [row for row in self.reader.rows(after, STEP_ROWS) if row.place <= self._end]

    def _check_waiting(self, clock: MerkleClock, waiting: dict[bytes, int]) -> None:
        """Those whose past lies behind them, or nowhere."""
        before = -1
        while before != len(clock):
            before = len(clock)
            for event_id, at in waiting.items():
                row = None if event_id in clock else self.reader.row(at)
                if row is not None:
                    clock.add(parse(row.wire))
        for event_id, at in waiting.items():
            if event_id not in clock:
                self._blame(LINKS, at, event_id, "what it stands on is not here")
            elif not self._aside:  # what was damaged and came again lies behind what stands on it
                self._blame(ORDER, at, event_id, "it lies before what it stands on")
        for cid in clock.wanted_blocks():
            self._blame(BLOCKS, 0, cid, "a version names it and it is not here")

    def _check_tally(self) -> None:
        kept = Tally.decode(self.reader.meta("tally") or b"")
        if kept is None:
            self._blame(TALLY, 0, b"", "there is none")
        elif self.known is None and kept != self._tally:
            why = f"the {kept.count:,} records that were written up to here are not those that lie there, in that order"
            self._blame(TALLY, kept.place, b"", why)

    def _parsed(self, row: Row) -> Event | None:
        try:
            event = parse(row.wire)
        except BadEvent as error:
            self._blame(RECORDS, row.place, row.id, error.message)
            return None
        if event.id != row.id:
            self._blame(RECORDS, row.place, row.id, "its bytes are not those of its id")
            return None
        if row.seal != seal_of(row.wire):
            self._blame(RECORDS, row.place, row.id, "its seal does not fit")
        try:
            return check_signature(event)
        except BadEvent as error:
            self._blame(SIGNATURES, row.place, row.id, error.message)
            return None

    def _admit(self, clock: MerkleClock, event: Event, row: Row, waiting: dict[bytes, int]) -> None:
        outcome = clock.add(event)
        for refusal in outcome.refused:
            self._blame(VALIDITY, waiting.pop(refusal.event_id, row.place), refusal.event_id, refusal.reason)
        if outcome.verdict is Verdict.WAITING:
            waiting[event.id] = row.place
        elif outcome.verdict is Verdict.KNOWN:
            self._blame(ORDER, row.place, event.id, "it lies here twice")

    def _fold(self, clock: MerkleClock) -> Iterator[Step]:
        self._catalog = catalog = Catalog(self._manifest)
        for number, event in enumerate(clock.events(), 1):
            if clock.counts(event):
                catalog.apply(event)
            if number % STEP_ROWS == 0:
                yield Step(FOLD, number, len(clock))
        yield Step(FOLD, len(clock), len(clock))

    def _check_checkpoint(self, clock: MerkleClock) -> Iterator[Step]:
        """The way a node opens its log must lead to where the long way did."""
        data = self.reader.checkpoint()
        if data is None:
            return
        try:
            kept = decode(data, MAKER)
            if kept.genesis != clock.genesis:
                raise BadCheckpoint("it is another swarm's")
        except ForeignCheckpoint as error:
            self._checkpoint = f"not used: {error}"
            return
        except BadCheckpoint as error:
            self._blame(CHECKPOINT, 0, b"", f"{error}; the next start replays the log")
            return
        if self._counts or kept.place > self._end:
            self._checkpoint = "not compared: " + (
                "the log is not whole" if self._counts else "it is newer than this look"
            )
            return
        yield from self._replay(kept, clock)

    def _replay(self, kept: Checkpoint, clock: MerkleClock) -> Iterator[Step]:
        short = MerkleClock.load(clock.genesis, kept.clock, self._event)
        catalog = Catalog.load(kept.catalog, self._manifest)
        rulings, place = short.rulings, kept.place
        for cid in self._good_blocks:
            short.add_block(cid)
        while rows := self._rows(place):
            for row in rows:
                for added in short.add(parse(row.wire)).added:
                    if short.counts(added):
                        catalog.apply(added)
            place = rows[-1].place
            yield Step(CHECKPOINT, place, self._end)
        if short.rulings != rulings:
            catalog = Catalog.fold((event for event in short.events() if short.counts(event)), self._manifest)
        if (len(short), short.fingerprint, catalog.digest()) != (len(clock), clock.fingerprint, self._digest()):
            self._blame(CHECKPOINT, 0, b"", "it leads to another state than the log; remove it")
        self._checkpoint = f"leads to the same state from record {kept.place:,} on"

    def _digest(self) -> bytes:
        return self._catalog.digest() if self._catalog else b""

    def _event(self, event_id: bytes) -> Event:
        """An event that was admitted and is wanted again. Raises IntegrityError when it has gone meanwhile."""
        wire = self.reader.wire(event_id)
        if wire is None:
            raise IntegrityError(f"Event {cid_text(event_id)} went while it was looked at.")
        return parse(wire)

    def _manifest(self, cid: bytes) -> Manifest | None:
        data = self.reader.block(cid)
        try:
            return None if data is None else records.decode_manifest(data)
        except IntegrityError:
            return None

    def _blame(self, check: str, place: int, event_id: bytes, why: str) -> None:
        self._counts[check] = self._counts.get(check, 0) + 1
        if len(self._damaged) < NAMED_MAX:
            self._damaged.append(Damage(check, place, event_id, why))

    # -- what was found ----------------------------------------------------------------------------------------

    def report(self) -> Report:
        """The findings, once all steps are done."""
        clock = self._clock
        if clock is None:
            lost = [self._check(FILE, "it belongs to no swarm yet")]
            return Report(None, False, 0, 0, 0, (), bytes(32), b"", (), self._damaged, lost)
        return Report(
            genesis=clock.genesis,
            running=self.known is not None,
            events=len(clock),
            blocks=self._blocks,
            height=clock.height,
            heads=clock.heads(),
            fingerprint=clock.fingerprint,
            digest=self._digest(),
            forks=clock.forks(),
            damaged=self._damaged,
            checks=list(self._checks(clock)),
        )

    def _checks(self, clock: MerkleClock) -> Iterator[Check]:
        forks = len(clock.forks())
        yield self._check(FILE, "sqlite finds its file whole")
        yield self._check(RECORDS, f"{self._records:,} read back as they were written")
        yield self._check(SIGNATURES, "each its author's")
        yield self._check(ORDER, "each lies behind what it stands on, nothing is missing between")
        yield self._check(LINKS, "all that any of them stands on is here")
        yield self._check(VALIDITY, "heights, sequences and entitlement fit")
        yield self._check(BLOCKS, f"{self._blocks:,} hash to their names")
        yield Check(FORKS, True, f"{forks} of an author's chains" if forks else "no author forked its chain")
        yield self._check(TALLY, "not compared while the node runs" if self.known else _TALLIED)
        yield self._compared(clock)
        yield self._check(CHECKPOINT, self._checkpoint)

    def _compared(self, clock: MerkleClock) -> Check:
        digest = self._digest()
        if self.known is None:
            return Check(FOLD, bool(digest), f"folds to {digest.hex()}")
        if (self.known.events, self.known.fingerprint) != (len(clock), clock.fingerprint):
            return Check(FOLD, False, f"the running node knows {self.known.events:,} events, the log {len(clock):,}")
        same = digest == self.known.digest
        return Check(FOLD, same, f"{'equals' if same else 'differs from'} the running node's catalog")

    def _check(self, name: str, fine: str) -> Check:
        found = self._counts.get(name, 0)
        if not found:
            return Check(name, True, fine)
        first = next((one for one in self._damaged if one.check == name), None)
        if first is None:
            return Check(name, False, f"{found:,} wrong")
        return Check(name, False, f"{found:,} wrong, first {_told(first)}" if found > 1 else _told(first))


def _told(damage: Damage) -> str:
    where = f"place {damage.place}: " if damage.place else f"{cid_text(damage.id)}: " if damage.id else ""
    return where + damage.why
