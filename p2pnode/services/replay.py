"""From a log on disk to the clock and the catalog: the last checkpoint, and every row behind it.

A checkpoint is taken only if the log holds exactly the events that it says; otherwise, and for whatever other reason,
every row is replayed. A damaged row is passed over, and so is every row that stands on it: what is left is closed under
its past, a smaller but valid clock, and an ordinary sync brings the rest. Blocking work, for a thread, on nothing but
the log: it also makes a checkpoint of a log that a living ledger is writing to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from p2pnode import __version__
from p2pnode.core.catalog import Catalog, Manifests
from p2pnode.core.checkpoint import BadCheckpoint, Checkpoint, decode, encode
from p2pnode.core.clock import MerkleClock, Read
from p2pnode.core.event import Event
from p2pnode.storage.event_log import EventLog, Row

log = structlog.get_logger(__name__)

#: A checkpoint is worth writing after so many events, and after a sixteenth of all: replaying them takes a second or
#: two, and at a million events a checkpoint is 70 MB.
TAIL_EVENTS = 32_768
TAIL_SHARE = 16

#: Another version may fold otherwise, so its checkpoints are not taken.
MAKER = f"p2pnode {__version__}"


@dataclass(slots=True)
class Replay:
    """What a log amounts to."""

    clock: MerkleClock
    catalog: Catalog
    #: The last row that is in both.
    place: int
    #: Rows that were replayed one by one.
    tail: int
    damaged: list[Row]
    #: Events on this disk, damaged or standing on damaged ones, that the clock lacks.
    missing: set[bytes]

    @property
    def is_worth_keeping(self) -> bool:
        """Whether the next opening would replay so much again that a checkpoint pays."""
        return not self.missing and self.tail >= worth(len(self.clock))


def worth(events: int) -> int:
    """Events behind the last checkpoint that make a new one worth writing, where there are so many in all."""
    return max(TAIL_EVENTS, events // TAIL_SHARE)


def replay(log_: EventLog, genesis: bytes, read: Read, manifests: Manifests) -> Replay:
    """What that log amounts to. `read` fetches one of its events by id. Raises IntegrityError, StorageFailed."""
    found = _from_checkpoint(log_, genesis, read, manifests)
    found = found or Replay(MerkleClock(genesis, read), Catalog(manifests), 0, 0, [], set())
    clock = found.clock
    rulings, counts = clock.rulings, clock.counts
    for block in log_.block_ids():
        clock.add_block(block)
    late: dict[int, bytes] = {}
    for row in log_.rows(found.place):
        found.place = row.place
        found.tail += 1
        if row.event is None:
            found.damaged.append(row)
        elif not _add(found, row.event, counts):
            late[row.place] = row.id
    _add_late(found, log_, late, counts)
    found.missing = {row.id for row in found.damaged} | {*log_.damaged(), *late.values()}
    found.missing = {event_id for event_id in found.missing if event_id not in clock}
    if clock.rulings != rulings:
        found.catalog = fold(log_, clock.ruling(), manifests)
    return found


def fold(log_: EventLog, counts: Callable[[Event], bool], manifests: Manifests) -> Catalog:
    """The catalog of all that is on disk and counts, from scratch."""
    return Catalog.fold(filter(counts, log_.events()), manifests)


def keep(log_: EventLog, found: Replay) -> bool:
    """Write a checkpoint. False if the disk refuses."""
    clock = found.clock
    checkpoint = Checkpoint(
        clock.genesis, found.place, len(clock), clock.fingerprint, clock.dump(), found.catalog.dump()
    )
    kept = log_.keep_checkpoint(encode(checkpoint, MAKER))
    log.info("checkpoint", kept=kept, events=len(clock), replayed=found.tail)
    return kept


def _from_checkpoint(log_: EventLog, genesis: bytes, read: Read, manifests: Manifests) -> Replay | None:
    data = log_.kept_checkpoint()
    if data is None:
        return None
    try:
        kept = decode(data, MAKER)
        if kept.genesis != genesis:
            raise BadCheckpoint("it is another swarm's")
        if log_.holds(kept.place) != (kept.count, kept.fingerprint):
            raise BadCheckpoint("the log does not hold what it says")
    except BadCheckpoint as error:
        log.warning("checkpoint_left_aside", why=str(error))
        return None
    clock = MerkleClock.load(genesis, kept.clock, read)
    return Replay(clock, Catalog.load(kept.catalog, manifests), kept.place, 0, [], set())


def _add(found: Replay, event: Event, counts: Callable[[Event], bool]) -> bool:
    outcome = found.clock.add(event)
    for added in outcome.added:
        if counts(added):
            found.catalog.apply(added)
    return event.id in found.clock


def _add_late(found: Replay, log_: EventLog, late: dict[int, bytes], counts: Callable[[Event], bool]) -> None:
    """Rows whose past lies behind them, for it was set aside once and came again."""
    before = -1
    while late and before != len(late):
        before = len(late)
        for place, event_id in list(late.items()):
            row = None if event_id in found.clock else log_.row(place)
            if event_id in found.clock or (row and row.event and _add(found, row.event, counts)):
                del late[place]
