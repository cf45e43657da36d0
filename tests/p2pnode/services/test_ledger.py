from __future__ import annotations

import sqlite3

import pytest
import trio
import trio.testing

from bootstrap.identity import Identity
from p2pnode.core import records
from p2pnode.core.cid import record_cid
from p2pnode.core.conduct import Reason
from p2pnode.core.model import Manifest, Member, NodeRole
from p2pnode.env import Env
from p2pnode.errors import IntegrityError, RoleError, StorageFailed, UsageError
from p2pnode.services.ledger import Draft, Ledger
from p2pnode.services.replay import fold
from p2pnode.storage.event_log import EventLog

pytestmark = pytest.mark.trio


async def no_block(cid):
    return None


async def opened(path, seed=1):
    """A ledger with real threads and a real, synced disk."""
    env = Env()
    log = await EventLog.open(env, path)
    ledger = Ledger(env, log, Identity.from_seed(bytes([seed]) * 32))
    await ledger.open()
    return ledger, log


async def founded(path):
    ledger, log = await opened(path)
    await ledger.found("test", open_swarm=True)
    await up(ledger, "first")
    return ledger, log


def up_of(ledger, node_id):
    peer_id = ledger._identity.peer_id
    return records.UP, peer_id, records.up_body(Member(peer_id, node_id, NodeRole.HYBRID))


async def up(ledger, node_id):
    await ledger.write(*up_of(ledger, node_id))


async def joined(path, seed, other):
    ledger, log = await opened(path, seed)
    await ledger.adopt(other.genesis)
    await ledger.take([e.wire for e in other.clock.events()], "other", no_block)
    return ledger, log


def summary(ledger):
    return (len(ledger.clock), ledger.clock.fingerprint, ledger.catalog.digest())


async def test_a_home_opened_again_knows_what_it_knew(tmp_path):
    ledger, log = await founded(tmp_path / "a")
    block = records.encode_manifest(Manifest("ds-1", "parquet", b"", (), ()))
    await ledger.write(records.DEFINE, "ds-1", records.define_body(records.Definition("flights")))
    body = records.version_body(records.Version(record_cid(block)))
    await ledger.write(records.VERSION, "ds-1", body, [block])
    before = summary(ledger)
    await log.close()
    again, log = await opened(tmp_path / "a")
    assert summary(again) == before
    assert again.catalog.dataset("flights").version == record_cid(block)
    with pytest.raises(UsageError, match="already"):
        await again.found("another", open_swarm=True)
    with pytest.raises(IntegrityError):
        await again.adopt(record_cid(b"another"))
    await log.close()


async def test_a_write_that_is_cancelled_when_it_is_on_disk_counts_and_forks_nothing(tmp_path, monkeypatch):
    ledger, log = await founded(tmp_path / "a")
    block = records.encode_manifest(Manifest("ds-1", "parquet", b"", (), ()))
    body = records.version_body(records.Version(record_cid(block)))
    await ledger.write(records.DEFINE, "ds-1", records.define_body(records.Definition("flights")))
    append = log.append

    async def then_cancelled(*args):
        await append(*args)
        scope.cancel()

    with trio.CancelScope() as scope:
        monkeypatch.setattr(log, "append", then_cancelled)
        await ledger.write(records.VERSION, "ds-1", body, [block])
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    monkeypatch.undo()
    await ledger.write(records.DEFINE, "ds-2", records.define_body(records.Definition("trains")))
    before = summary(ledger)
    await log.close()
    again, log = await opened(tmp_path / "a")
    assert again.clock.forks() == []
    assert summary(again) == before
    assert [record.name for record in again.catalog.datasets()] == ["flights", "trains"]
    await log.close()


async def test_a_log_with_a_hole_does_not_open(tmp_path):
    ledger, log = await founded(tmp_path / "a")
    for number in range(5):
        await ledger.write("note", "", {"n": number})
    await log.close()
    with sqlite3.connect(tmp_path / "a") as db:
        db.execute("DELETE FROM events WHERE place = 3")
    with pytest.raises(IntegrityError, match="lack what they stand on") as caught:
        await opened(tmp_path / "a")
    assert "--bootstrap" in caught.value.advice


async def test_nothing_is_said_to_be_stored_that_the_disk_refused(tmp_path, monkeypatch):
    first, _ = await founded(tmp_path / "a")
    second, log = await joined(tmp_path / "b", 2, first)
    event = await first.write("note", "", {})
    told = []
    second.on_change(told.extend)

    async def full(events, blocks=None):
        await trio.lowlevel.checkpoint()
        if list(events) or blocks:
            raise StorageFailed("The disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(log, "append", full)
        with pytest.raises(StorageFailed):
            await second.take([event.wire], "first", no_block)
        with pytest.raises(StorageFailed):
            await second.take([event.wire], "first", no_block)
        assert told == []
    taken = await second.take([event.wire], "first", no_block)
    assert taken.durable == (event.id,)
    assert told == [event]
    assert event.id in {e.id for e in log.events()}


async def test_what_another_batch_let_in_is_not_said_to_be_stored_before_it_is(tmp_path, monkeypatch):
    first, _ = await founded(tmp_path / "a")
    second, log = await joined(tmp_path / "b", 2, first)
    third, _ = await joined(tmp_path / "c", 3, first)
    stranger = await third.write(*up_of(third, "third"))
    parent, child = [await first.write("note", "", {"n": n}) for n in range(2)]
    append, begun, go_on, taken = log.append, [trio.Event(), trio.Event()], [trio.Event(), trio.Event()], {}
    turns = iter(range(2))

    async def held(events, blocks=None):
        events, turn = list(events), next(turns)
        begun[turn].set()
        await go_on[turn].wait()
        await append(events, blocks)

    async def take(name, *events):
        taken[name] = await second.take([event.wire for event in events], "first", no_block)

    async def no_fetch(*_):
        pass

    monkeypatch.setattr(second, "_fetch_wanted", no_fetch)
    monkeypatch.setattr(log, "append", held)
    async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
        nursery.start_soon(take, "one", stranger, child)
        await begun[0].wait()
        outer.start_soon(take, "other", parent)
        await begun[1].wait()
        assert child.id in second.clock
        go_on[0].set()
        nursery.cancel_scope.deadline = trio.current_time() + 10
        while "one" not in taken:
            await trio.lowlevel.checkpoint()
        assert (taken["one"].durable, taken["one"].waiting) == ((stranger.id,), (child.id,))
        go_on[1].set()
    assert taken["other"].durable == (parent.id,)
    assert child.id in {event.id for event in log.events()}


async def test_what_was_found_damaged_meanwhile_is_not_said_to_be_stored(tmp_path):
    first, _ = await founded(tmp_path / "a")
    second, _ = await joined(tmp_path / "b", 2, first)
    events = list(first.clock.events())
    checked = second.check([event.wire for event in events])
    await second._lose([events[1].id])
    taken = await second.admit(checked, "first", no_block)
    assert (taken.durable, taken.waiting) == ((events[0].id,), (events[1].id,))
    taken = await second.take([event.wire for event in events], "first", no_block)
    assert taken.durable == tuple(event.id for event in events)


async def test_an_own_event_is_on_disk_before_anybody_can_see_it(tmp_path, monkeypatch):
    ledger, log = await founded(tmp_path / "a")
    before = summary(ledger)
    append = log.append

    async def watched(events, blocks=None):
        events = list(events)
        assert summary(ledger) == before
        await append(events, blocks)
        assert summary(ledger) == before

    with monkeypatch.context() as patch:
        patch.setattr(log, "append", watched)
        event = await ledger.write("note", "", {})
    assert event.id in ledger.clock


async def test_a_child_is_never_on_disk_without_its_parents(tmp_path):
    first, log_of_first = await founded(tmp_path / "a")
    second, log = await joined(tmp_path / "b", 2, first)
    await up(second, "second")
    wires = [(await second.write("note", "", {"n": n})).wire for n in range(40)]
    news = await second.wires([e for e in second.clock.between(0) if e not in first.clock])
    async with trio.open_nursery() as nursery:
        for wire in [*reversed(news), *wires]:
            nursery.start_soon(first.take, [wire], "second", no_block)
        for number in range(20):
            nursery.start_soon(first.write, "note", "", {"own": number})
    seen = set()
    for event in log_of_first.events():
        assert set(event.past) <= seen
        seen.add(event.id)
    assert len(seen) == len(first.clock) == len([*log.events()]) + 20


async def test_an_own_event_brings_what_it_stands_on_to_disk(tmp_path):
    first, _ = await founded(tmp_path / "a")
    second, log = await joined(tmp_path / "b", 2, first)
    await up(second, "second")
    note = await first.write("note", "", {})
    block = records.encode_manifest(Manifest("ds-1", "parquet", b"", (), ()))
    body = records.version_body(records.Version(record_cid(block)))
    version = await first.write(records.VERSION, "ds-1", body, [block])
    asked, answer = trio.Event(), trio.Event()

    async def slow(cid):
        asked.set()
        await answer.wait()
        return block

    async with trio.open_nursery() as nursery:
        nursery.start_soon(second.take, [note.wire, version.wire], "first", slow)
        await asked.wait()
        own = await second.write("note", "", {"own": True})
        assert note.id in own.parents
        assert [e.id for e in [*log.events()][-2:]] == [note.id, own.id]
        answer.set()
    assert version.id in {e.id for e in log.events()}


async def test_a_block_that_is_not_what_it_is_called_is_not_taken(tmp_path):
    first, _ = await founded(tmp_path / "a")
    second, log = await joined(tmp_path / "b", 2, first)
    block = records.encode_manifest(Manifest("ds-1", "parquet", b"", (), ()))
    body = records.version_body(records.Version(record_cid(block)))
    event = await first.write(records.VERSION, "ds-1", body, [block])
    asked = []

    async def wrong(cid):
        asked.append(cid)
        return b"something else"

    taken = await second.take([event.wire], "first", wrong)
    assert asked == [record_cid(block)]
    assert taken.waiting == (event.id,)
    assert log.block_ids() == []

    async def right(cid):
        return await first.block(cid)

    taken = await second.take([event.wire], "first", right)
    assert taken.durable == (event.id,)
    assert summary(second) == summary(first)


async def test_a_source_without_blocks_is_asked_only_so_often(tmp_path, monkeypatch):
    monkeypatch.setattr("p2pnode.services.ledger.FETCH_FAILURES_MAX", 3)
    monkeypatch.setattr("p2pnode.services.ledger.FETCHES_MAX", 1)
    first, _ = await founded(tmp_path / "a")
    second, _ = await joined(tmp_path / "b", 2, first)
    wires = []
    for number in range(3, 9):
        writer, _ = await joined(tmp_path / str(number), number, first)
        await up(writer, f"node-{number}")
        block = records.encode_manifest(Manifest(f"ds-{number}", "parquet", b"", (), ()))
        body = records.version_body(records.Version(record_cid(block)))
        await writer.write(records.VERSION, f"ds-{number}", body, [block])
        wires += await writer.wires([e for e in writer.clock.between(0) if e not in first.clock])
    asked = []

    async def nothing(cid):
        asked.append(cid)

    taken = await second.take(wires, "first", nothing)
    assert (len(taken.durable), len(taken.waiting)) == (6, 6)
    assert len(asked) == 3


async def test_who_names_blocks_that_nobody_has_keeps_nobody_elses_from_being_fetched(tmp_path):
    first, _ = await founded(tmp_path / "a")
    second, _ = await joined(tmp_path / "b", 2, first)
    cursor = first.clock.cursor(first._identity.peer_id, first._session)
    for number in range(20):
        nowhere = record_cid(b"")[:4] + bytes([0, number]) * 16  # before any that a hash gives
        body = records.version_body(records.Version(nowhere))
        event = first._compose(first.genesis, cursor.position, Draft(records.VERSION, "ds-0", body))
        assert (await second.take([event.wire], "liar", no_block)).waiting
    block = records.encode_manifest(Manifest("ds-1", "parquet", b"", (), ()))
    body = records.version_body(records.Version(record_cid(block)))
    event = await first.write(records.VERSION, "ds-1", body, [block])
    await second.take([event.wire], "liar", no_block)
    asked = []

    async def fetch(cid):
        asked.append(cid)
        return await first.block(cid)

    taken = await second.take([event.wire], "first", fetch)
    assert taken.durable == (event.id,)
    assert asked == [record_cid(block)], "others' blocks are not this peer's to give"


async def test_before_there_is_a_swarm_there_is_no_clock(tmp_path):
    ledger, _ = await opened(tmp_path / "a")
    assert ledger.genesis is None
    with pytest.raises(UsageError):
        await ledger.write("note", "", {})


# -- many at once --------------------------------------------------------------------------------------------------


def count_appends(log, monkeypatch):
    """How many events each commit asked of the log has, as they come."""
    appends = []
    append = log.append

    async def counted(events, blocks=None):
        appends.append(len(list(events)))
        await append(events, blocks)

    monkeypatch.setattr(log, "append", counted)
    return appends


async def test_many_are_one_commit_and_each_stands_on_the_one_before(tmp_path, monkeypatch):
    ledger, log = await founded(tmp_path / "a")
    appends = count_appends(log, monkeypatch)
    events = await ledger.write_many(Draft("note", "", {"n": n}) for n in range(700))
    assert appends == [512, 188]
    assert [event.previous for event in events[1:]] == [event.id for event in events[:-1]]
    assert ledger.clock.heads() == [events[-1].id]
    before = summary(ledger)
    await log.close()
    again, log = await opened(tmp_path / "a")
    assert summary(again) == before
    assert [event.id for event in log.events()][-700:] == [event.id for event in events]
    await log.close()


async def test_who_writes_at_the_same_moment_shares_a_commit(tmp_path, monkeypatch):
    ledger, log = await founded(tmp_path / "a")
    appends = count_appends(log, monkeypatch)
    async with trio.open_nursery() as nursery:
        for n in range(50):
            nursery.start_soon(ledger.write, "note", "", {"n": n})
    assert sum(appends) == 50
    assert len(appends) <= 2
    assert len(ledger.clock) == 52


async def test_one_that_may_not_be_written_takes_no_other_with_it(tmp_path):
    ledger, _ = await founded(tmp_path / "a")
    peer_id = ledger._identity.peer_id
    worker = records.up_body(Member(peer_id, "first", NodeRole.WORKER))
    define = records.define_body(records.Definition("flights"))
    absent = records.version_body(records.Version(record_cid(b"no such block")))
    drafts = [
        Draft("note", "", {"n": 1}),
        Draft("note", "", {"too": "long" * 20_000}),
        Draft(records.VERSION, "ds-1", absent),
        Draft(records.UP, peer_id, worker),
        Draft(records.DEFINE, "ds-1", define),
        Draft("note", "", {"n": 2}),
    ]
    with pytest.raises(UsageError, match="must be given"):
        await ledger.write_many(drafts[2:3])
    before = len(ledger.clock)
    with pytest.raises(UsageError, match="in a block"):
        await ledger.write_many(drafts)
    assert len(ledger.clock) == before + 3
    with pytest.raises(RoleError, match="worker may not define"):
        await ledger.write_many(drafts[4:])
    assert ledger.clock.forks() == []
    assert ledger.catalog.member(peer_id).role is NodeRole.WORKER


async def test_a_cancelled_write_that_had_not_begun_is_not_written(tmp_path, monkeypatch):
    ledger, log = await founded(tmp_path / "a")
    begun, go_on = trio.Event(), trio.Event()
    append = log.append

    async def slow(events, blocks=None):
        begun.set()
        await go_on.wait()
        await append(events, blocks)

    monkeypatch.setattr(log, "append", slow)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.write, "note", "", {"n": "first"})
        await begun.wait()
        with trio.CancelScope() as scope:
            scope.cancel()
            await ledger.write("note", "", {"n": "cancelled"})
        assert scope.cancelled_caught
        go_on.set()
    event = await ledger.write("note", "", {"n": "last"})
    assert [e.body.get("n") for e in ledger.clock.events()][-2:] == ["first", "last"]
    assert event.sequence == 3


async def test_an_own_event_may_name_a_block_that_only_just_came_to_the_disk(tmp_path):
    """Were it to wait for the block in the clock, the next own event would take its place on the disk: a fork."""
    ledger, log = await founded(tmp_path / "a")
    block = records.encode_manifest(Manifest("ds-1", "parquet", b"", (), ()))
    await log.append((), {record_cid(block): block})
    one = await ledger.write(records.VERSION, "ds-1", records.version_body(records.Version(record_cid(block))))
    two = await ledger.write("note", "", {})
    assert (two.previous, two.sequence) == (one.id, one.sequence + 1)
    assert ledger.clock.forks() == []
    await log.close()


async def test_a_block_that_an_own_event_brings_lets_others_in_for_good(tmp_path):
    first, _ = await founded(tmp_path / "a")
    second, log = await joined(tmp_path / "b", 2, first)
    await up(second, "second")
    block = records.encode_manifest(Manifest("ds-1", "parquet", b"", (), ()))
    body = records.version_body(records.Version(record_cid(block)))
    theirs = await first.write(records.VERSION, "ds-1", body, [block])
    taken = await second.take([theirs.wire], "first", no_block)
    assert taken.waiting == (theirs.id,)
    await second.write(records.VERSION, "ds-1", body, [block])
    await second.settle()
    assert theirs.id in {event.id for event in log.events()}
    assert theirs.id in {event_id for event_id, _ in second.catalog.versions("ds-1")}


async def test_what_was_taken_tells_what_is_new_and_who_is_to_blame(tmp_path):
    first, _ = await founded(tmp_path / "a")
    second, _ = await joined(tmp_path / "b", 2, first)
    note, other = [await first.write("note", "", {"n": n}) for n in range(2)]
    taken = await second.take([other.wire], "somebody", no_block)
    assert (taken.new, taken.waiting, taken.known) == ((), (other.id,), 0)
    forged = note.encoded + bytes(64)
    taken = await second.take([forged, b"no event at all", note.wire], "first", no_block)
    assert taken.new == (note, other)
    assert taken.faults == (("first", Reason.BAD_SIGNATURE, 1), ("first", Reason.MALFORMED, 1))
    taken = await second.take([note.wire, other.wire], "first", no_block)
    assert (taken.new, taken.known, taken.durable) == ((), 2, (note.id, other.id))


async def test_wires_come_in_the_order_asked_for_from_memory_and_from_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("p2pnode.core.clock.EVENTS_KEPT", 2)
    ledger, _ = await founded(tmp_path / "a")
    events = await ledger.write_many(Draft("note", "", {"n": n}) for n in range(9))
    wanted = [events[n] for n in (7, 0, 8, 3)]
    assert await ledger.wires([event.id for event in wanted]) == [event.wire for event in wanted]
    assert ledger.clock.get(events[0].id) == events[0]


async def test_a_fork_found_folds_anew_off_the_loop_and_loses_nothing_that_comes_meanwhile(tmp_path, monkeypatch):
    first, _ = await founded(tmp_path / "a")
    other = Ledger(first._env, await EventLog.open(first._env, tmp_path / "c"), first._identity)
    other._session = first._session
    await other.open()
    await other.adopt(first.genesis)
    await other.take([e.wire for e in first.clock.events()], "first", no_block)
    await first.write(records.DEFINE, "ds-1", records.define_body(records.Definition("flights")))
    fork = await other.write(records.DEFINE, "ds-2", records.define_body(records.Definition("trains")))
    third, _ = await joined(tmp_path / "b", 2, first)
    await up(third, "third")
    assert third.catalog.dataset("flights") is not None
    folded_in, begun, go_on = [], trio.Event(), trio.Event()
    run = third._env.executor.run

    class Slow:
        async def run(self, work, *args):
            if work is fold:
                begun.set()
                await go_on.wait()
            return await run(work, *args)

    object.__setattr__(third._env, "executor", Slow())
    third.on_change(folded_in.extend)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(third.take, [fork.wire], "first", no_block)
        await begun.wait()
        nursery.start_soon(third.write, records.DEFINE, "ds-3", records.define_body(records.Definition("ships")))
        await trio.testing.wait_all_tasks_blocked(0.05)
        go_on.set()
    assert third.catalog.dataset("flights") is None
    assert third.catalog.dataset("trains") is None
    assert third.catalog.dataset("ships") is not None
    assert {event.kind for event in folded_in} == {records.DEFINE}
    assert third.settled


async def test_who_brings_forks_without_end_keeps_nobody_waiting_for_all_of_them(tmp_path):
    ledger, _ = await founded(tmp_path / "a")
    run, forks = ledger._env.executor.run, ledger.clock._forks
    folds = []

    class Restless:
        async def run(self, work, *args):
            if work is fold:
                folds.append(work)
                forks._rulings += 1  # somebody's next fork is here
            return await run(work, *args)

    object.__setattr__(ledger._env, "executor", Restless())
    forks._rulings += 1
    with trio.fail_after(60):
        await ledger.write("note", "", {})
    assert len(folds) == 1
    assert not ledger.settled
    await ledger.settle()
    assert len(folds) == 2


# -- checkpoints and damage ----------------------------------------------------------------------------------------


@pytest.fixture
def small_tails(monkeypatch):
    monkeypatch.setattr("p2pnode.services.replay.TAIL_EVENTS", 8)


async def kept(ledger):
    """Let the ledger's own task keep a checkpoint of what there is."""
    done = trio.Event()
    checkpoint = ledger._checkpoint

    async def watched(found):
        await checkpoint(found)
        done.set()

    ledger._checkpoint = watched
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.run)
        with trio.fail_after(10):
            await done.wait()
        nursery.cancel_scope.cancel()


async def rich(path):
    """A ledger whose log has members, datasets, a version and notes."""
    ledger, log = await founded(path)
    block = records.encode_manifest(Manifest("ds-1", "parquet", b"", (), ()))
    await ledger.write(records.DEFINE, "ds-1", records.define_body(records.Definition("flights")))
    await ledger.write(records.VERSION, "ds-1", records.version_body(records.Version(record_cid(block))), [block])
    await ledger.write_many(Draft("note", "", {"n": n}) for n in range(20))
    return ledger, log


def replayed(path, monkeypatch):
    """How many rows opening reads one by one."""
    read = []
    rows = EventLog.rows

    def counted(self, after=0):
        for row in rows(self, after):
            read.append(row.place)
            yield row

    monkeypatch.setattr(EventLog, "rows", counted)
    return read


async def test_opening_replays_only_what_came_after_the_checkpoint(tmp_path, monkeypatch, small_tails):
    ledger, log = await rich(tmp_path / "a")
    await kept(ledger)
    await ledger.write_many(Draft("note", "", {"late": n}) for n in range(3))
    before = summary(ledger)
    await log.close()
    read = replayed(tmp_path / "a", monkeypatch)
    again, log = await opened(tmp_path / "a")
    assert len(read) == 3
    assert summary(again) == before
    event = await again.write("note", "", {"after": True})
    assert again.clock.heads() == [event.id]
    assert await again.wires(again.clock.between(0)) == [event.wire for event in ledger.clock.events()] + [event.wire]
    await log.close()


async def test_a_long_tail_is_kept_when_it_was_replayed(tmp_path, monkeypatch, small_tails):
    ledger, log = await rich(tmp_path / "a")
    await log.close()
    assert log.kept_checkpoint() is None
    read = replayed(tmp_path / "a", monkeypatch)
    _, log = await opened(tmp_path / "a")
    await log.close()
    assert len(read) == len(ledger.clock)
    del read[:]
    again, log = await opened(tmp_path / "a")
    assert read == []
    assert summary(again) == summary(ledger)
    await log.close()


@pytest.mark.parametrize("harm", ["flip", "torn", "foreign", "version", "older log", "row gone"])
async def test_whatever_is_wrong_with_a_checkpoint_the_log_is_replayed(tmp_path, monkeypatch, small_tails, harm):
    ledger, log = await rich(tmp_path / "a")
    older = (tmp_path / "a").read_bytes(), (tmp_path / "a-wal").read_bytes()
    await ledger.write_many(Draft("note", "", {"more": n}) for n in range(3))
    await kept(ledger)
    await log.close()
    file = tmp_path / "a.checkpoint"
    data, count = file.read_bytes(), len(ledger.clock)
    if harm == "flip":
        file.write_bytes(data[:200] + bytes((data[200] ^ 1,)) + data[201:])
    elif harm == "torn":
        file.write_bytes(data[: len(data) // 2])
    elif harm == "foreign":
        other, log = await rich(tmp_path / "b")
        await kept(other)
        file.write_bytes((tmp_path / "b.checkpoint").read_bytes())
    elif harm == "version":
        monkeypatch.setattr("p2pnode.services.replay.MAKER", "p2pnode 99")
    elif harm == "older log":
        (tmp_path / "a").write_bytes(older[0])
        (tmp_path / "a-wal").write_bytes(older[1])
        count -= 3
    else:
        # The newest one, so that nothing stands on it and only the count tells.
        with sqlite3.connect(tmp_path / "a") as db:
            db.execute("DELETE FROM events WHERE place = (SELECT max(place) FROM events)")
        count -= 1
    read = replayed(tmp_path / "a", monkeypatch)
    again, log = await opened(tmp_path / "a")
    assert len(again.clock) == len(read) == count
    assert again.catalog.digest() == ledger.catalog.digest()
    await log.close()


async def test_damage_is_set_aside_and_comes_back_from_a_peer(tmp_path):
    first, log_of_first = await rich(tmp_path / "a")
    second, log = await joined(tmp_path / "b", 2, first)
    await second.take([e.wire for e in first.clock.events()], "first", first.block)
    assert summary(second) == summary(first)
    await up(second, "second")
    await second.write_many(Draft("note", "", {"mine": n}) for n in range(3))
    whole, everything = summary(second), second.clock.between(0)
    await log.close()
    with sqlite3.connect(tmp_path / "b") as db:
        for place in (6, 11):
            db.execute("UPDATE events SET wire = ? WHERE place = ?", (b"rubbish", place))
    again, log = await opened(tmp_path / "b", 2)
    assert 0 < len(again.clock) < 6
    assert again.incomplete == len(everything) - len(again.clock)
    assert set(again.clock.between(0)) < set(everything)
    note = await again.write(*up_of(again, "second"))
    # What an ordinary sync brings: everything that it says it lacks.
    lacking = [event_id for event_id in second.clock.between(0) if event_id not in again.clock]
    taken = await again.take([second.clock.get(event_id).wire for event_id in lacking], "peer", no_block)
    assert set(lacking) <= set(taken.durable)
    assert again.incomplete == 0
    await log.close()
    third, log = await opened(tmp_path / "b", 2)
    assert third.incomplete == 0
    assert set(third.clock.between(0)) == {*everything, note.id}
    assert third.clock.forks() == []
    assert third.catalog.datasets() == second.catalog.datasets()
    assert whole == summary(second)
    await log.close()
    await log_of_first.close()


async def test_who_is_alone_does_not_start_on_a_damaged_log(tmp_path):
    ledger, log = await rich(tmp_path / "a")
    await log.close()
    with sqlite3.connect(tmp_path / "a") as db:
        db.execute("UPDATE events SET wire = ? WHERE place = 9", (b"rubbish",))
    for _ in range(2):
        with pytest.raises(IntegrityError, match="are damaged") as caught:
            await opened(tmp_path / "a")
        assert "--bootstrap" in caught.value.advice
    log = await EventLog.open(Env(), tmp_path / "a")
    helped = Ledger(Env(), log, Identity.from_seed(bytes([1]) * 32))
    await helped.open(others=True)
    assert helped.incomplete == len(ledger.clock) - 8
    await log.close()


async def test_who_is_alone_does_not_start_on_a_damaged_manifest(tmp_path, small_tails):
    ledger, log = await rich(tmp_path / "a")
    await kept(ledger)
    await log.close()
    with sqlite3.connect(tmp_path / "a") as db:
        db.execute("UPDATE blocks SET data = ?", (b"rubbish",))
    for _ in range(2):
        with pytest.raises(IntegrityError, match="Block"):
            await opened(tmp_path / "a")


async def test_damage_behind_a_checkpoint_is_found_named_and_mended_while_the_node_runs(
    tmp_path, monkeypatch, small_tails
):
    monkeypatch.setattr("p2pnode.services.ledger.LOOK_PAUSE_S", 0)
    ledger, log = await rich(tmp_path / "a")
    await kept(ledger)
    await log.close()
    with sqlite3.connect(tmp_path / "a") as db:
        rows = db.execute("SELECT id FROM events WHERE place IN (9, 12) ORDER BY place").fetchall()
        lost = [event_id for (event_id,) in rows]
        db.execute("UPDATE events SET wire = ? WHERE place IN (9, 12)", (b"rubbish",))
    again, log = await opened(tmp_path / "a")
    assert summary(again) == summary(ledger)
    assert again.incomplete == 0, "nobody has looked"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(again._look_through)
    assert again.lost == lost
    assert log.damaged() == sorted(lost)
    everything = again.clock.between(0)
    assert await again.wires(everything) == [ledger.clock.get(e).wire for e in everything if e not in lost]
    taken = await again.take([ledger.clock.get(event_id).wire for event_id in lost], "peer", no_block)
    assert set(taken.durable) == set(lost)
    assert taken.new == ()
    assert (again.lost, again.incomplete) == ([], 0)
    assert await again.wires(everything) == [ledger.clock.get(event_id).wire for event_id in everything]
    await log.close()
    third, log = await opened(tmp_path / "a")
    assert summary(third) == summary(ledger)
    assert third.incomplete == 0
    await log.close()


async def test_damage_found_in_serving_is_named_and_the_rest_is_served(tmp_path, monkeypatch, small_tails):
    monkeypatch.setattr("p2pnode.core.clock.EVENTS_KEPT", 2)
    ledger, log = await rich(tmp_path / "a")
    everything = ledger.clock.between(0)
    with sqlite3.connect(tmp_path / "a") as db:
        db.execute("UPDATE events SET seal = x'00' WHERE place = 7")
    assert len(await ledger.wires(everything)) == len(everything) - 1
    assert ledger.lost == [everything[6]]
    assert len(await ledger.wires(everything)) == len(everything) - 1
    await log.close()


async def test_a_log_that_sqlite_gives_up_halfway_is_begun_anew_where_there_are_others(tmp_path):
    first, _ = await rich(tmp_path / "a")
    second, log = await joined(tmp_path / "b", 2, first)
    await second.take([e.wire for e in first.clock.events()], "first", first.block)
    await up(second, "second")
    await second.write_many(Draft("note", "", {"n": n, "long": "x" * 500}) for n in range(400))
    everything = await second.wires(second.clock.between(0))
    await log.close()
    with (tmp_path / "b").open("r+b") as file:
        file.seek(30 * 4096)
        file.write(bytes(40 * 4096))
    with pytest.raises(IntegrityError, match="damaged"):
        await opened(tmp_path / "b", 2)
    log = await EventLog.open(Env(), tmp_path / "b", anew=True)
    again = Ledger(Env(), log, Identity.from_seed(bytes([2]) * 32))
    await again.open(others=True)
    assert (again.genesis, again.incomplete) == (None, 0)
    await again.adopt(first.genesis)
    await again.take(everything, "first", first.block)
    assert summary(again) == summary(second)
    note = await again.write("note", "", {"back": True})
    assert again.clock.forks() == []
    assert note.session != second._session
    await log.close()
