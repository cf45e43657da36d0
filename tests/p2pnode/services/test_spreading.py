from __future__ import annotations

import pytest
import trio

from bootstrap.identity import Identity
from p2pnode.core.event import Position, compose, mint_session
from p2pnode.services import spreading
from p2pnode.services.spreading import Spreader, batches

ME = Identity.from_seed(bytes(32))


def event(number, size=0):
    return compose(
        namespace=None,
        author=ME.peer_id,
        session=mint_session(bytes(16)),
        position=Position(sequence=number),
        time=0,
        kind="note",
        object_id="",
        body={"x": bytes(size)},
        sign=ME.sign,
    )


def test_batches_keep_order_and_both_bounds(monkeypatch):
    monkeypatch.setattr(spreading, "EVENTS_MAX", 3)
    monkeypatch.setattr(spreading, "EVENTS_BYTES_MAX", 5_000)
    wires = [event(n, size).wire for n, size in enumerate([0, 0, 0, 0, 4_000, 4_000, 0, 0, 9_000, 0])]
    cut = list(batches(wires, len))
    assert [wire for batch in cut for wire in batch] == wires
    assert all(len(batch) <= 3 for batch in cut)
    assert all(len(batch) == 1 or sum(map(len, batch)) <= 5_000 for batch in cut)
    assert list(batches([], len)) == []


@pytest.mark.trio
async def test_one_batch_at_a_time_goes_to_a_member_and_what_comes_meanwhile_goes_together(autojump_clock):
    sent = []
    under_way = 0

    async def push(peer_id, events):
        nonlocal under_way
        under_way += 1
        assert under_way == 1
        await trio.sleep(1)
        under_way -= 1
        sent.append([e.sequence for e in events])
        return [e.id for e in events]

    spreader = Spreader(push)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(spreader.run)
        first = event(0)
        copies = spreader.watch(first)
        spreader.spread(first, ["p"])
        await trio.sleep(0.5)
        for number in range(1, 5):
            spreader.spread(event(number), ["p"])
        spreader.spread(event(4), ["p"])
        assert spreader.busy_with("p")
        with trio.fail_after(1):
            await copies.reach(1)
        assert copies.holders == {"p"}
        await trio.sleep(2)
        assert not spreader.busy_with("p")
        nursery.cancel_scope.cancel()
    assert sent == [[0], [1, 2, 3, 4]]


@pytest.mark.trio
async def test_a_member_that_does_not_answer_holds_up_nobody_else(autojump_clock):
    async def push(peer_id, events):
        if peer_id == "stuck":
            await trio.sleep_forever()
        return [e.id for e in events]

    spreader = Spreader(push)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(spreader.run)
        one = event(0)
        copies = spreader.watch(one)
        spreader.spread(one, ["stuck", "a", "b"])
        with trio.fail_after(1):
            await copies.reach(2)
        nursery.cancel_scope.cancel()
    assert copies.holders == {"a", "b"}


@pytest.mark.trio
async def test_an_outbox_is_bounded_and_keeps_the_newest(monkeypatch, autojump_clock):
    monkeypatch.setattr(spreading, "OUTBOX_MAX", 3)
    sent = []

    async def push(peer_id, events):
        sent.extend(e.sequence for e in events)
        return []

    spreader = Spreader(push)
    for number in range(10):
        spreader.spread(event(number), ["p"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(spreader.run)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert sent == [7, 8, 9]
