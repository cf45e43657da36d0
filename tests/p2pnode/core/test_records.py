from __future__ import annotations

import math
from dataclasses import replace

import libipld
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnode.core import records
from p2pnode.core.clock import MerkleClock
from p2pnode.core.event import DEPTH_MAX, BadEvent
from p2pnode.core.model import Column, ColumnStats, Manifest, Member, NodeRole, ShardEntry
from p2pnode.errors import IntegrityError, UsageError

CID = b"\x01\x70\x1e\x20" + bytes(32)
MANIFEST = Manifest(
    dataset_id="ds-a",
    format="parquet",
    schema=b"\xff\xff\xff\xff schema",
    columns=(Column("a", "BIGINT"), Column("b", "VARCHAR")),
    shards=(ShardEntry(CID, 10, 1000, {"a": ColumnStats(1, -5, 2**63), "b": ColumnStats(0, "x", None)}),),
    replicas=2,
    policy={"strategy": "consistent_hash", "preferences": {"node-1": 0.8}},
    base=b"\x01\x71\x12\x20" + bytes(32),
)

NAMES = st.text(st.characters(codec="utf-8"), max_size=12)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    NAMES,
)
STATS = st.builds(ColumnStats, st.integers(0, 2**40), SCALARS, SCALARS)
SHARDS = st.builds(
    ShardEntry,
    st.binary(min_size=32, max_size=32).map(lambda digest: CID[:4] + digest),
    st.integers(0, 2**50),
    st.integers(0, 2**50),
    st.dictionaries(NAMES, STATS, max_size=3),
)


def written(author, kind, body):
    """An event with that payload, whether or not a clock would take it."""
    pen = author(1)
    genesis = pen.genesis()
    clock = MerkleClock(genesis.id)
    clock.add(genesis)
    return pen.write(clock, kind, "ds-1", body)


def test_a_manifest_comes_back_equal():
    assert records.decode_manifest(records.encode_manifest(MANIFEST)) == MANIFEST


@given(shards=st.lists(SHARDS, max_size=4), base=st.none() | st.just(MANIFEST.base))
def test_any_manifest_comes_back_equal(shards, base):
    manifest = replace(MANIFEST, shards=tuple(shards), base=base)
    again = records.decode_manifest(records.encode_manifest(manifest))
    assert again == manifest
    assert records.encode_manifest(again) == records.encode_manifest(manifest)


def test_bounds_that_cannot_be_written_down_become_unknown():
    stats = {"a": ColumnStats(0, -math.inf, math.inf), "b": ColumnStats(0, -(2**100), 2**64)}
    odd = replace(MANIFEST, shards=(ShardEntry(CID, 1, 1, stats),))
    (shard,) = records.decode_manifest(records.encode_manifest(odd)).shards
    assert shard.stats == {"a": ColumnStats(), "b": ColumnStats()}


def test_a_policy_that_is_no_plain_data_is_the_callers_mistake():
    with pytest.raises(UsageError):
        records.encode_manifest(replace(MANIFEST, policy={"when": object()}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("v", 2),
        ("dataset", ""),
        ("format", 7),
        ("schema", "text"),
        ("columns", [["a"]]),
        ("columns", [["a", 1]]),
        ("columns", ["ab"]),
        ("columns", {"ab": 1}),
        ("v", True),
        ("shards", b""),
        ("shards", [[CID, 1, 1, {"a": {"0": 1, "1": 1, "2": 1}}]]),
        ("schema", b"\x01\x55\x00\x00"),
        ("policy", {"x": b"\x01"}),
        ("newer", b"\x01"),
        ("shards", [[CID, 1]]),
        ("shards", [[CID, -1, 1, {}]]),
        ("shards", [[b"short", 1, 1, {}]]),
        ("shards", [[CID, 1, 1, {"a": [0, [], None]}]]),
        ("replicas", None),
        ("policy", []),
        ("base", b"short"),
    ],
)
def test_a_block_with_a_wrong_field_is_no_manifest(name, value):
    fields = libipld.decode_dag_cbor(records.encode_manifest(MANIFEST))
    fields[name] = value
    with pytest.raises(IntegrityError):
        records.decode_manifest(libipld.encode_dag_cbor(fields))


def test_a_second_spelling_of_a_manifest_is_no_manifest():
    block = records.encode_manifest(MANIFEST)
    assert records.decode_manifest(block) == MANIFEST
    assert block.endswith(b"hreplicas\x02")
    with pytest.raises(IntegrityError, match="canonical"):
        records.decode_manifest(block[:-1] + b"\x18\x02")


def test_a_deep_policy_is_refused_at_the_same_depth_everywhere():
    deep = {"x": []}
    for _ in range(DEPTH_MAX):
        deep = {"x": deep}
    with pytest.raises(IntegrityError, match="nests deeper"):
        records.decode_manifest(records.encode_manifest(replace(MANIFEST, policy=deep)))


@given(st.binary(max_size=200))
def test_any_block_is_a_manifest_or_an_integrity_error(data):
    with pytest.raises(IntegrityError):
        records.decode_manifest(data)


def test_a_newer_peers_extra_fields_are_ignored(author):
    body = records.define_body(records.Definition("flights", "all of them", b"\xff")) | {"licence": "CC0"}
    event = written(author, records.DEFINE, body)
    assert records.read_define(event) == records.Definition("flights", "all of them", b"\xff")


def test_bodies_come_back_equal(author):
    member = Member("", "node-1", NodeRole.WORKER, ("/ip4/192.0.2.1/tcp/1",), "eu", 2500, ("gpu",))
    event = written(author, records.UP, records.up_body(member))
    assert records.read_up(event) == replace(member, peer_id=event.author, up=event.id)
    ids = tuple(sorted(MANIFEST.base[:35] + bytes([n]) for n in range(3)))
    version = records.Version(ids[0], ids[1], True, ids)
    assert records.read_version(written(author, records.VERSION, records.version_body(version))) == version
    assert records.read_delete(written(author, records.DELETE, records.delete_body(reversed(ids)))) == ids
    assert records.read_down(written(author, records.DOWN, records.down_body(ids[0]))) == ids[0]
    for keep in (None, ids[2]):
        said = records.Readmission(ids, keep)
        assert records.read_readmit(written(author, records.READMIT, records.readmit_body(said))) == said


def test_an_up_may_name_the_readmission_that_it_takes_up(author):
    member = Member("", "node-1", NodeRole.WORKER)
    plain = written(author, records.UP, records.up_body(member))
    taking = written(author, records.UP, records.up_body(member, LINK))
    assert records.readmission_of(plain) is None
    assert records.readmission_of(taking) == LINK
    assert records.read_up(taking) == replace(member, peer_id=taking.author, up=taking.id), "it is no part of a record"
    assert records.readmission_of(written(author, "merge", {"readmit": 1})) is None


def test_nobody_witnesses_its_own_end_or_readmits_itself(author):
    pen = author(1)
    genesis = pen.genesis()
    clock = MerkleClock(genesis.id)
    clock.add(genesis)
    said = records.Readmission((LINK, LINK[:35] + b"z"))
    for kind, body in ((records.DOWN, records.down_body(LINK)), (records.READMIT, records.readmit_body(said))):
        records.check(pen.write(clock, kind, "somebody", body))
        with pytest.raises(BadEvent):
            records.check(pen.write(clock, kind, pen.peer_id, body))


UP = records.up_body(Member("", "node-1", NodeRole.WORKER))
LINK = MANIFEST.base


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (records.UP, UP | {"role": "client"}),
        (records.UP, UP | {"role": "emperor"}),
        (records.UP, UP | {"node_id": ""}),
        (records.UP, UP | {"weight": 0}),
        (records.UP, UP | {"weight": True}),
        (records.UP, UP | {"addresses": ["a"] * 17}),
        (records.UP, UP | {"addresses": ["a" * 513]}),
        (records.UP, {k: v for k, v in UP.items() if k != "region"}),
        (records.DEFINE, {"name": "n" * 129, "description": "", "schema": b""}),
        (records.DEFINE, {"name": "n", "description": None, "schema": b""}),
        (records.VERSION, {"manifest": b"short", "base": None, "append": False, "over": []}),
        (records.VERSION, {"manifest": LINK, "base": 1, "append": False, "over": []}),
        (records.VERSION, {"manifest": LINK, "base": None, "append": 1, "over": []}),
        (records.VERSION, {"manifest": LINK, "base": None, "append": False, "over": [LINK, LINK]}),
        (records.DELETE, {"versions": [b"x"]}),
        (records.GENESIS, {"name": "x"}),
        (records.UP, UP | {"readmit": None}),
        (records.UP, UP | {"readmit": b"short"}),
        (records.DOWN, {}),
        (records.DOWN, {"up": b"short"}),
        (records.DOWN, {"up": None}),
        (records.READMIT, {"forks": [], "keep": None}),
        (records.READMIT, {"forks": [LINK], "keep": None}),
        (records.READMIT, {"forks": [LINK, LINK], "keep": None}),
        (records.READMIT, {"forks": [LINK, LINK[:35] + b"z"], "keep": b"short"}),
        (records.READMIT, {"keep": None}),
    ],
)
def test_a_wrong_field_refuses_the_payload(author, kind, body):
    with pytest.raises(BadEvent):
        records.check(written(author, kind, body))


def test_an_unknown_kind_passes(author):
    records.check(written(author, "submit", {"anything": [1]}))
