"""What it costs two replicas to compare notes: bytes, round trips, and how fast a newcomer gets a history.

Everything is said by the real parts (syncer, exchange, link, ledger, event log) over a network of memory that counts.
"Beyond the events" means all bytes in both directions less the wire bytes of the events that moved. One hundred events
"at random places" are the last events of 100 authors out of 1,000 who all wrote at the same time: a replica never lacks
an event without everything that was built on it, so missing events lie always at the ends, and ends of many authors are
as random as it gets. A newcomer's rate, and the baseline's, are by seconds of one core, all sides counted: those who
serve it and the one who takes. Bound: the signatures.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from bootstrap.identity import Identity
from p2pnode.core import records
from p2pnode.core.event import Event, Position, check_signature, compose, mint_session
from p2pnode.core.model import Member, NodeRole
from p2pnode.core.settings import Settings
from p2pnode.env import Env
from p2pnode.net.guard import Guard
from p2pnode.net.peers import Peers
from p2pnode.services.ledger import Checked
from p2pnode.services.metadata import MetadataService
from p2pnode.storage.event_log import EventLog
from protocols.metadata import METADATA
from simulations.bench.figure import Figure, at_most, stated
from simulations.bench.memory import MemoryNet

EVENTS = 100_000
AUTHORS = 100
MISSING = 100
BYTES_MAX_KB = 8.0
TURNS_MAX = 3
#: Of many authors at once, for events missing at random places.
MANY_AUTHORS = 1_000
MANY_EVENTS = 10_000
NEWCOMER_EVENTS = 20_000
#: Events admitted at once while a replica is filled, and signatures timed for the baseline.
BATCH = 1024


class Writer:
    """An author, and where its next event stands."""

    def __init__(self, number: int) -> None:
        self.identity = Identity.from_seed(number.to_bytes(32, "big"))
        self.session = mint_session(bytes(16))
        self.previous: Event | None = None

    def write(self, genesis: Event | None, parents: Sequence[Event]) -> Event:
        """A note (first of all an `up`; without a genesis, that) on these heads."""
        previous, peer_id = self.previous, self.identity.peer_id
        past = [*parents, *([previous] if previous else [])]
        kind, object_id, body = (
            "note",
            "",
            {"n": len(past), "text": "some sixty bytes of something that was worth a note"},
        )
        if genesis is None:
            kind, body = records.GENESIS, records.genesis_body("bench", open_swarm=True)
        elif previous is None or previous is genesis:
            member = Member(peer_id, f"node-{peer_id[-8:]}", NodeRole.HYBRID)
            kind, object_id, body = records.UP, peer_id, records.up_body(member)
        self.previous = compose(
            namespace=genesis.id if genesis else None,
            author=peer_id,
            session=self.session,
            position=Position(
                sequence=0 if previous is None else previous.sequence + 1,
                previous=previous.id if previous else None,
                parents=tuple(sorted(event.id for event in parents)),
                height=1 + max((event.height for event in past), default=0),
            ),
            time=0,
            kind=kind,
            object_id=object_id,
            body=body,
            sign=self.identity.sign,
        )
        return self.previous


def history(authors: int, count: int) -> tuple[list[Writer], list[Event]]:
    """Authors who took turns, each on what the one before had written."""
    writers = [Writer(number + 1) for number in range(authors)]
    events = [writers[0].write(None, ())]
    for number in range(count - 1):
        events.append(writers[number % authors].write(events[0], events[-1:]))
    return writers, events


class Replica:
    """The parts of a node that know facts, on a disk of their own."""

    def __init__(self, net: MemoryNet, home: Path, number: int) -> None:
        self._net = net
        self._home = home / str(number)
        self._identity = Identity.from_seed(bytes([0xB0, number]) * 16)
        self.peer_id = self._identity.peer_id

    async def open(self, genesis: Event) -> Replica:
        env = Env()
        self._home.mkdir()
        door = self._net.door(self.peer_id)
        peers = Peers(door, env)
        settings = Settings(home=self._home, node_id=self.peer_id[-8:])
        self._log = await EventLog.open(env, self._home / "catalog.db")
        self._metadata = MetadataService(peers, self._log, self._identity, env, settings)
        await self._metadata.open()
        await self._metadata.ledger.adopt(genesis.id)
        for other in self._net.doors:
            peers.learn(other, other[-8:], NodeRole.HYBRID, ())
        Guard(door, _anybody, peers.blame).serve(METADATA, self._metadata.handlers())
        return self

    async def fill(self, events: Sequence[Event]) -> None:
        """Have these already, as if they had come and been checked long ago."""
        for start in range(0, len(events), BATCH):
            batch = tuple(events[start : start + BATCH])
            checked = Checked(tuple(event.id for event in batch), batch, {})
            await self._metadata.ledger.admit(checked, "", _no_block)

    async def sync(self, other: Replica) -> None:
        """Compare notes, and find that both have the same then."""
        await self._metadata.catch_up(other.peer_id)
        assert self.fingerprint == other.fingerprint

    @property
    def fingerprint(self) -> tuple[int, bytes]:
        return len(self._metadata.clock), self._metadata.clock.fingerprint

    async def close(self) -> None:
        await self._log.close()


def _anybody(peer_id: str, protocol: str, verb: str) -> None:
    """These replicas are no members: their events are others'."""


async def _no_block(cid: bytes) -> bytes | None:
    return None


@asynccontextmanager
async def replicas(genesis: Event, *filled: Sequence[Event]):
    """A network, and a replica for each of these histories."""
    with tempfile.TemporaryDirectory(prefix="p2pnode-bench-") as folder:
        async with trio.open_nursery() as nursery:
            net = MemoryNet(nursery)
            made: list[Replica] = []
            for number, events in enumerate(filled):
                made.append(await Replica(net, Path(folder), number).open(genesis))
                await made[-1].fill(events)
            net.counted.clear()
            yield net.counted, *made
            nursery.cancel_scope.cancel()
            for replica in made:
                await replica.close()


async def measure() -> list[Figure]:
    return [*await _recent(), *await _random_places(), await _newcomer(sources=1), await _newcomer(sources=3)]


async def _recent() -> list[Figure]:
    """100 recent events missing of 100,000, by an asker with no news of its own, and by one with some; equal sets."""
    _, events = await trio.to_thread.run_sync(history, AUTHORS, EVENTS)
    genesis, moved = events[0], _wire_bytes(events[-MISSING:])
    events_kb = moved / 1e3
    figures: list[Figure] = []
    async with replicas(genesis, events[:-MISSING], events) as (counted, asker, answerer):
        await asker.sync(answerer)
        beyond = (counted.bytes - moved) / 1e3
        figures.append(at_most("sync behind", beyond, "kB", events_kb, "the 100 events", value_max=BYTES_MAX_KB))
        figures.append(at_most("sync behind", counted.turns, "trips", 1, "one request", value_max=TURNS_MAX))
        counted.clear()
        await asker.sync(answerer)
        assert counted.turns == 1
        figures.append(stated("sync equal", counted.bytes, "bytes", 32, "one event's id"))
    # Every one of the hundred authors has news that the asker lacks, and it has an event of its own beside them.
    own = Writer(0).write(genesis, events[-MISSING - 1 : -MISSING])
    async with replicas(genesis, [*events[:-MISSING], own], events) as (counted, asker, answerer):
        await asker.sync(answerer)
        beyond = (counted.bytes - moved - len(own.wire)) / 1e3
        figures.append(at_most("sync both ways", beyond, "kB", events_kb, "the 100 events", value_max=BYTES_MAX_KB))
        figures.append(at_most("sync both ways", counted.turns, "trips", 1, "one request", value_max=TURNS_MAX))
    return figures


async def _random_places() -> list[Figure]:
    writers, events = await trio.to_thread.run_sync(history, MANY_AUTHORS, MANY_EVENTS - MANY_AUTHORS)
    genesis, head = events[0], events[-1]
    last = [writer.write(genesis, [head]) for writer in writers]
    lacking = set(random.Random(1).sample(range(MANY_AUTHORS), MISSING))
    fewer = [event for number, event in enumerate(last) if number not in lacking]
    async with replicas(genesis, [*events, *fewer], [*events, *last]) as (counted, asker, answerer):
        await asker.sync(answerer)
        moved = _wire_bytes([last[number] for number in lacking])
        events_kb, beyond = moved / 1e3, (counted.bytes - moved) / 1e3
        return [
            stated("sync at random", beyond, "kB", events_kb, "the 100 events, of 1,000 authors"),
            at_most("sync at random", counted.turns, "trips", 1, "one request", value_max=TURNS_MAX),
        ]


async def _newcomer(sources: int) -> Figure:
    _, events = await trio.to_thread.run_sync(history, AUTHORS, NEWCOMER_EVENTS)
    checked_s = await trio.to_thread.run_sync(_time_signatures, events[:BATCH])
    async with replicas(events[0], *[events] * sources, ()) as (_, *made):
        began = time.process_time()
        await made[-1].sync(made[0])
        rate = len(events) / (time.process_time() - began)
    against = "checking signatures alone"
    return stated(f"newcomer of {sources}", rate, "events/s", 1 / checked_s, against)


def _time_signatures(events: Sequence[Event]) -> float:
    began = time.process_time()
    for event in events:
        check_signature(event)
    return (time.process_time() - began) / len(events)


def _wire_bytes(events: Sequence[Event]) -> int:
    return sum(len(event.wire) for event in events)
