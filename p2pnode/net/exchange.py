"""One exchange on one stream: typed messages and raw payload, either side.

A thin shell round `protocols.machine.Link`: it moves bytes between the link and the stream and turns what can
go wrong into this program's errors. It refuses to know what the messages mean. Whoever holds an Exchange
reads a payload before the next message, promptly: a sender whose peer reads nothing for half a minute gives
the stream up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NoReturn, TypeVar

import trio

from p2pnode import errors
from p2pnode.env.net import RawStream, StreamBroken
from protocols.errors import TRUNCATED, LocalProtocolError, RemoteProtocolError
from protocols.machine import Closed, Event, Link, NeedData, Payload, PayloadEnd, Received, Side, UnknownVerb
from protocols.message import Error, Message, ProtocolSpec

M = TypeVar("M", bound=Message)

#: Bytes asked of the stream at once. It gives what is there, so a large number only means fewer calls.
READ_BYTES = 1 << 20
#: A payload at most so long is joined to its header: one write, one wake-up at the other end.
JOINED_PAYLOAD_BYTES = 32 << 10
#: Pieces are gathered to at least this before they are written: four of yamux's frames to a write cost the
#: least.
BULK_WRITE_BYTES = 4 * 65_507
#: The next piece of an announced payload must come within this; a sender gives up in the same time.
PAYLOAD_STALL_S = 30.0
#: The asker's next word must come within this, so that a handler cannot be held for nothing …
UPLOAD_WAIT_S = 60.0
#: … and the answerer's within this where the caller sets no deadline: the longest query a node runs.
ANSWER_WAIT_S = 600.0


class Exchange:
    """A conversation with `peer_id`. Raises errors.PeerLost if the peer goes, resets, or talks nonsense."""

    __slots__ = (
        "_link",
        "_patience_s",
        "_stream",
        "_unread",
        "_unsent",
        "bounded",
        "nonsense",
        "payload_bytes",
        "peer_id",
    )

    def __init__(self, stream: RawStream, spec: ProtocolSpec, side: Side) -> None:
        self._stream = stream
        self._link = Link(spec, side)
        self._patience_s = ANSWER_WAIT_S if side is Side.ASKER else UPLOAD_WAIT_S
        self._unread = False
        self._unsent = 0
        #: The caller bounds the whole conversation, so that no single answer needs a bound of its own.
        self.bounded = False
        self.peer_id = stream.peer_id
        #: Announced with the message received last.
        self.payload_bytes = 0
        #: How the peer broke the protocol (a code of `protocols.errors`); "" as long as it did not.
        self.nonsense = ""

    @property
    def reusable(self) -> bool:
        """Whether everything was said and read, so that the stream may carry another exchange."""
        return self._link.idle and not self._unsent

    @property
    def owes_payload(self) -> bool:
        """Whether an announced payload was not sent to its end: then nothing else can be said on this stream."""
        return self._unsent > 0

    def still_open(self) -> bool:
        """Between exchanges: whether the peer has neither ended nor reset the stream, nor said what nobody asked
        for, as far as is known here.
        """
        return self._stream.is_quiet()

    async def send(self, message: Message, payload: bytes | bytearray | memoryview = b"") -> None:
        """Say something, with its payload. Raises LocalProtocolError if it may not be said now, PeerLost."""
        body = memoryview(payload).cast("B") if payload else b""
        head = self._link.send(message, len(body))
        self._link.send_payload(body)
        if len(body) <= JOINED_PAYLOAD_BYTES:
            await self._write(b"".join((head, body)) if body else head)
            return
        self._unsent = len(body)
        await self._write(head)
        await self._write(body)
        self._unsent = 0

    async def send_stream(self, message: Message, payload_bytes: int, pieces: AsyncIterator[bytes]) -> None:
        """Say something whose payload comes piece by piece; memory is one write's worth.

        Raises LocalProtocolError if the pieces are not exactly `payload_bytes` long, PeerLost.
        """
        head = self._link.send(message, payload_bytes)
        self._unsent = payload_bytes
        gathered = bytearray(head)
        async for piece in pieces:
            self._link.send_payload(piece)
            self._unsent -= len(piece)
            if not gathered and len(piece) >= BULK_WRITE_BYTES:
                await self._write(piece)
                continue
            gathered += piece
            if len(gathered) >= BULK_WRITE_BYTES:
                await self._write(gathered)
                gathered = bytearray()
        if gathered:
            await self._write(gathered)
        if self._unsent:
            raise LocalProtocolError(f"{message.verb()}: {self._unsent} bytes of its payload did not come")

    async def receive(self) -> Message:
        """The next message. Raises the error that the peer answered, PeerLost, or LocalProtocolError if the
        payload of the last message was not read.
        """
        if self.bounded:
            return await self._receive()
        with trio.move_on_after(self._patience_s):
            return await self._receive()
        raise errors.PeerLost(f"{self.peer_id} said nothing for {self._patience_s:g} s")

    async def _receive(self) -> Message:
        event = await self._next()
        if not isinstance(event, Received):
            self._refuse(event)
        if isinstance(event.message, Error):
            raise _named(event.message)
        return event.message

    async def next_request(self) -> Received | UnknownVerb | None:
        """For an answerer between exchanges: the next request, or None when the asker has no more."""
        event = await self._next()
        if isinstance(event, Received | UnknownVerb):
            return event
        if isinstance(event, Closed):
            return None
        self._refuse(event)

    async def payload(self) -> AsyncIterator[memoryview]:
        """The payload of the message received last, in pieces as they come. Raises PeerLost."""
        while self._unread:
            event = self._at_hand()
            if isinstance(event, NeedData):  # only a wait needs a bound, and most of a payload comes with its message
                with trio.move_on_after(PAYLOAD_STALL_S) as bound:
                    event = await self._next()
                if bound.cancelled_caught:
                    raise errors.PeerLost(f"{self.peer_id} sent nothing for {PAYLOAD_STALL_S:g} s")
            if isinstance(event, Payload):
                yield event.data

    async def payload_all(self, bytes_max: int) -> bytes:
        """The whole payload of the message received last. Raises PeerLost, also if it is over `bytes_max`."""
        if self.payload_bytes > bytes_max:
            raise errors.PeerLost(f"{self.peer_id} sends {self.payload_bytes} bytes where {bytes_max} will do")
        whole = bytearray()
        async for piece in self.payload():
            whole += piece
        return bytes(whole)

    async def close(self) -> None:
        """Say that nothing more will be asked or answered."""
        await self._stream.close()

    async def reset(self) -> None:
        """Give the stream up. Never raises."""
        await self._stream.reset()

    async def _next(self) -> Received | UnknownVerb | Payload | PayloadEnd | Closed:
        while isinstance(event := self._at_hand(), NeedData):
            try:
                self._link.receive_data(await self._stream.read(READ_BYTES))
            except StreamBroken as error:
                raise errors.PeerLost(str(error)) from error
        return event

    def _at_hand(self) -> Event:
        """What the bytes read so far mean."""
        try:
            event = self._link.next_event()
        except RemoteProtocolError as error:
            # To a caller a peer that talks nonsense is as lost as one that died; the former is blamed for it.
            self.nonsense = "" if error.code == TRUNCATED else error.code
            raise errors.PeerLost(f"{self.peer_id}: {error}") from error
        if isinstance(event, Received):
            self.payload_bytes = event.payload_bytes
            self._unread = event.payload_bytes > 0
        elif isinstance(event, PayloadEnd):
            self._unread = False
        return event

    def _refuse(self, event: object) -> NoReturn:
        if isinstance(event, Closed):
            raise errors.PeerLost(f"{self.peer_id} ended the stream")
        raise LocalProtocolError("the payload of the last message is still unread")

    async def _write(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.write(data)
        except StreamBroken as error:
            raise errors.PeerLost(str(error)) from error


def expect(message: Message, kind: type[M]) -> M:
    """The message, of that kind. Raises PeerLost if the peer said another one of those that may stand here."""
    if not isinstance(message, kind):
        raise errors.PeerLost(f"{message.verb()} came where {kind.verb()} belongs")
    return message


def _named(error: Error) -> errors.P2PNodeError:
    """The error that the peer answered. Its details are the peer's words: what does not fit is left out."""
    details = {key: value for key, value in error.details.items() if key not in ("message", "advice")}
    try:
        return errors.from_wire(error.code, error.message, details)
    except (TypeError, ValueError):
        return errors.from_wire(error.code, error.message)
