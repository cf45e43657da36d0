"""A checkpoint and what came after it are worth exactly what the whole log is, whatever the log says."""

from __future__ import annotations

import tempfile
from pathlib import Path

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnode.core.catalog import Catalog
from p2pnode.core.clock import MerkleClock
from p2pnode.env import Env, LocalDisk
from p2pnode.services.replay import keep, replay
from p2pnode.storage.event_log import EventLog
from tests.p2pnode.core.conftest import Author
from tests.p2pnode.core.test_forks import ACTS, Court, play


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


def replayed(genesis, rows, cuts):
    """What a log of these rows is worth: with checkpoints kept at these places, and without any."""

    async def story(folder):
        log = await EventLog.open(Env(disk=UnsyncedDisk()), folder / "log")
        await log.adopt(genesis)
        done = 0
        for cut in sorted(cuts):
            await log.append(rows[done:cut])
            done = max(done, cut)
            kept = replay(log, genesis, log.read, {}.get)
            if not kept.missing:
                assert keep(log, kept)
        await log.append(rows[done:])
        quick = replay(log, genesis, log.read, {}.get)
        (folder / "log.checkpoint").unlink(missing_ok=True)
        full = replay(log, genesis, log.read, {}.get)
        assert full.tail == len(rows)
        await log.close()
        return quick, full

    with tempfile.TemporaryDirectory() as folder:
        return trio.run(story, Path(folder))


def agree(found, clock):
    events = list(clock.events())
    assert (found.damaged, found.missing) == ([], set())
    assert found.catalog.digest() == Catalog.fold(filter(clock.counts, events), {}.get).digest()
    assert found.clock.fingerprint == clock.fingerprint
    assert found.clock.heads() == clock.heads()
    assert found.clock.forks() == clock.forks()
    assert [found.clock.counts(event) for event in events] == [clock.counts(event) for event in events]


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
    for found in replayed(court.clock.genesis, rows, cuts):
        agree(found, court.clock)


def test_a_fork_or_a_pardon_behind_the_checkpoint_reaches_back_before_it():
    court = Court(Author)
    two = court.offender.write(court.clock, "note", "", {"branch": "two"})
    one = court.say(court.offender, "branch one")
    up = court.up_again(court.offender, None)
    events = list(court.clock.events())
    court.take(two)
    quick, full = replayed(court.clock.genesis, [*events, two], [len(events)])
    assert quick.tail == 1
    assert quick.catalog.member(court.offender.peer_id).up == court.ups[0].id
    for found in (quick, full):
        agree(found, court.clock)
    readmit = court.readmit(court.judge, court.offender, [one, two], keep=up)
    quick, full = replayed(court.clock.genesis, [*events, two, readmit], [len(events) + 1])
    assert quick.tail == 1
    assert quick.catalog.member(court.offender.peer_id).up == up.id
    for found in (quick, full):
        agree(found, court.clock)
