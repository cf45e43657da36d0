from __future__ import annotations

import sqlite3

import pytest
import trio

from bootstrap.identity import Identity
from p2pnode.core import records
from p2pnode.core.cid import record_cid
from p2pnode.core.model import Manifest, Member, NodeRole
from p2pnode.env import Env
from p2pnode.errors import IntegrityError, StorageFailed, UsageError
from p2pnode.services.ledger import Ledger
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


async def up(ledger, node_id):
    peer_id = ledger._identity.peer_id
    await ledger.write(records.UP, peer_id, records.up_body(Member(peer_id, node_id, NodeRole.HYBRID)))


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
    assert event.id in {e.id for e in await log.load()}


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
    news = [second.clock.get(e).wire for e in second.clock.missing(first.clock.marks())]
    async with trio.open_nursery() as nursery:
        for wire in [*reversed(news), *wires]:
            nursery.start_soon(first.take, [wire], "second", no_block)
        for number in range(20):
            nursery.start_soon(first.write, "note", "", {"own": number})
    seen = set()
    for event in await log_of_first.load():
        assert set(event.past) <= seen
        seen.add(event.id)
    assert len(seen) == len(first.clock) == len(await log.load()) + 20


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
        assert [e.id for e in (await log.load())[-2:]] == [note.id, own.id]
        answer.set()
    assert version.id in {e.id for e in await log.load()}


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
    assert await log.block_ids() == []

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
        wires += [writer.clock.get(e).wire for e in writer.clock.missing(first.clock.marks())]
    asked = []

    async def nothing(cid):
        asked.append(cid)

    taken = await second.take(wires, "first", nothing)
    assert (len(taken.durable), len(taken.waiting)) == (6, 6)
    assert len(asked) == 3


async def test_before_there_is_a_swarm_there_is_no_clock(tmp_path):
    ledger, _ = await opened(tmp_path / "a")
    assert ledger.genesis is None
    with pytest.raises(UsageError):
        await ledger.write("note", "", {})
