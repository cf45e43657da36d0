"""Bytes both ways: ends, resets, cancellation, slow readers."""

from __future__ import annotations

import hashlib
import random

import pytest
import trio

from p2pnode.env.net import StreamBroken
from p2pnode.net import stream as stream_module

ECHO = "/test/echo/1.0.0"
OTHER = "/test/other/1.0.0"


@pytest.mark.trio
async def test_an_end_is_an_end_and_a_reset_is_not(open_node):
    async def say_and_end(stream):
        await stream.write(b"all")
        await stream.close()

    async def say_and_reset(stream):
        await stream.read(10)
        await stream.reset()

    async with open_node() as a, open_node() as b:
        b.serve(OTHER, say_and_end)
        await a.dial(b.peer_id, b.addresses())
        stream = await a.open_stream(b.peer_id, OTHER)
        assert stream.peer_id == b.peer_id
        assert await stream.read(2) == b"al"
        assert await stream.read(2) == b"l"
        assert await stream.read(2) == b""
        b.serve(OTHER, say_and_reset)
        stream = await a.open_stream(b.peer_id, OTHER)
        await stream.write(b"?")
        with pytest.raises(StreamBroken):
            await stream.read(2)
        with pytest.raises(StreamBroken):
            await stream.write(b"x")
        await stream.reset()


@pytest.mark.trio
async def test_a_lost_connection_does_not_look_like_an_end(open_node):
    async with open_node() as a, open_node() as b:
        await a.dial(b.peer_id, b.addresses())
        stream = await a.open_stream(b.peer_id, ECHO)
        await stream.write(b"x")
        await stream.read(1)
        with trio.fail_after(1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(b.disconnect, a.peer_id)
                with pytest.raises(StreamBroken):
                    await stream.read(1)


@pytest.mark.trio
async def test_64_mib_arrive_whole_in_both_directions_at_once(open_node):
    block = random.Random(1).randbytes(1 << 20)
    size = 64

    async def receive(stream):
        digest, seen = hashlib.sha256(), 0
        while seen < size << 20:
            piece = await stream.read(1 << 20)
            assert piece
            digest.update(piece)
            seen += len(piece)
        return digest.hexdigest()

    async def both(stream, results):
        async with trio.open_nursery() as nursery:

            async def send():
                for _ in range(size):
                    await stream.write(block)

            nursery.start_soon(send)
            results.append(await receive(stream))

    expected = hashlib.sha256(block * size).hexdigest()
    here: list[str] = []
    there: list[str] = []
    async with open_node() as a, open_node() as b:
        done = trio.Event()

        async def serve(stream):
            await both(stream, there)
            done.set()
            await stream.close()

        b.serve(OTHER, serve)
        await a.dial(b.peer_id, b.addresses())
        await both(await a.open_stream(b.peer_id, OTHER), here)
        await done.wait()
    assert here == there == [expected]


@pytest.mark.trio
async def test_cancelling_reads_and_writes_anywhere_leaves_the_connection_whole(open_node):
    """Upstream, a write that is cancelled in the middle of a frame ends every stream of the connection."""
    rng = random.Random(7)
    async with open_node() as a, open_node() as b:
        await a.dial(b.peer_id, b.addresses())
        steady = await a.open_stream(b.peer_id, ECHO)
        for _ in range(20):
            doomed = await a.open_stream(b.peer_id, ECHO)
            async with trio.open_nursery() as nursery:

                async def flood(stream=doomed):
                    await stream.write(bytes(8 << 20))

                async def drain(stream=doomed):
                    while await stream.read(1 << 16):
                        pass

                nursery.start_soon(flood)
                nursery.start_soon(drain)
                await trio.sleep(rng.random() * 0.01)
                nursery.cancel_scope.cancel()
            await doomed.reset()
            await steady.write(b"whole?")
            assert await steady.read(100) == b"whole?"
        assert a.connected() == [b.peer_id]


@pytest.mark.trio
async def test_a_cancelled_reader_loses_nothing(open_node):
    async with open_node() as a, open_node() as b:
        await a.dial(b.peer_id, b.addresses())
        stream = await a.open_stream(b.peer_id, ECHO)
        rng = random.Random(3)
        sent = rng.randbytes(2 << 20)
        got = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.write, sent)
            while len(got) < len(sent):
                with trio.move_on_after(rng.random() * 0.002):
                    got += await stream.read(rng.randrange(1, 200_000))
        assert bytes(got) == sent


@pytest.mark.trio
async def test_a_reader_may_rest_longer_than_five_seconds_but_not_for_ever(open_node, monkeypatch):
    """Upstream, a writer without room gives up after 5.0 s, and its peer is not told."""
    rested = trio.Event()
    outcome: list[int] = []

    async def rest(stream):
        await rested.wait()
        seen = 0
        while piece := await stream.read(1 << 20):
            seen += len(piece)
        outcome.append(seen)

    async with open_node() as a, open_node() as b:
        b.serve(OTHER, rest)
        await a.dial(b.peer_id, b.addresses())
        stream = await a.open_stream(b.peer_id, OTHER)
        async with trio.open_nursery() as nursery:

            async def send():
                await stream.write(bytes(64 << 20))
                await stream.close()

            nursery.start_soon(send)
            await trio.sleep(5.5)
            rested.set()
        with trio.fail_after(2):
            while not outcome:  # noqa: ASYNC110  # the handler is in another task
                await trio.sleep(0.01)
        assert outcome == [64 << 20]

        monkeypatch.setattr(stream_module, "STALLED_READER_S", 0.2)
        rested = trio.Event()
        stalled = await a.open_stream(b.peer_id, OTHER)
        with pytest.raises(StreamBroken, match="read nothing"):
            await stalled.write(bytes(64 << 20))
        rested.set()
        steady = await a.open_stream(b.peer_id, ECHO)
        await steady.write(b"fine")
        assert await steady.read(10) == b"fine"
