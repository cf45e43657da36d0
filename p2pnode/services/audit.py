"""Is this event log whole? Every record read anew, believed nothing, and folded from scratch.

Each record is parsed, hashed, compared with its seal, its signature checked, and given to a fresh clock in the order
in which it lies there, which checks links, heights, sequences and entitlement as it would for a stranger's events.
The clock's answer is then compared with whoever claims to know it: the log's own tally, the checkpoint, and the node
that runs on the log. What is wrong is told by check, with the first records concerned; nothing is repaired here.

What a log cannot prove by itself is that nobody took away its newest events and rewrote seals and tally to match:
that shows when it meets a peer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from p2pnode.core import records
from p2pnode.core.catalog import Catalog
from p2pnode.core.cid import cid_text, record_cid
from p2pnode.core.clock import Fork, MerkleClock, Verdict
from p2pnode.core.event import BadEvent, Event, check_signature, parse
from p2pnode.core.model import Manifest
from p2pnode.errors import IntegrityError
from p2pnode.storage.event_log import _seal as seal
from p2pnode.storage.log_reader import LogReader, Row

#: Records of one step: some 30 ms, most of it for signatures.
STEP_ROWS = 256
#: Damaged records that are named; beyond that they are counted.
NAMED_MAX = 100

FILE, RECORDS, SIGNATURES, ORDER = "file", "records", "signatures", "order"
LINKS, VALIDITY, BLOCKS, FORKS = "links", "validity", "blocks", "forks"
TALLY, FOLD = "tally", "fold"


@dataclass(frozen=True, slots=True)
class Known:
    """What a running node knew at a moment when all of it was on disk."""

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
    _damaged: list[Damage] = field(default_factory=list)
    _counts: dict[str, int] = field(default_factory=dict)

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
        total = self.reader.count() if self.known is None else self.known.events
        if genesis is None:
            if total:
                self._blame(FILE, 0, b"", f"{total} records and no word to which swarm they belong")
            return
        self._clock = MerkleClock(genesis, self._event)
        yield from self._check_blocks(self._clock)
        yield from self._check_records(self._clock, total)
        yield from self._fold(self._clock)

    def _check_blocks(self, clock: MerkleClock) -> Iterator[Step]:
        ids = self.reader.block_ids()
        for number, cid in enumerate(ids, 1):
            data = self.reader.block(cid)
            if data is None or record_cid(data) != cid:
                self._blame(BLOCKS, 0, cid, "its bytes have changed")
            else:
                clock.add_block(cid)
            self._blocks += 1
            yield Step(BLOCKS, number, len(ids))

    def _check_records(self, clock: MerkleClock, total: int) -> Iterator[Step]:
        place = 0
        waiting: dict[bytes, int] = {}
        while self._records < total and (rows := self.reader.rows(place, min(STEP_ROWS, total - self._records))):
            for row in rows:
                if row.place != place + 1:
                    self._blame(ORDER, place + 1, b"", f"nothing lies at places {place + 1} to {row.place - 1}")
                place = row.place
                self._records += 1
                event = self._parsed(row)
                if event is not None:
                    self._admit(clock, event, row, waiting)
            yield Step(RECORDS, self._records, total)
        for event_id, at in waiting.items():
            if event_id in clock:
                self._blame(ORDER, at, event_id, "it lies before what it stands on")
            else:
                self._blame(LINKS, at, event_id, "what it stands on is not here")
        for cid in clock.wanted_blocks():
            self._blame(BLOCKS, 0, cid, "a version names it and it is not here")

    def _parsed(self, row: Row) -> Event | None:
        try:
            event = parse(row.wire)
        except BadEvent as error:
            self._blame(RECORDS, row.place, row.id, error.message)
            return None
        if event.id != row.id:
            self._blame(RECORDS, row.place, row.id, "its bytes are not those of its id")
            return None
        if row.seal != seal(row.wire):
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
            digest=self._catalog.digest() if self._catalog else b"",
            forks=clock.forks(),
            damaged=self._damaged,
            checks=list(self._checks(clock)),
        )

    def _checks(self, clock: MerkleClock) -> Iterator[Check]:
        forks = len(clock.forks())
        yield self._check(FILE, "sqlite finds its file whole")
        yield self._check(RECORDS, f"{self._records:,} read back as they were written")
        yield self._check(SIGNATURES, "each its author's")
        yield self._check(ORDER, "nothing is missing between two records, none has moved")
        yield self._check(LINKS, "all that any of them stands on is here")
        yield self._check(VALIDITY, "heights, sequences and entitlement fit")
        yield self._check(BLOCKS, f"{self._blocks:,} hash to their names")
        yield Check(FORKS, True, f"{forks} of an author's chains" if forks else "no author spoke with two tongues")
        yield from self._compare(clock)

    def _compare(self, clock: MerkleClock) -> Iterator[Check]:
        digest = self._catalog.digest() if self._catalog else b""
        if self.known is None:
            yield Check(FOLD, self._catalog is not None, f"folds to {digest.hex()}")
        elif (self.known.events, self.known.fingerprint) != (len(clock), clock.fingerprint):
            yield Check(FOLD, False, f"the running node knows {self.known.events:,} events, the log {len(clock):,}")
        else:
            same = digest == self.known.digest
            yield Check(FOLD, same, f"{'equals' if same else 'differs from'} the running node's catalog")

    def _check(self, name: str, fine: str) -> Check:
        found = self._counts.get(name, 0)
        if not found:
            return Check(name, True, fine)
        first = next((one for one in self._damaged if one.check == name), None)
        return Check(name, False, f"{found:,}: {_told(first)}" if first else f"{found:,}")


def _told(damage: Damage) -> str:
    where = f"place {damage.place}: " if damage.place else f"{cid_text(damage.id)}: " if damage.id else ""
    return where + damage.why
