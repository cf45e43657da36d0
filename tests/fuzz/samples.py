"""Honest messages, events and files: what the accidents of `mutate` happen to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import libipld
import pyarrow as pa

import protocols
from bootstrap.identity import Identity, encode_seed
from p2pnode.core import records, tickets
from p2pnode.core.cid import record_cid
from p2pnode.core.event import Event, Position, compose, mint_session
from p2pnode.core.model import Column, ColumnStats, Manifest, Member, NodeRole, ShardEntry
from p2pnode.core.receipts import Receipt, VersionDraft, receipt_body, sign_receipt
from p2pnode.core.schema import schema_bytes
from p2pnode.core.unixfs import ShardHasher
from protocols.codec import decode_body, decode_envelope
from protocols.frame import FrameReader
from protocols.health import HEALTH
from protocols.message import Error, Message, ProtocolSpec, Verb
from protocols.metadata import METADATA
from protocols.query import QUERY
from protocols.shard_transfer import SHARD_TRANSFER
from protocols.table import table_of

PROTOCOLS = (METADATA, HEALTH, SHARD_TRANSFER, QUERY)
ANN, BOB = Identity.from_seed(b"a" * 32), Identity.from_seed(b"b" * 32)
SESSION = mint_session(bytes(range(16)))
ADDRESS = f"/ip4/192.0.2.7/tcp/4001/p2p/{ANN.peer_id}"
WALL = 1_700_000_000
#: Names that the golden vectors use.
VECTOR_GENESIS = b"\x01\x71\x12\x20" + bytes(range(32))
VECTOR_PEERS = (
    b"12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
    b"12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5",
)


@dataclass(frozen=True, slots=True)
class Frame:
    """One message on the wire, in the parts that can be mutated apart."""

    message: Message
    header: bytes
    payload: bytes


@cache
def frames(spec: ProtocolSpec) -> dict[type[Message], list[Frame]]:
    """The golden vectors of a protocol, by message."""
    document = json.loads((Path(protocols.__file__).parent / "vectors" / f"{spec.name}.json").read_text())
    found: dict[type[Message], list[Frame]] = {}
    for vector in document["vectors"]:
        kind = table_of(spec).words[vector["verb"]]
        reader = FrameReader()
        reader.feed(bytes.fromhex(vector["frame"]))
        header = bytes(reader.header() or b"")
        message = decode_body(kind, decode_envelope(header).body)
        found.setdefault(kind, []).append(Frame(message, header, bytes.fromhex(vector["payload"])))
    return found


@dataclass(frozen=True, slots=True)
class Talk:
    """One exchange: what its asker says, and what its answerer may say."""

    spec: ProtocolSpec
    verb: Verb
    asked: tuple[Frame, ...]
    answered: tuple[Frame, ...]


@cache
def talks() -> tuple[Talk, ...]:
    """Every exchange of every protocol, in several wordings; an error may end each."""
    found: list[Talk] = []
    for spec in PROTOCOLS:
        known = frames(spec)
        for verb in spec.verbs:
            for number, request in enumerate(known[verb.request]):
                uploads = [known[kind][number % len(known[kind])] for kind in verb.uploads]
                replies = [known[kind][number % len(known[kind])] for kind in verb.replies]
                for kind in (*verb.final, Error):
                    final = known[kind][number % len(known[kind])]
                    found.append(Talk(spec, verb, (request, *uploads), (*replies, *replies, final)))
    return tuple(found)


def _write(
    kind: str, object_id: str, body: dict[str, Any], *, author: Identity = ANN, after: Event | None = None
) -> Event:
    position = Position() if after is None else Position(after.sequence + 1, after.id, (after.id,), after.height + 1)
    return compose(
        namespace=None if after is None else GENESIS.id,
        author=author.peer_id,
        session=SESSION,
        position=position,
        time=WALL << 26,
        kind=kind,
        object_id=object_id,
        body=body,
        sign=author.sign,
    )


MEMBER = Member(
    ANN.peer_id, "ann", NodeRole.HYBRID, (ADDRESS, ADDRESS), region="eu", weight=1500, capabilities=("gpu", "ssd")
)
SHARD = b"\x01\x70\x1e\x20" + bytes(range(32))
OTHER_SHARD = b"\x01\x55\x1e\x20" + bytes(range(1, 33))
STATS = {
    "id": ColumnStats(0, 1, 900),
    "x": ColumnStats(3, -0.5, 2.25),
    "name": ColumnStats(1, "ada", "zoë"),
    "ok": ColumnStats(),
}
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("x", pa.list_(pa.float32(), 4)),
        ("name", pa.string()),
        ("s", pa.struct([("d", pa.date32())])),
    ]
)
MANIFEST = Manifest(
    dataset_id="ds-1",
    format="parquet",
    schema=schema_bytes(SCHEMA),
    columns=(Column("id", "BIGINT"), Column("name", "VARCHAR")),
    shards=(ShardEntry(SHARD, 1000, 1 << 20, STATS), ShardEntry(OTHER_SHARD, 5, 700, {})),
    replicas=3,
    policy={"regions": {"eu": 2}, "spread": 0.5},
    base=record_cid(b"base"),
)
BLOCK = records.encode_manifest(MANIFEST)
GENESIS = _write(records.GENESIS, "", records.genesis_body("swarm", open_swarm=True))
UP = _write(records.UP, ANN.peer_id, records.up_body(MEMBER), after=GENESIS)
IDS = sorted(record_cid(bytes((number,))) for number in range(3))

#: kind, object, body: every kind there is, and one from the future.
SAYINGS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (records.UP, ANN.peer_id, records.up_body(MEMBER)),
    (records.UP, ANN.peer_id, records.up_body(MEMBER, IDS[0])),
    (records.LEAVE, ANN.peer_id, {}),
    (records.DEFINE, "ds-1", records.define_body(records.Definition("taxi", "rides", schema_bytes(SCHEMA)))),
    (records.VERSION, "ds-1", records.version_body(records.Version(record_cid(BLOCK)))),
    (
        records.VERSION,
        "ds-1",
        records.version_body(
            records.Version(record_cid(BLOCK), IDS[0], append=True, over=tuple(IDS), publish="ab" * 16)
        ),
    ),
    (records.DELETE, "ds-1", records.delete_body(IDS)),
    (records.DOWN, BOB.peer_id, {"up": IDS[0]}),
    (records.MERGE, "", {}),
    (records.READMIT, BOB.peer_id, {"forks": IDS[:2], "keep": None}),
    (records.READMIT, BOB.peer_id, {"forks": IDS[:2], "keep": IDS[2]}),
    ("dream", "x", {"deep": [[{"a": [1, None, 2.5, b"bytes", IDS[0]]}]]}),
)
EVENTS = (GENESIS, UP, *(_write(kind, what, body, after=UP) for kind, what, body in SAYINGS))
BODIES = tuple(libipld.encode_dag_cbor(body) for _, _, body in SAYINGS)

TICKET = tickets.issue(
    dataset_id="ds-1",
    client=BOB.peer_id,
    coordinator=ANN.peer_id,
    cids=[SHARD, OTHER_SHARD],
    size=1 << 20,
    wall=WALL,
    sign=ANN.sign,
)
RECEIPT = receipt_body(SHARD, 1000, 1 << 20, STATS)
DRAFT = VersionDraft(
    dataset_id="ds-1",
    format="parquet",
    schema=schema_bytes(SCHEMA),
    replicas=3,
    policy={},
    append=True,
    order=(SHARD, OTHER_SHARD, SHARD),
    receipts={
        cid: tuple(
            Receipt(who.peer_id, cid, 5, 700, STATS, sign_receipt(receipt_body(cid, 5, 700, STATS), who.sign))
            for who in (ANN, BOB)
        )
        for cid in (SHARD, OTHER_SHARD)
    },
    publish="cd" * 16,
).encode()


def outline() -> tuple[bytes, int]:
    """The outline of a file of three chunks, and its size."""
    hasher = ShardHasher()
    for _ in range(5):
        hasher.update(bytes(500_000))
    return hasher.outline(), hasher.size


SEED_FILE = encode_seed(b"s" * 32)
PORTS_FILE = b'{"/ip4/127.0.0.1/tcp/0": 40123, "/ip6/::1/tcp/0": 40124}'
API_FILE = b'{"url": "http://127.0.0.1:8080", "token": "c2VjcmV0", "pid": 1, "node_id": "ann"}'
CONFIG_FILE = f"""
[distributed]
node_id = "ann"
role = "hybrid"
listen_addresses = ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/4001"]
bootstrap_peers = ["{ADDRESS}"]
weight = 1.5
default_shard_size = 1000
[query]
memory_limit = "512MiB"
timeout_s = 5
[network]
swarm_key = "{"ab" * 32}"
open = false
""".encode()
