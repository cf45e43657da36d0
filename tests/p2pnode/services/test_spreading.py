from __future__ import annotations

import pytest
import trio

from bootstrap.identity import Identity
from p2pnode.core.event import Position, compose, mint_session
from p2pnode.env import Rng
from p2pnode.errors import Busy
from p2pnode.services import spreading
from p2pnode.services.spreading import Rumours, Spreader, batches

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


@pytest.mark.trio
async def test_who_is_busy_is_left_alone_for_as_long_as_it_asks(autojump_clock):
    pushed_at = []

    async def push(peer_id, events):
        pushed_at.append(trio.current_time())
        if len(pushed_at) == 1:
            raise Busy("later", retry_after_s=7)
        return [e.id for e in events]

    spreader = Spreader(push)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(spreader.run)
        spreader.spread(event(0), ["p"])
        await trio.sleep(1)
        assert spreader.busy_with("p")
        spreader.spread(event(1), ["p"])
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert len(pushed_at) == 2
    assert pushed_at[1] - pushed_at[0] == pytest.approx(7)


class Gossip:
    """A node's rumours, and what came of them."""

    def __init__(self, members):
        self.pushed, self.compared = [], []
        self.rumours = Rumours(Rng(1), lambda: members, self.push, self.compare)

    async def push(self, peer_id, events):
        self.pushed += [(peer_id, e.id) for e in events]
        return []

    async def compare(self, peer_id):
        self.compared.append(peer_id)
        await trio.sleep(1)

    async def settle(self):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.rumours.run)
            await trio.sleep(10)
            nursery.cancel_scope.cancel()


MEMBERS = [f"member-{n}" for n in range(9)]


@pytest.mark.trio
async def test_news_goes_once_to_a_few_and_never_back(autojump_clock):
    gossip = Gossip([ME.peer_id, *MEMBERS])
    events = [event(n) for n in range(20)]
    for one in events:
        gossip.rumours.heard([one], MEMBERS[3])
    await gossip.settle()
    told = {one.id: [peer for peer, event_id in gossip.pushed if event_id == one.id] for one in events}
    assert all(2 <= len(peers) <= spreading.RUMOUR_PEERS for peers in told.values())
    everybody = {peer for peers in told.values() for peer in peers}
    assert not everybody & {MEMBERS[3], ME.peer_id}, "neither its source nor its author"
    assert len(everybody) == 8
    assert gossip.compared == []


@pytest.mark.trio
async def test_much_news_is_compared_once_at_a_time_with_each(autojump_clock):
    gossip = Gossip(MEMBERS[:2])
    news = [event(n) for n in range(spreading.RUMOUR_EVENTS_MAX + 1)]
    for _ in range(3):
        gossip.rumours.heard(news, "source")
    await gossip.settle()
    assert sorted(gossip.compared) == MEMBERS[:2]
    assert gossip.pushed == []


@pytest.mark.trio
async def test_no_news_and_nobody_to_tell_cost_nothing(autojump_clock):
    for members, events in ((MEMBERS, []), (["source"], [event(0)]), ([], [event(0)])):
        gossip = Gossip(members)
        gossip.rumours.heard(events, "source")
        await gossip.settle()
        assert (gossip.pushed, gossip.compared) == ([], [])


@pytest.mark.trio
async def test_who_gives_up_waiting_takes_the_count_from_nobody_else():
    async def push(peer_id, events):
        return [e.id for e in events]

    spreader, one = Spreader(push), event(0)
    copies = spreader.watch(one)
    assert spreader.watch(one) is copies
    spreader.unwatch(one)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(spreader.run)
        spreader.spread(one, ["p"])
        with trio.fail_after(5):
            await copies.reach(1)
        nursery.cancel_scope.cancel()
    spreader.unwatch(one)
    assert spreader.watch(one).holders == set(), "and then it is forgotten"
