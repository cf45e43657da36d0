"""What strangers and dying machines do to a port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
import trio

from p2pnode.env.net import StreamBroken
from p2pnode.net import stream as stream_module
from p2pnode.net import workarounds

ECHO = "/test/echo/1.0.0"

#: A node in a process of its own: prints its address, then reads what it is sent, slowly never.
SERVER = """
import os, sys, trio
from p2pnode.net.host import open_transport

async def sink(stream):
    while await stream.read(1 << 20):
        await stream.write(b".")

async def main():
    async with open_transport(os.urandom(32), ["/ip4/127.0.0.1/tcp/0"]) as transport:
        transport.serve("/test/sink/1.0.0", sink)
        print(transport.addresses()[0], flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@contextmanager
def server_process():
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


async def _say(stream) -> None:
    await stream.write(b"there?")
    assert await stream.read(100) == b"there?"


def _port(transport) -> int:
    return int(transport.addresses()[0].split("/")[4])


@pytest.mark.trio
async def test_garbage_on_the_port_disturbs_nobody(open_node):
    async with open_node() as a, open_node() as b:
        await a.dial(b.peer_id, b.addresses())
        stream = await a.open_stream(b.peer_id, ECHO)

        async def vandal(words: bytes) -> None:
            socket = await trio.open_tcp_stream("127.0.0.1", _port(b))
            async with socket:
                try:
                    await socket.send_all(words)
                    await socket.receive_some(100)
                except trio.BrokenResourceError:
                    pass  # thrown out in the middle

        async with trio.open_nursery() as nursery:
            for number in range(60):
                multistream = b"\x13/multistream/1.0.0\n" if number % 2 else b""
                nursery.start_soon(vandal, multistream + os.urandom(200))
            await _say(stream)
            nursery.cancel_scope.cancel()
        await _say(stream)


@pytest.mark.trio
async def test_300_idle_sockets_keep_nobody_out(open_node):
    async with open_node() as a, open_node() as b, open_node() as late:
        await a.dial(b.peer_id, b.addresses())
        stream = await a.open_stream(b.peer_id, ECHO)
        idle = [await trio.open_tcp_stream("127.0.0.1", _port(b)) for _ in range(300)]
        try:
            await _say(stream)
            with trio.fail_after(3):
                await late.dial(b.peer_id, b.addresses())
                await _say(await late.open_stream(b.peer_id, ECHO))
            await _say(stream)
        finally:
            for socket in idle:
                await trio.aclose_forcefully(socket)


@pytest.mark.trio
async def test_a_raising_handler_leaves_the_host_serving(open_node):
    async def raises(stream):
        await stream.read(1)
        raise RuntimeError("a bug")

    async with open_node() as a, open_node() as b:
        b.serve("/test/raises/1.0.0", raises)
        await a.dial(b.peer_id, b.addresses())
        for _ in range(3):
            stream = await a.open_stream(b.peer_id, "/test/raises/1.0.0")
            await stream.write(b"x")
            with pytest.raises(StreamBroken):
                await stream.read(1)
            await _say(await a.open_stream(b.peer_id, ECHO))


@pytest.mark.trio
async def test_a_peer_that_resets_while_we_write_leaves_the_host_serving(open_node):
    async def pour(stream):
        await stream.read(1)
        await stream.write(bytes(64 << 20))

    async with open_node() as a, open_node() as b:
        b.serve("/test/pour/1.0.0", pour)
        await a.dial(b.peer_id, b.addresses())
        for _ in range(5):
            stream = await a.open_stream(b.peer_id, "/test/pour/1.0.0")
            await stream.write(b"x")
            await stream.read(1)
            await stream.reset()
            await _say(await a.open_stream(b.peer_id, ECHO))


@pytest.mark.trio
async def test_a_peer_that_ignores_its_window_loses_the_connection(open_node, monkeypatch):
    """The library only logs it, and buffers what comes until memory ends."""
    monkeypatch.setattr(workarounds, "UNREAD_BYTES_MAX", 8 << 20)

    async def never_reads(stream):
        await trio.sleep_forever()

    async with open_node() as a, open_node() as b, open_node() as other:
        b.serve("/test/rest/1.0.0", never_reads)
        await a.dial(b.peer_id, b.addresses())
        stream = await a.open_stream(b.peer_id, "/test/rest/1.0.0")
        stream._muxed.send_window = 1 << 40
        with pytest.raises(StreamBroken):
            await stream.write(bytes(256 << 20))
        await other.dial(b.peer_id, b.addresses())
        await _say(await other.open_stream(b.peer_id, ECHO))


@pytest.mark.trio
async def test_a_killed_peer_is_missed_at_once_and_a_stopped_one_in_a_bounded_time(open_node, monkeypatch):
    monkeypatch.setattr(workarounds, "STUCK_WRITE_S", 0.5)
    monkeypatch.setattr(stream_module, "STALLED_READER_S", 0.5)
    lost: list[str] = []
    async with open_node() as node:
        node.on_change(lambda peer, up: None if up else lost.append(peer))
        for sign, bound_s in ((signal.SIGKILL, 1.0), (signal.SIGSTOP, 3.0)):
            with server_process() as (process, address):
                peer = address.rpartition("/")[2]
                await node.dial(peer, [address])
                streams = [await node.open_stream(peer, "/test/sink/1.0.0") for _ in range(8)]
                for stream in streams:
                    await stream.write(b"x")
                    assert await stream.read(1) == b"."
                process.send_signal(sign)
                with trio.fail_after(bound_s):
                    # More than fits into the windows or the socket of a peer that takes nothing.
                    for stream in streams:
                        with pytest.raises(StreamBroken):
                            for _ in range(64):
                                await stream.write(bytes(1 << 20))
                                if sign == signal.SIGKILL:
                                    await stream.read(1)
                    while peer not in lost:  # noqa: ASYNC110  # told by the transport, a moment later
                        await trio.sleep(0.01)
                assert node.connected() == []


@pytest.mark.trio
async def test_leaving_a_peer_that_takes_nothing_is_quick(open_node):
    with server_process() as (process, address):
        peer = address.rpartition("/")[2]
        async with open_node() as node:
            await node.dial(peer, [address])
            stream = await node.open_stream(peer, "/test/sink/1.0.0")
            await stream.write(b"x")
            await stream.read(1)
            process.send_signal(signal.SIGSTOP)
            async with trio.open_nursery() as nursery:

                async def flood():
                    try:
                        while True:
                            await stream.write(bytes(1 << 20))
                    except StreamBroken:
                        pass  # as it should

                nursery.start_soon(flood)
                await trio.sleep(0.3)
                await node.disconnect(peer)
            started = trio.current_time()
        assert trio.current_time() - started < 2
