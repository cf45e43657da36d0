"""What a node finds on its own disk when it starts: the log's file and the checkpoint beside it, after an accident.

Opening either works, with what is damaged set aside, or ends in one of the named errors; what is open is consistent.
"""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from random import Random
from tempfile import mkdtemp

import structlog
import trio

from p2pnode.core import records
from p2pnode.env import Env
from p2pnode.services.ledger import Ledger
from p2pnode.services.replay import keep, replay
from p2pnode.storage.event_log import EventLog, checkpoint_path
from p2pnode.storage.log_reader import LogReader
from tests.fuzz import samples
from tests.fuzz.mutate import MSGPACK, mutate

#: Events in the log: a few pages of rows and of index.
EVENTS = 60
LOG, CHECKPOINT = b"l", b"c"


class Inline:
    """Work done at once: a thread a case costs more than the case."""

    async def run(self, work, *args):
        await trio.lowlevel.checkpoint()
        return work(*args)


@cache
def home() -> Path:
    """A scratch folder, in memory where that is possible."""
    return Path(mkdtemp(prefix="p2pnode-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


@cache
def files() -> tuple[bytes, bytes]:
    """An honest log and its checkpoint."""
    path = home() / "honest" / "catalog.db"
    path.parent.mkdir()

    async def write() -> None:
        env = Env(executor=Inline())
        log = await EventLog.open(env, path)
        ledger = Ledger(env, log, samples.ANN)
        await ledger.found("swarm", open_swarm=True)
        await ledger.write(records.UP, samples.ANN.peer_id, records.up_body(samples.MEMBER))
        for number in range(EVENTS):
            await ledger.write("note", f"n{number}", {"n": number, "text": "x" * (number % 7 * 40)})
        assert ledger.genesis is not None
        keep(log, replay(log, ledger.genesis, log.read, ledger.manifest))
        await log.close()

    with structlog.testing.capture_logs():
        trio.run(write)
    found = path.read_bytes(), checkpoint_path(path).read_bytes()
    shutil.rmtree(path.parent)
    return found


def make(rng: Random) -> bytes:
    log, checkpoint = files()
    if rng.random() < 0.5:
        return LOG + mutate(rng, log, log, None)
    return CHECKPOINT + mutate(rng, checkpoint, checkpoint, MSGPACK)


def read(data: bytes) -> None:
    """Open the home that has these bytes in place of one file."""
    log, checkpoint = files()
    place = home() / "damaged"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    path = place / "catalog.db"
    path.write_bytes(data[1:] if data[:1] == LOG else log)
    checkpoint_path(path).write_bytes(data[1:] if data[:1] == CHECKPOINT else checkpoint)
    with LogReader.of_home(path) as reader:
        for row in reader.rows(0, 1000):
            reader.wire(row.id)
    with structlog.testing.capture_logs():
        trio.run(_open, path)


async def _open(path: Path) -> None:
    env = Env(executor=Inline())
    log = await EventLog.open(env, path)
    try:
        ledger = Ledger(env, log, samples.ANN)
        await ledger.open(others=True)
        if ledger.genesis is not None:
            clock = ledger.clock
            assert len(clock) == len(list(clock.events())) + len(ledger.lost)
            ledger.catalog.digest()
    finally:
        await log.close()
