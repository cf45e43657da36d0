"""One machine's transport on the simulated network: `p2pnode.env.net.Transport` for one life.

Its rules are those of the real one (`p2pnode.net.host`): a dial proves the peer id or fails within some seconds, two
peers that dial each other at once have two connections, a stream is opened on the newest, and a handler is cancelled
when its stream breaks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import trio

from p2pnode.env.net import DialFailed, RawStream, StreamBroken, StreamHandler
from simulations.world.ghost import Ghost, is_whole_request
from simulations.world.life import Life
from simulations.world.wire import ACCEPT, OPEN, REFUSE, End, Pipe, SimStream

if TYPE_CHECKING:
    from simulations.world.network import SimNetwork

#: As the real transport: an address has so long to answer, and a peer so long to agree on a protocol.
DIAL_ADDRESS_S = 5.0
NEGOTIATE_S = 5.0
#: Connections to one peer.
CONNECTIONS_PER_PEER = 3
#: When a dial that gets no answer is tried again, seconds from its begin: a SYN's retransmissions.
SYN_S = (0.0, 1.0, 3.0)
#: Packets each way until both sides know each other (TCP, noise, yamux), and how large they are.
HANDSHAKE_ROUND_TRIPS = 3
HANDSHAKE_BYTES = 100


class SimTransport:
    """See the module. Made by `SimNetwork.open`."""

    def __init__(
        self, network: SimNetwork, name: str, peer_id: str, address: str, life: Life, nursery: trio.Nursery
    ) -> None:
        self.network = network
        self.name = name
        self.peer_id = peer_id
        #: It answers nobody any more; `dark`: because its machine has no power, so that nobody is told.
        self.dead = False
        self.dark = False
        self.life = life
        self._address = address
        self._nursery = nursery
        self._context = copy_context()
        self._handlers: dict[str, StreamHandler] = {}
        self._ends: dict[str, list[End]] = {}
        self._connected: list[str] | None = []
        self._callbacks: list[Callable[[str, bool], None]] = []
        self._streams_opened = 0
        life.on_death(self._die)

    # -- p2pnode.env.net.Transport -------------------------------------------------------------------------------

    def addresses(self) -> list[str]:
        return [f"{self._address}/p2p/{self.peer_id}"]

    def serve(self, protocol_id: str, handler: StreamHandler) -> None:
        self._handlers[protocol_id] = handler

    async def dial(self, peer_id: str, addresses: Sequence[str]) -> str:
        await trio.lowlevel.checkpoint()
        reasons: list[str] = []
        for text in addresses:
            if self.dead:
                raise DialFailed("this machine is dead")
            if peer_id in self._ends:
                return ""
            self.network.counts["dials"] += 1
            why = await self._dial_address(peer_id, text.partition("/p2p/")[0])
            if not why:
                return text
            reasons.append(f"{text}: {why}")
        raise DialFailed("; ".join(reasons) or "no address is known")

    async def _dial_address(self, peer_id: str, address: str) -> str:
        """Why that address failed; "" if it proved the peer."""
        clock = self.network.clock
        began = clock.current_time()
        for after in SYN_S:
            await trio.sleep_until(began + after)
            if not self._reaches(address):
                continue
            await trio.sleep(self._handshake_s(address))
            if clock.current_time() - began > DIAL_ADDRESS_S:
                break
            if not self._reaches(address):
                continue
            there = self.network.transport_at(address)
            if there is None or there is self or there.dead or self.dead:
                return "connection refused"
            if there.peer_id != peer_id:
                return f"another peer answers there: {there.peer_id}"
            if len(self._ends.get(peer_id, ())) >= CONNECTIONS_PER_PEER:
                return "too many connections"
            self._connect(there)
            return ""
        await trio.sleep_until(began + DIAL_ADDRESS_S)
        return f"no answer within {DIAL_ADDRESS_S:g} s"

    def _reaches(self, address: str) -> bool:
        """Whether anybody answers there now, if only to refuse."""
        network, there = self.network, self.network.transport_at(address)
        if there is None:
            return True  # refused, by whoever routes there
        paused = there.life.resumes_at > network.clock.current_time()
        ways_open = network.is_open(self.name, there.name) and network.is_open(there.name, self.name)
        return ways_open and not there.dark and not paused

    def _handshake_s(self, address: str) -> float:
        """How long it takes until both sides know each other."""
        network, there = self.network, self.network.transport_at(address)
        if there is None or there is self:
            return network.conditions.latency_s
        return sum(
            network.delay_s(self.name, there.name, HANDSHAKE_BYTES)
            + network.delay_s(there.name, self.name, HANDSHAKE_BYTES)
            for _ in range(1 if there.dead else HANDSHAKE_ROUND_TRIPS)
        )

    def _connect(self, there: SimTransport) -> None:
        network = self.network
        network.counts["connections"] += 1
        network.trace.note("connects", self.name, there.name)
        mine, theirs = End(self, there), End(there, self)
        mine.other, theirs.other = theirs, mine
        there._gained(theirs)
        self._gained(mine)

    async def open_stream(self, peer_id: str, protocol_id: str) -> RawStream:
        ends = self._ends.get(peer_id)
        if not ends:
            await trio.lowlevel.checkpoint()
            raise StreamBroken(f"not connected to {peer_id}")
        stream = self._opened(ends[-1], protocol_id)
        try:
            with trio.move_on_after(NEGOTIATE_S):
                if await stream.answered() == ACCEPT:
                    return stream
                raise StreamBroken(f"{peer_id} does not speak {protocol_id}")
        except trio.Cancelled:
            stream.abort()
            raise
        stream.abort()
        raise StreamBroken(f"no agreement on {protocol_id} within {NEGOTIATE_S:g} s")

    def _opened(self, end: End, protocol_id: str) -> SimStream:
        """Both sides of a new stream, and the word of it on its way."""
        self._streams_opened += 1
        self.network.counts["streams"] += 1
        number = self._streams_opened
        mine = SimStream(end, number, protocol_id, opened_here=True)
        theirs = SimStream(end.other, number, protocol_id, opened_here=False)
        mine.outgoing = theirs.incoming = Pipe(end, theirs)
        theirs.outgoing = mine.incoming = Pipe(end.other, mine)
        end.streams[number, True] = mine
        end.other.streams[number, False] = theirs
        mine.outgoing.send(OPEN)
        return mine

    def connected(self) -> list[str]:
        if self._connected is None:
            self._connected = sorted(self._ends)
        return self._connected.copy()

    async def disconnect(self, peer_id: str) -> None:
        for end in list(self._ends.get(peer_id, ())):
            end.close()
        await trio.lowlevel.checkpoint()

    def on_change(self, callback: Callable[[str, bool], None]) -> None:
        self._callbacks.append(callback)

    # -- for the network -----------------------------------------------------------------------------------------

    def ends_to(self, name: str) -> list[End]:
        """Connections to that machine, in the order in which they were made."""
        return [end for ends in self._ends.values() for end in ends if end.far == name]

    def buffered_bytes(self) -> int:
        """Bytes on their way here or waiting to be read."""
        return sum(
            stream.unread_bytes for ends in self._ends.values() for end in ends for stream in end.streams.values()
        )

    def accept(self, stream: SimStream) -> None:
        """Somebody opens a stream."""
        handler = self._handlers.get(stream.protocol_id)
        if handler is None:
            stream.outgoing.send(REFUSE)
            stream.abort()
        else:
            stream.outgoing.send(ACCEPT)
            self._start(self._serve, stream, handler)

    async def _serve(self, stream: SimStream, handler: StreamHandler) -> None:
        with trio.CancelScope() as work:  # pyright: ignore[reportCallIssue]  # the stubs of an older trio
            stream.when_broken = work.cancel
            await handler(stream)
        stream.when_broken = None

    def _start(self, task: Callable[..., Any], *args: object) -> None:
        """A task of this machine, for the log and for whoever asks whose it is."""
        self._context.run(self._nursery.start_soon, task, *args)

    def maybe_replay(self, stream: SimStream, data: bytes) -> None:
        """Whether a ghost asks that once more is the link's chance to say."""
        end, network = stream.end, self.network
        duplicate = network.link(end.near, end.far).duplicate
        if not duplicate:
            return
        chance = network.chance(end.near, end.far)
        if chance.random() < duplicate and is_whole_request(stream.protocol_id, data):
            network.counts["duplicated"] += 1
            network.replay(end, stream.protocol_id, data, chance)

    def replayed(self, peer_id: str, protocol_id: str, data: bytes) -> None:
        """A ghost of that peer asks something; nobody hears the answer."""
        handler = self._handlers.get(protocol_id)
        if handler is not None and not self.dead:
            self.network.trace.note("ghost", self.name, protocol_id, len(data))
            self._start(handler, Ghost(peer_id, data))

    def _gained(self, end: End) -> None:
        ends = self._ends.setdefault(end.peer_id, [])
        ends.append(end)
        self._connected = None
        if len(ends) == 1:
            self._tell(end.peer_id, True)

    def lost(self, end: End) -> None:
        """That connection is over at this end."""
        ends = self._ends.get(end.peer_id, [])
        if end in ends:
            ends.remove(end)
        if not ends and self._ends.pop(end.peer_id, None) is not None:
            self._connected = None
            self._tell(end.peer_id, False)

    def _tell(self, peer_id: str, connected: bool) -> None:
        self.network.trace.note("peer", self.name, peer_id, connected)
        for callback in self._callbacks:
            self._context.run(callback, peer_id, connected)

    def close(self) -> None:
        """Stop politely: every peer is told."""
        if self.dead:
            return
        for ends in list(self._ends.values()):
            for end in list(ends):
                end.close()
        self.dead = True

    def _die(self) -> None:
        """The power is gone: nobody is told anything."""
        if self.dead:
            return
        self.dead = self.dark = True
        ends, self._ends, self._connected = self._ends, {}, []
        for end in [end for there in ends.values() for end in there]:
            end.lose_power()
        self.network.lost_power(self)
