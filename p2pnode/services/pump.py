"""Bulk bytes between a stream and a thread, each working while the other does.

The network must never wait for the disk longer than its peers' patience, nor the disk for the network: between them
lies a short queue of blocks. It is what makes hashing, writing and syncing cost (almost) nothing on top of the
transfer. This file refuses to know what the bytes are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import trio

from p2pnode.env.together import together
from p2pnode.errors import P2PNodeError
from p2pnode.net.exchange import Exchange
from protocols.message import Message

#: Bytes handed to a thread at once: a thread hop costs 0.1 ms, so many of them at 64 KiB would cost as much as the
#: hashing itself.
BLOCK_BYTES = 2 << 20
#: Blocks that wait between the two sides. With ten transfers at once that is 80 MiB at most.
BLOCKS_WAITING_MAX = 3
#: Bytes after which a long file begins to go to the platter, so that little is left to sync at its end.
SYNC_BYTES = 64 << 20

Take = Callable[[list[memoryview]], Awaitable[None]]
Sync = Callable[[], Awaitable[None]]


async def receive_blocks(pieces: AsyncIterator[memoryview], take: Take, sync: Sync | None = None) -> None:
    """Give all pieces to `take`, about BLOCK_BYTES at a time, reading on while it works.

    What had come before the source failed is taken too; then its error is raised. An error of `take` or `sync` stops
    the reading at once.
    """
    blocks_in, blocks_out = trio.open_memory_channel[list[memoryview]](BLOCKS_WAITING_MAX)

    async def read() -> None:
        block: list[memoryview] = []
        gathered = 0
        async with blocks_in:
            try:
                async for piece in pieces:
                    block.append(piece)
                    gathered += len(piece)
                    if gathered >= BLOCK_BYTES:
                        await blocks_in.send(block)
                        block, gathered = [], 0
            except P2PNodeError as lost:
                broken.append(lost)
            if block:
                await blocks_in.send(block)

    async def write() -> None:
        unsynced = 0
        async with trio.open_nursery() as syncing:
            async for block in blocks_out:
                await take(block)
                unsynced += sum(map(len, block))
                if sync and unsynced >= SYNC_BYTES and not syncing.child_tasks:
                    unsynced = 0
                    syncing.start_soon(sync)

    broken: list[P2PNodeError] = []
    async with together() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(write)
    if broken:
        raise broken[0]


async def send_blocks(exchange: Exchange, message: Message, payload_bytes: int, blocks: AsyncIterator[bytes]) -> None:
    """Send `message` with the blocks as its payload, fetching the next ones while one is on its way."""
    blocks_in, blocks_out = trio.open_memory_channel[bytes](BLOCKS_WAITING_MAX)

    async def fetch() -> None:
        async with blocks_in:
            async for block in blocks:
                await blocks_in.send(block)

    async def send() -> None:
        await exchange.send_stream(message, payload_bytes, blocks_out)

    async with together() as nursery:
        nursery.start_soon(fetch)
        nursery.start_soon(send)
