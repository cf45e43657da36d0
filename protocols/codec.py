"""What a header says: `[verb, payload_bytes, body]` in MessagePack, and the body as its typed message.

Decoding goes straight into the message's own type, so what is allocated is bounded by the bytes that came and
by the bounds on its fields: a declared length beyond them is refused before anything is reserved, unknown
fields are skipped unread, and nesting ends at the interpreter's recursion limit. What this side would refuse
to read it refuses to write. This file does not know which message may stand where.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, TypeVar

import msgspec

from protocols.errors import BAD_HEADER, BAD_MESSAGE, LocalProtocolError, RemoteProtocolError
from protocols.message import Count, Message

M = TypeVar("M", bound=Message)

#: Characters of a verb, known or not; it is repeated in the answer to an unknown one.
VERB_CHARS_MAX = 64


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """A header before anybody looked at its body. A newer peer may append elements; they are ignored."""

    verb: Annotated[str, msgspec.Meta(min_length=1, max_length=VERB_CHARS_MAX)]
    payload_bytes: Count
    body: msgspec.Raw


#: Whatever msgspec raises on bytes that are not what they should be, including a header nested without end.
_NONSENSE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)

_encode = msgspec.msgpack.Encoder().encode
_decode_envelope = msgspec.msgpack.Decoder(Envelope).decode


@cache  # one entry per message class: a handful, made at import
def _decoder(kind: type[Message]) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)


def encode(message: Message, payload_bytes: int = 0) -> bytes:
    """The header of a message. Raises LocalProtocolError if a field breaks its own type or bound."""
    try:
        body = msgspec.to_builtins(message, builtin_types=(bytes,))
        msgspec.convert(body, type(message))
        # The verb stands in the envelope; msgspec's own tag would say it twice.
        verb = body.pop("type")
        return _encode((verb, payload_bytes, body))
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as error:
        raise LocalProtocolError(f"{type(message).__name__} cannot be sent: {error}") from error


def decode_envelope(header: bytes | bytearray | memoryview) -> Envelope:
    """Verb, announced payload and unread body. Raises RemoteProtocolError(BAD_HEADER)."""
    try:
        return _decode_envelope(header)
    except _NONSENSE as error:
        raise RemoteProtocolError(BAD_HEADER, f"a header that is not [verb, payload_bytes, body]: {error}") from error


def decode_body(kind: type[M], body: msgspec.Raw) -> M:
    """The message. Raises RemoteProtocolError(BAD_MESSAGE)."""
    try:
        return _decoder(kind).decode(body)
    except _NONSENSE as error:
        raise RemoteProtocolError(BAD_MESSAGE, f"{kind.verb()}: {error}") from error
