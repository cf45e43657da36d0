"""One signed fact of the swarm: its canonical bytes, its id, its signature.

    event = the DAG-CBOR map {v, ns, a, s, q, pa, p, h, t, k, o, b}      id = CIDv1 dag-cbor sha2-256 of it
    wire  = event bytes ‖ 64-byte Ed25519 signature over DOMAIN ‖ event bytes

The signature lies outside the id, so a re-signed copy is the same event. Parsing accepts one spelling only:
what does not re-encode to the very bytes that came is refused, as is everything out of bounds. Whether an
event fits the causal past it names, and whether its author may say so, is decided in `clock`; what it
means, in `catalog`.

A byte string that has the form of a content id *is* a link (libipld encodes it so); sessions therefore
carry a first bit that no content id has, and a payload holds no bytes that another reader might take for one
(`check_values`), nor more levels than any reader can follow.

This format is final. protocols/SPEC.md defines it, protocols/vectors hold it to the byte, and a reader that shares
nothing with this one (simulations/world/second_reader.py) is held to both. What is added comes as kinds and as
optional fields of payloads, and decides nothing about which events may be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import libipld

from bootstrap.identity import SIGNATURE_BYTES, public_key_of, verify
from p2pnode.core.cid import CID_BYTES, BadContentId, check_cid, record_cid
from p2pnode.core.conduct import Reason
from p2pnode.errors import IntegrityError, UsageError

FORMAT_VERSION = 1
#: Heads that one event ties together; where there are more, the next events take the rest.
PARENTS_MAX = 16
#: Encoded payload of one event; anything longer is a block, named by its content id.
PAYLOAD_BYTES_MAX = 64 << 10
#: The other fields at their longest: 18 links of 41 bytes, two texts of 128, numbers and keys.
ENVELOPE_BYTES_MAX = 2 << 10
WIRE_BYTES_MAX = PAYLOAD_BYTES_MAX + ENVELOPE_BYTES_MAX + SIGNATURE_BYTES
#: Maps and lists of a payload inside each other, itself the first: beyond some depth readers give up, each at its own.
DEPTH_MAX = 32
#: Kind and object id, in characters.
KIND_CHARS_MAX = 32
OBJECT_CHARS_MAX = 128
SESSION_BYTES = 16
#: Bytes of the height in a rank; the id follows.
RANK_HEIGHT_BYTES = 8

_DOMAIN = b"p2pnode/event/1\0"
_LINK_PREFIX = record_cid(b"")[:4]
#: What a CID of version 0 is made of: a bare sha2-256 multihash.
_OLD_CID_PREFIX, _OLD_CID_BYTES = b"\x12\x20", 34
_NUMBER_MAX = (1 << 63) - 1
_FIELDS = frozenset(("v", "ns", "a", "s", "q", "pa", "p", "h", "t", "k", "o", "b"))


class BadEvent(IntegrityError):
    """Bytes that are no event, or an event that may not be; `str` says what is wrong, `fault` what kind of wrong."""

    code = "bad_event"
    default_advice = "The event is refused; a peer that sends such events is slowed down, and then dropped."

    def __init__(self, message: str, fault: Reason = Reason.MALFORMED) -> None:
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Event:
    """One event, parsed. Two events are equal when their ids are."""

    id: bytes
    #: The genesis id of the swarm; None in the genesis event itself.
    namespace: bytes | None = field(compare=False)
    author: str = field(compare=False)
    #: Random bytes minted whenever the author starts, so that an honest restore from a backup is no fork.
    session: bytes = field(compare=False)
    #: Position in (author, session), from 0.
    sequence: int = field(compare=False)
    #: The author's event before this one, of this or an earlier session.
    previous: bytes | None = field(compare=False)
    #: Heads that the author had seen: sorted, unique.
    parents: tuple[bytes, ...] = field(compare=False)
    #: 1 + the largest height among `past`.
    height: int = field(compare=False)
    #: Hybrid logical clock: 48 bits of milliseconds, 16 of counter. For people's eyes; decides nothing.
    time: int = field(compare=False)
    kind: str = field(compare=False)
    object_id: str = field(compare=False)
    body: dict[str, Any] = field(compare=False, hash=False)
    encoded: bytes = field(compare=False, repr=False)
    signature: bytes = field(compare=False, repr=False)

    @property
    def wire(self) -> bytes:
        """As it travels and lies on disk."""
        return self.encoded + self.signature

    @property
    def order(self) -> tuple[int, bytes]:
        """The one total order that every replica agrees on: height, then id."""
        return (self.height, self.id)

    @property
    def rank(self) -> bytes:
        """`order` as one string of bytes, which sorts alike and is kept in a third of the room."""
        return self.height.to_bytes(RANK_HEIGHT_BYTES, "big") + self.id

    @property
    def past(self) -> tuple[bytes, ...]:
        """The events it stands on directly: its parents, and the author's own previous one."""
        if self.previous is None or self.previous in self.parents:
            return self.parents
        return (*self.parents, self.previous)


@dataclass(frozen=True, slots=True)
class Position:
    """Where an author's next event stands in the clock."""

    sequence: int = 0
    previous: bytes | None = None
    parents: tuple[bytes, ...] = ()
    height: int = 1


def compose(
    *,
    namespace: bytes | None,
    author: str,
    session: bytes,
    position: Position,
    time: int,
    kind: str,
    object_id: str,
    body: dict[str, Any],
    sign: Callable[[bytes], bytes],
) -> Event:
    """A new signed event. `sign` makes the author's Ed25519 signature over the bytes that it is given.

    Raises UsageError if the body is not DAG-CBOR or is longer than PAYLOAD_BYTES_MAX.
    """
    fields = {
        "v": FORMAT_VERSION,
        "ns": namespace,
        "a": author,
        "s": session,
        "q": position.sequence,
        "pa": position.previous,
        "p": list(position.parents),
        "h": position.height,
        "t": time,
        "k": kind,
        "o": object_id,
        "b": body,
    }
    try:
        encoded = libipld.encode_dag_cbor(fields)
        return parse(encoded + sign(_DOMAIN + encoded))
    except (BadEvent, ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"This cannot be recorded as a {kind!r} event: {error}") from error


def parse(wire: bytes) -> Event:
    """The event of these wire bytes, its signature not yet checked (see `check_signature`). Raises BadEvent."""
    if not SIGNATURE_BYTES < len(wire) <= WIRE_BYTES_MAX:
        raise BadEvent(
            f"an event has {SIGNATURE_BYTES + 1}–{WIRE_BYTES_MAX} bytes, not {len(wire)}; more belongs in a block",
            Reason.OVERSIZED if len(wire) > WIRE_BYTES_MAX else Reason.MALFORMED,
        )
    encoded, signature = bytes(wire[:-SIGNATURE_BYTES]), bytes(wire[-SIGNATURE_BYTES:])
    try:
        fields = libipld.decode_dag_cbor(encoded)
        canonical = libipld.encode_dag_cbor(fields) == encoded
    except (ValueError, TypeError, RecursionError) as error:
        raise BadEvent(f"not DAG-CBOR: {error}") from error
    if not canonical or type(fields) is not dict or fields.keys() != _FIELDS:
        raise BadEvent("not the canonical map of an event")
    version = fields["v"]
    if type(version) is not int or version != FORMAT_VERSION:
        newer = type(version) is int and version > FORMAT_VERSION
        raise BadEvent(
            f"event format {version!r}; this node knows {FORMAT_VERSION}", Reason.NEWER if newer else Reason.MALFORMED
        )
    _check_fields(fields, len(encoded))
    return Event(
        id=record_cid(encoded),
        namespace=fields["ns"],
        author=fields["a"],
        session=fields["s"],
        sequence=fields["q"],
        previous=fields["pa"],
        parents=tuple(fields["p"]),
        height=fields["h"],
        time=fields["t"],
        kind=fields["k"],
        object_id=fields["o"],
        body=fields["b"],
        encoded=encoded,
        signature=signature,
    )


def check_signature(event: Event) -> Event:
    """The event itself if its author signed it. Raises BadEvent. Costs about 70 µs: leave the loop for a batch."""
    if not verify(event.author, _DOMAIN + event.encoded, event.signature):
        raise BadEvent("the signature is not its author's", Reason.BAD_SIGNATURE)
    return event


def parse_signed(wire: bytes) -> Event:
    """`parse` and `check_signature` in one."""
    return check_signature(parse(wire))


def mint_session(token: bytes) -> bytes:
    """A session name out of SESSION_BYTES random bytes."""
    if len(token) != SESSION_BYTES:
        raise ValueError(f"a session has {SESSION_BYTES} bytes")
    return bytes((token[0] | 0x80,)) + token[1:]


def next_time(wall_s: float, last: int) -> int:
    """The hybrid logical clock's next value after the author's own `last` (Kulkarni et al., 2014, own
    events only).

    Other authors' clocks are not taken over: one absurd value would spoil every later one.
    """
    return max(int(wall_s * 1000) << 16, last + 1) & _NUMBER_MAX


def split_wires(payload: bytes | memoryview, sizes: Sequence[int]) -> list[bytes]:
    """The wire events of a batch, which lie end to end. Raises BadEvent when `sizes` do not fill it exactly."""
    if sum(sizes) != len(payload):
        raise BadEvent(f"sizes add up to {sum(sizes)} bytes, the payload has {len(payload)}", Reason.BAD_BATCH)
    pieces: list[bytes] = []
    start = 0
    for size in sizes:
        pieces.append(bytes(payload[start : start + size]))
        start += size
    return pieces


def is_link(value: object) -> bool:
    """Whether this is the id of a record (an event or a manifest)."""
    return type(value) is bytes and len(value) == CID_BYTES and value.startswith(_LINK_PREFIX)


def check_values(body: dict[str, Any]) -> None:
    """Refuse what two readers may read differently: deep nesting, and bytes that look like a link and are none of ours.

    What begins as a CID does (version 1, or version 0) has to be one of ours, whole; that is then a link. Raises
    BadEvent.
    """
    pending: list[tuple[Any, int]] = [(body, 1)]
    while pending:
        value, depth = pending.pop()
        if type(value) is bytes:
            if value[:1] == b"\x01" or (len(value) == _OLD_CID_BYTES and value.startswith(_OLD_CID_PREFIX)):
                _check_link(value)
        elif depth > DEPTH_MAX:
            raise BadEvent(f"it nests deeper than {DEPTH_MAX} levels")
        else:
            inner = value.values() if type(value) is dict else value
            pending.extend((one, depth + 1) for one in inner if type(one) in (bytes, dict, list))


def _check_fields(fields: dict[str, Any], encoded_bytes: int) -> None:
    for name in ("q", "h", "t"):
        if type(fields[name]) is not int or not 0 <= fields[name] <= _NUMBER_MAX:
            raise BadEvent(f"field {name} is no number of 0…2⁶³−1")
    for name in ("ns", "pa"):
        if fields[name] is not None and not is_link(fields[name]):
            raise BadEvent(f"field {name} is neither null nor the id of an event")
    for name, most in (("k", KIND_CHARS_MAX), ("o", OBJECT_CHARS_MAX)):
        if type(fields[name]) is not str or not len(fields[name]) <= most:
            raise BadEvent(f"field {name} is no text of at most {most} characters")
    if not fields["k"]:
        raise BadEvent("field k is empty")
    session, parents, body = fields["s"], fields["p"], fields["b"]
    if type(session) is not bytes or len(session) != SESSION_BYTES or session[0] < 0x80:
        raise BadEvent(f"field s is no session ({SESSION_BYTES} bytes, first bit set)")
    if type(parents) is not list or len(parents) > PARENTS_MAX or not all(map(is_link, parents)):
        raise BadEvent(f"field p is no list of at most {PARENTS_MAX} event ids")
    if any(low >= high for low, high in pairwise(parents)):
        raise BadEvent("field p is not sorted and unique")
    if type(fields["a"]) is not str:
        raise BadEvent("field a is no peer id")
    try:
        public_key_of(fields["a"])
    except ValueError as error:
        raise BadEvent(f"field a: {error}") from error
    if type(body) is not dict:
        raise BadEvent("field b is no map")
    check_values(body)
    if encoded_bytes > PAYLOAD_BYTES_MAX and len(libipld.encode_dag_cbor(body)) > PAYLOAD_BYTES_MAX:
        raise BadEvent(f"the payload is longer than {PAYLOAD_BYTES_MAX} bytes; put it into a block", Reason.OVERSIZED)


def _check_link(value: bytes) -> None:
    try:
        check_cid(value)
    except BadContentId as error:
        raise BadEvent(f"bytes that could be taken for a link: {error.message}") from error
