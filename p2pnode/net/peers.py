"""The peers that this node knows, and how it asks them things.

Dials on demand (one dial a peer at a time, however many ask), keeps streams open between exchanges, and gives
one up as soon as an exchange on it did not end properly. Every failure is one of errors.PeerLost,
errors.Timeout, or the error that the peer answered. Whom to stay connected to is not decided here
(`bootstrap.joining`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from bootstrap.address_book import PEERS_MAX, AddressBook
from p2pnode import errors
from p2pnode.core.conduct import Reason
from p2pnode.core.model import NodeRole
from p2pnode.env import Env
from p2pnode.env.net import DialFailed, StreamBroken, Transport
from p2pnode.net.blame import Blame
from p2pnode.net.exchange import Exchange
from protocols.machine import Side
from protocols.message import Message, ProtocolSpec
from protocols.metadata import PeerRecord

#: Exchanges at once with one peer on one protocol; the next waits its turn. The guard's bound is twice this,
#: because a peer notices later than we that a stream has ended.
STREAMS_MAX = 8
#: An idle stream is let go after this, well before the answerer's own patience ends.
IDLE_S = 300.0
#: A stream that rested longer is first looked at: its peer may have let go of it.
FRESH_S = 5.0
#: Dials at once, over all peers: as many as a handshake's CPU time allows to finish within its deadline.
DIALS_MAX = 32
#: Whoever asks for a peer within so long after a failed dial shares that failure. Short: it only spares a
#: burst of exchanges a dial each.
FAILURE_MEMORY_S = 0.25
#: Weight of the newest round trip in the average (RFC 6298's alpha).
RTT_WEIGHT = 0.125
#: The protocol whose answers come at once, so that asking on it measures the way and not the work.
_QUICK_PROTOCOL = "health"


@dataclass(slots=True)
class _Idle:
    exchange: Exchange
    since: float


class _Known:
    """What is known of one peer, and what is under way with it."""

    def __init__(self) -> None:
        self.node_id = ""
        self.role: NodeRole | None = None
        self.rtt_s: float | None = None
        self.idle: dict[str, list[_Idle]] = {}
        self.slots: dict[str, trio.Semaphore] = {}
        self.dialing: trio.Event | None = None
        self.failed_at = float("-inf")
        self.failure = ""


class Peers:
    """Peer id -> addresses, role, streams. One per node; closed with its transport."""

    def __init__(
        self, transport: Transport, env: Env, *, streams_max: int = STREAMS_MAX, dials_max: int = DIALS_MAX
    ) -> None:
        self._transport = transport
        self._clock = env.clock
        #: What peers did wrong. A dropped one is not asked anything either.
        self.blame = Blame(transport, env)
        self._streams_max = streams_max
        self._dials = trio.Semaphore(dials_max)
        self._book = AddressBook()
        self._known: dict[str, _Known] = {}
        transport.on_change(self._changed)

    # -- who is there
    # --------------------------------------------------------------------------------------------

    def learn(self, peer_id: str, node_id: str, role: NodeRole, addresses: Iterable[str]) -> None:
        """What a peer is called, does, and where it is said to be. A dial that failed before is forgotten."""
        if peer_id == self._transport.peer_id:
            return
        known = self._entry(peer_id)
        known.node_id, known.role, known.failed_at = node_id, role, float("-inf")
        self._book.learn(peer_id, addresses, self._clock.now())

    def known(self) -> list[PeerRecord]:
        """Every peer that has a name, with its addresses, the best first."""
        return [
            PeerRecord(peer_id=peer, node_id=known.node_id, role=known.role, addresses=self._book.ranked(peer))
            for peer, known in sorted(self._known.items())
            if known.role is not None
        ]

    def connected(self) -> list[str]:
        """Peer ids with a live connection, sorted."""
        return self._transport.connected()

    def role_of(self, peer_id: str) -> NodeRole | None:
        known = self._known.get(peer_id)
        return None if known is None else known.role

    def rtt_s(self, peer_id: str) -> float | None:
        """Round trip to that peer in seconds, averaged; None before the first health exchange."""
        known = self._known.get(peer_id)
        return None if known is None else known.rtt_s

    def forget(self, peer_id: str) -> None:
        """That peer left for good."""
        self._known.pop(peer_id, None)
        self._book.forget(peer_id)

    # -- talking
    # -------------------------------------------------------------------------------------------------

    async def connect(self, peer_id: str, addresses: Iterable[str] = ()) -> None:
        """Make sure that there is a connection, at these addresses or the known ones. Raises PeerLost with why.

        Unlike an exchange it dials again even if a dial has failed just now.
        """
        self._check_not_dropped(peer_id)
        self._book.learn(peer_id, addresses, self._clock.now())
        self._entry(peer_id).failed_at = float("-inf")
        await self._connect(peer_id)

    @asynccontextmanager
    async def exchange(
        self,
        peer_id: str,
        spec: ProtocolSpec,
        request: Message,
        payload: bytes | bytearray | memoryview = b"",
        *,
        timeout_s: float | None = 10.0,
    ) -> AsyncIterator[Exchange]:
        """Ask something and stay for a conversation: uploads and replies through the Exchange, then its final.

        `timeout_s` bounds all of it, dialing and the body of the `async with` included; None leaves the
        bounds to the caller. An exchange left before its final answer is reset. Raises PeerLost, Timeout,
        LocalProtocolError.
        """
        with trio.move_on_after(float("inf") if timeout_s is None else timeout_s) as deadline:
            known = self._entry(peer_id)
            exchange = await self._begin(known, peer_id, spec, request, payload)
            exchange.bounded = timeout_s is not None
            try:
                yield exchange
            finally:
                await self._end(known, spec, exchange)
        if deadline.cancelled_caught:
            raise _too_late(peer_id, request, timeout_s)

    async def ask(
        self,
        peer_id: str,
        spec: ProtocolSpec,
        request: Message,
        payload: bytes | bytearray | memoryview = b"",
        *,
        timeout_s: float | None = 10.0,
    ) -> tuple[Message, bytes]:
        """Ask something that has one answer: the answer and its payload (b"" if it has none).

        Raises the error that the peer answered, PeerLost, Timeout, LocalProtocolError.
        """
        # What `exchange` does, without its context manager: most of what a swarm says passes here.
        with trio.move_on_after(float("inf") if timeout_s is None else timeout_s):
            known = self._entry(peer_id)
            exchange = await self._begin(known, peer_id, spec, request, payload)
            exchange.bounded = timeout_s is not None
            try:
                asked_at = self._clock.now()
                reply = await exchange.receive()
                if spec.name == _QUICK_PROTOCOL:
                    self._measured(peer_id, self._clock.now() - asked_at)
                if not exchange.payload_bytes:
                    return reply, b""
                # The protocol's own table bounds what a peer may announce.
                return reply, await exchange.payload_all(exchange.payload_bytes)
            finally:
                await self._end(known, spec, exchange)
        raise _too_late(peer_id, request, timeout_s)

    # -- streams
    # -------------------------------------------------------------------------------------------------

    def _check_not_dropped(self, peer_id: str) -> None:
        """Raise PeerLost if that peer is dropped. Its connections are the guard's to close, in its own time: a peer
        that is shut out at once dials at once.
        """
        if self.blame.is_dropped(peer_id):
            raise errors.PeerLost(f"{peer_id} is dropped for a while: too much of what it sent was refused")

    async def _begin(
        self,
        known: _Known,
        peer_id: str,
        spec: ProtocolSpec,
        request: Message,
        payload: bytes | bytearray | memoryview,
    ) -> Exchange:
        """An exchange whose request is on its way; it must be given to `_end`."""
        slots = known.slots.get(spec.protocol_id)
        if slots is None:
            slots = known.slots[spec.protocol_id] = trio.Semaphore(self._streams_max)
        try:
            slots.acquire_nowait()  # nearly always, and without a pass through the loop
        except trio.WouldBlock:
            await slots.acquire()
        try:
            exchange = await self._stream(peer_id, spec)
        except BaseException:
            slots.release()
            raise
        try:
            await exchange.send(request, payload)
        except BaseException:
            await self._end(known, spec, exchange)
            raise
        return exchange

    async def _end(self, known: _Known, spec: ProtocolSpec, exchange: Exchange) -> None:
        """Keep the stream for the next exchange if this one came to its end, else give it up."""
        if exchange.nonsense:
            self.blame.note(exchange.peer_id, Reason(exchange.nonsense), protocol=spec.name)
        known.slots[spec.protocol_id].release()
        if exchange.reusable:
            known.idle.setdefault(spec.protocol_id, []).append(_Idle(exchange, self._clock.now()))
        else:
            await exchange.reset()

    async def _stream(self, peer_id: str, spec: ProtocolSpec) -> Exchange:
        self._check_not_dropped(peer_id)
        known = self._entry(peer_id)
        idle = known.idle.get(spec.protocol_id, [])
        while idle:
            last = idle.pop()
            rested_s = self._clock.now() - last.since
            if rested_s < FRESH_S or (rested_s < IDLE_S and last.exchange.still_open()):
                return last.exchange
            await last.exchange.close()
        await self._connect(peer_id)
        try:
            stream = await self._transport.open_stream(peer_id, spec.protocol_id)
        except StreamBroken as error:
            raise errors.PeerLost(f"{peer_id}: {error}") from error
        return Exchange(stream, spec, Side.ASKER)

    async def _connect(self, peer_id: str) -> None:
        """Dial unless connected; of many callers at once one dials and the others wait for what comes of it."""
        while peer_id not in self._transport.connected():
            known = self._entry(peer_id)
            if self._clock.now() - known.failed_at < FAILURE_MEMORY_S:
                raise errors.PeerLost(f"{peer_id} cannot be reached: {known.failure}")
            if known.dialing is not None:
                await known.dialing.wait()
                continue
            known.dialing = trio.Event()
            try:
                async with self._dials:
                    await self._dial(peer_id, known)
            finally:
                known.dialing.set()
                known.dialing = None

    async def _dial(self, peer_id: str, known: _Known) -> None:
        addresses = self._book.ranked(peer_id)
        try:
            answered = await self._transport.dial(peer_id, addresses)
        except DialFailed as error:
            known.failed_at, known.failure = self._clock.now(), str(error)
            for address in addresses:
                self._book.failed(peer_id, address)
            raise errors.PeerLost(f"{peer_id} cannot be reached: {error}") from error
        if answered:
            self._book.succeeded(peer_id, answered, self._clock.now())

    # -- bookkeeping
    # ---------------------------------------------------------------------------------------------

    def _entry(self, peer_id: str) -> _Known:
        known = self._known.get(peer_id)
        if known is None:
            known = self._known[peer_id] = _Known()
            if len(self._known) > PEERS_MAX:
                self._forget_a_stranger(peer_id)
        return known

    def _forget_a_stranger(self, newest: str) -> None:
        """Make room: the peer that was entered first and is neither connected nor being dialed."""
        connected = {*self._transport.connected(), newest}
        for peer_id, known in self._known.items():
            if peer_id not in connected and known.dialing is None:
                self.forget(peer_id)
                return

    def _changed(self, peer_id: str, connected: bool) -> None:
        known = self._known.get(peer_id)
        if known is None:
            return
        known.failed_at = float("-inf")
        if not connected:
            # They died with the connection; there is nobody to say goodbye to.
            known.idle.clear()

    def _measured(self, peer_id: str, seconds: float) -> None:
        known = self._entry(peer_id)
        before = known.rtt_s
        known.rtt_s = seconds if before is None else before + RTT_WEIGHT * (seconds - before)


def _too_late(peer_id: str, request: Message, timeout_s: float | None) -> errors.Timeout:
    return errors.Timeout(f"{peer_id} did not answer {request.verb()} within {timeout_s:g} s")
