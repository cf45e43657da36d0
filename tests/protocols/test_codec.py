"""Headers of hostile making: each is refused by name, at the price of its own bytes and no more."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.codec import VERB_CHARS_MAX, decode_body, decode_envelope, encode
from protocols.errors import BAD_HEADER, BAD_MESSAGE, LocalProtocolError, RemoteProtocolError
from protocols.health import CLAIMS_MAX, Claim, Ping
from protocols.message import Error, Message
from protocols.metadata import AskTicket, Events

PEER = "12D3KooWExample"


def header(body: Any, verb: Any = "ping", payload_bytes: Any = 0) -> bytes:
    """A header by another implementation of MessagePack."""
    return msgpack.packb([verb, payload_bytes, body])


def read(kind: type[Message], wire: bytes) -> Message:
    return decode_body(kind, decode_envelope(wire).body)


def test_a_header_is_an_array_of_verb_payload_size_and_a_map_without_defaults() -> None:
    wire = encode(Ping(incarnation=3, claims=[Claim(PEER, "alive", 2)]), 7)
    assert msgpack.unpackb(wire) == ["ping", 7, {"incarnation": 3, "claims": [[PEER, "alive", 2]]}]


def test_another_implementation_s_header_reads_the_same() -> None:
    assert read(Ping, header({"incarnation": 3, "claims": [[PEER, "alive", 2]]})) == Ping(
        incarnation=3, claims=[Claim(PEER, "alive", 2)]
    )


def test_what_a_newer_peer_adds_is_ignored() -> None:
    wire = msgpack.packb(
        [
            "ping",
            0,
            {"incarnation": 1, "mood": {"very": ["good"] * 50}, "ext": msgpack.ExtType(4, b"x")},
            "more",
        ]
    )
    assert read(Ping, wire) == Ping(incarnation=1)


def test_unknown_text_that_is_not_utf8_is_ignored_too() -> None:
    assert read(Ping, b"\x93\xa4ping\x00\x82\xabincarnation\x01\xa2\xff\xfe\xa1\xff") == Ping(incarnation=1)


@pytest.mark.parametrize(
    "wire",
    [
        b"\xc1",
        b"\xc0",
        b"\x93\xa4ping\x00",
        header({})[:-1],
        header({}) + b"\x00",
        msgpack.packb({"verb": "ping"}),
        msgpack.packb(["ping", 0]),
        msgpack.packb([]),
        header({}, verb=7),
        header({}, verb=""),
        header({}, verb="v" * (VERB_CHARS_MAX + 1)),
        header({}, verb=b"ping"),
        b"\x93\xa2\xff\xfe\x00\x80",
        header({}, payload_bytes=-1),
        header({}, payload_bytes=1 << 63),
        header({}, payload_bytes=1.0),
        header({}, payload_bytes=None),
        header({}, payload_bytes=True),
        b"\x91" * 100_000 + b"\xc0",
        b"\x93\xa4ping\x00" + b"\x91" * 100_000 + b"\xc0",
        b"\xdd\xff\xff\xff\xff",
        b"\x93\xa4ping\x00\xdf\xff\xff\xff\xff",
    ],
    ids=lambda wire: wire[:12].hex(),
)
def test_what_is_no_envelope_is_a_bad_header(wire: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_envelope(wire)
    assert caught.value.code == BAD_HEADER


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Ping, {}),
        (Ping, []),
        (Ping, None),
        (Ping, {"incarnation": "3"}),
        (Ping, {"incarnation": -1}),
        (Ping, {"incarnation": 1 << 63}),
        (Ping, {"incarnation": 1.5}),
        (Ping, {"incarnation": 1, "claims": [[PEER, "alive"]]}),
        (Ping, {"incarnation": 1, "claims": [[PEER, "alive", 1]] * (CLAIMS_MAX + 1)}),
        (Ping, {"incarnation": 1, "claims": {PEER: 1}}),
        (Ping, {"incarnation": 1, "holdings": "text"}),
        (Ping, {"incarnation": 1, "holdings": bytes(33)}),
        (Ping, {"incarnation": 1, 5: 5}),
        (Error, {"code": "c" * 65}),
        (Error, {"code": "c", "details": {1: 1}}),
        (Error, {"code": "c", "details": {"nested": {"map": 1}}}),
        (Error, {"code": "c", "retryable": 1}),
        (AskTicket, {"dataset_id": "d", "bytes": 1, "cids": [b"abc"]}),
    ],
    ids=str,
)
def test_a_body_that_does_not_fit_its_verb_is_a_bad_message(kind: type[Message], body: Any) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        read(kind, header(body))
    assert caught.value.code == BAD_MESSAGE


def test_text_in_a_known_field_must_be_utf8() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        read(Error, b"\x93\xa5error\x00\x81\xa4code\xa2\xff\xfe")
    assert caught.value.code == BAD_MESSAGE


#: A field, then the most that MessagePack can declare with few bytes.
DECLARED = {
    "array32": b"\xdd\xff\xff\xff\xff",
    "array of 16 million": b"\xdd\x01\x00\x00\x00",
    "map32": b"\xdf\xff\xff\xff\xff",
    "text32": b"\xdb\xff\xff\xff\xff",
    "bytes32": b"\xc6\xff\xff\xff\xff",
    "ext32": b"\xc9\xff\xff\xff\xff\x01",
    "arrays of 65,535 in each other": b"\xdc\xff\xff" * 5000,
    "maps in each other": b"\x81\xa1a" * 30_000,
}


@pytest.mark.parametrize("declared", DECLARED.values(), ids=DECLARED.keys())
@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        (Ping, b"\x82\xabincarnation\x01\xa6claims"),
        (Ping, b"\x82\xabincarnation\x01\xa7unknown"),
        (Events, b"\x81\xa5sizes"),
        (Error, b"\x82\xa4code\xa1c\xa7details"),
        (Error, b"\x82\xa4code\xa1c\xa7details\x81\xa1k"),
    ],
    ids=["a bounded list", "an unknown field", "sizes", "details", "a list in details"],
)
def test_declared_sizes_reserve_nothing(kind: type[Message], prefix: bytes, declared: bytes) -> None:
    wire = b"\x93\xa4verb\x00" + prefix + declared
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            read(kind, wire)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_a_mebibyte_of_empty_maps_in_an_unknown_field_costs_nothing() -> None:
    count = (1 << 20) - 100
    wire = b"\x93\xa4ping\x00\x82\xabincarnation\x01\xa7unknown\xdd" + count.to_bytes(4, "big") + b"\x80" * count
    tracemalloc.start()
    try:
        assert read(Ping, wire) == Ping(incarnation=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_never_more_than_a_remote_error(garbage: bytes) -> None:
    for wire in (garbage, b"\x93\xa4ping\x00" + garbage):
        for kind in (Ping, Error, Events, AskTicket):
            try:
                read(kind, wire)
            except RemoteProtocolError:
                pass  # anything else would fail this test


@pytest.mark.parametrize(
    "message",
    [
        Ping(incarnation=-1),
        Ping(incarnation=1 << 70),
        Ping(incarnation="1"),  # type: ignore[arg-type]
        Ping(incarnation=1, holdings=bytes(33)),
        Ping(incarnation=1, claims=[Claim(PEER, "alive", 1)] * (CLAIMS_MAX + 1)),
        Error(code="c", message="\ud800"),
        Error(code="c", details={"what": object()}),  # type: ignore[dict-item]
    ],
    ids=lambda message: repr(message)[:50],
)
def test_what_no_peer_would_read_is_not_sent(message: Message) -> None:
    with pytest.raises(LocalProtocolError):
        encode(message)
