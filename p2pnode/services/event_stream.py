"""The events that answer one request, as they come: how long to listen, and to what.

An answerer earns the asker's patience by what it sends, so one that lets an event trickle in now and then is given up
as soon as one that says nothing. What it sends may be known here in part (others tell it at the same time), but not for
the most part: whoever sends events that nobody lacks is given up too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio

from p2pnode.core.event import split_wires
from p2pnode.errors import PeerLost, Timeout
from p2pnode.net.exchange import Exchange
from protocols import metadata as words
from protocols.message import Message

#: Seconds that an answerer may keep the asker waiting before it sends anything, and at any one time …
PATIENCE_S = 10.0
#: … and the seconds that each event earns it: the slowest useful line carries some thirty a second.
EARNED_S = 1 / 32
#: Known events that may come beyond as many as were new.
KNOWN_MAX = 4096


class EventStream:
    """Iterate over `batches` to the end; then `final` is the message that ended them."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._left_s = PATIENCE_S
        self._useless = 0
        self.final: Message | None = None

    async def batches(self) -> AsyncIterator[list[bytes]]:
        """Wire events, message by message. Raises PeerLost, Timeout, BadEvent for sizes that do not fit."""
        while True:
            message, payload = await self._next()
            if not isinstance(message, words.Events):
                self.final = message
                return
            self._left_s = min(PATIENCE_S, self._left_s + EARNED_S * len(message.sizes))
            yield split_wires(payload, message.sizes)

    async def payload(self, bytes_max: int) -> bytes:
        """The final message's payload."""
        with trio.move_on_after(PATIENCE_S):
            return await self._exchange.payload_all(bytes_max)
        raise self._silence()

    def took(self, *, known: int, new: int) -> None:
        """So many of what came were here before, and so many entered. Raises PeerLost if too few are of use."""
        self._useless += known - new
        if self._useless > KNOWN_MAX:
            raise PeerLost(f"{self._exchange.peer_id} keeps sending events that are known here.")

    async def _next(self) -> tuple[Message, bytes]:
        with trio.move_on_after(self._left_s) as patience:
            message = await self._exchange.receive()
            events = isinstance(message, words.Events)
            payload = await self._exchange.payload_all(words.EVENTS_BYTES_MAX) if events else b""
            self._left_s = patience.deadline - trio.current_time()
            return message, payload
        raise self._silence()

    def _silence(self) -> Timeout:
        return Timeout(f"{self._exchange.peer_id} kept this node waiting in a sync.")
