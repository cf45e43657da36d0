"""The node's door to libp2p: `open_transport` gives an `env.net.Transport` over TCP, noise and yamux.

Noise alone proves who is at the other end: the library's other offers (plaintext, secio) believe whatever
peer id they are told. Optionally everything runs inside a pre-shared swarm key. Exceptions of the library
never leave this package: callers see StreamBroken, DialFailed and ConfigError.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import structlog
import trio
from libp2p.abc import INetConn, INotifee
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.identity.identify_push.identify_push import ID_PUSH as IDENTIFY_PUSH
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.net_stream import NetStream
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.protocol_muxer.exceptions import MultiselectClientError, MultiselectCommunicatorError
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.exceptions import MuxedConnError, MuxedStreamError
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from bootstrap.address import parse_endpoint
from bootstrap.errors import AddressError
from p2pnode.env.net import DialFailed, RawStream, StreamBroken, StreamHandler
from p2pnode.env.shield import shielded
from p2pnode.errors import ConfigError
from p2pnode.net import listening, naming
from p2pnode.net.stream import YamuxedStream
from p2pnode.net.workarounds import (
    SteadySwarm,
    SteadyUpgrader,
    SteadyYamux,
    TunedTcp,
    bound_windows,
    live_connections,
    never_identify_others,
    quiet_logs,
)

#: Connections in all. A full mesh of a thousand, at 55 KiB an end.
CONNECTIONS_MAX = 1024
#: A second connection to a peer comes of dialing each other at once; a third of a peer that came back.
CONNECTIONS_PER_PEER = 3
#: An accepted socket must have proved its peer id by then.
HANDSHAKE_S = 5.0
#: One address is given so long to answer and prove its peer id; the next is tried beside it after the head
#: start.
DIAL_ADDRESS_S = 5.0
DIAL_HEAD_START_S = 0.1
#: Agreeing on a protocol is one round trip.
NEGOTIATE_S = 5.0
#: Waiting for connections to notice that their socket is gone, when the node stops.
CLOSE_S = 1.5

_SWARM_KEY = re.compile("[0-9a-fA-F]{64}")

_log = structlog.get_logger("p2pnode.net")


@asynccontextmanager
async def open_transport(seed: bytes, listen: Sequence[str], swarm_key: str = "") -> AsyncIterator[Libp2pTransport]:
    """A running transport for the identity of that 32-byte `seed`, closed on leaving within about 2 s.

    `listen`: multiaddrs without /p2p; port 0 is chosen by the system and shown by `addresses()`. `swarm_key`:
    64 hex characters that every peer must share, or "". libp2p's own log lines are silenced unless LIBP2P_DEBUG
    asks for them. Raises ConfigError if an address cannot be listened on or the swarm key is none.
    """
    if swarm_key and not _SWARM_KEY.fullmatch(swarm_key):
        raise ConfigError("swarm_key: it must be 64 hex characters (32 bytes)")
    quiet_logs()
    bound_windows()
    endpoints = [await listening.checked(text, f"listen[{index}]") for index, text in enumerate(listen)]
    keys = create_new_key_pair(seed)
    peer_id = ID.from_pubkey(keys.public_key)
    noise = Noise(keys, create_new_x25519_key_pair().private_key)
    peerstore = PeerStore()
    peerstore.add_key_pair(peer_id, keys)
    swarm = SteadySwarm(
        peer_id,
        peerstore,
        SteadyUpgrader({TProtocol(NOISE): noise}, {TProtocol(YAMUX): SteadyYamux}),
        transports=[TunedTcp()],
        retry_config=RetryConfig(max_retries=0),
        connection_config=_limits(),
        psk=swarm_key or None,
    )
    host = BasicHost(swarm, disable_identify_address_discovery=True)
    never_identify_others(swarm)
    host.remove_stream_handler(IDENTIFY_PUSH)
    try:
        async with background_trio_service(swarm), trio.open_nursery() as nursery:
            transport = Libp2pTransport(host, swarm, nursery)
            await listening.listen(swarm, endpoints)
            try:
                yield transport
            finally:
                with shielded():
                    await transport._close()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The nurseries are our own affair: an error of the body leaves as it was raised.
        raise _sole(group) from None


def _limits() -> ConnectionConfig:
    # No low watermark: whom to dial is decided by `bootstrap.joining`. The high one equals the limit, so that
    # the library never prunes a connection of its own accord.
    return ConnectionConfig(
        max_connections=CONNECTIONS_MAX,
        min_connections=0,
        low_watermark=0,
        high_watermark=CONNECTIONS_MAX,
        max_connections_per_peer=CONNECTIONS_PER_PEER,
        inbound_upgrade_timeout=HANDSHAKE_S,
        outbound_upgrade_timeout=HANDSHAKE_S,
        inbound_stream_protocol_negotiation_timeout=NEGOTIATE_S,
    )


class Libp2pTransport:
    """`env.net.Transport` on py-libp2p. Made by `open_transport`."""

    def __init__(self, host: BasicHost, swarm: Swarm, nursery: trio.Nursery) -> None:
        self._host = host
        self._swarm = swarm
        self._nursery = nursery
        self._peers = _PeersSeen(swarm)
        swarm.register_notifee(self._peers)
        self.peer_id: str = swarm.get_peer_id().to_base58()

    def addresses(self) -> list[str]:
        """Where this node listens, as full multiaddrs with /p2p/, loopback last."""
        return [f"{endpoint}/p2p/{self.peer_id}" for endpoint in listening.endpoints(self._swarm)]

    def serve(self, protocol_id: str, handler: StreamHandler) -> None:
        """Call `handler` for each inbound stream of that protocol, and cancel it when the stream is gone."""

        async def accept(stream: NetStream) -> None:
            inbound = YamuxedStream(stream)
            with inbound.cancelled_when_broken():
                await handler(inbound)

        self._host.set_stream_handler(TProtocol(protocol_id), accept)  # type: ignore[arg-type]

    async def dial(self, peer_id: str, addresses: Sequence[str]) -> str:
        """Connect, proving that the peer at the other end is `peer_id`. Raises DialFailed.

        The addresses are tried in order, each with a head start over the next (happy eyeballs, RFC 8305); the
        first that proves the peer wins and is returned. "", at once, if there is a connection already.
        """
        try:
            expected = ID.from_base58(peer_id)
        except ValueError:
            raise DialFailed(f"{peer_id!r} is no peer id") from None
        if live_connections(self._swarm, expected):
            return ""
        targets: dict[Multiaddr, str] = {}
        reasons: list[str] = []
        for text in addresses:
            try:
                for endpoint in await naming.resolved(parse_endpoint(text)):
                    targets.setdefault(Multiaddr(str(endpoint)), text)
            except (AddressError, OSError) as error:
                reasons.append(f"{text}: {error}")
        answered: list[str] = []
        async with trio.open_nursery() as nursery:

            async def attempt(target: Multiaddr, failed: trio.Event) -> None:
                reason = await self._dial_address(target, expected)
                if reason is None:
                    answered.append(targets[target])
                    nursery.cancel_scope.cancel()
                else:
                    reasons.append(f"{target}: {reason}")
                failed.set()

            for target in targets:
                failed = trio.Event()
                nursery.start_soon(attempt, target, failed)
                with trio.move_on_after(DIAL_HEAD_START_S):
                    await failed.wait()
        if not answered:
            raise DialFailed("; ".join(reasons) or "no address is known")
        return answered[0]

    async def _dial_address(self, target: Multiaddr, expected: ID) -> str | None:
        """Why that address failed, or None if it proved the peer."""
        with trio.move_on_after(DIAL_ADDRESS_S):
            try:
                await self._swarm.dial_addr(target, expected)
            except SwarmException as error:
                return _innermost(error)
            return None
        return f"no answer within {DIAL_ADDRESS_S:g} s"

    async def open_stream(self, peer_id: str, protocol_id: str) -> RawStream:
        """A new stream on the newest connection. Raises StreamBroken (also when the peer lacks the protocol)."""
        connections = self._connections(peer_id)
        if not connections:
            raise StreamBroken(f"not connected to {peer_id}")
        # The newest: an older one may belong to a peer that crashed and has come back.
        opening = _Opening(self._host, connections[-1], protocol_id)
        # In a task of its own, because a cancelled write would end the connection: a cancelled caller leaves
        # it.
        self._nursery.start_soon(opening.run)
        return await opening.result()

    def connected(self) -> list[str]:
        """Peer ids with a live connection, sorted."""
        swarm = self._swarm
        return sorted(peer.to_base58() for peer in list(swarm.connections) if live_connections(swarm, peer))

    async def disconnect(self, peer_id: str) -> None:
        """Close every connection to that peer. Never raises."""
        for connection in self._connections(peer_id):
            _cut(connection)
        await trio.lowlevel.checkpoint()

    def on_change(self, callback: Callable[[str, bool], None]) -> None:
        """Call back with (peer_id, connected) when a peer's first connection appears or its last one goes."""
        self._peers.callbacks.append(callback)

    def _connections(self, peer_id: str) -> list[SwarmConn]:
        try:
            return live_connections(self._swarm, ID.from_base58(peer_id))
        except ValueError:
            return []  # no peer id, hence nobody

    async def _close(self) -> None:
        for peer in list(self._swarm.connections):
            for connection in live_connections(self._swarm, peer):
                _cut(connection)
        with trio.move_on_after(CLOSE_S):
            while self._swarm.connections:  # noqa: ASYNC110  # the library has no event for the last one
                await trio.sleep(0.01)
            await self._host.close()


class _Opening:
    """One stream being opened. Whoever asked may leave; then the stream is reset as soon as it is open."""

    def __init__(self, host: BasicHost, connection: SwarmConn, protocol_id: str) -> None:
        self._host = host
        self._connection = connection
        self._protocol_id = protocol_id
        self._done = trio.Event()
        self._wanted = True
        self._stream: YamuxedStream | None = None
        self._reason = f"no agreement on {protocol_id} within {NEGOTIATE_S:g} s"

    async def result(self) -> YamuxedStream:
        try:
            await self._done.wait()
        except trio.Cancelled:
            self._wanted = False
            raise
        if self._stream is None:
            raise StreamBroken(self._reason)
        return self._stream

    async def run(self) -> None:
        try:
            with trio.move_on_after(NEGOTIATE_S):
                await self._open()
        finally:
            self._done.set()
        if self._stream is not None and not self._wanted:
            await self._stream.reset()

    async def _open(self) -> None:
        stream: NetStream | None = None
        try:
            stream = await self._connection.new_stream()
            await self._host.multiselect_client.select_one_of(
                [TProtocol(self._protocol_id)], MultiselectCommunicator(stream), int(NEGOTIATE_S) + 1
            )
        except (
            MultiselectClientError,
            MultiselectCommunicatorError,
            MuxedStreamError,
            MuxedConnError,
        ) as error:
            self._reason = f"{self._protocol_id}: {_innermost(error)}"
            if stream is not None:
                await stream.reset()
        else:
            self._stream = YamuxedStream(stream)


class _PeersSeen(INotifee):
    """Tells first and last connections from the others in between."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._up: set[ID] = set()
        self.callbacks: list[Callable[[str, bool], None]] = []

    async def connected(self, network: object, conn: INetConn) -> None:
        peer = conn.muxed_conn.peer_id
        if peer not in self._up:
            self._up.add(peer)
            self._tell(peer, True)

    async def disconnected(self, network: object, conn: INetConn) -> None:
        peer = conn.muxed_conn.peer_id
        if peer in self._up and not live_connections(self._swarm, peer):
            self._up.discard(peer)
            self._tell(peer, False)

    def _tell(self, peer: ID, up: bool) -> None:
        _log.debug("peer connected" if up else "peer gone", peer=peer.to_base58())
        for callback in self.callbacks:
            callback(peer.to_base58(), up)

    async def opened_stream(self, network: object, stream: object) -> None:
        """Streams are of no interest here; the interface wants the method."""

    async def closed_stream(self, network: object, stream: object) -> None:
        """As above."""

    async def listen(self, network: object, multiaddr: object) -> None:
        """As above."""

    async def listen_close(self, network: object, multiaddr: object) -> None:
        """As above."""


def _cut(connection: SwarmConn) -> None:
    muxed = connection.muxed_conn
    if isinstance(muxed, SteadyYamux):
        muxed.cut()


def _innermost(error: BaseException) -> str:
    """The first cause in the chain: the library wraps `Connection refused` four times."""
    while error.__cause__ is not None:
        error = _sole(error.__cause__)
    return str(error) or type(error).__name__


def _sole(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
