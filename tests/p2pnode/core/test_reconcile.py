from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import protocols
from p2pnode.core import reconcile
from p2pnode.core.bands import BandDigest
from p2pnode.core.clock import MerkleClock, Verdict
from p2pnode.core.event import mint_session
from p2pnode.core.reconcile import BadAnswer, Inquiry, beyond

SALT = b"salt"


class Replicas:
    """Clocks of one swarm on which anybody may write anywhere: an author who writes on two has forked."""

    def __init__(self, author, count=3, authors=3):
        self.author = author
        self.people = [author(n + 1) for n in range(authors)]
        self.genesis = self.people[0].genesis()
        self.clocks = [MerkleClock(self.genesis.id) for _ in range(count)]
        for clock in self.clocks:
            clock.add(self.genesis)
        self.said = 0

    def write(self, replica, who, session=0):
        clock, one = self.clocks[replica], self.people[who]
        one.session = mint_session(bytes([session]) * 16)
        self.said += 1
        # Whatever branch it goes on from, an `up` may be said there.
        event = one.up(clock, f"{who}-{self.said}")
        assert clock.add(event).verdict is Verdict.ADDED
        return event

    def copy(self, here, there):
        for event in list(self.clocks[there].events()):
            self.clocks[here].add(event)


def move(clock, other, ids, *allowed):
    """Add events from another clock, each of which must be new there, and need no waiting unless it is allowed."""
    for event_id in ids:
        assert clock.add(other.get(event_id)).verdict in (Verdict.ADDED, *allowed)


def reconciled(asker, answerer, salt=SALT, *, whole=True):
    """One comparison, both ways. Returns how many rounds it took after the digests came."""
    inquiry = Inquiry(asker, salt, reconcile.digests(answerer, salt))
    mine = reconcile.leaves_by_bucket(answerer, salt, inquiry.bits)
    answer = reconcile.compare(answerer, inquiry.groups, mine)
    assert reconcile.unpack_flags(reconcile.pack_flags(answer.known), len(answer.known)) == answer.known
    assert reconcile.unpack(reconcile.pack(answer.lacking)) == answer.lacking
    allowed = () if whole else tuple(Verdict)
    move(asker, answerer, answer.lacking, Verdict.WAITING, *allowed)
    moved = set(answer.lacking)
    inquiry.hear(answer.known, answer.others)
    rounds = 1
    while probes := inquiry.probes():
        inquiry.learn(reconcile.compare(answerer, [], {}, probes).known)
        rounds += 1
    late = beyond(answerer, inquiry.wanted, inquiry.common)
    assert not moved & set(late)
    move(asker, answerer, late, *allowed)
    assert asker.waiting == 0 or not whole
    move(answerer, asker, inquiry.lacking, *allowed)
    return rounds


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 2), st.integers(0, 2), st.integers(0, 1)),
        st.tuples(st.just("copy"), st.integers(0, 2), st.integers(0, 2), st.just(0)),
    ),
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(steps=STEPS, salt=st.binary(min_size=1, max_size=8), early=st.sampled_from([0, 3, 512]))
def test_one_comparison_makes_any_two_replicas_equal_and_moves_nothing_twice(author, steps, salt, early):
    replicas = Replicas(author)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconcile, "EARLY_EVENTS_MAX", early)
        compare_all(replicas, steps, salt)


def compare_all(replicas, steps, salt):
    for step, one, other, session in steps:
        if step == "write":
            replicas.write(one, other, session)
        else:
            replicas.copy(one, other)
    for one, other in ((0, 1), (2, 1), (0, 2)):
        asker, answerer = replicas.clocks[one], replicas.clocks[other]
        reconciled(asker, answerer, salt)
        assert asker.fingerprint == answerer.fingerprint
        assert asker.heads() == answerer.heads()
        assert asker.forks() == answerer.forks()


@settings(max_examples=25, deadline=None)
@given(trunk=st.integers(0, 12), one=st.integers(1, 12), other=st.integers(1, 12), probes=st.integers(1, 5))
def test_where_two_branches_part_is_found_by_asking(author, trunk, one, other, probes):
    replicas = Replicas(author, count=2, authors=1)
    for _ in range(trunk):
        replicas.write(0, 0)
    replicas.copy(1, 0)
    for side, length in ((0, one), (1, other)):
        for _ in range(length):
            replicas.write(side, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconcile, "PROBES", probes)
        patch.setattr(reconcile, "ROUNDS_MAX", 20)
        reconciled(*replicas.clocks)
    assert replicas.clocks[0].fingerprint == replicas.clocks[1].fingerprint
    assert len(replicas.clocks[0].forks()) == min(one, other)


def test_branches_that_part_a_thousand_events_ago_take_three_rounds(author):
    replicas = Replicas(author, count=2, authors=1)
    for _ in range(400):
        replicas.write(0, 0)
    replicas.copy(1, 0)
    for side in (0, 1):
        for _ in range(300):
            replicas.write(side, 0)
    assert reconciled(*replicas.clocks) <= 3
    assert replicas.clocks[0].fingerprint == replicas.clocks[1].fingerprint


def test_who_is_merely_behind_or_ahead_is_not_asked_twice(author):
    replicas = Replicas(author, count=2, authors=20)
    for who in range(20):
        replicas.write(0, who)
    replicas.copy(1, 0)
    for who in range(10):
        replicas.write(0, who)
    for who in range(10, 20):
        replicas.write(1, who)
    assert reconciled(*replicas.clocks) == 1
    assert replicas.clocks[0].fingerprint == replicas.clocks[1].fingerprint


def test_only_buckets_that_differ_are_named(author):
    replicas = Replicas(author, count=2, authors=60)
    for who in range(60):
        replicas.write(0, who)
    replicas.copy(1, 0)
    replicas.write(0, 7)
    packed = reconcile.digests(replicas.clocks[0], SALT)
    assert len(packed) == 64 * reconcile.BUCKET_DIGEST_BYTES
    inquiry = Inquiry(replicas.clocks[1], SALT, packed)
    assert len(inquiry.groups) == 1
    (old,) = replicas.clocks[1].leaves(replicas.people[7].peer_id)
    assert old in inquiry.groups[0][1]
    assert Inquiry(replicas.clocks[0], SALT, packed).groups == []


def test_more_leaves_than_fit_are_compared_in_several_goes(author, monkeypatch):
    monkeypatch.setattr(reconcile, "LEAVES_MAX", 6)
    replicas = Replicas(author, count=2, authors=30)
    for who in range(30):
        replicas.write(who % 2, who)
    goes = 0
    while replicas.clocks[0].fingerprint != replicas.clocks[1].fingerprint:
        # Each go by another salt, which says whose turn it is.
        goes += 1
        reconciled(*replicas.clocks, salt=bytes([goes]), whole=False)
    assert 2 <= goes <= 30


def test_answers_that_fit_no_question_are_refused(author):
    replicas = Replicas(author, count=2, authors=4)
    for who in range(4):
        replicas.write(0, who)
    one, other = replicas.clocks
    inquiry = Inquiry(other, SALT, reconcile.digests(one, SALT))
    flags = [False] * sum(len(leaves) for _, leaves in inquiry.groups)
    for known, others in ((flags[1:], [[]] * len(inquiry.groups)), (flags, [])):
        with pytest.raises(BadAnswer):
            inquiry.hear(known, others)
    for packed in (b"", bytes(7), bytes(24), bytes(8 * 2048)):
        with pytest.raises(BadAnswer):
            Inquiry(other, SALT, packed)
    with pytest.raises(BadAnswer):
        reconcile.unpack(bytes(33))
    with pytest.raises(BadAnswer):
        reconcile.unpack_flags(bytes(2), 8)
    for groups in ([(1, []), (0, [])], [(1, []), (1, [])]):
        with pytest.raises(BadAnswer):
            reconcile.compare(one, groups, {})


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_lies_of_an_answerer_end_and_make_nobody_ask_for_what_is_here(author, data):
    replicas = Replicas(author, count=2, authors=3)
    for who in (0, 1, 2, 0, 1, 0):
        replicas.write(0, who)
    replicas.copy(1, 0)
    replicas.write(1, 1)
    asker = replicas.clocks[1]
    ids = [event.id for event in asker.events()]
    inquiry = Inquiry(asker, SALT, data.draw(st.sampled_from([bytes(8), bytes(16), bytes(32)])))
    count = sum(len(leaves) for _, leaves in inquiry.groups)
    made_up = st.lists(st.one_of(st.sampled_from(ids), st.binary(min_size=36, max_size=36)), max_size=3)
    inquiry.hear(
        data.draw(st.lists(st.booleans(), min_size=count, max_size=count)),
        data.draw(st.lists(made_up, min_size=len(inquiry.groups), max_size=len(inquiry.groups))),
    )
    rounds = 0
    while probes := inquiry.probes():
        rounds += 1
        assert set(probes) <= set(ids)
        inquiry.learn(data.draw(st.lists(st.booleans(), min_size=len(probes), max_size=len(probes))))
    assert rounds <= reconcile.ROUNDS_MAX
    assert set(inquiry.lacking) <= set(ids)
    assert not set(inquiry.wanted) & set(ids)


# -- as others may build it --

COMPARING = json.loads((Path(protocols.__file__).parent / "vectors" / "comparing.json").read_text(encoding="utf-8"))


class Leaves:
    """As much of a clock as the vectors tell."""

    def __init__(self, vector):
        self._leaves = {one["peer_id"]: ids_of(one["leaves"]) for one in vector["authors"]}

    def authors(self):
        return sorted(self._leaves)

    def leaves(self, author):
        return sorted(self._leaves[author])


def ids_of(digests):
    return reconcile.unpack(b"".join(map(bytes.fromhex, digests)))


@pytest.mark.parametrize("vector", COMPARING["differs"], ids=lambda vector: f"{len(vector['authors'])} authors")
def test_buckets_are_those_of_the_vectors(vector):
    clock, salt = Leaves(vector), bytes.fromhex(vector["salt"])
    assert reconcile.bits_for(len(vector["authors"])) == vector["bits"]
    packed = reconcile.digests(clock, salt)
    assert packed.hex() == vector["digests"]
    assert reconcile.bits_of(packed) == vector["bits"]
    buckets = reconcile.leaves_by_bucket(clock, salt, vector["bits"])
    for one in vector["authors"]:
        assert set(ids_of(one["leaves"])) <= set(buckets[vector["buckets"][one["peer_id"]]])


def test_flags_and_bands_are_those_of_the_vectors():
    known = COMPARING["known"]
    assert reconcile.pack_flags(known["flags"]).hex() == known["bytes"]
    assert reconcile.unpack_flags(bytes.fromhex(known["bytes"]), len(known["flags"])) == known["flags"]
    digest = BandDigest()
    digest.add(ids_of(COMPARING["band"]["ids"]))
    assert digest.value.hex() == COMPARING["band"]["digest"]
