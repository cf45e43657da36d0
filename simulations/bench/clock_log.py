"""What it costs to write events, to take them in, and to open the log that they make.

Speeds are of one core: events over the processor time that the process used, because the cores of this machine are
shared and the wall clock of a busy one says nothing. Baselines are what no clock can do without: one Ed25519
signature for an event written, one check for an event taken. The breakdown gives each step's time alone and its
share of the whole; what the steps leave over is threads, the loop and the ledger.

Opening is measured on a copy of the files of a ledger that is still open, which is what SIGKILL leaves: the last
checkpoint, and behind it as many events as there ever are before the next one. Signatures are not checked on
opening (the seal vouches for the check made when the event came), so a long log is built without any.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from bootstrap.identity import SIGNATURE_BYTES, Identity
from p2pnode.core import records
from p2pnode.core.catalog import Catalog
from p2pnode.core.clock import MerkleClock
from p2pnode.core.event import Event, Position, check_signature, compose, parse
from p2pnode.core.model import Manifest, Member, NodeRole
from p2pnode.env import Env
from p2pnode.services.ledger import Draft, Ledger
from p2pnode.services.replay import Replay, keep, worth
from p2pnode.storage.event_log import EventLog
from simulations.bench.figure import ROUNDS, Figure, at_most, interleave, stated

#: Events of one round of writing and taking.
EVENTS = 4_000
#: Events in one batch that is taken, as many as a message has.
BATCH = 1_024
WRITTEN_MIN_PER_S = 12_000.0
TAKEN_MIN_PER_S = 6_000.0
#: Events of the log that is opened; `clock_million` opens a longer one.
LOG_EVENTS = 100_000
#: Seconds that opening may take, however long the log.
OPEN_MAX_S = 5.0
#: Events in one commit of a log that is built.
_COMMIT = 50_000

_ME = Identity.from_seed(bytes(31) + b"\1")
_BODY = {"task": "resize", "input": "a" * 40, "attempt": 1}


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="p2pnode-bench-") as folder:
        return [*await _speeds(Path(folder)), *await opening(Path(folder), LOG_EVENTS)]


# -- writing and taking ------------------------------------------------------------------------------------------


async def _speeds(folder: Path) -> list[Figure]:
    fresh = iter(range(1_000_000))
    source = await _founded(folder / "source")
    events = await source.write_many(_drafts())
    wires = [event.wire for event in source.clock.events()]

    async def signing() -> float:
        key = SigningKey(_ME.seed)
        return _us(lambda: [key.sign(event.encoded) for event in events])

    async def checking() -> float:
        key = SigningKey(_ME.seed).verify_key
        signed = [_signed(event) for event in events]
        return _us(lambda: [key.verify(message, signature) for message, signature in signed])

    async def writing() -> float:
        ledger = await _founded(folder / f"{next(fresh)}")
        return await _spent(lambda: ledger.write_many(_drafts()))

    async def taking() -> float:
        ledger = await _opened(folder / f"{next(fresh)}", 2)
        await ledger.adopt(source.clock.genesis)

        async def take() -> None:
            for start in range(0, len(wires), BATCH):
                await ledger.take(wires[start : start + BATCH], "source", _no_block)

        value = await _spent(take)
        assert len(ledger.clock) == len(wires)
        return value

    sign, check, write, take = await interleave(signing, checking, writing, taking)
    steps = await _steps(folder / "steps", events, wires)
    signed, checked = "a bare Ed25519 signature", "a bare Ed25519 check"
    return [
        _per_s("own appends, batched", write, sign, WRITTEN_MIN_PER_S, signed),
        *_breakdown("  of it", write, {name: steps[name] for name in ("compose, sign", "clock", "log", "fold")}),
        _per_s("received, durable", take, check, TAKEN_MIN_PER_S, checked),
        *_breakdown("  of it", take, {name: steps[name] for name in ("parse", "signature", "clock", "log", "fold")}),
    ]


def _signed(event: Event) -> tuple[bytes, bytes]:
    """As many bytes as are signed for that event, and a signature of them."""
    message = b"p2pnode/event/1\0" + event.encoded
    return message, SigningKey(_ME.seed).sign(message).signature


async def _steps(path: Path, events: Sequence[Event], wires: Sequence[bytes]) -> dict[str, float]:
    """Microseconds an event of each step alone: the median of ROUNDS."""
    taken: dict[str, list[float]] = {}
    genesis = parse(wires[0])
    for number in range(ROUNDS):
        log = await EventLog.open(Env(), path.with_name(f"steps-{number}"))
        clock, catalog = MerkleClock(genesis.id), Catalog(_no_manifest)
        for wire in wires[:2]:
            clock.add(parse(wire))

        async def append(log: EventLog = log) -> None:
            for start in range(0, len(events), BATCH):
                await log.append(events[start : start + BATCH])

        found = {
            "compose, sign": _us(lambda: [_composed(event) for event in events]),
            "parse": _us(lambda: [parse(wire) for wire in wires]),
            "signature": _us(lambda: [check_signature(event) for event in events]),
            "clock": _us(lambda clock=clock: [clock.add(event) for event in events]),
            "log": await _spent(append),
            "fold": _us(lambda clock=clock, catalog=catalog: _fold(clock, catalog, events)),
        }
        await log.close()
        for name, value in found.items():
            taken.setdefault(name, []).append(value)
    return {name: sorted(values)[len(values) // 2] for name, values in taken.items()}


def _per_s(name: str, us: float, base_us: float, least: float, against: str) -> Figure:
    value, base = 1e6 / us, 1e6 / base_us
    return Figure(name, value, "events/s", base, value / base, f"≥ {least:g} events/s", value >= least, against)


def _breakdown(prefix: str, whole_us: float, steps: dict[str, float]) -> list[Figure]:
    parts = {**steps, "the rest": whole_us - sum(steps.values())}
    return [stated(f"{prefix}: {name}", us, "µs", whole_us, "an event in all") for name, us in parts.items()]


# -- opening -----------------------------------------------------------------------------------------------------


async def opening(folder: Path, count: int) -> list[Figure]:
    """Opening a log of `count` events as SIGKILL left it, and what the clock takes in memory."""
    built = folder / "long"
    index_bytes = await _build(built, count)
    left = _left_behind(folder)
    found: list[Ledger] = []

    async def again() -> None:
        found.append(await _opened(left / "long", 1))

    wall = time.perf_counter()
    spent_s = await _spent(again, 1) / 1e6
    wall = time.perf_counter() - wall
    ledger = found[0]
    assert len(ledger.clock) == count
    head = ledger.clock.heads()[0]
    event = await ledger.write("note", "", _BODY)
    assert ledger.clock.missing_beyond([head]) == [event.id]
    (left / "long.checkpoint").unlink()
    replay_s = await _spent(again, 1) / 1e6
    assert found[1].clock.fingerprint == ledger.clock.fingerprint
    name = f"opening {count:,} events after SIGKILL"
    return [
        at_most(name, spent_s, "s", replay_s, "replaying all of it", value_max=OPEN_MAX_S),
        stated("  by the wall clock", wall, "s", spent_s, "its processor time"),
        stated("  clock's memory", index_bytes, "B/event", (left / "long").stat().st_size / count, "on disk"),
    ]


def _left_behind(folder: Path) -> Path:
    """Copies of the long log's files as they lie now."""
    left = folder / "left"
    left.mkdir()
    for file in sorted(folder.glob("long*")):
        shutil.copy(file, left / file.name)
    return left


async def _build(path: Path, count: int) -> float:
    """A log of that many events with a checkpoint as old as it can be. Returns the index's bytes an event."""
    ledger = await _founded(path)
    (last,) = await ledger.write_many([Draft("note", "", _BODY)])
    log = await EventLog.open(Env(), path)
    clock, catalog = MerkleClock(ledger.clock.genesis, log.read), Catalog(_no_manifest)
    for event in log.events():
        clock.add(event)
        catalog.apply(event)
    stops = (count - worth(count) + 1, count)
    pending: list[Event] = []
    index_bytes = 0.0
    while len(clock) < count:
        position = Position(last.sequence + 1, last.id, (last.id,), last.height + 1)
        last = _said_again(last, position, {**_BODY, "attempt": len(clock)}, _no_signature)
        clock.add(last)
        pending.append(last)
        if len(pending) == _COMMIT or len(clock) in stops:
            await log.append(pending)
            pending = []
        if len(clock) == stops[0]:
            assert log.row(len(clock)) is not None
            assert keep(log, Replay(clock, catalog, len(clock), 0, [], set()))
            index_bytes = _memory(clock) / len(clock)
    return index_bytes


def _memory(clock: MerkleClock) -> int:
    """Bytes that the same clock takes anew."""
    dump = clock.dump()
    tracemalloc.start()
    kept = MerkleClock.load(clock.genesis, dump, _unread)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(kept) == len(clock)
    return taken


# -- parts -------------------------------------------------------------------------------------------------------


async def _opened(path: Path, seed: int) -> Ledger:
    env = Env()
    ledger = Ledger(env, await EventLog.open(env, path), Identity.from_seed(bytes(31) + bytes([seed])))
    await ledger.open()
    return ledger


async def _founded(path: Path) -> Ledger:
    ledger = await _opened(path, 1)
    await ledger.found("bench", open_swarm=True)
    await ledger.write(records.UP, _ME.peer_id, records.up_body(Member(_ME.peer_id, "bench", NodeRole.HYBRID)))
    return ledger


def _drafts() -> list[Draft]:
    return [Draft("note", "task-1", {**_BODY, "attempt": number}) for number in range(EVENTS)]


def _said_again(event: Event, position: Position, body: dict[str, Any], sign: Callable[[bytes], bytes]) -> Event:
    return compose(
        namespace=event.namespace,
        author=event.author,
        session=event.session,
        position=position,
        time=event.time,
        kind=event.kind,
        object_id=event.object_id,
        body=body,
        sign=sign,
    )


def _composed(event: Event) -> Event:
    position = Position(event.sequence, event.previous, event.parents, event.height)
    return _said_again(event, position, event.body, _ME.sign)


def _fold(clock: MerkleClock, catalog: Catalog, events: Sequence[Event]) -> None:
    counts = clock.ruling()
    for event in events:
        if counts(event):
            catalog.apply(event)


def _us(work: Callable[[], object]) -> float:
    """Microseconds of processor time an event."""
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1e6 / EVENTS


async def _spent(work: Callable[[], Awaitable[object]], events: int = EVENTS) -> float:
    began = time.process_time()
    await work()
    return (time.process_time() - began) * 1e6 / events


async def _no_block(_: bytes) -> bytes | None:
    return None


def _no_manifest(_: bytes) -> Manifest | None:
    return None


def _no_signature(_: bytes) -> bytes:
    return bytes(SIGNATURE_BYTES)


def _unread(_: bytes) -> Event:
    raise AssertionError("nothing is read here")
