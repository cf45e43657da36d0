from __future__ import annotations

import libipld
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootstrap.identity import Identity
from p2pnode.core.conduct import Reason
from p2pnode.core.event import (
    DEPTH_MAX,
    PARENTS_MAX,
    PAYLOAD_BYTES_MAX,
    WIRE_BYTES_MAX,
    BadEvent,
    Position,
    check_signature,
    compose,
    mint_session,
    next_time,
    parse,
    parse_signed,
    split_wires,
)
from p2pnode.errors import UsageError

IDENTITY = Identity.from_seed(bytes(range(32)))
LINK = b"\x01\x71\x12\x20" + bytes(32)
POSITION = Position(sequence=4, previous=LINK, parents=(LINK,), height=9)


def an_event(body=None, position=POSITION, **changes):
    fields = {"kind": "define", "object_id": "ds-a", "time": 7, "session": b"\x80" + bytes(15), **changes}
    return compose(
        namespace=LINK,
        author=IDENTITY.peer_id,
        position=position,
        body={"x": 1} if body is None else body,
        sign=IDENTITY.sign,
        **fields,
    )


def with_field(name, value):
    """Wire bytes of an event that is well encoded but for one field."""
    fields = libipld.decode_dag_cbor(an_event().encoded)
    fields[name] = value
    return libipld.encode_dag_cbor(fields) + bytes(64)


def test_parse_gives_back_what_was_composed():
    event = an_event({"a": [1, "x", None, True, b"\xff\x00"], "link": LINK})
    again = parse_signed(event.wire)
    assert again == event
    assert (again.body, again.height, again.parents, again.previous) == (event.body, 9, (LINK,), LINK)
    assert again.past == (LINK,), "the previous event is not counted twice"


def test_the_signature_lies_outside_the_id():
    event = an_event()
    resigned = parse(event.encoded + bytes(64))
    assert resigned.id == event.id
    with pytest.raises(BadEvent, match="signature"):
        check_signature(resigned)


def test_a_signature_over_the_bare_bytes_is_not_enough():
    event = an_event()
    with pytest.raises(BadEvent, match="signature"):
        parse_signed(event.encoded + IDENTITY.sign(event.encoded))


@given(position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(position, flip):
    wire = bytearray(an_event().wire)
    wire[position % len(wire)] ^= flip
    with pytest.raises(BadEvent):
        parse_signed(bytes(wire))


@given(st.binary(max_size=300))
def test_any_bytes_are_an_event_or_a_bad_event(data):
    with pytest.raises(BadEvent):
        parse_signed(data)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("v", 2),
        ("v", "1"),
        ("v", True),
        ("v", 1.0),
        ("ns", b"short"),
        ("ns", LINK[:35]),
        ("a", "12D3KooW"),
        ("a", 5),
        ("s", bytes(16)),
        ("s", b"\x80"),
        ("q", -1),
        ("q", True),
        ("q", 1 << 63),
        ("pa", b""),
        ("p", [LINK, LINK]),
        ("p", [LINK[:35] + b"\x01", LINK]),
        ("p", [b"\x01\x55\x1e\x20" + bytes(32)]),
        ("p", [LINK[:35] + bytes([n]) for n in range(PARENTS_MAX + 1)]),
        ("h", 1.0),
        ("t", None),
        ("k", ""),
        ("k", "k" * 33),
        ("o", "o" * 129),
        ("b", []),
        ("extra", 1),
    ],
)
def test_a_field_out_of_bounds_is_refused(name, value):
    with pytest.raises(BadEvent):
        parse(with_field(name, value))


@pytest.mark.parametrize(
    ("wire", "fault"),
    [
        (lambda: an_event().wire[:-1] + b"x", Reason.BAD_SIGNATURE),
        (lambda: bytes(WIRE_BYTES_MAX + 1), Reason.OVERSIZED),
        (lambda: bytes(64), Reason.MALFORMED),
        (lambda: with_field("v", 2), Reason.NEWER),
        (lambda: with_field("v", 0), Reason.MALFORMED),
        (lambda: with_field("v", True), Reason.MALFORMED),
        (lambda: with_field("h", -1), Reason.MALFORMED),
    ],
)
def test_a_refusal_names_its_fault(wire, fault):
    with pytest.raises(BadEvent) as refused:
        parse_signed(wire())
    assert refused.value.fault is fault


def test_a_missing_field_is_refused():
    fields = libipld.decode_dag_cbor(an_event().encoded)
    del fields["t"]
    with pytest.raises(BadEvent):
        parse(libipld.encode_dag_cbor(fields) + bytes(64))


def test_a_second_spelling_of_the_same_value_is_refused():
    event = an_event()
    at = event.encoded.index(b"\x61h\x09") + 2
    longer = event.encoded[:at] + b"\x18\x09" + event.encoded[at + 1 :]
    assert libipld.decode_dag_cbor(longer) == libipld.decode_dag_cbor(event.encoded)
    with pytest.raises(BadEvent, match="canonical"):
        parse(longer + bytes(64))


def test_the_payload_bound_is_exact():
    overhead = len(libipld.encode_dag_cbor({"x": bytes(60_000)})) - 60_000
    parents = tuple(LINK[:35] + bytes([n]) for n in range(PARENTS_MAX))
    largest = an_event(
        {"x": bytes(PAYLOAD_BYTES_MAX - overhead)},
        Position(2**62, LINK[:35] + b"\xff", parents, 2**62),
        object_id="ö" * 128,
        kind="ö" * 32,
        time=2**63 - 1,
    )
    assert len(largest.wire) <= WIRE_BYTES_MAX
    with pytest.raises(UsageError, match="block"):
        an_event({"x": bytes(PAYLOAD_BYTES_MAX - overhead + 1)})


@pytest.mark.parametrize(
    "value",
    [
        b"\x01",
        LINK[:-1],
        LINK + b"\x00",
        b"\x01\x55\x00\x00",  # an identity hash of nothing
        b"\x01\x71\x1b\x20" + bytes(32),  # a hash that nobody here mints
        b"\x12\x20" + bytes(32),  # version 0
    ],
)
def test_bytes_that_could_be_taken_for_a_link_are_refused(value):
    for body in ({"x": value}, {"x": [{"y": [value]}]}):
        with pytest.raises(BadEvent, match="taken for a link"):
            parse(with_field("b", body))


@given(st.binary(max_size=80))
def test_what_passes_as_plain_bytes_is_no_link_to_any_reader(value):
    try:
        an_event({"x": value})
    except UsageError:
        assert value[:1] == b"\x01" or value[:2] == b"\x12\x20"
        return
    assert libipld.encode_dag_cbor(value)[:1] != b"\xd8" or len(value) == len(LINK)


def test_the_bound_on_nesting_is_exact_and_the_same_for_everybody():
    def nested(levels, make):
        body = make([])
        for _ in range(levels - 2):
            body = make(body)
        return {"x": body}

    for make in (lambda inner: [inner], lambda inner: {"y": inner}):
        parse(with_field("b", nested(DEPTH_MAX - 1, make)))
        with pytest.raises(BadEvent, match="nests deeper"):
            parse(with_field("b", nested(DEPTH_MAX, make)))


def test_a_deep_payload_is_refused_without_a_crash():
    deep = b"\x81" * 60_000 + b"\x01"
    encoded = an_event({"x": 1}).encoded.replace(b"\x61x\x01", b"\x61x" + deep)
    with pytest.raises(BadEvent):
        parse(encoded + bytes(64))


def test_cut_takes_the_payload_apart_exactly():
    assert split_wires(b"abcdef", [1, 3, 2]) == [b"a", b"bcd", b"ef"]
    with pytest.raises(BadEvent):
        split_wires(b"abcdef", [1, 3])


def test_a_session_never_looks_like_a_content_id():
    token = b"\x01\x71\x12\x0c" + bytes(12)
    assert libipld.encode_dag_cbor(token)[:1] == b"\xd8", "as it stands it would be encoded as a link"
    assert libipld.encode_dag_cbor(mint_session(token))[:1] == b"\x50"


def test_time_goes_on_when_the_wall_clock_does_not():
    now = next_time(1_700_000_000.0, 0)
    assert now >> 16 == 1_700_000_000_000
    assert next_time(1_600_000_000.0, now) == now + 1
