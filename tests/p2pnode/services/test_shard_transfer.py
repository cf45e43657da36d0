"""Transfers between real services over an in-memory network that can be cut, bent and forged at any byte."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import trio
import trio.testing

from bootstrap.identity import Identity
from p2pnode.core.cid import cid_text, record_cid
from p2pnode.core.model import NodeRole
from p2pnode.core.unixfs import CHUNK_BYTES, ShardHasher
from p2pnode.env import Env, LocalDisk
from p2pnode.env.net import DialFailed, StreamBroken, StreamHandler
from p2pnode.errors import (
    Busy,
    IntegrityError,
    NotFound,
    PeerLost,
    RoleError,
    ShardUnavailable,
    StorageFailed,
    Unauthorized,
)
from p2pnode.net.exchange import Exchange
from p2pnode.net.guard import Guard, Handler
from p2pnode.net.peers import Peers
from p2pnode.services import shard_transfer
from p2pnode.services.shard_transfer import ShardTransferService
from p2pnode.storage.shard_store import FREE_BYTES_MIN, ShardStore
from p2pnode.storage.sources import open_source
from p2pnode.storage.splitter import CutShard, Cutter
from protocols import shard_transfer as words
from protocols.message import Message

# -- a network in memory ----------------------------------------------------------------------------------------

Tamper = Callable[[int, bytes], bytes]


@dataclass
class MemoryStream:
    """One end. `tamper(at, data)` may change what this end writes, or raise StreamBroken."""

    peer_id: str
    inbox: trio.MemoryReceiveChannel[bytes]
    outbox: trio.MemorySendChannel[bytes]
    tamper: Tamper = lambda at, data: data
    written: int = 0
    left: bytes = b""

    def is_quiet(self) -> bool:
        inbox = self.inbox.statistics()
        return bool(inbox.open_send_channels) and not (self.left or inbox.current_buffer_used)

    async def read(self, max_bytes: int) -> bytes:
        if not self.left:
            try:
                self.left = await self.inbox.receive()
            except (trio.EndOfChannel, trio.ClosedResourceError):
                return b""
        data, self.left = self.left[:max_bytes], self.left[max_bytes:]
        return data

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        for start in range(0, len(data), 65_507):
            try:
                piece = self.tamper(self.written, bytes(data[start : start + 65_507]))
                self.written += len(piece)
                await self.outbox.send(piece)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise StreamBroken("reset") from error

    async def close(self) -> None:
        self.outbox.close()

    async def reset(self) -> None:
        self.outbox.close()
        self.inbox.close()


@dataclass
class Network:
    nursery: trio.Nursery
    transports: dict[str, MemoryTransport] = field(default_factory=dict)


@dataclass
class MemoryTransport:
    peer_id: str
    network: Network
    handlers: dict[str, StreamHandler] = field(default_factory=dict)
    tamper: Tamper = lambda at, data: data

    def addresses(self) -> list[str]:
        return []

    def serve(self, protocol_id: str, handler: StreamHandler) -> None:
        self.handlers[protocol_id] = handler

    async def dial(self, peer_id: str, addresses: Sequence[str]) -> str:
        if peer_id not in self.network.transports:
            raise DialFailed("gone")
        return ""

    async def open_stream(self, peer_id: str, protocol_id: str) -> MemoryStream:
        other = self.network.transports[peer_id]
        to_them, from_us = trio.open_memory_channel[bytes](4)
        to_us, from_them = trio.open_memory_channel[bytes](4)
        theirs = MemoryStream(self.peer_id, from_us, to_us, lambda at, data: other.tamper(at, data))
        self.network.nursery.start_soon(other.handlers[protocol_id], theirs)
        return MemoryStream(peer_id, from_them, to_them, lambda at, data: self.tamper(at, data))

    def connected(self) -> list[str]:
        return sorted(self.network.transports)

    async def disconnect(self, peer_id: str) -> None: ...

    def on_change(self, callback: Callable[[str, bool], None]) -> None: ...


class SmallDisk(LocalDisk):
    free = 1 << 40

    def free_bytes(self, path: Path) -> int:
        return self.free


@dataclass
class Node:
    home: Path
    peer_id: str
    transport: MemoryTransport
    store: ShardStore
    disk: SmallDisk
    guard: Guard
    transfer: ShardTransferService

    def answer(self, kind: type[Message], handler: Handler) -> None:
        """Let this node answer one verb otherwise: a liar, or a peer of other software."""
        handlers = {**self.transfer.handlers(), kind: handler}
        self.guard.serve(words.SHARD_TRANSFER, handlers)


@dataclass
class Swarm:
    folder: Path
    network: Network

    async def node(self, name: str, *, role: NodeRole = NodeRole.WORKER) -> Node:
        identity = Identity.from_seed(name.encode().ljust(32, b"."))
        home = self.folder / name
        disk = SmallDisk()
        env = Env(disk=disk)
        store = await ShardStore.open(home, env)
        transport = MemoryTransport(identity.peer_id, self.network)
        self.network.transports[identity.peer_id] = transport
        peers = Peers(transport, env)
        transfer = ShardTransferService(
            peers,
            store,
            env,
            identity,
            check_ticket=only_with_tickets,
            promised=PROMISED.append,
            transfers_max=2,
            stores=role.stores,
        )
        guard = Guard(transport, lambda peer_id, protocol, verb: None, peers.blame)
        guard.serve(words.SHARD_TRANSFER, transfer.handlers())
        return Node(home, identity.peer_id, transport, store, disk, guard, transfer)


CLIENTS: set[str] = set()
#: Shards that some node said it holds.
PROMISED: list[bytes] = []


async def only_with_tickets(peer_id: str, ticket: bytes, cid: bytes, size: int) -> None:
    if peer_id in CLIENTS and ticket != b"ticket for " + cid:
        raise Unauthorized("no ticket")


@asynccontextmanager
async def swarm_in(folder: Path) -> AsyncIterator[Swarm]:
    CLIENTS.clear()
    async with trio.open_nursery() as nursery:
        yield Swarm(folder, Network(nursery))
        nursery.cancel_scope.cancel()


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> CutShard:
    """A shard of some megabytes."""
    rng = np.random.default_rng(1)
    table = pa.table({"n": rng.integers(0, 1 << 60, 700_000), "x": rng.normal(size=700_000)})
    cutter = Cutter(
        open_source(table), LocalDisk(), tmp_path_factory.mktemp("cut"), format="parquet", shard_rows=1 << 30
    )
    made = cutter.cut()
    assert made is not None
    assert made.bytes > 8 * CHUNK_BYTES
    return made


def data_of(cut: CutShard) -> bytes:
    return cut.path.read_bytes()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def on_disk(node: Node, folder: str = "shards") -> list[str]:
    return names(node.home / folder)


class Once:
    """A tamper that strikes once, at the write that covers byte `at`."""

    def __init__(self, at: int, strike: Callable[[bytes], bytes]) -> None:
        self.at, self.strike, self.struck = at, strike, False

    def __call__(self, at: int, data: bytes) -> bytes:
        if not self.struck and at <= self.at < at + len(data):
            self.struck = True
            return self.strike(data)
        return data


def cut_off(data: bytes) -> bytes:
    raise trio.BrokenResourceError


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


# -- push -------------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_a_pushed_shard_is_whole_and_receipted(cut: CutShard, tmp_path: Path) -> None:
    async with swarm_in(tmp_path) as swarm:
        a, b = await swarm.node("a", role=NodeRole.COORDINATOR), await swarm.node("b")
        receipt = await a.transfer.push(b.peer_id, cut)
        assert (receipt.holder, receipt.cid, receipt.rows) == (b.peer_id, cut.cid, 700_000)
        assert (receipt.bytes, set(receipt.stats)) == (cut.bytes, {"n", "x"})
        assert PROMISED.pop() == cut.cid, "it may not be swept before the version that stands on the receipt has come"
        assert await a.transfer.have(b.peer_id, [b"none", cut.cid]) == {cut.cid}
        assert PROMISED.pop() == cut.cid
        assert on_disk(b) == [cid_text(cut.cid) + ".parquet"]
        assert b.store.path_of(cut.cid) is not None
        assert await b.store.verify(cut.cid)
        assert await a.transfer.have(b.peer_id, [cut.cid, record_cid(b"x")]) == {cut.cid}
        # Again: nothing is sent, the same is found.
        before = sum(1 for _ in on_disk(b))
        a.transport.tamper = Once(CHUNK_BYTES, cut_off)
        assert await a.transfer.push(b.peer_id, cut) == receipt
        assert len(on_disk(b)) == before


@pytest.mark.trio
async def test_pushing_to_oneself_is_the_same(cut: CutShard, tmp_path: Path) -> None:
    async with swarm_in(tmp_path) as swarm:
        a, b = await swarm.node("a"), await swarm.node("b")
        own, other = await a.transfer.push(a.peer_id, cut), await a.transfer.push(b.peer_id, cut)
        assert own.body == other.body
        assert own.holder == a.peer_id
        assert await a.transfer.have(a.peer_id, [cut.cid]) == {cut.cid}
        assert await a.transfer.push(a.peer_id, cut) == own


@pytest.mark.trio
@pytest.mark.parametrize(("strike", "error"), [(cut_off, PeerLost), (flip, IntegrityError)])
async def test_a_broken_push_goes_on_where_it_was(
    strike: Callable[[bytes], bytes], error: type[Exception], cut: CutShard, tmp_path: Path
) -> None:
    async with swarm_in(tmp_path) as swarm:
        a, b = await swarm.node("a"), await swarm.node("b")
        a.transport.tamper = Once(5 * CHUNK_BYTES, strike)
        with pytest.raises((error, PeerLost)):
            await a.transfer.push(b.peer_id, cut)
        assert not b.store.has(cut.cid)
        assert on_disk(b) == []
        await trio.testing.wait_all_tasks_blocked()
        sent: list[int] = []
        a.transport.tamper = lambda at, data: sent.append(len(data)) or data
        await a.transfer.push(b.peer_id, cut)
        assert sum(sent) < cut.bytes - 3 * CHUNK_BYTES
        assert await b.store.verify(cut.cid)


@pytest.mark.trio
async def test_what_a_holder_refuses_is_typed(cut: CutShard, tmp_path: Path) -> None:
    async with swarm_in(tmp_path) as swarm:
        a, b = await swarm.node("a"), await swarm.node("b")
        coordinator = await swarm.node("c", role=NodeRole.COORDINATOR)
        with pytest.raises(RoleError):
            await a.transfer.push(coordinator.peer_id, cut)
        b.disk.free = FREE_BYTES_MIN
        with pytest.raises(StorageFailed, match="disk full"):
            await a.transfer.push(b.peer_id, cut)
        b.disk.free = 1 << 40
        CLIENTS.add(a.peer_id)
        with pytest.raises(Unauthorized):
            await a.transfer.push(b.peer_id, cut)
        await a.transfer.push(b.peer_id, cut, b"ticket for " + cut.cid)
        with pytest.raises(PeerLost):
            await a.transfer.push("12D3KooWnobody", cut)


@pytest.mark.trio
async def test_a_shard_that_is_not_what_it_says_is_refused(cut: CutShard, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"honestly hashed nonsense")
    hasher = ShardHasher()
    hasher.update(path.read_bytes())
    async with swarm_in(tmp_path) as swarm:
        a, b = await swarm.node("a"), await swarm.node("b")
        with pytest.raises(IntegrityError, match="not a readable parquet"):
            await a.transfer.push(b.peer_id, CutShard(path, hasher.cid(), hasher.outline(), 1, hasher.size))
        with pytest.raises(IntegrityError, match="outline is not that"):
            await a.transfer.push(b.peer_id, CutShard(cut.path, cut.cid, hasher.outline(), 1, hasher.size))
        assert on_disk(b) == on_disk(b, "incoming") == []


@pytest.mark.trio
async def test_a_forged_receipt_is_refused(cut: CutShard, tmp_path: Path) -> None:
    async with swarm_in(tmp_path) as swarm:
        a, b, c = await swarm.node("a"), await swarm.node("b"), await swarm.node("c")
        honest = await a.transfer.push(c.peer_id, cut)

        async def repeat_anothers(peer_id: str, request: Message, exchange: Exchange) -> None:
            await exchange.payload_all(1 << 20)
            await exchange.send(words.Ready(offset=cut.bytes))
            await exchange.send(words.Receipt(signature=honest.signature), honest.body)

        b.answer(words.Put, repeat_anothers)
        with pytest.raises(IntegrityError, match="signature"):
            await a.transfer.push(b.peer_id, cut)


@pytest.mark.trio
async def test_two_publishers_of_one_shard(cut: CutShard, tmp_path: Path) -> None:
    async with swarm_in(tmp_path) as swarm:
        a, b, c = await swarm.node("a"), await swarm.node("b"), await swarm.node("c")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.transfer.push, c.peer_id, cut)
            nursery.start_soon(b.transfer.push, c.peer_id, cut)
        assert on_disk(c) == [cid_text(cut.cid) + ".parquet"]


@pytest.mark.trio
async def test_too_many_at_once_are_told_to_come_back(
    cut: CutShard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_transfer, "WAITING_MAX", 0)
    async with swarm_in(tmp_path) as swarm:
        a, b = await swarm.node("a"), await swarm.node("b")
        with pytest.raises(Busy):
            await a.transfer.push(b.peer_id, cut)


# -- fetch ------------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_fetching_to_memory_and_to_a_file(cut: CutShard, tmp_path: Path) -> None:
    async with swarm_in(tmp_path) as swarm:
        a, b = await swarm.node("a"), await swarm.node("b")
        await b.transfer.push(b.peer_id, cut)
        assert await a.transfer.fetch_bytes(cut.cid, [b.peer_id]) == data_of(cut)
        target = tmp_path / "out.parquet"
        assert await a.transfer.fetch_to(cut.cid, [b.peer_id], target) == cut.bytes
        assert data_of(cut) == LocalDisk().open(target, "rb").read()
        # A node that holds it is a source for itself, like any other.
        assert await b.transfer.fetch_bytes(cut.cid, [b.peer_id]) == data_of(cut)


@pytest.mark.trio
@pytest.mark.parametrize("strike", [cut_off, flip])
async def test_a_source_that_fails_is_gone_on_from(
    strike: Callable[[bytes], bytes], cut: CutShard, tmp_path: Path
) -> None:
    async with swarm_in(tmp_path) as swarm:
        a, b, c = await swarm.node("a"), await swarm.node("b"), await swarm.node("c")
        for holder in (b, c):
            await holder.transfer.push(holder.peer_id, cut)
        b.transport.tamper = Once(5 * CHUNK_BYTES, strike)
        sent: list[int] = []
        c.transport.tamper = lambda at, data: sent.append(len(data)) or data
        assert await a.transfer.fetch_bytes(cut.cid, ["12D3KooWgone", b.peer_id, c.peer_id]) == data_of(cut)
        assert 0 < sum(sent) < cut.bytes - 3 * CHUNK_BYTES


@pytest.mark.trio
async def test_damage_on_a_holder_never_travels(cut: CutShard, tmp_path: Path) -> None:
    async with swarm_in(tmp_path) as swarm:
        a, b = await swarm.node("a"), await swarm.node("b")
        await b.transfer.push(b.peer_id, cut)
        path = b.store.path_of(cut.cid)
        assert path is not None
        with LocalDisk().open(path, "r+b") as file:
            file.seek(4 * CHUNK_BYTES)
            file.write(b"rot")
        target = tmp_path / "out.parquet"
        with pytest.raises((ShardUnavailable, IntegrityError)):
            await a.transfer.fetch_to(cut.cid, [b.peer_id], target)
        assert names(tmp_path) == ["a", "b"]
        assert not b.store.has(cut.cid)
        assert on_disk(b, "quarantine") == [cid_text(cut.cid) + ".parquet"]


@pytest.mark.trio
async def test_nobody_has_it(cut: CutShard, tmp_path: Path) -> None:
    async with swarm_in(tmp_path) as swarm:
        a, b = await swarm.node("a"), await swarm.node("b")
        with pytest.raises(ShardUnavailable) as caught:
            await a.transfer.fetch_bytes(cut.cid, [b.peer_id, "12D3KooWgone"])
        assert caught.value.missing == (cid_text(cut.cid),)
        with pytest.raises(ShardUnavailable):
            await a.transfer.fetch_bytes(cut.cid, [])


@pytest.mark.trio
async def test_liars_are_found_out(cut: CutShard, tmp_path: Path) -> None:
    async with swarm_in(tmp_path) as swarm:
        a, b, c = await swarm.node("a"), await swarm.node("b"), await swarm.node("c")
        for holder in (b, c):
            await holder.transfer.push(holder.peer_id, cut)

        async def wrong_outline(peer_id: str, request: Message, exchange: Exchange) -> None:
            await exchange.send(words.Outline(size=cut.bytes), bytes(len(cut.outline)))

        b.answer(words.AskOutline, wrong_outline)
        with pytest.raises(IntegrityError, match="every source"):
            await a.transfer.fetch_bytes(cut.cid, [b.peer_id])

        async def short(peer_id: str, request: Message, exchange: Exchange) -> None:
            await exchange.send(words.Bytes(size=cut.bytes), data_of(cut)[:-1])

        c.answer(words.Get, short)
        with pytest.raises(IntegrityError, match="another range"):
            await a.transfer.fetch_bytes(cut.cid, [c.peer_id])


@pytest.mark.trio
async def test_ranges_and_unknown_shards(cut: CutShard, tmp_path: Path) -> None:
    async with swarm_in(tmp_path) as swarm:
        a, b = await swarm.node("a"), await swarm.node("b")
        await b.transfer.push(b.peer_id, cut)
        peers = Peers(a.transport, Env())
        get = words.Get(cid=cut.cid, offset=CHUNK_BYTES + 5, length=7)
        _, got = await peers.ask(b.peer_id, words.SHARD_TRANSFER, get)
        assert got == data_of(cut)[CHUNK_BYTES + 5 :][:7]
        with pytest.raises(NotFound, match="not here"):
            await peers.ask(b.peer_id, words.SHARD_TRANSFER, words.Get(cid=record_cid(b"x")))
        with pytest.raises(NotFound, match=f"has {cut.bytes} bytes"):
            await peers.ask(b.peer_id, words.SHARD_TRANSFER, words.Get(cid=cut.cid, offset=cut.bytes + 1))
