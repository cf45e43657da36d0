"""TCP between simulated machines, for worlds in which nodes run the real libp2p stack.

trio lets a program replace its sockets: whoever asks for one in a world gets a `SimSocket`, and everything above
(trio's streams, libp2p's TCP, noise, yamux, our transport) is the code that runs on a real machine. Below it the same
pipes carry the bytes, under the same conditions. A machine is known by the address that its listener is bound to, and
by the task that dials.

This file knows sockets as far as libp2p uses them: one listener and any number of connections a machine, TCP over
IPv4. It refuses everything else.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import trio

from bootstrap.address import parse_listen
from p2pnode.env.net import StreamBroken, Transport
from p2pnode.node import OpenTransport, open_transport
from simulations.world.life import Life
from simulations.world.loop import SPEAKER
from simulations.world.wire import FINISH, PIECE_BYTES, End, Pipe, SimStream

if TYPE_CHECKING:
    from simulations.world.network import SimNetwork

#: Connections that wait to be accepted; one more is refused.
BACKLOG = 128
#: When a SYN is sent again, seconds from the first.
SYN_S = (0.0, 1.0, 3.0)
#: From the first SYN until connecting is given up.
CONNECT_S = 5.0
#: Outbound connections take ports from here on.
EPHEMERAL_PORT = 40_000
#: One stream a connection, and it has this number.
_ONLY = 0

Address = tuple[str, int]


class Interface:
    """What `SimTransport` is to streams, for sockets: the listener and the connections of one life of a machine."""

    #: Nobody is authenticated here: libp2p does that itself.
    peer_id = ""

    def __init__(self, network: SimNetwork, name: str, life: Life) -> None:
        self.network = network
        self.name = name
        self.life = life
        self.dead = False
        self.dark = False
        self.listener: SimSocket | None = None
        self._ends: list[End] = []
        self._ports = EPHEMERAL_PORT
        life.on_death(self._die)

    def ends_to(self, name: str) -> list[End]:
        """Connections to that machine, in the order in which they were made."""
        return [end for end in self._ends if end.far == name]

    def buffered_bytes(self) -> int:
        """Bytes on their way here or waiting to be read."""
        return sum(stream.unread_bytes for end in self._ends for stream in end.streams.values())

    def lost(self, end: End) -> None:
        """That connection is over at this end."""
        if end in self._ends:
            self._ends.remove(end)

    def connect(self, there: Interface) -> SimStream:
        """A connection to that machine's listener, which is told at once. Raises OSError when it takes no more."""
        listener = there.listener
        if listener is None or len(listener.backlog) >= BACKLOG:
            raise OSError(errno.ECONNREFUSED, "connection refused")
        network = self.network
        network.counts["connections"] += 1
        network.trace.note("connects", self.name, there.name)
        mine, theirs = End(self, there), End(there, self)
        mine.other, theirs.other = theirs, mine
        near = SimStream(mine, _ONLY, "tcp", opened_here=True)
        far = SimStream(theirs, _ONLY, "tcp", opened_here=False)
        near.outgoing = far.incoming = Pipe(mine, far)
        far.outgoing = near.incoming = Pipe(theirs, near)
        mine.streams[_ONLY, True] = near
        theirs.streams[_ONLY, False] = far
        self._ends.append(mine)
        there._ends.append(theirs)
        self._ports += 1
        listener.take(far, (self.name, self._ports))
        return near

    def accept(self, stream: SimStream) -> None:
        """Streams are opened by those above, inside the one that there is."""
        raise AssertionError("a socket carries bytes only")

    def maybe_replay(self, stream: SimStream, data: bytes) -> None:
        """Nobody can repeat what is encrypted with a counter."""

    def replayed(self, peer_id: str, protocol_id: str, data: bytes) -> None:
        """As above."""

    def close(self) -> None:
        """The process is over: the kernel closes what it left open."""
        if self.dead:
            return
        for end in list(self._ends):
            end.close()
        self.dead = True

    def _die(self) -> None:
        """The power is gone: nobody is told anything."""
        if self.dead:
            return
        self.dead = self.dark = True
        ends, self._ends = self._ends, []
        for end in ends:
            end.lose_power()
        self.network.lost_power(self)


def over_libp2p(sockets: SimSockets, name: str, address: str, life: Life) -> OpenTransport:
    """The transport of real nodes, for one life of that machine."""

    @asynccontextmanager
    async def transport(seed: bytes, listen: Sequence[str], swarm_key: str) -> AsyncIterator[Transport]:
        life.check()
        interface = sockets.open(name, address, life)
        try:
            async with open_transport(seed, listen, swarm_key) as opened:
                yield opened
        finally:
            interface.close()

    return transport


class SimSockets(trio.abc.SocketFactory):
    """Makes every socket of the running loop from now on."""

    def __init__(self, network: SimNetwork) -> None:
        self.network = network
        network.sealed = True
        trio.socket.set_custom_socket_factory(self)
        self._interfaces: dict[str, Interface] = {}
        self._at: dict[Address, Interface] = {}

    def open(self, name: str, address: str, life: Life) -> Interface:
        """That machine is at the network from now on, at that multiaddr, for one life."""
        endpoint = parse_listen(address)
        interface = Interface(self.network, name, life)
        self._interfaces[name] = self._at[endpoint.host, endpoint.port] = interface
        self.network.settle(interface)
        return interface

    def interface_of_speaker(self) -> Interface:
        """The interface of the machine that the present task runs on."""
        speaker = SPEAKER.get()
        assert speaker is not None  # whoever dials is part of a node
        return self._interfaces[speaker.name]

    def interface_at(self, address: Address) -> Interface | None:
        """Whose address that is, dead or alive."""
        return self._at.get(address)

    def socket(
        self,
        family: socket.AddressFamily | int = socket.AF_INET,
        type: socket.SocketKind | int = socket.SOCK_STREAM,
        proto: int = 0,
    ) -> SimSocket:
        if family != socket.AF_INET or type != socket.SOCK_STREAM:
            raise OSError(errno.EAFNOSUPPORT, "a world has TCP over IPv4 only")
        return SimSocket(self)


class SimSocket(trio.socket.SocketType):
    """A listener, once bound; a connection, once connected or accepted."""

    def __init__(self, sockets: SimSockets, stream: SimStream | None = None, peer: Address = ("", 0)) -> None:
        self._sockets = sockets
        self._stream = stream
        self._peer = peer
        self._bound: Address = ("0.0.0.0", 0)
        self._closed = False
        self._listening = False
        self._said_all = False
        self._somebody = trio.Event()
        #: Connections that nobody accepted yet, with whom they come from.
        self.backlog: deque[tuple[SimStream, Address]] = deque()

    # -- a listener ----------------------------------------------------------------------------------------------

    async def bind(self, address: Any) -> None:
        await trio.lowlevel.checkpoint()
        self._check()
        self._bound = (str(address[0]), int(address[1]))

    def listen(self, backlog: int = BACKLOG) -> None:
        interface = self._sockets.interface_at(self._bound)
        if interface is None:
            raise OSError(errno.EADDRNOTAVAIL, f"no machine of this world has the address {self._bound[0]}")
        if interface.listener is not None:
            raise OSError(errno.EADDRINUSE, "address already in use")
        self._listening = True
        interface.listener = self

    def take(self, stream: SimStream, peer: Address) -> None:
        """Somebody has connected."""
        self.backlog.append((stream, peer))
        self._somebody.set()

    async def accept(self) -> tuple[trio.socket.SocketType, Any]:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self.backlog:
            self._check()
            self._somebody = trio.Event()
            await self._somebody.wait()
        self._check()
        stream, peer = self.backlog.popleft()
        accepted = SimSocket(self._sockets, stream, peer)
        accepted._bound = self._bound
        return accepted, peer

    # -- a connection --------------------------------------------------------------------------------------------

    async def connect(self, address: Any) -> None:
        await trio.lowlevel.checkpoint()
        self._check()
        network, here = self._sockets.network, self._sockets.interface_of_speaker()
        target: Address = (str(address[0]), int(address[1]))
        clock = network.clock
        began = clock.current_time()
        for after in SYN_S:
            await trio.sleep_until(began + after)
            there = self._sockets.interface_at(target)
            if there is None or there is here or here.dead:
                raise OSError(errno.ECONNREFUSED, "connection refused")
            if there.dark or not network.is_open(here.name, there.name):
                continue
            await trio.sleep(network.delay_s(here.name, there.name, 60))
            if not network.is_open(there.name, here.name):
                continue
            await trio.sleep(network.delay_s(there.name, here.name, 60))
            if there.dead or here.dead or self._closed:
                raise OSError(errno.ECONNREFUSED, "connection refused")
            self._stream, self._peer = here.connect(there), target
            return
        await trio.sleep_until(began + CONNECT_S)
        raise OSError(errno.ETIMEDOUT, "connection timed out")

    async def send(self, data: Any, flags: int = 0) -> int:
        stream = self._connected()
        piece = bytes(memoryview(data)[:PIECE_BYTES])
        try:
            await stream.write(piece)
        except StreamBroken as error:
            raise self._error(error) from None
        return len(piece)

    async def recv(self, bufsize: int, flags: int = 0) -> bytes:
        stream = self._connected()
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            return await stream.read(bufsize)
        except StreamBroken as error:
            raise self._error(error) from None

    async def wait_writable(self) -> None:
        self._check()
        await trio.lowlevel.checkpoint()

    def is_readable(self) -> bool:
        return self._closed or bool(self.backlog)

    def shutdown(self, flag: int) -> None:
        stream = self._connected()
        if flag != socket.SHUT_RD and not self._said_all:
            self._said_all = True
            stream.outgoing.send(FINISH)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._listening:
            interface = self._sockets.interface_at(self._bound)
            if interface is not None and interface.listener is self:
                interface.listener = None
            for stream, _ in self.backlog:
                stream.end.close()
            self._somebody.set()
        elif self._stream is not None:
            stream = self._stream
            stream.fail("closed")
            # What was sent arrives first.
            self._sockets.network.clock.at(stream.outgoing.last_at, stream.end.close)

    def _connected(self) -> SimStream:
        self._check()
        if self._stream is None:
            raise OSError(errno.ENOTCONN, "not connected")
        return self._stream

    def _check(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "closed")

    def _error(self, error: StreamBroken) -> OSError:
        return OSError(errno.EBADF, "closed") if self._closed else OSError(errno.ECONNRESET, str(error))

    # -- what sockets are asked besides --------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<SimSocket {self._bound} to {self._peer}>"

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET

    @property
    def type(self) -> socket.SocketKind:
        return socket.SOCK_STREAM

    @property
    def proto(self) -> int:
        return socket.IPPROTO_TCP

    @property
    def did_shutdown_SHUT_WR(self) -> bool:
        return self._said_all

    def fileno(self) -> int:
        """No descriptor, but not that of a closed socket either."""
        return -1 if self._closed else 1 << 20

    def getsockname(self) -> Address:
        self._check()
        return self._bound

    def getpeername(self) -> Address:
        self._connected()
        return self._peer

    def setsockopt(self, level: int, optname: int, value: Any, optlen: int | None = None) -> None:
        """Every machine of a world is tuned alike."""

    def getsockopt(self, *args: Any) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        return int(self._listening and args[:2] == (socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
