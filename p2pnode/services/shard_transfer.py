"""The shard-transfer protocol's deeds: shards go out, come in, and are acknowledged by what was found in them.

Both ends verify. A receiver folds the outline to the content id before it takes a byte and checks each chunk before it
keeps it; a sender reads through the same check, so damage on a disk is found at the first reader and never travels.
Whatever was verified stays when a transfer breaks, and the next attempt, from the same peer or another, begins
behind it. A receipt is signed over what the holder found itself, after the bytes are on its platter.

This file refuses to choose: who should hold a shard is placement's, whom to ask is the locator's.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import structlog
import trio

from bootstrap.identity import Identity, verify
from p2pnode.core.cid import BadContentId, cid_text
from p2pnode.core.receipts import Receipt, read_receipt, receipt_body, sign_receipt
from p2pnode.core.unixfs import cid_of_outline
from p2pnode.env import Env
from p2pnode.errors import (
    Busy,
    IntegrityError,
    NotFound,
    P2PNodeError,
    RoleError,
    ShardUnavailable,
    StorageFailed,
)
from p2pnode.net.exchange import Exchange, expect
from p2pnode.net.guard import Handler
from p2pnode.net.peers import Peers
from p2pnode.services.pump import BLOCK_BYTES, receive_blocks, send_blocks
from p2pnode.storage.incoming import Incoming
from p2pnode.storage.shard_store import ShardStore
from p2pnode.storage.splitter import CutShard
from protocols import shard_transfer as words
from protocols.message import Message

log = structlog.get_logger(__name__)

#: Seconds that a peer may take to say something that it has at hand.
ANSWER_S = 20.0
#: Bytes a second below which a transfer is given up: a slower line would hold a slot for hours.
SLOWEST_BYTES_S = 1 << 20
#: Transfers that wait behind those at work; beyond it a peer is told to come back.
WAITING_MAX = 64
#: Seconds that a full holder asks to be left alone.
RETRY_AFTER_S = 0.5
#: The largest shard that is given as one `bytes`; larger ones go to a file.
IN_MEMORY_BYTES_MAX = 4 << 30

CheckTicket = Callable[[str, bytes, bytes, int], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Sink:
    """Where a shard goes: what is verified so far, and how to take and sync more."""

    incoming: Incoming
    take: Callable[[list[memoryview]], Awaitable[None]]
    sync: Callable[[], Awaitable[None]] | None = None


OpenSink = Callable[[bytes, int], AbstractAsyncContextManager[_Sink]]


class ShardTransferService:
    """One node's shards on the wire, both ways.

    Args:
        check_ticket: (peer id, ticket, cid, size) raises Unauthorized when that peer may not put that shard here.
        transfers_max: transfers at work at once, each way.
        promised: told of each shard that somebody was told to be here.
        stores: whether this node's role holds shards.
    """

    def __init__(
        self,
        peers: Peers,
        store: ShardStore,
        env: Env,
        identity: Identity,
        *,
        check_ticket: CheckTicket,
        promised: Callable[[bytes], None],
        transfers_max: int,
        stores: bool = True,
    ) -> None:
        self._peers = peers
        self._store = store
        self._env = env
        self._identity = identity
        self._check_ticket = check_ticket
        self._promised = promised
        self._stores = stores
        # Two bounds: whoever takes a great deal still gives.
        self._taking = trio.CapacityLimiter(transfers_max)
        self._giving = trio.CapacityLimiter(transfers_max)

    def handlers(self) -> Mapping[type[Message], Handler]:
        """For the guard to serve SHARD_TRANSFER with."""
        return {
            words.Have: self._on_have,
            words.AskOutline: self._on_ask_outline,
            words.Get: self._on_get,
            words.Put: self._on_put,
        }

    # -- asking -------------------------------------------------------------------------------------------------

    async def have(self, peer_id: str, cids: Sequence[bytes]) -> set[bytes]:
        """Which of these (at most CIDS_MAX) that peer holds, verified. Raises P2PNodeError if it does not answer."""
        if peer_id == self._identity.peer_id:
            return {cid for cid, here in zip(cids, self._holds(cids), strict=True) if here}
        answer, _ = await self._peers.ask(peer_id, words.SHARD_TRANSFER, words.Have(cids=list(cids)))
        present = expect(answer, words.Holding).present
        return {cid for cid, held in zip(cids, present, strict=False) if held}

    async def push(self, peer_id: str, cut: CutShard, ticket: bytes = b"") -> Receipt:
        """Send a shard to a holder (this node included); what an earlier attempt left there is not sent again.

        Raises whatever the holder answers (StorageFailed, Unauthorized, Busy, …), PeerLost, Timeout, and
        IntegrityError for a receipt that is not for this shard.
        """
        if peer_id == self._identity.peer_id:
            return await self._keep(cut)
        put = words.Put(cid=cut.cid, size=cut.bytes, format=cut.format, ticket=ticket)
        async with self._peers.exchange(
            peer_id, words.SHARD_TRANSFER, put, cut.outline, timeout_s=_patience_s(cut.bytes)
        ) as exchange:
            offset = expect(await exchange.receive(), words.Ready).offset
            if offset < cut.bytes:
                blocks = self._blocks_of(cut.path, offset)
                await send_blocks(exchange, words.Piece(offset=offset), cut.bytes - offset, blocks)
            return await self._receipt_of(exchange, cut.cid, cut.bytes)

    async def fetch_bytes(self, cid: bytes, sources: Sequence[str]) -> bytes:
        """A whole shard, verified, from whichever source gives it. Raises as `fetch_to` does."""
        buffer = io.BytesIO()

        @asynccontextmanager
        async def memory(outline: bytes, size: int) -> AsyncIterator[_Sink]:
            if size > IN_MEMORY_BYTES_MAX:
                raise StorageFailed(f"a shard of {size} bytes is too large for memory", advice="Fetch it to a file.")
            incoming = await self._env.executor.run(Incoming, cid, outline, size, lambda: buffer)
            yield self._thread_sink(incoming)

        await self._fetch(cid, sources, memory)
        return buffer.getvalue()

    async def fetch_to(self, cid: bytes, sources: Sequence[str], path: Path) -> int:
        """A whole shard, verified, as the file `path`, which appears only when it is complete; returns its bytes.

        Sources are peer ids, asked in this order, each going on where the one before failed. Raises IntegrityError
        (every one that has it gives wrong bytes), ShardUnavailable (nobody gives it), StorageFailed.
        """
        part = path.with_name(path.name + ".part")
        disk = self._env.disk
        opened: list[BinaryIO] = []

        def make() -> BinaryIO:
            opened.append(disk.open(part, "wb"))
            return opened[0]

        @asynccontextmanager
        async def file(outline: bytes, size: int) -> AsyncIterator[_Sink]:
            incoming = await self._env.executor.run(Incoming, cid, outline, size, make)
            try:
                yield self._thread_sink(incoming, durable=True)
                await self._env.executor.run(incoming.sync, disk.sync)
            finally:
                incoming.close()

        def show() -> None:
            disk.rename(part, path)
            disk.sync_dir(path.parent)

        try:
            size = await self._fetch(cid, sources, file)
            await self._env.executor.run(show)
        except OSError as error:
            raise StorageFailed(f"cannot write {path}: {error.strerror}") from error
        finally:
            if opened:
                disk.unlink(part)
        return size

    async def _fetch(self, cid: bytes, sources: Sequence[str], open_sink: OpenSink) -> int:
        """Fill a sink from the sources, one after another; returns the shard's size."""
        failures: dict[str, P2PNodeError] = {}
        left = list(sources)
        while left:
            try:
                outline, size = await self._outline_from(left[0], cid)
                break
            except P2PNodeError as error:
                failures[left.pop(0)] = error
        else:
            raise _nobody(cid, failures)
        async with open_sink(outline, size) as sink:
            for peer_id in left:
                if sink.incoming.complete:
                    break
                try:
                    await self._rest_from(peer_id, sink)
                except StorageFailed:
                    raise  # our own disk: another source would not help
                except P2PNodeError as error:
                    log.info("source_failed", peer=peer_id, shard=cid_text(cid), why=error.message)
                    failures[peer_id] = error
                    sink.incoming.drop_partial()
            if not sink.incoming.complete:
                raise _nobody(cid, failures)
        return size

    async def _outline_from(self, peer_id: str, cid: bytes) -> tuple[bytes, int]:
        if peer_id == self._identity.peer_id:
            return await self._store.outline(cid)
        answer, outline = await self._peers.ask(peer_id, words.SHARD_TRANSFER, words.AskOutline(cid=cid))
        size = expect(answer, words.Outline).size
        if await self._env.executor.run(cid_of_outline, outline, size) != cid:
            raise IntegrityError(f"{peer_id} gives an outline that is not that of {cid_text(cid)}")
        return outline, size

    async def _rest_from(self, peer_id: str, sink: _Sink) -> None:
        """Take from one peer what is still lacking."""
        incoming = sink.incoming
        if peer_id == self._identity.peer_id:
            blocks = self._store.read(incoming.cid, incoming.offset)
            await receive_blocks(_views(blocks), sink.take, sink.sync)
            return
        lacking = incoming.size - incoming.offset
        get = words.Get(cid=incoming.cid, offset=incoming.offset)
        async with self._peers.exchange(peer_id, words.SHARD_TRANSFER, get, timeout_s=_patience_s(lacking)) as exchange:
            answer = expect(await exchange.receive(), words.Bytes)
            if (answer.size, answer.offset, exchange.payload_bytes) != (incoming.size, incoming.offset, lacking):
                raise IntegrityError(f"{peer_id} gives another range of {cid_text(incoming.cid)} than was asked for")
            await receive_blocks(exchange.payload(), sink.take, sink.sync)

    async def _keep(self, cut: CutShard) -> Receipt:
        """A shard of this node's own making onto its own disk, by the same checks as anybody's."""
        if not self._store.has(cut.cid):
            async with self._store.receive(cut.cid, cut.outline, cut.bytes, cut.format) as incoming:
                sink = self._store_sink(incoming)
                await receive_blocks(_views(self._blocks_of(cut.path, incoming.offset)), sink.take, sink.sync)
                await self._store.finish(incoming, cut.format)
        body, signature = await self._sign(cut.cid)
        return read_receipt(self._identity.peer_id, body, signature, verify)

    async def _receipt_of(self, exchange: Exchange, cid: bytes, size: int) -> Receipt:
        answer = expect(await exchange.receive(), words.Receipt)
        body = await exchange.payload_all(exchange.payload_bytes)
        receipt = read_receipt(exchange.peer_id, body, answer.signature, verify)
        if (receipt.cid, receipt.bytes) != (cid, size):
            raise IntegrityError(f"{exchange.peer_id} signed a receipt for another shard than {cid_text(cid)}")
        return receipt

    # -- answering ----------------------------------------------------------------------------------------------

    async def _on_have(self, _peer_id: str, request: Message, exchange: Exchange) -> None:
        assert isinstance(request, words.Have)
        await exchange.send(words.Holding(present=self._holds(request.cids)))

    async def _on_ask_outline(self, _peer_id: str, request: Message, exchange: Exchange) -> None:
        assert isinstance(request, words.AskOutline)
        outline, size = await self._store.outline(request.cid)
        await exchange.send(words.Outline(size=size), outline)

    async def _on_get(self, _peer_id: str, request: Message, exchange: Exchange) -> None:
        assert isinstance(request, words.Get)
        async with _slot(self._giving):
            _, size = await self._store.outline(request.cid)
            if request.offset > size:
                raise NotFound(f"{cid_text(request.cid)} has {size} bytes, not {request.offset}")
            length = min(request.length or size, size - request.offset)
            blocks = self._store.read(request.cid, request.offset, length)
            await send_blocks(exchange, words.Bytes(size=size, offset=request.offset), length, blocks)

    async def _on_put(self, peer_id: str, request: Message, exchange: Exchange) -> None:
        assert isinstance(request, words.Put)
        outline = await exchange.payload_all(words.OUTLINE_BYTES_MAX)
        if not self._stores:
            raise RoleError("this node's role holds no shards")
        await self._check_ticket(peer_id, request.ticket, request.cid, request.size)
        if not await self._taken(request, outline, exchange):
            await exchange.send(words.Ready(offset=request.size))
        body, signature = await self._sign(request.cid)
        await exchange.send(words.Receipt(signature=signature), body)

    async def _taken(self, put: words.Put, outline: bytes, exchange: Exchange) -> bool:
        """Take the shard in; False if nothing is lacking."""
        if self._store.has(put.cid):
            return False
        async with (
            _slot(self._taking),
            self._store.receive(put.cid, outline, put.size, put.format) as incoming,
        ):
            if self._store.has(put.cid):  # another sender finished while this one waited
                return False
            await exchange.send(words.Ready(offset=incoming.offset))
            await self._take_piece(exchange, incoming)
            await self._store.finish(incoming, put.format)
        return True

    async def _take_piece(self, exchange: Exchange, incoming: Incoming) -> None:
        if incoming.complete:
            return  # an earlier attempt brought all of it and broke before the receipt
        piece = expect(await exchange.receive(), words.Piece)
        if (piece.offset, exchange.payload_bytes) != (incoming.offset, incoming.size - incoming.offset):
            raise IntegrityError(
                f"a piece of {exchange.payload_bytes} bytes from {piece.offset} on, where byte {incoming.offset} to "
                f"{incoming.size} are lacking"
            )
        sink = self._store_sink(incoming)
        await receive_blocks(exchange.payload(), sink.take, sink.sync)

    def _holds(self, cids: Sequence[bytes]) -> list[bool]:
        held = [self._store.has(cid) for cid in cids]
        for cid, here in zip(cids, held, strict=True):
            if here:
                self._promised(cid)
        return held

    async def _sign(self, cid: bytes) -> tuple[bytes, bytes]:
        self._promised(cid)
        found = await self._store.stored(cid)
        body = receipt_body(found.cid, found.rows, found.bytes, found.stats)
        return body, sign_receipt(body, self._identity.sign)

    # -- bytes --------------------------------------------------------------------------------------------------

    def _thread_sink(self, incoming: Incoming, *, durable: bool = False) -> _Sink:
        async def take(pieces: list[memoryview]) -> None:
            await self._env.executor.run(incoming.take, pieces)

        async def sync() -> None:
            await self._env.executor.run(incoming.sync, self._env.disk.sync)

        return _Sink(incoming, take, sync if durable else None)

    def _store_sink(self, incoming: Incoming) -> _Sink:
        async def take(pieces: list[memoryview]) -> None:
            await self._store.take(incoming, pieces)

        async def sync() -> None:
            await self._store.sync(incoming)

        return _Sink(incoming, take, sync)

    async def _blocks_of(self, path: Path, offset: int) -> AsyncIterator[bytes]:
        file = await self._env.executor.run(self._env.disk.open, path, "rb")
        with file:
            file.seek(offset)
            while block := await self._env.executor.run(file.read, BLOCK_BYTES):
                yield block


@asynccontextmanager
async def _slot(limit: trio.CapacityLimiter) -> AsyncIterator[None]:
    if limit.statistics().tasks_waiting >= WAITING_MAX:
        raise Busy("this node has as many transfers at work as it may", retry_after_s=RETRY_AFTER_S)
    async with limit:
        yield


async def _views(blocks: AsyncIterator[bytes]) -> AsyncIterator[memoryview]:
    async for block in blocks:
        yield memoryview(block)


def _patience_s(size: int) -> float:
    return ANSWER_S + size / SLOWEST_BYTES_S


def _nobody(cid: bytes, failures: Mapping[str, P2PNodeError]) -> P2PNodeError:
    """What it means that no source gave the shard."""
    told = "; ".join(f"{peer_id}: {error.message}" for peer_id, error in failures.items())
    if failures and all(isinstance(error, (IntegrityError, BadContentId)) for error in failures.values()):
        return IntegrityError(f"every source of {cid_text(cid)} gives wrong bytes ({told})")
    return ShardUnavailable(f"nobody gives {cid_text(cid)}" + (f" ({told})" if told else ""), missing=(cid_text(cid),))
