"""Pushing: cut shards onto the disks of their holders, R at once, and their receipts back.

Where a shard goes is placement's word. The dead are skipped, and what is short is repaired later rather than scattered
now; only where too few holders are left for a majority do the next in rank stand in for them, so that a swarm with
enough disks can always publish. A shard stands on ⌊R/2⌋+1 receipts or the whole push fails, and repeating it is safe:
holders that have a shard say so before a byte is sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
import trio

from p2pnode.core.model import EVERYWHERE, Member
from p2pnode.core.placement import place
from p2pnode.core.policy import Policy
from p2pnode.core.receipts import Receipt, quorum
from p2pnode.env.together import together
from p2pnode.errors import NotDurable, P2PNodeError
from p2pnode.storage.splitter import CutShard
from protocols.message import CIDS_MAX

log = structlog.get_logger(__name__)

#: Shards that one ticket covers: 36 bytes each ride on every push of the batch.
BATCH_SHARDS_MAX = 64
#: Bytes of cut shards that wait on disk before the splitter is made to wait for the holders.
BATCH_BYTES_MAX = 256 << 20
#: Batches on their way to holders at once: one travels while the next is cut.
BATCHES_MAX = 2
#: Seconds between two reminders of holders in a long publish; they keep what nobody names for an hour.
REMIND_S = 900.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a publish is: rows and bytes that `stage` is done with; `rows_total` is None if nobody knows."""

    stage: str
    rows: int
    rows_total: int | None
    shards: int
    bytes: int


class Destination(Protocol):
    """Where a shard can be sent: over the wire, or onto this node's own disk (`patience` asks either again)."""

    async def push(self, peer_id: str, cut: CutShard, ticket: bytes) -> Receipt:
        """The holder's verified receipt. Raises P2PNodeError when there will be none."""
        ...

    async def have(self, peer_id: str, cids: Sequence[bytes]) -> set[bytes]:
        """Which of these (at most CIDS_MAX) that holder has; being asked for, they stay. Raises P2PNodeError."""
        ...


class Pusher:
    """Places cut shards on their holders and collects the receipts. One per publish.

    Args:
        members: what placement counts on, dead ones included: placement must not wobble with a blink.
        alive: whether a peer is worth sending to now.
        ask_ticket: for a client, a ticket over a batch of shards; None for a member, who needs none.
        discard: lets go of a cut shard's temporary file.
    """

    def __init__(
        self,
        destination: Destination,
        members: Sequence[Member],
        policy: Policy,
        *,
        alive: Callable[[str], bool],
        ask_ticket: Callable[[Sequence[CutShard]], Awaitable[bytes]] | None,
        discard: Callable[[CutShard], Awaitable[None]],
        transfers_max: int,
        progress: Callable[[Progress], None],
    ) -> None:
        self._destination = destination
        self._members = [member for member in members if member.role.stores and not member.left]
        self._policy = policy
        self._alive = alive
        self._ask_ticket = ask_ticket
        self._discard = discard
        self._limit = trio.CapacityLimiter(transfers_max)
        self._progress = progress
        self._receipts: dict[bytes, list[Receipt]] = {}
        self._failing: set[str] = set()
        self._pushed_rows = self._pushed_bytes = self._pushed_shards = 0
        self.replicas = policy.replicas if policy.replicas != EVERYWHERE else len(self._members)

    async def push_all(
        self, cuts: AsyncIterable[CutShard], rows_total: int | None
    ) -> tuple[tuple[bytes, ...], dict[bytes, tuple[Receipt, ...]]]:
        """Push shards as they are cut until the source is dry: their ids in order, and the receipts by id.

        Raises:
            NotDurable: a shard got fewer than ⌊R/2⌋+1 receipts. Nothing was signed; repeating is safe.
        """
        async with together() as nursery:
            nursery.start_soon(self._remind)
            order = await self._push_cuts(cuts, rows_total)
            nursery.cancel_scope.cancel()
        return order, {cid: tuple(found) for cid, found in self._receipts.items()}

    async def _remind(self) -> None:
        """Ask the holders for what they have of this publish, again and again: what nobody names goes after an hour."""
        while True:
            await trio.sleep(REMIND_S)
            held: dict[str, list[bytes]] = {}
            for receipts in self._receipts.values():
                for receipt in receipts:
                    held.setdefault(receipt.holder, []).append(receipt.cid)
            for peer_id, cids in held.items():
                for start in range(0, len(cids), CIDS_MAX):
                    try:
                        await self._destination.have(peer_id, cids[start : start + CIDS_MAX])
                    except P2PNodeError as error:
                        log.info("holder_not_reminded", peer=peer_id, why=str(error))

    async def _push_cuts(self, cuts: AsyncIterable[CutShard], rows_total: int | None) -> tuple[bytes, ...]:
        order: list[bytes] = []
        seen: set[bytes] = set()
        batch: list[CutShard] = []
        rows = size = 0
        slots = trio.Semaphore(BATCHES_MAX)

        async def send(shards: list[CutShard]) -> None:
            try:
                await self._push_batch(shards, rows_total)
            finally:
                slots.release()

        async with together() as nursery:
            async for cut in cuts:
                order.append(cut.cid)
                rows, size = rows + cut.rows, size + cut.bytes
                self._progress(Progress("split", rows, rows_total, len(order), size))
                if cut.cid in seen:
                    await self._discard(cut)
                    continue
                seen.add(cut.cid)
                batch.append(cut)
                if self._is_full(batch):
                    await slots.acquire()
                    nursery.start_soon(send, batch)
                    batch = []
            if batch:
                await slots.acquire()
                nursery.start_soon(send, batch)
        return tuple(order)

    def _is_full(self, batch: Sequence[CutShard]) -> bool:
        if self._policy.balanced:
            return False  # the (1+ε) bound is over the whole version, so all of it is cut before any is placed
        return len(batch) >= BATCH_SHARDS_MAX or sum(cut.bytes for cut in batch) >= BATCH_BYTES_MAX

    async def _push_batch(self, shards: Sequence[CutShard], rows_total: int | None) -> None:
        targets = dict(zip(shards, self._policy.place([cut.cid for cut in shards], self._members), strict=True))
        async with together() as nursery:
            for start in range(0, len(shards), BATCH_SHARDS_MAX):
                some = shards[start : start + BATCH_SHARDS_MAX]
                ticket = await self._ask_ticket(some) if self._ask_ticket else b""
                for cut in some:
                    nursery.start_soon(self._push_shard, cut, targets[cut], ticket, rows_total)

    async def _push_shard(self, cut: CutShard, holders: Sequence[str], ticket: bytes, rows_total: int | None) -> None:
        """One shard to all of its holders at once, to stand-ins if too few take it; enough receipts or NotDurable."""
        need = quorum(self.replicas)
        receipts = self._receipts.setdefault(cut.cid, [])
        failures: list[P2PNodeError] = []

        async def one(peer_id: str) -> None:
            async with self._limit:
                if not self._alive(peer_id):
                    return  # it died while this shard waited for its turn
                try:
                    receipts.append(await self._destination.push(peer_id, cut, ticket))
                except P2PNodeError as error:
                    failures.append(error)
                    tell = log.info if peer_id in self._failing else log.warning  # one word a peer, not one a shard
                    tell("push_failed", peer=peer_id, shard=cut.cid.hex(), why=str(error))
                    self._failing.add(peer_id)

        async with together() as nursery:
            for peer_id in holders:
                if self._alive(peer_id):
                    nursery.start_soon(one, peer_id)
        if len(receipts) < need:
            for peer_id in place(cut.cid, self._members, EVERYWHERE, preferences=self._policy.preferences):
                if len(receipts) < need and peer_id not in holders and self._alive(peer_id):
                    await one(peer_id)
        if len(receipts) < need:
            why = f" ({failures[0]})" if failures else ""
            raise NotDurable(f"A shard reached {len(receipts)} of the {need} disks that it needs{why}.")
        await self._discard(cut)
        self._pushed_rows += cut.rows
        self._pushed_bytes += cut.bytes
        self._pushed_shards += 1
        self._progress(Progress("push", self._pushed_rows, rows_total, self._pushed_shards, self._pushed_bytes))
