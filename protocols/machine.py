"""One side of one stream: bytes in, events out; messages in, bytes out. No socket, no loop, no clock.

    link = Link(HEALTH, Side.ASKER)
    write(link.send(Ping(incarnation=7)))
    while isinstance(event := link.next_event(), NeedData):
        link.receive_data(read())          # b"" at the end of the stream
    event.message                          # Pong(...)

All that is legal stands in `protocols.table`; this file only walks it. Both sides run the same code: what one
refuses to send the other refuses to receive. The shell around it reads only after NeedData, which is the flow
control, and gives the stream up on RemoteProtocolError or Closed.

An answerer may end an exchange before it has read all that the asker sends (a full disk, an unknown verb).
What was already on its way is then discarded, up to SKIP_BYTES_MAX; beyond that the link reports Closed, for
a new stream costs less than the rest.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from protocols.codec import Envelope, decode_body, decode_envelope, encode
from protocols.errors import (
    PAYLOAD_TOO_LARGE,
    TRUNCATED,
    UNEXPECTED_MESSAGE,
    LocalProtocolError,
    RemoteProtocolError,
)
from protocols.frame import HEADER_BYTES_MAX, FrameReader, frame
from protocols.message import Error, Message, ProtocolSpec
from protocols.table import ONLY_ERROR, Exchange, table_of

#: Payload that is read only to be thrown away, to keep a stream in use: the largest block.
SKIP_BYTES_MAX = 32 << 20


class Side(Enum):
    """Who opened the stream asks; who accepted it answers."""

    ASKER = "asker"
    ANSWERER = "answerer"


class Received(msgspec.Struct, frozen=True, gc=False):
    """A message. If `payload_bytes` is not 0, Payload events with so many bytes and one PayloadEnd follow."""

    message: Message
    payload_bytes: int = 0


class Payload(msgspec.Struct, frozen=True, gc=False):
    """A piece of the payload: a view of the very chunk that was given to `receive_data`."""

    data: memoryview


class PayloadEnd(msgspec.Struct, frozen=True):
    """All announced bytes have come."""


class UnknownVerb(msgspec.Struct, frozen=True):
    """A newer asker's request. Answer it with Error(code=UNKNOWN_VERB); its payload is skipped."""

    verb: str


class Closed(msgspec.Struct, frozen=True):
    """Nothing more will be read. In the middle of an exchange: the asker may have stopped listening."""


class NeedData(msgspec.Struct, frozen=True):
    """Read from the stream and call `receive_data`."""


Event = Received | Payload | PayloadEnd | UnknownVerb | Closed | NeedData

_PAYLOAD_END = PayloadEnd()
_CLOSED = Closed()
_NEED_DATA = NeedData()


class Link:
    """One side of one stream. LocalProtocolError leaves it as it was; RemoteProtocolError ends its use."""

    def __init__(self, spec: ProtocolSpec, side: Side, *, header_bytes_max: int = HEADER_BYTES_MAX) -> None:
        self._table = table_of(spec)
        self._asks = side is Side.ASKER
        self._header_bytes_max = header_bytes_max
        self._reader = FrameReader(header_bytes_max)
        self._exchange: Exchange | None = None
        #: Ended by our Error: its uploads may still be on their way.
        self._cut_short: Exchange | None = None
        #: Bytes of announced payload that this side still has to send, and has still to receive.
        self._unsent = 0
        self._unread = 0
        #: Between a message with payload and its PayloadEnd; `_discarding` if nobody wants to see it.
        self._payload_open = False
        self._discarding = False
        #: What is still to come is too much to skip.
        self._spent = False
        self._failure: RemoteProtocolError | None = None

    @property
    def idle(self) -> bool:
        """Between exchanges, with nothing owed either way: the stream may carry the next request."""
        owing = self._exchange is not None or self._unsent or self._payload_open
        over = self._spent or self._failure is not None or self._reader.ended
        return not (owing or over or self._reader.pending)

    def send(self, message: Message, payload_bytes: int = 0) -> bytes:
        """The frame to write for this message; `payload_bytes` raw bytes must follow it (see `send_payload`).

        Raises LocalProtocolError, and changes nothing, if the message may not be sent now, breaks a bound of
        its own, or announces more payload than it may have.
        """
        kind = type(message)
        exchange = self._exchange_for(kind)
        most = exchange.payload_max.get(kind, 0)
        if not 0 <= payload_bytes <= most:
            raise LocalProtocolError(f"{kind.verb()} with {payload_bytes} bytes of payload; at most {most} are allowed")
        wire = frame(encode(message, payload_bytes), self._header_bytes_max)
        self._unsent = payload_bytes
        self._exchange = exchange
        if not self._asks and kind in exchange.finals:
            self._end_answer(exchange, early=kind is Error)
        return wire

    def send_payload(self, data: bytes | bytearray | memoryview) -> None:
        """Account for payload about to be written. Raises LocalProtocolError beyond what was announced."""
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        if size > self._unsent:
            raise LocalProtocolError(f"{size} bytes of payload where {self._unsent} are left to send")
        self._unsent -= size

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take what was read, b"" for the end. It is not copied: let it be while a Payload shows it."""
        self._reader.feed(data)

    def next_event(self) -> Event:
        """What the bytes so far mean. Raises RemoteProtocolError on nonsense, and again on each later call.

        After that an answerer may still send one Error, to say why; an asker may send nothing.
        """
        if self._failure is not None:
            raise self._failure
        try:
            return self._next_event()
        except RemoteProtocolError as error:
            self._failure = error
            self._exchange = None if self._asks else ONLY_ERROR
            raise

    def _exchange_for(self, kind: type[Message]) -> Exchange:
        """The exchange in which this side may send `kind` now."""
        exchange = self._exchange
        if self._unsent:
            raise LocalProtocolError(f"{kind.verb()}: {self._unsent} bytes of the last payload are still unsent")
        if exchange is None and self.idle and self._asks:
            exchange = self._table.exchanges.get(kind)
            if exchange is not None:
                return exchange
        elif exchange is not None and kind in (exchange.uploads if self._asks else exchange.answers):
            return exchange
        raise LocalProtocolError(f"{kind.verb()} may not be sent now")

    def _end_answer(self, exchange: Exchange, *, early: bool) -> None:
        self._exchange = None
        if early:
            self._cut_short = exchange
        self._discarding = True
        self._spent = self._unread > SKIP_BYTES_MAX

    def _next_event(self) -> Event:
        while not self._spent:
            if self._unread:
                piece = self._reader.take(self._unread)
                if piece is None:
                    return self._wait()
                self._unread -= len(piece)
                if not self._discarding:
                    return Payload(piece)
            elif self._payload_open:
                self._payload_open = False
                if not self._discarding:
                    return _PAYLOAD_END
            else:
                header = self._reader.header()
                if header is None:
                    return self._wait()
                envelope = decode_envelope(header)
                event = self._answer(envelope) if self._asks else self._request_or_upload(envelope)
                self._unread = envelope.payload_bytes
                self._payload_open = self._unread > 0
                self._discarding = not isinstance(event, Received)
                if event is not None:
                    return event
        return _CLOSED

    def _wait(self) -> NeedData | Closed:
        if not self._reader.ended:
            return _NEED_DATA
        if self._unread or self._reader.pending or (self._asks and self._exchange is not None):
            raise RemoteProtocolError(TRUNCATED, "the stream ended before the message or the answer did")
        return _CLOSED

    def _answer(self, envelope: Envelope) -> Received:
        """What an asker gets: a reply or the final answer of the exchange it opened."""
        exchange = self._exchange
        kind = self._table.words.get(envelope.verb)
        if exchange is None or kind not in exchange.answers:
            raise RemoteProtocolError(UNEXPECTED_MESSAGE, f"{envelope.verb!r} is no answer to what was asked")
        event = _read(exchange, kind, envelope)
        if kind in exchange.finals:
            self._exchange = None
        return event

    def _request_or_upload(self, envelope: Envelope) -> Received | UnknownVerb | None:
        """What an answerer gets; None for an upload that nobody waits for any more."""
        kind = self._table.words.get(envelope.verb)
        exchange = self._exchange
        if exchange is not None:
            if kind not in exchange.uploads:
                raise RemoteProtocolError(UNEXPECTED_MESSAGE, f"{envelope.verb!r} before the answer was complete")
            return _read(exchange, kind, envelope)
        if kind is None:
            return self._unknown(envelope)
        if self._cut_short is not None and kind in self._cut_short.uploads:
            self._spent = envelope.payload_bytes > SKIP_BYTES_MAX
            return None
        opened = self._table.exchanges.get(kind)
        if opened is None:
            raise RemoteProtocolError(UNEXPECTED_MESSAGE, f"{envelope.verb!r} is no request")
        event = _read(opened, kind, envelope)
        self._exchange, self._cut_short = opened, None
        return event

    def _unknown(self, envelope: Envelope) -> UnknownVerb:
        if envelope.payload_bytes > SKIP_BYTES_MAX:
            raise RemoteProtocolError(
                PAYLOAD_TOO_LARGE, f"{envelope.verb!r} is unknown, and its payload too large to skip"
            )
        self._exchange = ONLY_ERROR
        return UnknownVerb(envelope.verb)


def _read(exchange: Exchange, kind: type[Message], envelope: Envelope) -> Received:
    most = exchange.payload_max.get(kind, 0)
    if envelope.payload_bytes > most:
        raise RemoteProtocolError(
            PAYLOAD_TOO_LARGE,
            f"{envelope.verb} announces {envelope.payload_bytes} bytes; at most {most} are allowed",
        )
    return Received(decode_body(kind, envelope.body), envelope.payload_bytes)
