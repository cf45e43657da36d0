"""A checkpoint and what came after it are worth exactly what the whole log is, whatever the log says."""

from __future__ import annotations

import tempfile
from pathlib import Path

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnode.core.clock import MerkleClock
from p2pnode.env import Env, LocalDisk
from p2pnode.services.replay import keep, replay
from p2pnode.storage.event_log import EventLog
from tests.p2pnode.core.conftest import Author
from tests.p2pnode.core.test_forks import ACTS, play


class UnsyncedDisk(LocalDisk):
    """Durability is the storage tests' matter."""

    def database(self, path):
        connection = super().database(path)
        connection.execute("PRAGMA synchronous=OFF")
        return connection


def admitted(genesis, events):
    """These events in the order in which a clock that is sent them would admit them."""
    clock = MerkleClock(genesis)
    return [added for event in events for added in clock.add(event).added]


@settings(max_examples=40, deadline=None)
@given(acts=ACTS, order=st.randoms(use_true_random=False), cuts=st.lists(st.integers(0, 30), max_size=3))
def test_checkpoint_and_tail_are_the_whole_log(acts, order, cuts):
    court = play(Author, acts)
    events = list(court.clock.events())
    order.shuffle(events)
    events = admitted(court.clock.genesis, events)
    # Rows that were set aside and came again lie behind those that stand on them.
    again = order.randrange(len(events))
    rows = [*events[:again], *events[again + 1 :], events[again]]

    async def story(folder):
        log = await EventLog.open(Env(disk=UnsyncedDisk()), folder / "log")
        await log.adopt(court.clock.genesis)
        done = 0
        for cut in sorted(cuts):
            await log.append(rows[done:cut])
            done = max(done, cut)
            kept = replay(log, court.clock.genesis, log.read, {}.get)
            if not kept.missing:
                assert keep(log, kept)
        await log.append(rows[done:])
        quick = replay(log, court.clock.genesis, log.read, {}.get)
        assert quick.tail <= len(rows)
        (folder / "log.checkpoint").unlink(missing_ok=True)
        full = replay(log, court.clock.genesis, log.read, {}.get)
        assert full.tail == len(rows)
        await log.close()
        return quick, full

    with tempfile.TemporaryDirectory() as folder:
        quick, full = trio.run(story, Path(folder))
        for found in (quick, full):
            assert (found.damaged, found.missing) == ([], set())
            assert found.catalog.digest() == full.catalog.digest()
            assert found.clock.fingerprint == court.clock.fingerprint
            assert found.clock.heads() == court.clock.heads()
            assert found.clock.forks() == court.clock.forks()
            assert [found.clock.counts(event) for event in events] == [court.clock.counts(event) for event in events]
