"""Streams over a bad network: in order or broken, never altered; cut ways, dead machines, and who learns of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import trio

from p2pnode.env.net import DialFailed, RawStream, StreamBroken
from protocols.health import HEALTH, AskStatus
from protocols.machine import Link as WireLink
from protocols.machine import Side
from simulations.world.chance import stream
from simulations.world.life import Life
from simulations.world.loop import CLOCK, run_virtual
from simulations.world.network import Link, SimNetwork
from simulations.world.trace import Trace
from simulations.world.transport import SimTransport
from simulations.world.wire import WINDOW_BYTES

ECHO = "/echo/1"


class Net:
    """A network, and transports that echo whatever comes."""

    def __init__(self, stack: AsyncExitStack, seed: int) -> None:
        clock = CLOCK.get()
        self.network = SimNetwork(seed, clock, Trace(clock.current_time))
        self._stack = stack
        self.lives: dict[str, Life] = {}
        self.changes: list[tuple[float, str, str, bool]] = []

    async def transport(self, name: str, key: int | None = None) -> SimTransport:
        number = ord(name)
        life = self.lives[name] = Life(name, 1, CLOCK.get())
        opening = self.network.open(name, f"/ip4/10.0.0.{number}/tcp/1", life)
        transport = await self._stack.enter_async_context(opening(bytes([key or number]) * 32, (), ""))
        assert isinstance(transport, SimTransport)
        transport.serve(ECHO, echo)
        transport.on_change(lambda peer, up: self.changes.append((trio.current_time(), name, peer, up)))
        return transport

    async def pair(self) -> tuple[SimTransport, SimTransport]:
        a, b = await self.transport("a"), await self.transport("b")
        assert await a.dial(b.peer_id, b.addresses()) == b.addresses()[0]
        return a, b


async def echo(stream_: RawStream) -> None:
    try:
        while data := await stream_.read(1 << 20):
            await stream_.write(data)
        await stream_.close()
    except StreamBroken:
        pass


async def noted(stream_: RawStream, heard: list[bytes]) -> None:
    try:
        while data := await stream_.read(100):
            heard.append(data)
    except StreamBroken:
        pass


def virtually(story: Callable[[Net], Awaitable[Any]], seed: int = 1) -> Any:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Net]:
        async with AsyncExitStack() as stack:
            yield Net(stack, seed)

    async def main() -> Any:
        async with opened() as net:
            return await story(net)

    return run_virtual(main, seed=seed)


async def read_all(from_: RawStream, size: int) -> bytes:
    got = bytearray()
    while len(got) < size and (piece := await from_.read(1 << 20)):
        got += piece
    return bytes(got)


def test_bytes_come_back_in_order_over_a_network_that_loses_and_delays() -> None:
    async def story(net: Net) -> float:
        a, b = await net.pair()
        data = stream(1, "data").randbytes(600_000)
        there = await a.open_stream(b.peer_id, ECHO)
        net.network.set_all(Link(latency_s=0.01, jitter_s=0.05, loss=0.3, reorder_s=0.2, spike=0.05, spike_s=2.0))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(there.write, data)
            assert await read_all(there, len(data)) == data
        await there.close()
        assert await there.read(10) == b""
        assert net.network.counts["lost"] > 5
        return trio.current_time()

    assert virtually(story) > 0.5


def test_streams_overtake_each_other_but_not_themselves() -> None:
    async def story(net: Net) -> int:
        a, b = await net.pair()
        order: list[int] = []

        async def take(stream_: RawStream) -> None:
            order.append(int.from_bytes(await stream_.read(4), "big"))

        b.serve("/once/1", take)
        streams = [await a.open_stream(b.peer_id, "/once/1") for _ in range(40)]
        net.network.set_all(Link(reorder_s=0.5))
        for number, one in enumerate(streams):
            await one.write(number.to_bytes(4, "big"))
        await trio.sleep(2)
        assert sorted(order) == list(range(40))
        return sum(1 for one, two in pairwise(order) if one > two)

    assert virtually(story) > 3


def test_a_dial_proves_the_peer_or_says_why_not() -> None:
    async def story(net: Net) -> None:
        a, b = await net.transport("a"), await net.transport("b")
        c = await net.transport("c")
        with pytest.raises(DialFailed, match="another peer"):
            await a.dial(c.peer_id, b.addresses())
        with pytest.raises(DialFailed, match="no address"):
            await a.dial(c.peer_id, [])
        with pytest.raises(DialFailed, match="refused"):
            await a.dial(c.peer_id, ["/ip4/10.9.9.9/tcp/1"])
        assert a.connected() == []
        assert await a.dial(b.peer_id, ["/ip4/10.9.9.9/tcp/1", *b.addresses()]) == b.addresses()[0]
        assert await a.dial(b.peer_id, b.addresses()) == "", "connected already"
        assert (a.connected(), b.connected()) == ([b.peer_id], [a.peer_id])
        with pytest.raises(StreamBroken, match="does not speak"):
            await a.open_stream(b.peer_id, "/other/1")
        with pytest.raises(StreamBroken, match="not connected"):
            await a.open_stream(c.peer_id, ECHO)

    virtually(story)


def test_a_dial_across_a_cut_way_hangs_and_fails_and_one_that_heals_goes_through() -> None:
    async def story(net: Net) -> None:
        a, b = await net.transport("a"), await net.transport("b")
        net.network.block("a", "b")
        before = trio.current_time()
        with pytest.raises(DialFailed, match="no answer within 5 s"):
            await a.dial(b.peer_id, b.addresses())
        assert trio.current_time() - before == pytest.approx(5.0)
        CLOCK.get().at(trio.current_time() + 2, net.network.heal)
        assert await a.dial(b.peer_id, b.addresses())

    virtually(story)


def test_a_short_cut_delays_and_a_long_one_breaks_both_ends() -> None:
    async def story(net: Net) -> None:
        a, b = await net.pair()
        there = await a.open_stream(b.peer_id, ECHO)
        net.network.block("a", "b")
        await there.write(b"held")
        CLOCK.get().at(trio.current_time() + 4, net.network.heal)
        before = trio.current_time()
        assert await there.read(10) == b"held"
        assert 4 < trio.current_time() - before < 9, "the next retransmission, not the moment of the heal"
        net.network.block("a", "b")
        cut_at = trio.current_time()
        await there.write(b"never")
        with pytest.raises(StreamBroken):
            await there.read(10)
        assert trio.current_time() - cut_at == pytest.approx(10, abs=0.1)
        assert a.connected() == []
        await trio.sleep(40)
        assert b.connected() == [], "keepalive, for it had nothing to say"
        assert net.network.buffered_bytes("b") == 0

    virtually(story)


def test_a_way_that_is_cut_in_one_direction_carries_what_goes_the_other() -> None:
    async def story(net: Net) -> None:
        a, b = await net.pair()
        heard: list[bytes] = []

        async def listen(stream_: RawStream) -> None:
            await noted(stream_, heard)

        b.serve("/listen/1", listen)
        there = await a.open_stream(b.peer_id, "/listen/1")
        net.network.block("b", "a", both=False)
        await there.write(b"heard")
        await trio.sleep(1)
        assert heard == [b"heard"]
        await trio.sleep(10)
        assert a.connected() == [], "it never hears that it was heard"

    virtually(story)


def test_a_machine_without_power_is_silent_and_back_again_resets() -> None:
    async def story(net: Net) -> None:
        a, b = await net.pair()
        there = await a.open_stream(b.peer_id, ECHO)
        net.lives["b"].die()
        await trio.sleep(1)
        assert a.connected() == [b.peer_id], "nobody told it"
        with pytest.raises(StreamBroken):
            await (await b_stream(b, a)).write(b"last words")
        again = await net.transport("b")
        await there.write(b"who are you?")
        with pytest.raises(StreamBroken, match="reset by the peer"):
            await there.read(10)
        assert a.connected() == []
        assert await a.dial(again.peer_id, again.addresses())

    async def b_stream(b: SimTransport, a: SimTransport) -> RawStream:
        return await b.open_stream(a.peer_id, ECHO)

    virtually(story)


def test_a_door_that_closes_tells_its_peers_and_answers_no_more() -> None:
    async def story(net: Net) -> None:
        a, b = await net.pair()
        b.close()
        await trio.sleep(0.1)
        assert a.connected() == []
        with pytest.raises(DialFailed, match="refused"):
            await a.dial(b.peer_id, b.addresses())
        assert [(name, up) for _, name, _, up in net.changes] == [("b", True), ("a", True), ("b", False), ("a", False)]

    virtually(story)


def test_a_reset_cancels_the_handler_and_wakes_the_reader() -> None:
    async def story(net: Net) -> None:
        a, b = await net.pair()
        ended = trio.Event()

        async def stubborn(stream_: RawStream) -> None:
            try:
                await trio.sleep_forever()
            finally:
                ended.set()

        b.serve("/stubborn/1", stubborn)
        there = await a.open_stream(b.peer_id, "/stubborn/1")
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(StreamBroken):
                    await there.read(1)

            nursery.start_soon(wait)
            await trio.sleep(0.1)
            await there.reset()
            with trio.fail_after(1):
                await ended.wait()

    virtually(story)


def test_a_writer_waits_for_its_reader_and_gives_one_up_that_never_reads() -> None:
    async def story(net: Net) -> None:
        a, b = await net.pair()

        async def deaf(stream_: RawStream) -> None:
            await trio.sleep_forever()

        b.serve("/deaf/1", deaf)
        there = await a.open_stream(b.peer_id, "/deaf/1")
        with trio.move_on_after(20) as patience:
            await there.write(bytes(10 * WINDOW_BYTES))
        assert patience.cancelled_caught
        assert WINDOW_BYTES / 2 <= net.network.buffered_bytes("b") <= WINDOW_BYTES
        there = await a.open_stream(b.peer_id, "/deaf/1")
        before = trio.current_time()
        with pytest.raises(StreamBroken, match="has read nothing"):
            await there.write(bytes(10 * WINDOW_BYTES))
        assert trio.current_time() - before >= 30

    virtually(story)


def test_a_ghost_asks_whole_requests_once_more_and_hears_nothing() -> None:
    async def story(net: Net) -> None:
        a, b = await net.pair()
        asked: list[bytes] = []

        async def note(stream_: RawStream) -> None:
            await noted(stream_, asked)

        b.serve(HEALTH.protocol_id, note)
        request = bytes(WireLink(HEALTH, Side.ASKER).send(AskStatus(), 0))
        net.network.set_all(Link(duplicate=1.0))
        there = await a.open_stream(b.peer_id, HEALTH.protocol_id)
        await there.write(request)
        await trio.sleep(1)
        await there.write(request[:3])
        await trio.sleep(6)
        assert asked.count(request) == 2
        assert net.network.counts["duplicated"] == 1, "half a request is none"

    virtually(story)


def test_a_process_that_stands_still_keeps_its_connections_and_gets_everything_later() -> None:
    async def story(net: Net) -> None:
        a, b = await net.pair()
        there = await a.open_stream(b.peer_id, ECHO)
        net.lives["b"].pause(3.0)
        before = trio.current_time()
        await there.write(b"one")
        await there.write(b"two")
        assert await read_all(there, 6) == b"onetwo"
        assert 3.0 <= trio.current_time() - before < 3.1
        assert a.connected() == [b.peer_id]

    virtually(story)
