"""Golden events and folds: what protocols/SPEC.md says of events, in bytes. `python -m` this file writes them anew.

The clock and the catalog must keep to what is recorded. That the records say the same to a reader who has none of
this code is shown by tests/protocols/test_second_reading.py and the reader that it holds to them.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import libipld
import pytest

import protocols
from bootstrap.identity import Identity
from p2pnode.core import records
from p2pnode.core.catalog import Catalog
from p2pnode.core.cid import BLAKE3, DAG_PB, cid_text, make_cid, record_cid
from p2pnode.core.clock import MerkleClock
from p2pnode.core.event import (
    PARENTS_MAX,
    PAYLOAD_BYTES_MAX,
    BadEvent,
    Event,
    Position,
    check_signature,
    compose,
    parse,
    parse_signed,
)
from p2pnode.core.model import Column, ColumnStats, Manifest, Member, NodeRole, ShardEntry

VECTORS = Path(protocols.__file__).parent / "vectors"
#: 2026-01-01T00:00:00Z, and a second for each further event.
BEGAN_MS = 1_767_225_600_000
NAMES = ("ada", "bob", "cleo", "dora")


class Author:
    """A peer with a published key. Its sessions are numbers, so that every byte can be made again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seed = bytes([NAMES.index(name) + 1]) * 32
        self.identity = Identity.from_seed(self.seed)
        self.peer_id = self.identity.peer_id
        self.session = 1

    def session_name(self) -> bytes:
        return bytes([0x80 | (NAMES.index(self.name) + 1)]) + bytes(14) + bytes([self.session])


ADA, BOB, CLEO, DORA = AUTHORS = [Author(name) for name in NAMES]


@dataclass
class Replica:
    """One copy of a swarm's facts, on which authors write."""

    clock: MerkleClock
    blocks: dict[bytes, bytes] = field(default_factory=dict)

    @classmethod
    def founded(cls) -> Replica:
        body = records.genesis_body("vectors", open_swarm=True)
        genesis = _compose(None, ADA, Position(), records.GENESIS, "", body)
        replica = cls(MerkleClock(genesis.id))
        replica.take([genesis])
        return replica

    def copy(self) -> Replica:
        other = Replica(MerkleClock(self.clock.genesis))
        other.merge(self)
        return other

    def merge(self, other: Replica) -> None:
        self.hold(other.blocks.values())
        self.take(other.clock.events())

    def hold(self, blocks: Iterable[bytes]) -> None:
        for block in blocks:
            self.blocks[record_cid(block)] = block
            self.clock.add_block(record_cid(block))

    def take(self, events: Iterable[Event]) -> None:
        for event in events:
            self.clock.add(event)

    def write(self, author: Author, kind: str, object_id: str = "", body: dict[str, Any] | None = None) -> Event:
        event = self.draft(author, kind, object_id, body)
        self.take([event])
        assert event.id in self.clock, (kind, self.clock.add(event))
        return event

    def draft(self, author: Author, kind: str, object_id: str = "", body: dict[str, Any] | None = None) -> Event:
        position = self.clock.next_position(author.peer_id, author.session_name())
        return _compose(self.clock.genesis, author, position, kind, object_id, body or {})

    def up(self, author: Author, role: NodeRole = NodeRole.HYBRID, readmit: bytes | None = None, **said: Any) -> Event:
        member = Member(author.peer_id, said.pop("node_id", author.name), role, **said)
        return self.write(author, records.UP, author.peer_id, records.up_body(member, readmit))

    def define(self, author: Author, name: str, dataset_id: str) -> Event:
        return self.write(author, records.DEFINE, dataset_id, records.define_body(records.Definition(name)))

    def publish(self, author: Author, dataset_id: str, *shards: int, append: bool = False, publish: str = "") -> Event:
        """A version of these shards; an append adds them to what stands here."""
        tips = self.catalog.tips(dataset_id)
        record = self.catalog.dataset(dataset_id)
        ground = record.manifest if record and append else None
        entries = (*(ground.shards if ground else ()), *map(_shard, shards))
        block = records.encode_manifest(Manifest(dataset_id, "parquet", b"\xff", (Column("n", "BIGINT"),), entries))
        self.hold([block])
        said = records.Version(record_cid(block), record.version if record else None, append, tips, publish)
        return self.write(author, records.VERSION, dataset_id, records.version_body(said))

    @property
    def catalog(self) -> Catalog:
        counted = (event for event in self.clock.events() if self.clock.counts(event))
        return Catalog.fold(counted, self.manifest)

    def manifest(self, cid: bytes) -> Manifest | None:
        return records.decode_manifest(self.blocks[cid]) if cid in self.blocks else None


def _shard(number: int) -> ShardEntry:
    stats = {"n": ColumnStats(0, 10 * number, 10 * number + 9)}
    return ShardEntry(make_cid(DAG_PB, BLAKE3, bytes([number]) * 32), 10, 1000 + number, stats)


def _compose(
    genesis: bytes | None, author: Author, position: Position, kind: str, object_id: str, body: dict[str, Any]
) -> Event:
    return compose(
        namespace=genesis,
        author=author.peer_id,
        session=author.session_name(),
        position=position,
        time=(BEGAN_MS + 1000 * position.height) << 16 | position.sequence,
        kind=kind,
        object_id=object_id,
        body=body,
        sign=author.identity.sign,
    )


def _fresh(build: Callable[[], Any]) -> Any:
    """A story always begins in everybody's first session."""
    for author in AUTHORS:
        author.session = 1
    return build()


# -- one event of every kind ---------------------------------------------------------------------------------------


def every_kind() -> list[tuple[str, Event]]:
    """(what it shows, event), each standing on those before it."""
    one = Replica.founded()
    (genesis,) = one.clock.events()
    told = [("the first event of a swarm", genesis)]

    def tell(what: str, event: Event) -> Event:
        told.append((what, event))
        return event

    said = {
        "addresses": ("/ip4/192.0.2.1/tcp/4001", "/ip6/2001:db8::1/tcp/4001"),
        "region": "eu",
        "weight": 1500,
        "capabilities": ("gpu", "größe"),
    }
    tell("a member comes, with everything that it may say", one.up(ADA, **said))
    tell("a member that defines nothing", one.up(BOB, NodeRole.WORKER))
    tell("a third member", one.up(CLEO))
    schema = records.Definition("trips", "Journeys of a day, ± an hour", b"\xff\xff\xff\xff\x10\x00\x00\x00")
    tell("a dataset", one.write(ADA, records.DEFINE, "ds-1", records.define_body(schema)))
    tell("a version that replaces nothing", one.publish(ADA, "ds-1", 1, publish="ab" * 16))
    aside = one.copy()
    tell("a version that replaces another", one.publish(ADA, "ds-1", 2))
    tell("a version at the same time, which adds", _told(one, aside.publish(CLEO, "ds-1", 3, append=True), aside))
    tell("two heads tied together", one.write(BOB, records.MERGE))
    tell("a witness of an end", one.write(BOB, records.DOWN, CLEO.peer_id, _down(one, CLEO)))
    delete = records.delete_body(one.catalog.observed("ds-1"))
    tell("a dataset taken away", one.write(ADA, records.DELETE, "ds-1", delete))
    twin = one.copy()
    first = tell("one tongue", one.write(CLEO, records.MERGE))
    second = tell("another tongue: the same place in the same session", twin.write(CLEO, "later", "x", {"y": 1}))
    one.take([second])
    readmission = records.Readmission(tuple(sorted((first.id, second.id))), first.id)
    readmit = one.write(ADA, records.READMIT, CLEO.peer_id, records.readmit_body(readmission))
    tell("a readmission that keeps the first tongue", readmit)
    CLEO.session = 2
    tell("a new session takes up its readmission", one.up(CLEO, readmit=readmit.id))
    newer = {"anything": [None, True, -1, 2**64 - 1, -(2**63), 0.5, "ü", b"\x00\xff", {"deep": [[]]}, genesis.id]}
    tell("a kind of a newer version, whose body may be anything", one.write(BOB, "later", "x", newer))
    tell("a member goes", one.write(BOB, records.LEAVE, BOB.peer_id))
    return told


def _told(hearer: Replica, event: Event, teller: Replica) -> Event:
    hearer.merge(teller)
    return event


def _down(replica: Replica, dead: Author) -> dict[str, Any]:
    member = replica.catalog.member(dead.peer_id)
    assert member is not None
    return records.down_body(member.up)


# -- what is no event, or may not be ---------------------------------------------------------------------------------

#: 0.5 as DAG-CBOR writes it.
_HALF = bytes.fromhex("fb3fe0000000000000")
FORM, SIGNATURE, PLACE = "form", "signature", "place"


def refused() -> list[tuple[str, str, bytes]]:
    """(what is wrong, when it shows, wire). Each is wrong in one way only; what it stands on is among `every_kind`."""
    events = [event for _, event in _fresh(every_kind)]
    genesis, up, worker = events[:3]
    one = Replica(MerkleClock(genesis.id))
    one.take(events[:5])
    good = one.draft(ADA, records.DEFINE, "ds-2", records.define_body(records.Definition("more")))
    return [*_misspelt(good), *_badly_signed(good), *_misplaced(one, events, good, up, worker)]


def _misspelt(good: Event) -> Iterable[tuple[str, str, bytes]]:
    def changed(**fields: Any) -> bytes:
        return _resigned(libipld.decode_dag_cbor(good.encoded) | fields)

    def without(name: str) -> bytes:
        return _resigned({key: value for key, value in libipld.decode_dag_cbor(good.encoded).items() if key != name})

    def spelt(old: bytes, new: bytes) -> bytes:
        assert good.encoded.count(old) == 1
        return _signed(good.encoded.replace(old, new))

    def nested(levels: int) -> dict[str, Any]:
        body: dict[str, Any] = {}
        for _ in range(levels - 1):
            body = {"x": body}
        return body

    link = good.id
    return [
        (what, FORM, wire)
        for what, wire in [
            ("nothing but a signature", good.signature),
            ("a payload of one byte too many", changed(b={"x": "x" * (PAYLOAD_BYTES_MAX - 6 + 1)})),
            ("no DAG-CBOR", _signed(b"\xff" + good.encoded)),
            ("something after the map", _signed(good.encoded + b"\x00")),
            ("no map", _signed(libipld.encode_dag_cbor([1, 2]))),
            ("a field too few", without("t")),
            ("a field too many", changed(z=1)),
            ("keys in another order", _signed(_swapped(good.encoded))),
            ("a number that is longer than it need be", spelt(b"\x61v\x01", b"\x61v\x18\x01")),
            ("a float of 32 bits", _signed(changed(b={"x": 0.5})[:-64].replace(_HALF, bytes.fromhex("fa3f000000")))),
            (
                "a zero with a sign",
                _signed(changed(b={"x": 0.0})[:-64].replace(b"\xfb" + bytes(8), b"\xfb\x80" + bytes(7))),
            ),
            ("a tag that is no link", spelt(b"\x61v\x01", b"\x61v\xc1\x01")),
            ("a format of tomorrow", changed(v=2)),
            ("a format that is true", changed(v=True)),
            ("an author that is no peer id", changed(a="nobody")),
            ("an author with a hashed key", changed(a="QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N")),
            ("a session of 15 bytes", changed(s=good.session[:-1])),
            ("a session whose first bit is not set", changed(s=b"\x7f" + good.session[1:])),
            ("a negative sequence", changed(q=-1)),
            ("a sequence of 2^63", changed(q=1 << 63)),
            ("a height that is a float", changed(h=1.5)),
            ("a time that is text", changed(t="noon")),
            ("a previous event that is no link", changed(pa=b"\x00")),
            ("a swarm that is named by a shard", changed(ns=make_cid(DAG_PB, BLAKE3, bytes(32)))),
            ("parents that are no list", changed(p={})),
            ("one parent too many", changed(p=sorted(record_cid(bytes([n])) for n in range(PARENTS_MAX + 1)))),
            ("the same parent twice", changed(p=[link, link])),
            ("parents out of order", changed(p=sorted((link, good.parents[0]), reverse=True))),
            ("a kind without a letter", changed(k="")),
            ("a kind of 33 characters", changed(k="k" * 33)),
            ("an object of 129 characters", changed(o="ü" * 129)),
            ("a payload that is no map", changed(b=[])),
            ("33 levels", changed(b=nested(33))),
            ("bytes that a reader could take for a link", changed(b={"x": b"\x01\x55\x00\x00"})),
            ("bytes that begin like a link and are none", changed(b={"x": link[:-1]})),
            ("bytes that are a content id of version 0", changed(b={"x": link[2:]})),
            ("a link that is written as plain bytes", _untagged(changed(b={"x": link}))),
        ]
    ]


def _badly_signed(good: Event) -> list[tuple[str, str, bytes]]:
    flipped = bytes([good.signature[0] ^ 1]) + good.signature[1:]
    order = (1 << 252) + 27742317777372353535851937790883648493
    malleable = good.signature[:32] + (int.from_bytes(good.signature[32:], "little") + order).to_bytes(32, "little")
    return [
        ("a signature with one bit changed", SIGNATURE, good.encoded + flipped),
        ("another's signature", SIGNATURE, good.encoded + BOB.identity.sign(b"p2pnode/event/1\0" + good.encoded)),
        ("a signature over the bare bytes", SIGNATURE, good.encoded + ADA.identity.sign(good.encoded)),
        ("a signature over the id", SIGNATURE, good.encoded + ADA.identity.sign(b"p2pnode/event/1\0" + good.id)),
        ("a signature whose number is not reduced", SIGNATURE, good.encoded + malleable),
    ]


def _misplaced(
    one: Replica, events: list[Event], good: Event, up: Event, worker: Event
) -> Iterable[tuple[str, str, bytes]]:
    def placed(author: Author, kind: str, object_id: str, body: dict[str, Any], **place: Any) -> bytes:
        position = one.clock.next_position(author.peer_id, author.session_name())
        return _compose(one.clock.genesis, author, replace(position, **place), kind, object_id, body).wire

    definition = records.define_body(records.Definition("more"))
    define = (ADA, records.DEFINE, "ds-2", definition)
    position = one.clock.next_position(ADA.peer_id, ADA.session_name())
    ids = [event.id for event in events]
    fork = {"forks": sorted(ids[:2]), "keep": None}
    bodies: list[tuple[str, str, str, dict[str, Any]]] = [
        ("a definition without a name", records.DEFINE, "ds-2", definition | {"name": ""}),
        ("a definition without a schema", records.DEFINE, "ds-2", {"name": "x", "description": ""}),
        ("an up of a client", records.UP, ADA.peer_id, events[1].body | {"role": "client"}),
        ("an up of no weight", records.UP, ADA.peer_id, events[1].body | {"weight": 0}),
        ("an up with an address too many", records.UP, ADA.peer_id, events[1].body | {"addresses": ["/a"] * 17}),
        ("a version whose manifest is no link", records.VERSION, "ds-1", events[5].body | {"manifest": b"\x00"}),
        ("a version over the same one twice", records.VERSION, "ds-1", events[5].body | {"over": [ids[0], ids[0]]}),
        ("a deletion of what is no link", records.DELETE, "ds-1", {"versions": [7]}),
        ("an end that its own author witnesses", records.DOWN, ADA.peer_id, {"up": ids[1]}),
        ("an end of no up", records.DOWN, BOB.peer_id, {"up": None}),
        ("a readmission of oneself", records.READMIT, ADA.peer_id, fork),
        ("a readmission that names one branch", records.READMIT, BOB.peer_id, fork | {"forks": [ids[0]]}),
    ]
    own_up = records.up_body(Member(ADA.peer_id, "ada", NodeRole.HYBRID))
    return [
        (what, PLACE, wire)
        for what, wire in [
            *((what, placed(ADA, kind, about, body)) for what, kind, about, body in bodies),
            ("of another swarm", _compose(good.id, ADA, position, *define[1:]).wire),
            ("another genesis", _compose(None, BOB, Position(), "genesis", "", events[0].body).wire),
            ("no parents", placed(*define, parents=(), previous=good.previous)),
            ("a height too high by one", placed(*define, height=position.height + 1)),
            ("a height too low by one", placed(*define, height=position.height - 1)),
            ("a sequence with a gap", placed(*define, sequence=position.sequence + 1)),
            ("a session opened in its middle", placed(*define, previous=None, sequence=3)),
            ("another author's event for one's own previous one", placed(*define, previous=worker.id)),
            ("an up for somebody else", placed(ADA, records.UP, BOB.peer_id, own_up)),
            ("a leave for somebody else", placed(ADA, records.LEAVE, BOB.peer_id, {})),
            ("a word of who never came", placed(DORA, records.MERGE, "", {})),
            ("a word whose chain begins without an up", placed(*define, previous=None, sequence=0)),
            ("a dataset of a worker", placed(BOB, records.DEFINE, "ds-2", definition)),
            ("a readmission of a worker", placed(BOB, records.READMIT, CLEO.peer_id, fork)),
            ("an up that takes up what is no readmission", placed(ADA, "up", ADA.peer_id, own_up | {"readmit": up.id})),
        ]
    ]


def _signed(encoded: bytes) -> bytes:
    return encoded + ADA.identity.sign(b"p2pnode/event/1\0" + encoded)


def _resigned(fields: dict[str, Any]) -> bytes:
    return _signed(libipld.encode_dag_cbor(fields))


def _swapped(encoded: bytes) -> bytes:
    """The same map with its first two fields (a, b) in the wrong order."""
    fields = libipld.decode_dag_cbor(encoded)
    a, b = (b"\x61" + name.encode() + libipld.encode_dag_cbor(fields[name]) for name in "ab")
    assert encoded.startswith(b"\xac" + a + b)
    return b"\xac" + b + a + encoded[1 + len(a) + len(b) :]


def _untagged(wire: bytes) -> bytes:
    """The one link of the payload as a byte string."""
    at = wire.index(b"\x61x\xd8\x2a\x58\x25\x00")
    return _signed(wire[: at + 2] + b"\x58\x24" + wire[at + 7 : -64])


# -- sets and what they amount to ------------------------------------------------------------------------------------


@dataclass
class Story:
    """A set of events that was written on several replicas, and what of it never arrived."""

    what: str
    replica: Replica
    #: Given beside the set: they wait for something that is not there, or are refused.
    outside: list[Event] = field(default_factory=list)


def trio_of_hybrids() -> Replica:
    one = Replica.founded()
    for author in (ADA, BOB, CLEO):
        one.up(author)
    return one


def met(*replicas: Replica) -> Replica:
    for other in replicas[1:]:
        replicas[0].merge(other)
    return replicas[0]


def founder_alone() -> Story:
    one = Replica.founded()
    one.up(ADA)
    return Story("a swarm of one", one)


def appends_at_once() -> Story:
    one = trio_of_hybrids()
    one.define(ADA, "trips", "ds-1")
    one.publish(ADA, "ds-1", 1)
    two, three = one.copy(), one.copy()
    one.publish(ADA, "ds-1", 2, append=True)
    two.publish(BOB, "ds-1", 3, append=True)
    two.publish(BOB, "ds-1", 4, append=True)
    three.publish(CLEO, "ds-1", 2, append=True)  # the same shard as ada's counts twice
    return Story("three members add to one version at once: the union of all", met(one, two, three))


def append_to_a_union() -> Story:
    story = appends_at_once()
    two = story.replica.copy()
    story.replica.publish(ADA, "ds-1", 5, append=True)
    two.publish(BOB, "ds-1", 6, append=True)
    return Story("and two of them add to that union at once", met(story.replica, two))


def replaced_at_once() -> Story:
    one = trio_of_hybrids()
    one.define(ADA, "trips", "ds-1")
    one.publish(ADA, "ds-1", 1)
    two, three = one.copy(), one.copy()
    one.publish(ADA, "ds-1", 2)
    two.publish(BOB, "ds-1", 3)
    three.publish(CLEO, "ds-1", 4, append=True)
    return Story(
        "two replace a version at once and one adds to it: one wins, the others stay visible", met(one, two, three)
    )


def published_twice() -> Story:
    one = trio_of_hybrids()
    one.define(ADA, "trips", "ds-1")
    two = one.copy()
    one.publish(ADA, "ds-1", 1, append=True, publish="77" * 16)
    two.publish(BOB, "ds-1", 1, append=True, publish="77" * 16)
    return Story("one publish that two coordinators carried out counts once", met(one, two))


def tombstone() -> Story:
    one = trio_of_hybrids()
    for number in (1, 2):
        one.define(ADA, f"trips-{number}", f"ds-{number}")
        one.publish(ADA, f"ds-{number}", number)
    two = one.copy()
    for number in (1, 2):
        observed = one.catalog.observed(f"ds-{number}")
        one.write(ADA, records.DELETE, f"ds-{number}", records.delete_body(observed))
    two.publish(BOB, "ds-2", 3, append=True)
    return Story("two datasets deleted; an addition that the deleter had not seen keeps one of them", met(one, two))


def same_names() -> Story:
    one = trio_of_hybrids()
    two = one.copy()
    one.define(ADA, "trips", "ds-2")
    two.define(BOB, "zones", "ds-9")
    two.define(BOB, "trips", "ds-1")
    one.up(DORA, node_id="cleo")
    return Story("two datasets and two members of one name: the earlier claim has it", met(one, two))


def left_and_back() -> Story:
    one = trio_of_hybrids()
    one.write(BOB, records.LEAVE, BOB.peer_id)
    one.write(CLEO, records.LEAVE, CLEO.peer_id)
    one.up(DORA, node_id="bob")
    BOB.session = 2
    one.up(BOB, NodeRole.WORKER)
    return Story("two left; who took the name of one keeps it when its first owner returns", one)


def one_witness() -> Story:
    one = trio_of_hybrids()
    one.write(ADA, records.DOWN, CLEO.peer_id, _down(one, CLEO))
    one.write(ADA, records.DOWN, CLEO.peer_id, _down(one, CLEO))
    return Story("one witness of three, who says it twice: not down", one)


def two_witnesses() -> Story:
    one = trio_of_hybrids()
    two = one.copy()
    one.write(ADA, records.DOWN, CLEO.peer_id, _down(one, CLEO))
    two.write(BOB, records.DOWN, CLEO.peer_id, _down(two, CLEO))
    return Story("two witnesses: down", met(one, two))


def back_from_down() -> Story:
    one = two_witnesses().replica
    CLEO.session = 2
    one.up(CLEO)
    return Story("two witnesses of an up, and a later up: back", one)


def down_in_a_pair() -> Story:
    one = Replica.founded()
    one.up(ADA)
    one.up(BOB)
    one.write(ADA, records.DOWN, BOB.peer_id, _down(one, BOB))
    return Story("one witness in a swarm of two: down", one)


def _forked() -> tuple[Replica, Event, Event]:
    one = trio_of_hybrids()
    one.define(BOB, "before", "ds-1")
    two = one.copy()
    left = one.define(BOB, "one", "ds-2")
    right = two.define(BOB, "other", "ds-3")
    two.define(BOB, "after", "ds-4")
    return met(one, two), left, right


def fork() -> Story:
    return Story("a fork: of its author only what lies before it counts", _forked()[0])


def readmitted() -> Story:
    one, left, right = _forked()
    forks = records.Readmission(tuple(sorted((left.id, right.id))), left.id)
    readmit = one.write(ADA, records.READMIT, BOB.peer_id, records.readmit_body(forks))
    one.define(BOB, "ignored", "ds-5")
    BOB.session = 2
    one.up(BOB, readmit=readmit.id)
    one.define(BOB, "again", "ds-6")
    return Story("a readmission keeps one branch, and what comes after the up that takes it up", one)


def forked_again() -> Story:
    one = readmitted().replica
    two = one.copy()
    one.define(BOB, "third", "ds-7")
    two.define(BOB, "fourth", "ds-8")
    return Story("a second fork, which the first readmission does not name", met(one, two))


def readmitters_forked() -> Story:
    one, left, right = _forked()
    two = one.copy()
    body = records.readmit_body(records.Readmission(tuple(sorted((left.id, right.id))), right.id))
    one.write(CLEO, records.READMIT, BOB.peer_id, body)
    two.define(CLEO, "lie", "ds-9")
    return Story("a readmission by an author who forked there: worth nothing", met(one, two))


def late_and_foreign() -> Story:
    one = trio_of_hybrids()
    ahead = one.copy()
    ahead.define(ADA, "withheld", "ds-1")
    child = ahead.define(ADA, "child", "ds-2")
    worker = one.copy()
    worker.up(BOB, NodeRole.WORKER)
    forbidden = worker.draft(BOB, records.DEFINE, "ds-3", records.define_body(records.Definition("forbidden")))
    one.merge(worker)
    nothing = records.version_body(records.Version(record_cid(b"nobody has this block")))
    blockless = one.draft(ADA, records.VERSION, "ds-1", nothing)
    return Story(
        "an event without its past, one without its block, and one that may not be", one, [child, blockless, forbidden]
    )


def everything() -> Story:
    one = Replica.founded()
    blocks = [*appends_at_once().replica.blocks.values(), *_fresh(lambda: _kinds_replica()).blocks.values()]
    one.hold(blocks)
    one.take(event for _, event in _fresh(every_kind))
    return Story("one event of every kind", one)


def _kinds_replica() -> Replica:
    """The blocks of `every_kind`."""
    one = Replica.founded()
    for number in (1, 2, 3):
        ground = (1, 3) if number == 3 else (number,)
        entries = tuple(map(_shard, ground))
        one.hold([records.encode_manifest(Manifest("ds-1", "parquet", b"\xff", (Column("n", "BIGINT"),), entries))])
    return one


STORIES = [
    founder_alone,
    everything,
    appends_at_once,
    append_to_a_union,
    replaced_at_once,
    published_twice,
    tombstone,
    same_names,
    left_and_back,
    one_witness,
    two_witnesses,
    back_from_down,
    down_in_a_pair,
    fork,
    readmitted,
    forked_again,
    readmitters_forked,
    late_and_foreign,
]


# -- recording -------------------------------------------------------------------------------------------------------


def record() -> None:
    """Write the vectors anew."""
    keys = [{"name": one.name, "seed": one.seed.hex(), "peer_id": one.peer_id} for one in AUTHORS]
    events = [
        {"what": what, "kind": event.kind, "author": event.author, "id": cid_text(event.id), "wire": event.wire.hex()}
        for what, event in _fresh(every_kind)
    ]
    invalid = [{"what": what, "shows": shows, "wire": wire.hex()} for what, shows, wire in refused()]
    _write("events", {"keys": keys, "events": events, "refused": invalid})
    _write("folds", {"keys": keys, "folds": [_recorded_story(_fresh(story)) for story in STORIES]})


def _recorded_story(story: Story) -> dict[str, Any]:
    clock, catalog = story.replica.clock, story.replica.catalog
    given = [*clock.events(), *story.outside]
    random.Random(story.what).shuffle(given)
    return {
        "what": story.what,
        "genesis": cid_text(clock.genesis),
        "blocks": [block.hex() for _, block in sorted(story.replica.blocks.items())],
        "events": [event.wire.hex() for event in given],
        "outside": sorted(cid_text(event.id) for event in story.outside),
        **_amounts(clock, catalog),
    }


def _amounts(clock: MerkleClock, catalog: Catalog) -> dict[str, Any]:
    return {
        "heads": [cid_text(head) for head in clock.heads()],
        "height": clock.height,
        "fingerprint": clock.fingerprint.hex(),
        "forks": [
            [fork.author, fork.session.hex(), fork.sequence, [cid_text(event_id) for event_id in fork.events]]
            for fork in clock.forks()
        ],
        "ignored": sorted(cid_text(event.id) for event in clock.events() if not clock.counts(event)),
        "members": [
            {"peer_id": m.peer_id, "node_id": m.node_id, "role": str(m.role), "left": m.left, "down": m.down}
            for m in catalog.everyone()
        ],
        "datasets": [
            {
                "dataset_id": r.dataset_id,
                "name": r.name,
                "owns_its_name": catalog.dataset(r.name) == r,
                "version": None if r.version is None else cid_text(r.version),
                "shards": [cid_text(shard.cid) for shard in r.manifest.shards] if r.manifest else [],
                "siblings": [cid_text(sibling) for sibling in r.siblings],
            }
            for r in catalog.datasets()
        ],
        "digest": catalog.digest().hex(),
    }


def _write(name: str, document: dict[str, Any]) -> None:
    (VECTORS / f"{name}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def recorded(name: str) -> dict[str, Any]:
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


# -- holding the code to what is recorded ----------------------------------------------------------------------------


def test_what_is_recorded_is_what_would_be_recorded_now():
    keys = recorded("events")["keys"]
    assert [(key["name"], key["seed"], key["peer_id"]) for key in keys] == [
        (one.name, one.seed.hex(), one.peer_id) for one in AUTHORS
    ]
    assert [(one["what"], one["wire"]) for one in recorded("events")["events"]] == [
        (what, event.wire.hex()) for what, event in _fresh(every_kind)
    ]
    assert [(one["what"], one["shows"], one["wire"]) for one in recorded("events")["refused"]] == [
        (what, shows, wire.hex()) for what, shows, wire in refused()
    ]
    assert recorded("folds")["folds"] == [_recorded_story(_fresh(story)) for story in STORIES]


def test_the_format_is_final():
    """Vectors may be added behind these; these do not change any more."""
    events, folds = recorded("events")["events"][:17], recorded("folds")["folds"][:18]
    wires = hashlib.sha256(b"".join(bytes.fromhex(one["wire"]) for one in events)).hexdigest()
    sets = hashlib.sha256("".join(one["fingerprint"] for one in folds).encode()).hexdigest()
    assert wires == "0d7714e7f6d20bf1f87fade1c1eac00b7e4a55e9e44a179b3bc7dc890b3abae0"
    assert sets == "5c0743bdcfcb37b54d916a42599b310755c65f2ae9a72449824214ad54cd3e72"


def test_every_kind_has_an_event():
    kinds = {value for name, value in vars(records).items() if name.isupper() and type(value) is str}
    assert kinds <= {vector["kind"] for vector in recorded("events")["events"]}


@pytest.mark.parametrize("vector", recorded("events")["events"], ids=lambda vector: vector["what"])
def test_an_event_keeps_its_id_and_its_meaning(vector):
    event = parse_signed(bytes.fromhex(vector["wire"]))
    assert (cid_text(event.id), event.kind, event.author) == (vector["id"], vector["kind"], vector["author"])
    records.check(event)


@pytest.mark.parametrize("vector", recorded("events")["refused"], ids=lambda vector: vector["what"])
def test_what_is_wrong_is_refused_and_not_sooner_than_it_shows(vector):
    wire = bytes.fromhex(vector["wire"])
    if vector["shows"] == FORM:
        with pytest.raises(BadEvent):
            parse(wire)
        return
    event = parse(wire)
    if vector["shows"] == SIGNATURE:
        with pytest.raises(BadEvent):
            check_signature(event)
        return
    check_signature(event)
    good = [parse(bytes.fromhex(one["wire"])) for one in recorded("events")["events"]]
    clock = MerkleClock(good[0].id)
    for one in good[:5]:
        clock.add(one)
    outcome = clock.add(event)
    assert [refusal.event_id for refusal in outcome.refused] == [event.id]
    assert event.id not in clock


@pytest.mark.parametrize("fold", recorded("folds")["folds"], ids=lambda fold: fold["what"])
def test_a_set_amounts_to_the_same_in_every_order(fold):
    events = [parse_signed(bytes.fromhex(wire)) for wire in fold["events"]]
    blocks = {record_cid(bytes.fromhex(block)): bytes.fromhex(block) for block in fold["blocks"]}
    outside = set(fold["outside"])
    for turn in range(4):
        random.Random(turn).shuffle(events)
        replica = Replica(MerkleClock(record_cid(b"")))
        replica.clock.genesis = next(event.id for event in events if cid_text(event.id) == fold["genesis"])
        replica.take(events[: len(events) // 2])
        replica.hold(blocks.values())
        replica.take(events[len(events) // 2 :])
        assert {cid_text(event.id) for event in events if event.id not in replica.clock} == outside
        found = _amounts(replica.clock, replica.catalog)
        assert found == {name: fold[name] for name in found}


if __name__ == "__main__":
    record()
