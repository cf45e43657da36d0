from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnode.core import records
from p2pnode.core.catalog import Catalog
from p2pnode.core.cid import record_cid
from p2pnode.core.clock import MerkleClock, Verdict
from p2pnode.core.model import Column, Manifest, NodeRole, ShardEntry


def shard(number: int) -> ShardEntry:
    return ShardEntry(b"\x01\x70\x1e\x20" + number.to_bytes(32, "big"), rows=10, bytes=100)


class Writer:
    """A replica with an author, and the blocks that all replicas share."""

    blocks: dict[bytes, Manifest]

    def __init__(self, pen, genesis, blocks, node_id):
        self.pen, self.blocks, self.node_id = pen, blocks, node_id
        self.clock = MerkleClock(genesis.id)
        self.catalog = Catalog(blocks.get)
        self.take(genesis)

    def take(self, event):
        for block in records.blocks_of(event):
            self.clock.add_block(block)
        assert self.clock.add(event).verdict is not Verdict.REFUSED
        self.catalog.apply(event)
        return event

    def sync(self, other):
        for event in other.clock.events():
            self.take(event)

    def up(self, node_id=None):
        return self.take(self.pen.up(self.clock, node_id or self.node_id))

    def write(self, kind, object_id, body):
        return self.take(self.pen.write(self.clock, kind, object_id, body))

    def define(self, dataset_id="ds-1", name="flights", description=""):
        body = records.define_body(records.Definition(name, description))
        return self.write(records.DEFINE, dataset_id, body)

    def publish(self, *numbers, append=False, dataset_id="ds-1", columns=(), owner=None, publish=""):
        """Publish these shards, on top of what this replica sees when it appends."""
        record = self.catalog.dataset(dataset_id)
        old = record.manifest.shards if append and record and record.manifest else ()
        base = record.version if record else None
        manifest = Manifest(owner or dataset_id, "parquet", b"", columns, (*old, *map(shard, numbers)), base=base)
        cid = record_cid(records.encode_manifest(manifest))
        self.blocks[cid] = manifest
        over = self.catalog.tips(dataset_id)
        version = records.Version(cid, base, append, over, publish)
        return self.write(records.VERSION, dataset_id, records.version_body(version))

    def delete(self, dataset_id="ds-1"):
        return self.write(records.DELETE, dataset_id, records.delete_body(self.catalog.observed(dataset_id)))

    def down(self, other, up=None):
        """Say that this member's last known life ended."""
        ended = up or self.catalog.member(other.pen.peer_id).up
        return self.write(records.DOWN, other.pen.peer_id, records.down_body(ended))

    def sees_down(self, other):
        return self.catalog.member(other.pen.peer_id).down

    def shards(self, dataset_id="ds-1"):
        manifest = self.catalog.dataset(dataset_id).manifest
        return [int.from_bytes(entry.cid[4:], "big") for entry in manifest.shards] if manifest else None


@pytest.fixture
def writers(author):
    return make_writers(author)


def make_writers(author, count=3):
    pens = [author(n + 1) for n in range(count)]
    genesis = pens[0].genesis()
    blocks: dict[bytes, Manifest] = {}
    writers = [Writer(pen, genesis, blocks, f"node-{n}") for n, pen in enumerate(pens)]
    for writer in writers:
        writer.up()
    return writers


def meet(*writers):
    for _ in range(2):
        for one in writers:
            for other in writers:
                one.sync(other)
    digests = {writer.catalog.digest() for writer in writers}
    assert len(digests) == 1
    return writers[0]


# -- members --


def test_a_member_is_what_it_last_said_of_itself(writers):
    a, b, c = writers
    a.up("renamed")
    b.write(records.LEAVE, b.pen.peer_id, {})
    catalog = meet(a, b, c).catalog
    assert {m.node_id for m in catalog.members()} == {"renamed", "node-2"}
    assert catalog.member(b.pen.peer_id).left
    assert catalog.member_named("node-1") is None
    b.up()
    assert meet(a, b, c).catalog.member_named("node-1").peer_id == b.pen.peer_id


def test_the_first_to_claim_a_node_id_keeps_it_through_restarts(writers):
    a, b, _ = writers
    meet(a, b)
    b.up("node-0")
    a.up("node-0")
    a.up("node-0")
    assert meet(a, b).catalog.member_named("node-0").peer_id == a.pen.peer_id
    assert len(a.catalog.members()) == 2, "the later one is a member still"
    a.write(records.LEAVE, a.pen.peer_id, {})
    assert meet(a, b).catalog.member_named("node-0").peer_id == b.pen.peer_id
    a.up("node-0")
    assert meet(a, b).catalog.member_named("node-0").peer_id == b.pen.peer_id, "who left has no claim"


def test_two_witnesses_of_three_make_a_member_down(writers):
    a, b, c = writers
    meet(a, b, c)
    a.down(c)
    a.down(c)
    assert not a.sees_down(c), "one says it twice"
    assert a.catalog.witnesses(c.pen.peer_id) == [a.pen.peer_id]
    b.down(c)
    catalog = meet(a, b, c).catalog
    assert catalog.member(c.pen.peer_id).down
    assert catalog.witnesses(c.pen.peer_id) == sorted((a.pen.peer_id, b.pen.peer_id))
    assert [m.node_id for m in catalog.present()] == sorted(
        ("node-0", "node-1"), key=lambda n: catalog.member_named(n).peer_id
    )
    assert len(catalog.members()) == len(catalog.everyone()) == 3, "it is a member still, and may return"
    assert catalog.member_named("node-2").down, "and keeps its name"


def test_of_two_members_one_is_witness_enough(author):
    a, b = make_writers(author, 2)
    meet(a, b)
    assert a.catalog.witnesses_needed == 1
    a.down(b)
    assert meet(a, b).catalog.present() == [a.catalog.member(a.pen.peer_id)]


def test_one_who_left_is_not_down_and_is_counted_no_more(writers):
    a, b, c = writers
    meet(a, b, c)
    assert a.catalog.witnesses_needed == 2
    b.down(c)
    c.write(records.LEAVE, c.pen.peer_id, {})
    catalog = meet(a, b, c).catalog
    gone = catalog.member(c.pen.peer_id)
    assert (gone.left, gone.down, catalog.witnesses_needed) == (True, False, 1)
    a.down(b)
    assert meet(a, b).catalog.member(b.pen.peer_id).down, "with two left, one witness is enough"


def test_a_later_up_survives_what_was_said_of_an_earlier_one(writers):
    a, b, c = writers
    meet(a, b, c)
    earlier = a.catalog.member(c.pen.peer_id).up
    c.up()
    a.down(c)
    b.down(c)
    assert not meet(a, b, c).catalog.member(c.pen.peer_id).down, "it was up anew before they said so"
    assert a.catalog.witnesses(c.pen.peer_id) == []
    for writer in (a, b):
        writer.down(c)
    assert meet(a, b, c).catalog.member(c.pen.peer_id).down
    c.up()
    for writer in (a, b):
        writer.down(c, earlier)
    assert not meet(a, b, c).catalog.member(c.pen.peer_id).down


def test_whom_nobody_saw_come_cannot_be_down(writers):
    a, _, _ = writers
    a.write(records.DOWN, "somebody", records.down_body(a.clock.genesis))
    assert a.catalog.member("somebody") is None
    assert a.catalog.witnesses("somebody") == []
    assert a.catalog.members() == a.catalog.present() == a.catalog.everyone()


# -- datasets --


def test_a_dataset_is_found_by_name_and_id(writers):
    a = writers[0]
    a.define(description="old")
    a.define(description="new")
    by_name, by_id = a.catalog.dataset("flights"), a.catalog.dataset("ds-1")
    assert by_name == by_id
    assert (by_name.description, by_name.version, by_name.manifest) == ("new", None, None)
    assert a.catalog.dataset("nothing") is None
    first = a.publish(1, 2)
    assert a.shards() == [1, 2]
    assert a.catalog.dataset("flights").version == records.read_version(first).manifest


def test_the_earlier_claim_owns_a_name_and_the_loser_is_visible_by_id(writers):
    a, b, _ = writers
    first = a.define("ds-a", "flights")
    a.sync(b)
    b.up()
    second = b.define("ds-b", "flights")
    assert first.order < second.order
    catalog = meet(a, b).catalog
    assert catalog.dataset("flights").dataset_id == "ds-a"
    assert catalog.dataset("ds-b").name == "flights"
    assert [r.dataset_id for r in catalog.datasets()] == ["ds-a", "ds-b"]
    a.define("ds-a", "flights", "with words")
    assert meet(a, b).catalog.dataset("flights").dataset_id == "ds-a", "an edit is no new claim"
    a.delete("ds-a")
    assert meet(a, b).catalog.dataset("flights").dataset_id == "ds-b"


def test_an_id_is_no_name_of_another(writers):
    a = writers[0]
    a.define("ds-a", "plain")
    a.define("ds-b", "ds-a")
    assert a.catalog.dataset("ds-a").name == "plain"


def test_a_replacing_version_takes_the_place_of_what_it_saw(writers):
    a = writers[0]
    a.define()
    a.publish(1, 2)
    a.publish(3)
    assert a.shards() == [3]
    assert a.catalog.dataset("ds-1").siblings == ()
    assert [said.append for _, said in a.catalog.versions("ds-1")] == [False, False]


def test_concurrent_appends_unite(writers):
    a, b, c = writers
    a.define()
    a.publish(1)
    meet(a, b, c)
    a.publish(2, append=True)
    a.publish(3, append=True)
    b.publish(4, append=True)
    c.publish(1, append=True)
    united = meet(a, b, c)
    assert sorted(united.shards()) == [1, 1, 2, 3, 4], "the same content appended again counts again"
    assert united.catalog.dataset("ds-1").siblings == ()
    # An append to the union stands on all of it.
    assert len(b.catalog.tips("ds-1")) == 3
    b.publish(5, append=True)
    assert sorted(meet(a, b, c).shards()) == [1, 1, 2, 3, 4, 5]
    assert len(a.catalog.tips("ds-1")) == 1


def test_a_union_is_found_by_its_content_id_also_when_it_was_replaced(writers):
    a, b, _ = writers
    a.define()
    a.publish(1)
    meet(a, b)
    a.publish(2, append=True)
    b.publish(3, append=True)
    united = meet(a, b).catalog.dataset("ds-1")
    assert united.version not in a.blocks, "no event names it"
    assert a.catalog.union(united.version) == united.manifest
    b.publish(4, append=True)
    catalog = meet(a, b).catalog
    assert catalog.dataset("ds-1").version != united.version
    assert catalog.union(united.version) == united.manifest
    assert catalog.union(record_cid(b"never")) is None


def test_one_publish_that_two_coordinators_carried_out_counts_once(writers):
    a, b, c = writers
    a.define()
    a.publish(1)
    meet(a, b, c)
    first = a.publish(2, append=True, publish="once")
    b.publish(2, append=True, publish="once")
    c.publish(2, append=True, publish="another")
    assert sorted(meet(a, b, c).shards()) == [1, 2, 2], "the same content in another publish counts again"
    assert a.catalog.of_publish("ds-1", "once") in (first.id, b.catalog.of_publish("ds-1", "once"))
    assert a.catalog.of_publish("ds-1", "never") is None
    a.publish(3, append=True)
    assert sorted(meet(a, b, c).shards()) == [1, 2, 2, 3]


def test_a_publish_repeated_beside_what_stands_on_it_counts_once(writers):
    a, b, _ = writers
    a.define()
    meet(a, b)
    a.publish(1, append=True, publish="once")
    a.publish(2, append=True)
    a.publish(3, append=True)
    b.publish(1, append=True, publish="once")
    assert sorted(meet(a, b).shards()) == [1, 2, 3]


def test_first_publishes_that_append_unite(writers):
    a, b, _ = writers
    a.define()
    meet(a, b)
    a.publish(1, append=True)
    b.publish(2, append=True)
    assert sorted(meet(a, b).shards()) == [1, 2]


def test_many_rounds_of_concurrent_appends_lose_nothing_and_do_not_recurse(writers):
    a, b, _ = writers
    a.define()
    a.publish(0)
    for n in range(1, 41):
        meet(a, b)
        a.publish(2 * n, append=True)
        b.publish(2 * n + 1, append=True)
    united = meet(a, b)
    assert sorted(united.shards()) == [0, *range(2, 82)]
    again = Catalog.fold(reversed([*a.clock.events()]), a.blocks.get)
    assert again.digest() == a.catalog.digest()


def test_a_version_that_comes_after_those_that_stand_on_it_corrects_the_union(writers):
    a, b, _ = writers
    a.define()
    ground = a.publish(1, append=True)
    meet(a, b)
    a.publish(2, append=True)
    b.publish(3, append=True)
    events = list(meet(a, b).clock.events())
    late = Catalog.fold([event for event in events if event != ground], a.blocks.get)
    late.digest()
    late.apply(ground)
    assert late.digest() == a.catalog.digest()
    assert sorted(entry.cid[-1] for entry in late.dataset("ds-1").manifest.shards) == [1, 2, 3]


def test_a_replacement_and_a_concurrent_append_have_one_winner_and_a_visible_loser(writers):
    a, b, c = writers
    a.define()
    a.publish(1)
    meet(a, b, c)
    replacing = a.publish(9)
    appending = b.publish(2, append=True)
    winner = max(replacing, appending, key=lambda e: e.order)
    loser = min(replacing, appending, key=lambda e: e.order)
    record = meet(a, b, c).catalog.dataset("ds-1")
    assert record.version == records.read_version(winner).manifest
    assert record.siblings == (records.read_version(loser).manifest,)


def test_appends_with_other_columns_do_not_unite(writers):
    a, b, _ = writers
    a.define()
    meet(a, b)
    a.publish(1, append=True)
    b.publish(2, append=True, columns=(Column("new", "BIGINT"),))
    record = meet(a, b).catalog.dataset("ds-1")
    assert len(record.manifest.shards) == 1
    assert len(record.siblings) == 1


def test_an_addition_that_the_delete_had_not_seen_wins(writers):
    a, b, _ = writers
    a.define()
    a.publish(1)
    meet(a, b)
    a.delete()
    assert a.catalog.dataset("flights") is None
    assert a.catalog.datasets() == []
    b.publish(2, append=True)
    assert sorted(meet(a, b).shards()) == [1, 2]
    b.delete()
    assert meet(a, b).catalog.dataset("ds-1") is None


def test_a_dataset_defined_again_after_its_deletion_begins_empty(writers):
    a, b, _ = writers
    a.define()
    a.publish(1)
    meet(a, b)
    a.delete()
    b.delete()
    meet(a, b)
    b.define(description="again")
    record = meet(a, b).catalog.dataset("flights")
    assert (record.description, record.version, record.siblings) == ("again", None, ())
    b.publish(2, append=True)
    assert meet(a, b).shards() == [2], "what was deleted stays so"
    a.define()
    assert meet(a, b).shards() == [2]


def test_a_late_replica_that_brings_a_deleted_version_again_does_not_revive_it(writers):
    a, b, c = writers
    a.define()
    a.publish(1)
    c.sync(a)
    a.delete()
    b.sync(a)
    b.sync(c)
    assert b.catalog.dataset("flights") is None
    assert meet(a, b, c).catalog.datasets() == []


def test_deleting_the_last_version_brings_no_older_one_back(writers):
    a = writers[0]
    a.define()
    a.publish(1)
    a.publish(2)
    a.delete()
    assert a.catalog.dataset("ds-1") is None, "the version that the last one replaced is no reason to exist"
    assert a.catalog.datasets() == []
    a.define()
    assert a.shards() is None


def test_a_manifest_of_another_dataset_counts_as_no_content(writers):
    a = writers[0]
    a.define()
    a.publish(1)
    a.publish(6, owner="ds-2")
    record = a.catalog.dataset("ds-1")
    assert (record.version, record.manifest) == (None, None)


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["append", "append", "replace", "delete", "define", "up", "leave", "down", "down", "sync", "sync"]
        ),
        st.integers(0, 2),
        st.integers(0, 2),
    ),
    max_size=30,
)


def acted(author, actions, repeats=4):
    """Three writers after these actions, each of which saw what it had synced; `repeats` publishes have one name."""
    writers = make_writers(author)
    for number, (action, who, other) in enumerate(actions):
        writer, dataset_id = writers[who], f"ds-{other}"
        here = writer.catalog.member(writer.pen.peer_id)
        if action == "sync":
            writer.sync(writers[other])
        elif action == "up":
            writer.up(f"node-{other}")
        elif here.left:
            continue
        elif action == "leave":
            writer.write(records.LEAVE, writer.pen.peer_id, {})
        elif action == "down":
            if who != other and writer.catalog.member(writers[other].pen.peer_id):
                writer.down(writers[other])
        elif action == "define":
            writer.define(dataset_id, f"name-{number % 3}")
        elif action == "delete":
            writer.delete(dataset_id)
        else:
            writer.publish(number, append=action == "append", dataset_id=dataset_id, publish=str(number // repeats))
        # Looking must not change what is seen later.
        writer.catalog.digest()
    return writers


@settings(max_examples=60, deadline=None)
@given(actions=ACTIONS, order=st.randoms(use_true_random=False))
def test_any_permutation_folds_to_the_same_state(author, actions, order):
    met = meet(*acted(author, actions))
    events = list(met.clock.events())
    assert Catalog.fold(events, met.blocks.get).digest() == met.catalog.digest()
    order.shuffle(events)
    shuffled = Catalog(met.blocks.get)
    for number, event in enumerate(events):
        shuffled.apply(event)
        if number % 3 == 0:
            shuffled.digest()
        if number % 5 == 0:
            shuffled.apply(event)
    assert shuffled.digest() == met.catalog.digest()
    assert shuffled.datasets() == met.catalog.datasets()
    assert shuffled.everyone() == met.catalog.everyone()
    for node in range(3):
        assert shuffled.member_named(f"node-{node}") == met.catalog.member_named(f"node-{node}")


@settings(max_examples=60, deadline=None)
@given(actions=ACTIONS, order=st.randoms(use_true_random=False), cut=st.integers(0, 40))
def test_a_fold_that_was_kept_and_loaded_goes_on_as_if_it_had_never_stopped(author, actions, order, cut):
    met = meet(*acted(author, actions))
    events = list(met.clock.events())
    order.shuffle(events)
    before = Catalog.fold(events[:cut], met.blocks.get)
    kept = msgspec.msgpack.encode(before.dump())
    after = Catalog.load(msgspec.msgpack.decode(kept), met.blocks.get)
    assert after.digest() == before.digest()
    assert msgspec.msgpack.encode(after.dump()) == kept
    for event in events[cut:]:
        after.apply(event)
    assert after.digest() == met.catalog.digest()
    for number in range(3):
        dataset_id = f"ds-{number}"
        assert after.versions(dataset_id) == met.catalog.versions(dataset_id)
        assert after.observed(dataset_id) == met.catalog.observed(dataset_id)
        assert after.tips(dataset_id) == met.catalog.tips(dataset_id)
        for publish in map(str, range(8)):
            assert after.of_publish(dataset_id, publish) == met.catalog.of_publish(dataset_id, publish)


@settings(max_examples=60, deadline=None)
@given(actions=ACTIONS)
def test_every_publish_stands_was_replaced_was_deleted_or_is_visible_as_a_loser(author, actions):
    """Nothing published vanishes without a word that names it."""
    met = meet(*acted(author, actions, repeats=1))
    events = list(met.clock.events())
    for dataset_id in ("ds-0", "ds-1", "ds-2"):
        published = [e for e in events if e.kind == records.VERSION and e.object_id == dataset_id]
        replaced = {over for e in published for over in records.read_version(e).over}
        deletes = [e for e in events if e.kind == records.DELETE and e.object_id == dataset_id]
        deleted = {gone for e in deletes for gone in records.read_delete(e)}
        defines = {e.id for e in events if e.kind == records.DEFINE and e.object_id == dataset_id}
        standing = [e for e in published if e.id not in replaced | deleted]
        record = met.catalog.dataset(dataset_id)
        assert (record is not None) == (bool(defines) and bool(defines - deleted or standing))
        if record is None or not standing:
            assert record is None or (record.manifest, record.siblings) == (None, ())
            continue
        united = {entry.cid for entry in record.manifest.shards}
        for event in standing:
            manifest = records.read_version(event).manifest
            shards = {entry.cid for entry in met.blocks[manifest].shards}
            assert manifest in record.siblings or shards <= united


@settings(max_examples=60, deadline=None)
@given(appended=st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=14))
def test_appends_alone_fold_to_every_shard_once(author, appended):
    """Concurrent or not, in one fold or in unions of unions: nothing lost, nothing twice, no loser."""
    writers = make_writers(author)
    writers[0].define()
    meet(*writers)
    for number, (who, syncs) in enumerate(appended):
        if syncs:
            writers[who].sync(writers[(who + 1) % 3])
        writers[who].publish(number, append=True)
    met = meet(*writers)
    assert sorted(met.shards() or []) == list(range(len(appended)))
    assert met.catalog.dataset("ds-1").siblings == ()


def test_a_forked_authors_later_words_do_not_count(writers):
    a, b, _ = writers
    meet(a, b)
    b.sync(a)
    one = a.pen.write(a.clock, records.DEFINE, "ds-1", records.define_body(records.Definition("one")))
    two = a.pen.write(a.clock, records.DEFINE, "ds-2", records.define_body(records.Definition("two")))
    for event in (one, two):
        b.clock.add(event)
    catalog = Catalog.fold(filter(b.clock.counts, b.clock.events()), b.blocks.get)
    assert catalog.datasets() == []
    assert catalog.member(a.pen.peer_id).role is NodeRole.HYBRID
    assert replace(catalog.member(a.pen.peer_id)).left is False
