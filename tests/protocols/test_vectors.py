"""Golden messages: the bytes that another implementation can test itself against.

The vectors are the contract, so this test never rewrites them. A message that changes on purpose (a new field
with a default changes nothing here) is recorded anew by running this file: `python
tests/protocols/test_vectors.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest

import protocols
from protocols.codec import encode
from protocols.errors import RemoteProtocolError
from protocols.frame import FrameReader, frame
from protocols.health import (
    HEALTH,
    AskHoldings,
    AskStatus,
    Claim,
    Holdings,
    Ping,
    Pong,
    Probe,
    Probed,
    Status,
)
from protocols.machine import Link, Received, Side, UnknownVerb
from protocols.message import Error, Message, ProtocolSpec
from protocols.metadata import (
    METADATA,
    Accepted,
    AskTicket,
    Band,
    Block,
    Compare,
    Compared,
    Differs,
    Events,
    Group,
    Hello,
    PeerRecord,
    Propose,
    Push,
    Stored,
    Sync,
    Synced,
    Ticket,
    WantBand,
    WantBlock,
    WantEvents,
    Welcome,
)
from protocols.query import QUERY, Batch, Done, FragmentTable, Run
from protocols.shard_transfer import (
    SHARD_TRANSFER,
    AskOutline,
    Bytes,
    Get,
    Have,
    Holding,
    Outline,
    Piece,
    Put,
    Ready,
    Receipt,
)
from protocols.table import table_of

VECTORS = Path(protocols.__file__).parent / "vectors"

ALICE = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
BOB = "12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5"
ADDRESS = "/ip4/192.0.2.7/tcp/4001/p2p/" + ALICE
GENESIS = bytes.fromhex("01711220") + bytes(range(32))
EVENT = bytes.fromhex("01711220") + bytes(range(32, 64))
MANIFEST = bytes.fromhex("01711220") + bytes(range(64, 96))
SHARD = bytes.fromhex("01701e20") + bytes(range(32))
OTHER_SHARD = bytes.fromhex("01701e20") + bytes(range(128, 160))
DIGEST = bytes(range(200, 232))
SALT = bytes(range(8))
CLAIMS = [Claim(ALICE, "alive", 3), Claim(BOB, "suspect", 0)]
SIGNATURE = bytes(range(64))

Example = tuple[str, Message, bytes]

#: name, message, payload: every message of every protocol, most of them with every field in use.
EXAMPLES: dict[ProtocolSpec, list[Example]] = {
    METADATA: [
        ("hello from a newcomer", Hello(node_id="ada", role="worker"), b""),
        (
            "hello",
            Hello(node_id="ada", role="hybrid", agent="p2pnode/0.1.0", genesis=GENESIS, addresses=[ADDRESS]),
            b"",
        ),
        (
            "welcome",
            Welcome(
                node_id="bob",
                role="coordinator",
                agent="p2pnode/0.1.0",
                genesis=GENESIS,
                addresses=[],
                peers=[PeerRecord(ALICE, "ada", "hybrid", [ADDRESS]), PeerRecord(BOB, "Bø b", "worker")],
            ),
            b"",
        ),
        ("sync", Sync(genesis=GENESIS, count=8, fingerprint=DIGEST, heads=[EVENT]), b""),
        ("sync by a newcomer", Sync(genesis=GENESIS, count=0, fingerprint=b""), b""),
        ("events", Events(sizes=[3, 5]), b"onetwoto"),
        ("synced", Synced(count=8, fingerprint=DIGEST), b""),
        (
            "synced with bands to come",
            Synced(
                count=10_000,
                fingerprint=DIGEST,
                bands=[Band(1, 2050, 2048, bytes(range(16))), Band(2050, 9000, 7952, bytes(16))],
            ),
            b"",
        ),
        (
            "differs",
            Differs(count=9, fingerprint=DIGEST, heads=[GENESIS, EVENT], salt=SALT, digests=bytes(range(32))),
            b"",
        ),
        (
            "compare",
            Compare(salt=SALT, bits=2, groups=[Group(0, 2), Group(3, 0)]),
            GENESIS[4:] + EVENT[4:] + MANIFEST[4:],
        ),
        ("compare events alone", Compare(), EVENT[4:]),
        ("compared", Compared(known=b"\x05", others=[1, 0]), EVENT[4:]),
        ("compared events alone", Compared(known=b"\x01"), b""),
        ("want_events", WantEvents(wanted=1), EVENT[4:] + GENESIS[4:]),
        ("want_band", WantBand(low=2050, high=9000), b""),
        ("push", Push(sizes=[3]), b"one"),
        ("push by the author", Push(sizes=[3], wide=True), b"one"),
        ("stored", Stored(durable=[EVENT], waiting=[GENESIS], refused=[MANIFEST]), b""),
        ("want_block", WantBlock(cid=MANIFEST), b""),
        ("block", Block(cid=MANIFEST), b"\xa1\x61v\x01"),
        ("block not found", Block(cid=MANIFEST, found=False), b""),
        ("propose", Propose(kind="define", signature=SIGNATURE), b"\xa1dnamedtaxi"),
        ("accepted", Accepted(), b"\xa0"),
        (
            "ask_ticket",
            AskTicket(dataset_id="ds-aaaaaaaaaaaaaaaaaaaaaaaaaa", cids=[SHARD, OTHER_SHARD], bytes=1 << 33),
            b"",
        ),
        ("ticket", Ticket(ticket=b"signed leave"), b""),
        ("error", Error(code="genesis_mismatch", message="two swarms met"), b""),
    ],
    SHARD_TRANSFER: [
        ("have", Have(cids=[SHARD, OTHER_SHARD]), b""),
        ("holding", Holding(present=[True, False]), b""),
        ("ask_outline", AskOutline(cid=SHARD), b""),
        ("outline", Outline(size=1_500_000), bytes(range(64))),
        ("get a range", Get(cid=SHARD, offset=1 << 20, length=451_424), b""),
        ("get all", Get(cid=SHARD), b""),
        ("bytes", Bytes(size=1_500_000, offset=1_499_995), b"PAR1\x00"),
        ("put by a member", Put(cid=SHARD, size=1_500_000), bytes(range(64))),
        ("put by a client", Put(cid=SHARD, size=9, format="arrow", ticket=b"signed leave"), bytes(32)),
        ("ready", Ready(offset=1 << 20), b""),
        ("piece", Piece(offset=4), b"tail!"),
        ("receipt", Receipt(signature=SIGNATURE), b"\xa1drows\x0c"),
        ("error", Error(code="storage_failed", message="no space left", retryable=False), b""),
    ],
    QUERY: [
        (
            "run",
            Run(
                sql="SELECT count(*) FROM t0",
                tables=[
                    FragmentTable("t0", [SHARD, OTHER_SHARD], [("carrier", "VARCHAR"), ("delay", "DOUBLE")], "arrow")
                ],
                timeout_ms=5000,
            ),
            b"",
        ),
        ("run with defaults", Run(sql="SELECT 1", tables=[FragmentTable("t", [])]), b""),
        ("batch", Batch(), b"\xff\xff\xff\xff\x00\x00\x00\x00"),
        ("done", Done(rows=336_776, shards=2, bytes_scanned=7_000_000, elapsed_ms=12.5), b""),
        (
            "error",
            Error(
                code="shard_unavailable",
                message="1 shard is not here",
                retryable=True,
                details={"missing": ["ab"], "coverage": 0.5},
            ),
            b"",
        ),
    ],
    HEALTH: [
        ("ping", Ping(incarnation=3), b""),
        ("ping with gossip", Ping(incarnation=3, claims=CLAIMS, holdings=DIGEST), b""),
        ("pong", Pong(incarnation=1 << 52, claims=CLAIMS, holdings=DIGEST), b""),
        ("probe", Probe(peer_id=BOB, timeout_ms=300), b""),
        ("probed", Probed(answered=True), b""),
        ("ask_status", AskStatus(), b""),
        (
            "status",
            Status(
                node_id="ada",
                status="healthy",
                cpu_usage=12.5,
                memory_usage=40.25,
                disk_usage=71.0,
                network_usage=0.0,
                loop_lag_ms=1.5,
                uptime_s=3600.0,
                shards=16,
                shard_bytes=1 << 30,
                process_rss_bytes=190 << 20,
            ),
            b"",
        ),
        ("ask_holdings", AskHoldings(digest=DIGEST), b""),
        ("holdings", Holdings(digest=DIGEST, count=2), SHARD + OTHER_SHARD),
        ("holdings unchanged", Holdings(digest=DIGEST, count=2), b""),
        ("error", Error(code="busy", message="later", retryable=True, details={"retry_after_s": 0.5}), b""),
    ],
}

PING = {"incarnation": 1}
CROWD = {"incarnation": 1, "claims": [[BOB, "dead", 0]] * 33}
SKIP = 32 << 20


def header(*elements: Any) -> bytes:
    """A header by another implementation of MessagePack."""
    return msgpack.packb(list(elements))


#: What an answerer of the health protocol makes of a first frame that is not quite as `encode` writes it.
TOLERATED: list[tuple[str, bytes, dict[str, str]]] = [
    ("a field from the future", frame(header("ping", 0, PING | {"mood": 5})), {"received": "ping"}),
    ("an element from the future", frame(header("ping", 0, PING, 5)), {"received": "ping"}),
    (
        "integers in a long form",
        frame(b"\x93\xa4ping\xcd\x00\x00\x81\xabincarnation\xce\x00\x00\x00\x01"),
        {"received": "ping"},
    ),
    ("a verb from the future", frame(header("quantum", 3, {"x": 1})) + b"abc", {"unknown": "quantum"}),
]
#: And of one that is not at all what it should be.
REFUSED: list[tuple[str, bytes, str]] = [
    ("an empty header", b"\x00", "bad_header"),
    ("a length in a padded form", b"\x93\x00" + header("ping", 0, PING), "bad_header"),
    ("not MessagePack", frame(b"GET / HTTP/1.1\r\n"), "bad_header"),
    ("a map where the array belongs", frame(msgpack.packb({"verb": "ping"})), "bad_header"),
    ("bytes after the array", frame(header("ping", 0, PING) + b"\x00"), "bad_header"),
    ("a negative payload", frame(header("ping", -1, PING)), "bad_header"),
    ("a length of 1 MiB and one byte", b"\x81\x80\x40", "header_too_large"),
    ("a missing field", frame(header("ping", 0, {})), "bad_message"),
    ("a wrong type", frame(header("ping", 0, {"incarnation": "1"})), "bad_message"),
    ("text that is not UTF-8", frame(b"\x93\xa5probe\x00\x81\xa7peer_id\xa8" + b"\xff" * 8), "bad_message"),
    ("a list beyond its bound", frame(header("ping", 0, CROWD)), "bad_message"),
    ("a payload that a ping may not have", frame(header("ping", 1, PING)), "payload_too_large"),
    ("an unknown verb too large to skip", frame(header("quantum", SKIP + 1, {})), "payload_too_large"),
    ("an answer without a question", frame(header("pong", 0, PING)), "unexpected_message"),
    ("an error without a question", frame(header("error", 0, {"code": "busy"})), "unexpected_message"),
]
EDGES = TOLERATED + [(name, wire, {"refused": code}) for name, wire, code in REFUSED]


def as_json(value: Any) -> Any:
    """MessagePack's values in JSON: bytes become {"hex": …}."""
    match value:
        case bytes():
            return {"hex": value.hex()}
        case list() | tuple():
            return [as_json(item) for item in value]
        case dict():
            return {key: as_json(item) for key, item in value.items()}
    return value


def record() -> None:
    """Write every vector anew from EXAMPLES and EDGES."""
    VECTORS.mkdir(exist_ok=True)
    for spec, examples in EXAMPLES.items():
        vectors = [
            {
                "name": name,
                "verb": message.verb(),
                "body": as_json(msgpack.unpackb(encode(message))[2]),
                "payload_bytes": len(payload),
                "frame": frame(encode(message, len(payload))).hex(),
                "payload": payload.hex(),
            }
            for name, message, payload in examples
        ]
        _write(spec.name, {"protocol": spec.protocol_id, "vectors": vectors})
    edges = [{"name": name, "wire": wire.hex(), "outcome": outcome} for name, wire, outcome in EDGES]
    _write("edges", {"protocol": HEALTH.protocol_id, "side": "answerer", "vectors": edges})


def _write(name: str, document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=1, ensure_ascii=False)
    (VECTORS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def recorded(name: str) -> dict[str, Any]:
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


CASES = [
    pytest.param(spec, example, id=f"{spec.name}: {example[0]}")
    for spec, examples in EXAMPLES.items()
    for example in examples
]


@pytest.mark.parametrize(("spec", "example"), CASES)
def test_the_recorded_bytes_are_what_is_written_and_what_is_read(spec: ProtocolSpec, example: Example) -> None:
    name, message, payload = example
    (vector,) = [one for one in recorded(spec.name)["vectors"] if one["name"] == name]
    wire = bytes.fromhex(vector["frame"])
    assert frame(encode(message, len(payload))) == wire
    assert bytes.fromhex(vector["payload"]) == payload

    reader = FrameReader()
    reader.feed(wire)
    header = reader.header()
    assert header is not None
    word, payload_bytes, body = msgpack.unpackb(header)
    assert (word, payload_bytes, as_json(body)) == (vector["verb"], vector["payload_bytes"], vector["body"])
    kind = table_of(spec).words[word]
    assert msgspec.convert(body, kind) == message


@pytest.mark.parametrize("spec", EXAMPLES, ids=lambda spec: spec.name)
def test_every_message_has_a_vector_and_no_vector_is_stale(spec: ProtocolSpec) -> None:
    document = recorded(spec.name)
    assert document["protocol"] == spec.protocol_id
    assert {vector["verb"] for vector in document["vectors"]} == set(table_of(spec).words)
    assert [vector["name"] for vector in document["vectors"]] == [name for name, _, _ in EXAMPLES[spec]]


@pytest.mark.parametrize(("name", "wire", "outcome"), EDGES, ids=[edge[0] for edge in EDGES])
def test_an_edge_is_judged_as_recorded(name: str, wire: bytes, outcome: dict[str, str]) -> None:
    (vector,) = [one for one in recorded("edges")["vectors"] if one["name"] == name]
    assert vector == {"name": name, "wire": wire.hex(), "outcome": outcome}
    link = Link(HEALTH, Side.ANSWERER)
    link.receive_data(wire)
    found: dict[str, str] = {}
    try:
        match link.next_event():
            case Received(message):
                found = {"received": message.verb()}
            case UnknownVerb(verb):
                found = {"unknown": verb}
    except RemoteProtocolError as error:
        found = {"refused": error.code}
    assert found == outcome


def test_no_recorded_edge_is_stale() -> None:
    assert [vector["name"] for vector in recorded("edges")["vectors"]] == [edge[0] for edge in EDGES]


if __name__ == "__main__":
    record()
