"""Pushing: where placement says, R at once, enough receipts or nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from p2pnode.core.cid import record_cid
from p2pnode.core.model import Member, NodeRole
from p2pnode.core.policy import Policy
from p2pnode.core.receipts import Receipt
from p2pnode.errors import IntegrityError, NotDurable, StorageFailed
from p2pnode.services import push
from p2pnode.services.push import Progress, Pusher
from p2pnode.storage.splitter import CutShard

WORKERS = [Member(f"peer-{place}", f"worker-{place}", NodeRole.WORKER) for place in range(5)]
COORDINATOR = Member("peer-c", "coordinator", NodeRole.COORDINATOR)


def cut(number: int, rows: int = 10) -> CutShard:
    return CutShard(Path(f"{number}.parquet"), record_cid(bytes([number])), b"", rows, 100)


class Holders:
    """Destinations that answer, fail for a while, or fail for good."""

    def __init__(self, failures: dict[str, list[Exception]] | None = None) -> None:
        self.failures = failures or {}
        self.received: list[tuple[str, bytes, bytes]] = []
        self.reminded: list[tuple[str, tuple[bytes, ...]]] = []

    async def push(self, peer_id: str, cut: CutShard, ticket: bytes) -> Receipt:
        failures = self.failures.get(peer_id)
        if failures:
            raise failures.pop(0)
        self.received.append((peer_id, cut.cid, ticket))
        return Receipt(peer_id, cut.cid, cut.rows, cut.bytes, {}, b"")

    async def have(self, peer_id: str, cids: Sequence[bytes]) -> set[bytes]:
        self.reminded.append((peer_id, tuple(cids)))
        return set(cids)


class Run:
    """One push of some shards over some holders."""

    def __init__(self, holders: Holders, policy: Policy, *, dead: Sequence[str] = (), tickets: bool = False) -> None:
        self.holders = holders
        self.tickets_asked: list[int] = []
        self.discarded: list[bytes] = []
        self.progress: list[Progress] = []

        async def ask_ticket(cuts: Sequence[CutShard]) -> bytes:
            self.tickets_asked.append(len(cuts))
            return b"ticket"

        async def discard(shard: CutShard) -> None:
            self.discarded.append(shard.cid)

        self.pusher = Pusher(
            holders,
            [COORDINATOR, *WORKERS],
            policy,
            alive=lambda peer: peer not in dead,
            ask_ticket=ask_ticket if tickets else None,
            discard=discard,
            transfers_max=4,
            progress=self.progress.append,
        )

    async def push(self, shards: Sequence[CutShard]) -> tuple[tuple[bytes, ...], dict[bytes, tuple[Receipt, ...]]]:
        async def cuts() -> AsyncIterator[CutShard]:
            for shard in shards:
                yield shard

        return await self.pusher.push_all(cuts(), sum(shard.rows for shard in shards))


@pytest.mark.trio
async def test_each_shard_reaches_exactly_r_storage_members_where_placement_says() -> None:
    shards = [cut(number) for number in range(20)]
    run = Run(Holders(), Policy(3))
    order, receipts = await run.push(shards)
    assert order == tuple(shard.cid for shard in shards)
    placed = Policy(3).place(list(order), WORKERS)
    for cid, holders in zip(order, placed, strict=True):
        assert {receipt.holder for receipt in receipts[cid]} == set(holders)
    assert sorted(run.discarded) == sorted(order)
    assert run.progress[-1] == Progress("push", 200, 200, 20, 2000)


@pytest.mark.trio
async def test_where_two_of_three_are_left_nobody_stands_in_for_the_dead() -> None:
    shard = cut(1)
    first = Policy(3).place([shard.cid], WORKERS)[0][0]
    run = Run(Holders(), Policy(3), dead=[first])
    _, receipts = await run.push([shard])
    assert {receipt.holder for receipt in receipts[shard.cid]} == set(Policy(3).place([shard.cid], WORKERS)[0][1:])


@pytest.mark.trio
async def test_one_of_three_is_not_durable() -> None:
    shard = cut(1)
    refusing = Holders({member.peer_id: [IntegrityError("no")] for member in WORKERS[1:]})
    with pytest.raises(NotDurable, match=r"[01] of the 2 disks"):
        await Run(refusing, Policy(3)).push([shard])


@pytest.mark.trio
async def test_holders_are_reminded_while_a_publish_is_long(autojump_clock: trio.testing.MockClock) -> None:
    run = Run(Holders(), Policy(3))

    async def slowly() -> AsyncIterator[CutShard]:
        for number in range(push.BATCH_SHARDS_MAX):
            yield cut(number)
        await trio.sleep(push.REMIND_S + 1)

    _, receipts = await run.pusher.push_all(slowly(), None)
    reminded = {(peer_id, cid) for peer_id, cids in run.holders.reminded for cid in cids}
    assert reminded == {(receipt.holder, cid) for cid, found in receipts.items() for receipt in found}


@pytest.mark.trio
@pytest.mark.parametrize("how", ["dead", "full"])
async def test_the_next_in_rank_stand_in_up_to_a_majority(how: str) -> None:
    shard = cut(1)
    ranking = Policy(5).place([shard.cid], WORKERS)[0]
    assert ranking[:3] == Policy(3).place([shard.cid], WORKERS)[0]
    full = Holders({peer: [StorageFailed("disk full")] for peer in ranking[:2]} if how == "full" else {})
    run = Run(full, Policy(3), dead=ranking[:2] if how == "dead" else [])
    _, receipts = await run.push([shard])
    assert {receipt.holder for receipt in receipts[shard.cid]} == set(ranking[2:4])


@pytest.mark.trio
async def test_a_balanced_publish_of_any_size_asks_tickets_of_bounded_size() -> None:
    run = Run(Holders(), Policy(1, balanced=True), tickets=True)
    await run.push([cut(number) for number in range(push.BATCH_SHARDS_MAX + 5)])
    assert run.tickets_asked == [push.BATCH_SHARDS_MAX, 5]


@pytest.mark.trio
async def test_content_that_comes_twice_is_pushed_once_and_named_twice() -> None:
    run = Run(Holders(), Policy(1))
    order, receipts = await run.push([cut(1), cut(1), cut(2)])
    assert len(order) == 3
    assert len(receipts) == 2
    assert len(run.holders.received) == 2


@pytest.mark.trio
async def test_a_client_asks_one_ticket_a_batch_and_shows_it_with_each_push() -> None:
    run = Run(Holders(), Policy(1), tickets=True)
    await run.push([cut(number % 200) for number in range(push.BATCH_SHARDS_MAX + 5)])
    assert run.tickets_asked == [push.BATCH_SHARDS_MAX, 5]
    assert {ticket for _, _, ticket in run.holders.received} == {b"ticket"}


@pytest.mark.trio
async def test_everywhere_means_every_storage_member() -> None:
    shard = cut(1)
    _, receipts = await Run(Holders(), Policy(0)).push([shard])
    assert {receipt.holder for receipt in receipts[shard.cid]} == {member.peer_id for member in WORKERS}
