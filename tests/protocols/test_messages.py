"""Every message of every protocol, in its place: what one side sends the other receives, in any pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocols.codec import encode
from protocols.errors import RemoteProtocolError
from protocols.frame import HEADER_BYTES_MAX, FrameReader, frame
from protocols.health import HEALTH
from protocols.machine import Closed, Link, NeedData, Payload, PayloadEnd, Received, Side
from protocols.message import CIDS_MAX, Error, Message, ProtocolSpec, Verb
from protocols.metadata import (
    BANDS_MAX,
    BUCKETS_MAX,
    EVENTS_MAX,
    HEADS_MAX,
    IDS_BYTES_MAX,
    METADATA,
    PEERS_MAX,
    AskTicket,
    Band,
    Compare,
    Compared,
    Differs,
    Events,
    Group,
    PeerRecord,
    Stored,
    Sync,
    Synced,
    Ticket,
    Welcome,
)
from protocols.query import QUERY
from protocols.shard_transfer import SHARD_TRANSFER

PROTOCOLS = (METADATA, SHARD_TRANSFER, QUERY, HEALTH)


def placed() -> Iterator[tuple[ProtocolSpec, Verb, type[Message]]]:
    """Each message in each exchange where it may stand."""
    for spec in PROTOCOLS:
        for verb in spec.verbs:
            for kind in (verb.request, *verb.uploads, *verb.replies, *verb.final, Error):
                yield spec, verb, kind


PLACES = [pytest.param(*place, id=f"{place[1].request.verb()}-{place[2].verb()}") for place in placed()]


def values(info: msgspec.inspect.Type) -> st.SearchStrategy[Any]:
    """Any value that a field of this type may have (lists kept short)."""
    match info:
        case msgspec.inspect.StructType():
            fields = {field.name: values(field.type) for field in info.fields if field.required}
            optional = {field.name: values(field.type) for field in info.fields if not field.required}
            return st.fixed_dictionaries(fields, optional=optional).map(lambda given: info.cls(**given))
        case msgspec.inspect.StrType():
            return st.text(min_size=info.min_length or 0, max_size=min(info.max_length or 40, 40))
        case msgspec.inspect.BytesType():
            return st.binary(min_size=info.min_length or 0, max_size=min(info.max_length or 40, 40))
        case msgspec.inspect.IntType():
            return st.integers(info.ge if info.ge is not None else -(1 << 63), info.le or (1 << 63) - 1)
        case msgspec.inspect.FloatType():
            return st.floats(allow_nan=False)
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.NoneType():
            return st.none()
        case msgspec.inspect.ListType():
            return st.lists(values(info.item_type), max_size=4)
        case msgspec.inspect.TupleType():
            return st.tuples(*(values(item) for item in info.item_types))
        case msgspec.inspect.DictType():
            return st.dictionaries(values(info.key_type), values(info.value_type), max_size=4)
        case msgspec.inspect.UnionType():
            return st.one_of(*(values(member) for member in info.types))
    raise AssertionError(f"no values of {info}")


def messages(kind: type[Message]) -> st.SearchStrategy[Message]:
    return values(msgspec.inspect.type_info(kind))


def drain(link: Link) -> Iterator[Any]:
    """Events until more data is needed, each payload as its bytes."""
    while not isinstance(event := link.next_event(), NeedData | Closed):
        yield bytes(event.data) if isinstance(event, Payload) else event


def verdict(link: Link) -> str | None:
    """Read all there is; the code of the refusal, if it comes to one."""
    try:
        list(drain(link))
    except RemoteProtocolError as error:
        return error.code
    return None


def hear(link: Link, wire: bytes, step: int) -> list[Any]:
    """Feed `wire` in steps; pieces of payload joined into one."""
    heard: list[Any] = []
    for start in range(0, len(wire), step):
        link.receive_data(wire[start : start + step])
        for event in drain(link):
            if isinstance(event, bytes) and heard and isinstance(heard[-1], bytes):
                heard[-1] += event
            else:
                heard.append(event)
    return heard


def at(spec: ProtocolSpec, verb: Verb, kind: type[Message], sample: Any) -> tuple[Link, Link]:
    """(speaker, hearer) at the point of the exchange where `kind` may be said."""
    asker, answerer = Link(spec, Side.ASKER), Link(spec, Side.ANSWERER)
    if kind is verb.request:
        return asker, answerer
    hear(answerer, asker.send(sample(verb.request)), HEADER_BYTES_MAX)
    return (asker, answerer) if kind in verb.uploads else (answerer, asker)


@pytest.mark.parametrize(("spec", "verb", "kind"), PLACES)
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_is_sent_is_received_whole_or_byte_by_byte(
    spec: ProtocolSpec, verb: Verb, kind: type[Message], data: st.DataObject, sample: Any
) -> None:
    message = data.draw(messages(kind))
    most = dict(verb.payload_max).get(kind, 0)
    payload = data.draw(st.binary(max_size=min(most, 100)))
    expected: list[Any] = [Received(message, len(payload))]
    if payload:
        expected += [payload, PayloadEnd()]
    for step in (1, data.draw(st.integers(2, 50)), HEADER_BYTES_MAX):
        speaker, hearer = at(spec, verb, kind, sample)
        wire = speaker.send(message, len(payload)) + payload
        speaker.send_payload(payload)
        assert hear(hearer, wire, step) == expected
        assert speaker.idle == hearer.idle == (kind in (*verb.final, Error))


@pytest.mark.parametrize(("spec", "verb", "kind"), PLACES)
def test_fields_that_a_newer_peer_adds_are_ignored(
    spec: ProtocolSpec, verb: Verb, kind: type[Message], sample: Any
) -> None:
    _, hearer = at(spec, verb, kind, sample)
    word, payload_bytes, body = msgpack.unpackb(encode(sample(kind)))
    newer = msgpack.packb([word, payload_bytes, body | {"since_1_1": {"deep": [1, None, b"x"]}}, "appended"])
    assert hear(hearer, frame(newer), HEADER_BYTES_MAX) == [Received(sample(kind))]


@pytest.mark.parametrize(("spec", "verb", "kind"), PLACES)
def test_the_end_inside_a_message_is_truncation(
    spec: ProtocolSpec, verb: Verb, kind: type[Message], sample: Any
) -> None:
    payload = bytes(min(dict(verb.payload_max).get(kind, 0), 10))
    speaker, _ = at(spec, verb, kind, sample)
    wire = speaker.send(sample(kind), len(payload)) + payload
    for length in range(1, len(wire)):
        _, hearer = at(spec, verb, kind, sample)
        hear(hearer, wire[:length], HEADER_BYTES_MAX)
        hearer.receive_data(b"")
        with pytest.raises(RemoteProtocolError) as caught:
            hearer.next_event()
        assert caught.value.code == "truncated"


@pytest.mark.parametrize(("spec", "verb", "kind"), PLACES)
def test_one_byte_of_payload_beyond_the_bound_is_refused_by_both_sides(
    spec: ProtocolSpec, verb: Verb, kind: type[Message], sample: Any
) -> None:
    most = dict(verb.payload_max).get(kind, 0)
    speaker, hearer = at(spec, verb, kind, sample)
    hearer.receive_data(frame(encode(sample(kind), most + 1)))
    with pytest.raises(RemoteProtocolError) as caught:
        hearer.next_event()
    assert caught.value.code == "payload_too_large"
    with pytest.raises(Exception, match=f"at most {most} are allowed"):
        speaker.send(sample(kind), most + 1)
    _, hearer = at(spec, verb, kind, sample)
    hearer.receive_data(speaker.send(sample(kind), most))
    assert hearer.next_event() == Received(sample(kind), most)


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from([(spec, side) for spec in PROTOCOLS for side in Side]),
    st.lists(st.binary(max_size=60), max_size=6),
    st.data(),
)
def test_garbage_ends_in_a_remote_error_at_worst(
    role: tuple[ProtocolSpec, Side], chunks: list[bytes], data: st.DataObject
) -> None:
    spec, side = role
    link = Link(spec, side)
    words = sorted({kind.verb() for verb in spec.verbs for kind in (verb.request, *verb.uploads, *verb.final)})
    for chunk in chunks:
        if data.draw(st.booleans()):
            body = data.draw(st.dictionaries(st.sampled_from(["cid", "sizes", "count", "code"]), st.integers(0, 9)))
            chunk = frame(msgpack.packb([data.draw(st.sampled_from(words)), len(chunk), body])) + chunk
        if chunk:
            link.receive_data(chunk)
            if verdict(link) is not None:
                assert not link.idle
                assert verdict(link) is not None
                return


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_bit_turned_anywhere_ends_in_a_remote_error_at_worst(data: st.DataObject) -> None:
    spec = data.draw(st.sampled_from(PROTOCOLS))
    verb = data.draw(st.sampled_from(spec.verbs))
    wire = bytearray(frame(encode(data.draw(messages(verb.request)))))
    wire[data.draw(st.integers(0, len(wire) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    link = Link(spec, Side.ANSWERER)
    link.receive_data(wire)
    assert verdict(link) in {
        None,
        "bad_header",
        "bad_message",
        "header_too_large",
        "payload_too_large",
        "unexpected_message",
    }


CID = b"\x01" * 36
PEER_ID = "12D3KooW" + "x" * 44
LARGEST = [
    Sync(genesis=CID, count=1 << 40, fingerprint=bytes(32), heads=[CID] * HEADS_MAX),
    Differs(
        count=1 << 40,
        fingerprint=bytes(32),
        heads=[CID] * HEADS_MAX,
        salt=bytes(16),
        digests=bytes(8 * BUCKETS_MAX),
    ),
    Compare(salt=bytes(16), bits=10, groups=[Group(BUCKETS_MAX - 1, 1 << 40)] * BUCKETS_MAX),
    Compared(known=bytes(IDS_BYTES_MAX // 32 // 8), others=[1 << 40] * BUCKETS_MAX),
    Welcome(
        node_id="n" * 128,
        role="coordinator",
        peers=[PeerRecord(PEER_ID, "n" * 40, "coordinator", ["/ip4/255.255.255.255/tcp/65535/p2p/" + PEER_ID] * 5)]
        * PEERS_MAX,
    ),
    Synced(count=1 << 40, fingerprint=bytes(32), bands=[Band(1 << 40, 1 << 40, 1 << 40, bytes(16))] * BANDS_MAX),
    Events(sizes=[1 << 16] * EVENTS_MAX),
    Stored(durable=[CID] * EVENTS_MAX, waiting=[CID] * EVENTS_MAX, refused=[CID] * EVENTS_MAX),
    AskTicket(dataset_id="ds-" + "a" * 26, bytes=1 << 62, cids=[CID] * CIDS_MAX),
    Ticket(ticket=bytes(512 << 10)),
]


@pytest.mark.parametrize("message", LARGEST, ids=lambda message: message.verb())
def test_the_largest_honest_lists_fit_a_header(message: Message) -> None:
    wire = frame(encode(message))
    reader = FrameReader()
    reader.feed(wire)
    assert len(reader.header() or b"") < HEADER_BYTES_MAX * 0.75
