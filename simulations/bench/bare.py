"""The baseline under everything: py-libp2p alone, with the best settings known for it.

Noise only, yamux, one persistent stream, writes of 65,507 bytes (one yamux frame in one noise message), reads
as large as they come, nothing verified and nothing stored. What p2pnode adds to this is its price.

Run as a module it is a server: it prints its multiaddr and then sends, swallows and echoes until it is
killed.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from subprocess import PIPE, Popen

import libp2p.network.swarm as libp2p_swarm
import trio
from libp2p import new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from multiaddr import Multiaddr

SOURCE = TProtocol("/bare/source/1.0.0")
SINK = TProtocol("/bare/sink/1.0.0")
ECHO = TProtocol("/bare/echo/1.0.0")

#: One full yamux frame that still fits one noise message.
WRITE_BYTES = 65_507
READ_BYTES = 1 << 20
#: Before it tries a second address the library waits a quarter of a second, even if there is none.
libp2p_swarm._HAPPY_EYEBALLS_DELAY = 0.0


@asynccontextmanager
async def bare_host() -> AsyncIterator[IHost]:
    """A listening host that speaks noise and nothing else."""
    keys = create_new_key_pair()
    noise = Noise(keys, create_new_x25519_key_pair().private_key)
    host = new_host(key_pair=keys, sec_opt={TProtocol(NOISE): noise})
    async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        try:
            yield host
        finally:
            await host.close()


@asynccontextmanager
async def bare_server() -> AsyncIterator[str]:
    """A server in a process of its own; gives its multiaddr."""
    command = [sys.executable, "-m", "simulations.bench.bare"]
    process = await trio.to_thread.run_sync(lambda: Popen(command, stdout=PIPE, text=True))
    try:
        assert process.stdout is not None
        yield (await trio.to_thread.run_sync(process.stdout.readline)).strip()
    finally:
        process.kill()
        await trio.to_thread.run_sync(process.wait)


async def connect(host: IHost, address: str) -> None:
    await host.connect(info_from_p2p_addr(Multiaddr(address)))


async def disconnect(host: IHost, address: str) -> None:
    await host.disconnect(info_from_p2p_addr(Multiaddr(address)).peer_id)


async def open_stream(host: IHost, address: str, protocol: TProtocol) -> INetStream:
    return await host.new_stream(info_from_p2p_addr(Multiaddr(address)).peer_id, [protocol])


async def pull(stream: INetStream, size: int) -> None:
    """Receive `size` bytes into memory, as one would keep them: one buffer, filled."""
    await stream.write(size.to_bytes(8, "big"))
    kept = bytearray(size)
    at = 0
    while at < size:
        piece = await stream.read(READ_BYTES)
        kept[at : at + len(piece)] = piece
        at += len(piece)


async def push(stream: INetStream, data: memoryview) -> None:
    """Send `data` and wait until the other side has all of it."""
    await stream.write(len(data).to_bytes(8, "big"))
    await _write_all(stream, data)
    await read_exactly(stream, 1)


async def echo(stream: INetStream, message: bytes) -> None:
    """One request and its answer of the same size."""
    await stream.write(len(message).to_bytes(4, "big") + message)
    await read_exactly(stream, len(message))


async def read_exactly(stream: INetStream, size: int) -> bytes:
    kept = bytearray()
    while len(kept) < size:
        kept += await stream.read(size - len(kept))
    return bytes(kept)


async def _write_all(stream: INetStream, data: memoryview) -> None:
    for start in range(0, len(data), WRITE_BYTES):
        await stream.write(bytes(data[start : start + WRITE_BYTES]))


async def _source(stream: INetStream) -> None:
    block = memoryview(bytes(WRITE_BYTES))
    while True:
        left = int.from_bytes(await read_exactly(stream, 8), "big")
        while left:
            piece = block[: min(left, WRITE_BYTES)]
            await stream.write(bytes(piece))
            left -= len(piece)


async def _sink(stream: INetStream) -> None:
    while True:
        left = int.from_bytes(await read_exactly(stream, 8), "big")
        while left:
            left -= len(await stream.read(min(left, READ_BYTES)))
        await stream.write(b"\x01")


async def _echo(stream: INetStream) -> None:
    while True:
        size = int.from_bytes(await read_exactly(stream, 4), "big")
        await stream.write(await read_exactly(stream, size))


async def _serve() -> None:
    async with bare_host() as host:
        for protocol, handler in ((SOURCE, _source), (SINK, _sink), (ECHO, _echo)):

            async def guarded(stream: INetStream, handler=handler) -> None:
                # A handler that raises kills the whole host, so the baseline needs this much too.
                try:
                    await handler(stream)
                except Exception:  # noqa: BLE001
                    await stream.reset()

            host.set_stream_handler(protocol, guarded)
        print(host.get_addrs()[0], flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(_serve)
