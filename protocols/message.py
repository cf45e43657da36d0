"""The base of every message and the table that says which message may follow which.

A message is a msgspec struct whose `tag` is its verb. Unknown fields are ignored (a newer peer may send
them), a missing field takes its default, and a wrong type or an over-long list refuses the whole message.
This file refuses to know any particular protocol: those stand in one file each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

# Bounds on fields. A header is bounded anyway; these keep one field from being all of it.
PeerId = Annotated[str, msgspec.Meta(min_length=8, max_length=128)]
NodeId = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Address = Annotated[str, msgspec.Meta(max_length=512)]
ContentId = Annotated[bytes, msgspec.Meta(min_length=4, max_length=64)]
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
#: Characters of any text without a bound of its own: a name, a description, the sentence of an error.
TEXT_CHARS_MAX = 4096
Text = Annotated[str, msgspec.Meta(max_length=TEXT_CHARS_MAX)]

#: Content ids in one list: 4,096 × 38 bytes = 152 KiB, well inside a frame.
CIDS_MAX = 4096
ContentIds = Annotated[list[ContentId], msgspec.Meta(max_length=CIDS_MAX)]


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing a peer says. Subclasses set their verb with `tag=`."""

    @classmethod
    def verb(cls) -> str:
        return str(cls.__struct_config__.tag)


class Error(Message, frozen=True, tag="error"):
    """The answer that any request may get instead of its own: a stable code, a sentence, whether to retry."""

    code: Annotated[str, msgspec.Meta(max_length=64)]
    message: Text = ""
    retryable: bool = False
    details: dict[str, str | int | float | bool | list[str] | None] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verb:
    """One exchange: a request, what its asker may add (`uploads`), answers on the way, and the final one."""

    request: type[Message]
    final: tuple[type[Message], ...]
    replies: tuple[type[Message], ...] = ()
    uploads: tuple[type[Message], ...] = ()
    #: Raw payload bytes that one message of this exchange may announce, per message type; absent means none.
    payload_max: tuple[tuple[type[Message], int], ...] = ()


@dataclass(frozen=True, slots=True)
class ProtocolSpec:
    """A protocol: its libp2p id and its exchanges."""

    protocol_id: str
    verbs: tuple[Verb, ...]

    @property
    def name(self) -> str:
        return self.protocol_id.split("/")[2]
