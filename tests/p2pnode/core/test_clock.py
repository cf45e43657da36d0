from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnode.core import records
from p2pnode.core import waiting as waiting_module
from p2pnode.core.cid import record_cid
from p2pnode.core.clock import MerkleClock, Verdict
from p2pnode.core.event import PARENTS_MAX
from p2pnode.core.model import Member, NodeRole

BLOCK = record_cid(b"a manifest")


class Swarm:
    """A clock per author, and everything that any of them wrote."""

    def __init__(self, author, count=3):
        self.authors = [author(n + 1) for n in range(count)]
        genesis = self.authors[0].genesis()
        self.clocks = [MerkleClock(genesis.id) for _ in self.authors]
        self.all = [genesis]
        for clock in self.clocks:
            clock.add(genesis)
            clock.add_block(BLOCK)

    def write(self, who, kind, object_id="", body=None):
        if kind == records.UP:
            event = self.authors[who].up(self.clocks[who], f"node-{who}")
        else:
            object_id = self.authors[who].peer_id if kind == records.LEAVE else object_id
            event = self.authors[who].write(self.clocks[who], kind, object_id, body or {})
        assert self.clocks[who].add(event).verdict is Verdict.ADDED
        self.all.append(event)
        return event

    def sync(self, here, there):
        for event_id in self.clocks[there].between(0):
            self.clocks[here].add(self.clocks[there].get(event_id))


@pytest.fixture
def swarm(author):
    swarm = Swarm(author)
    for who in range(3):
        swarm.write(who, records.UP)
    return swarm


def leaves(clock):
    return {author: clock.leaves(author) for author in clock.authors()}


def state(clock):
    return (len(clock), clock.fingerprint, clock.heads(), clock.height, leaves(clock), clock.forks())


STEPS = st.lists(st.tuples(st.sampled_from(["write", "sync"]), st.integers(0, 2), st.integers(0, 2)), max_size=25)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, order=st.randoms(use_true_random=False))
def test_any_order_of_arrival_gives_the_same_clock(author, steps, order):
    swarm = Swarm(author)
    for who in range(3):
        swarm.write(who, records.UP)
    for step, one, other in steps:
        if step == "write":
            swarm.write(one, "note", body={"n": len(swarm.all)})
        else:
            swarm.sync(one, other)
    straight, shuffled = MerkleClock(swarm.all[0].id), MerkleClock(swarm.all[0].id)
    for event in swarm.all:
        straight.add(event)
    events = list(swarm.all)
    order.shuffle(events)
    for event in events:
        shuffled.add(event, "somebody")
    assert state(shuffled) == state(straight)
    assert shuffled.waiting == 0
    referenced = {past for event in swarm.all for past in event.past}
    assert straight.heads() == sorted({event.id for event in swarm.all} - referenced)


def test_a_child_waits_for_its_parents_and_heads_stay_right(swarm):
    first, second, third = (swarm.write(0, "note", body={"n": n}) for n in range(3))
    late = swarm.clocks[1]
    up = swarm.all[1]
    assert late.add(third, "p").verdict is Verdict.WAITING
    assert late.add(second, "p").verdict is Verdict.WAITING
    assert late.add(first, "p").verdict is Verdict.WAITING
    assert late.waiting == 3
    outcome = late.add(up, "p")
    assert [e.id for e in outcome.added] == [up.id, first.id, second.id, third.id]
    assert set(late.heads()) == {third.id, swarm.all[2].id}
    assert late.waiting == 0


def test_waiting_is_bounded_per_sender_and_the_oldest_go(swarm, monkeypatch):
    monkeypatch.setattr(waiting_module, "WAITING_EVENTS_MAX", 4)
    notes = [swarm.write(0, "note", body={"n": n}) for n in range(8)]
    late = swarm.clocks[1]
    late.add(swarm.all[1])
    for note in notes[1:]:
        late.add(note, "flooder")
    late.add(notes[2], "honest")
    assert late.waiting == 5
    # 1–3 of the flooder's were dropped; 2 came again from somebody else, whose share was not touched.
    outcome = late.add(notes[0])
    assert [e.id for e in outcome.added] == [notes[0].id]
    assert notes[7].id in {e.id for e in late.add(notes[1]).added + late.add(notes[3]).added}


def test_waiting_bytes_are_bounded_over_all_senders(swarm, monkeypatch):
    monkeypatch.setattr(waiting_module, "WAITING_TOTAL_BYTES_MAX", 100_000)
    notes = [swarm.write(0, "note", body={"x": bytes(30_000), "n": n}) for n in range(9)]
    late = swarm.clocks[1]
    for n, note in enumerate(notes[1:]):
        late.add(note, f"sender-{n}")
    assert late.waiting == 3


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"height": 9}, "height"),
        ({"height": 2}, "height"),
        ({"sequence": 5}, "sequence"),
        ({"sequence": 0}, "sequence"),
        ({"parents": ()}, "parents"),
        ({"previous": None, "sequence": 0}, "no member"),
    ],
)
def test_a_place_that_does_not_follow_from_the_past_is_refused(swarm, change, why):
    author, clock = swarm.authors[0], swarm.clocks[0]
    position = dataclasses.replace(clock.next_position(author.peer_id, author.session), **change)
    outcome = clock.add(author.compose(clock.genesis, position, "note", "", {}))
    assert outcome.verdict is Verdict.REFUSED
    assert why in outcome.refused[0].reason


def test_another_authors_event_is_no_previous_one(swarm):
    clock = swarm.clocks[0]
    swarm.sync(0, 1)
    stranger = swarm.authors[1].write(clock, "note", "", {})
    stolen = dataclasses.replace(
        clock.next_position(swarm.authors[0].peer_id, swarm.authors[0].session), previous=stranger.previous
    )
    outcome = clock.add(swarm.authors[0].compose(clock.genesis, stolen, "note", "", {}))
    assert "another author" in outcome.refused[0].reason


def test_another_swarms_events_are_refused(swarm, author):
    other = author(9).genesis("elsewhere")
    assert "another swarm" in swarm.clocks[0].add(other).refused[0].reason
    elsewhere = MerkleClock(other.id)
    elsewhere.add(other)
    note = author(9).up(elsewhere, "node-9")
    assert "another swarm" in swarm.clocks[0].add(note).refused[0].reason


@pytest.mark.parametrize(
    ("role", "kind", "allowed"),
    [
        (NodeRole.WORKER, records.DEFINE, False),
        (NodeRole.WORKER, records.DELETE, False),
        (NodeRole.WORKER, "note", True),
        (NodeRole.COORDINATOR, records.DEFINE, True),
        (NodeRole.HYBRID, records.DELETE, True),
    ],
)
def test_roles_come_from_the_causal_past(author, role, kind, allowed):
    boss, member = author(1), author(2)
    genesis = boss.genesis()
    clock = MerkleClock(genesis.id)
    clock.add(genesis)
    clock.add(member.up(clock, "m", role))
    body = {records.DEFINE: records.define_body(records.Definition("d")), records.DELETE: {"versions": []}}
    outcome = clock.add(member.write(clock, kind, "ds-1", body.get(kind, {})))
    assert (outcome.verdict is Verdict.ADDED) == allowed


def test_who_left_says_nothing_until_it_is_up_again(swarm):
    clock, me = swarm.clocks[0], swarm.authors[0]
    swarm.write(0, records.LEAVE)
    assert clock.add(me.write(clock, "note", "", {})).verdict is Verdict.REFUSED
    swarm.write(0, records.UP)
    assert clock.add(me.write(clock, "note", "", {})).verdict is Verdict.ADDED


def test_nobody_speaks_for_another(swarm):
    clock, me, other = swarm.clocks[0], swarm.authors[0], swarm.authors[1]
    body = records.up_body(Member(other.peer_id, "x", NodeRole.WORKER))
    for kind, said in ((records.UP, body), (records.LEAVE, {})):
        assert clock.add(me.write(clock, kind, other.peer_id, said)).verdict is Verdict.REFUSED


def test_a_known_kind_with_a_broken_payload_is_refused(swarm):
    clock, me = swarm.clocks[0], swarm.authors[0]
    assert clock.add(me.write(clock, records.DEFINE, "ds-1", {"name": ""})).verdict is Verdict.REFUSED


def test_a_version_waits_for_its_block(swarm):
    clock, me = swarm.clocks[0], swarm.authors[0]
    manifest = record_cid(b"another manifest")
    version = me.write(clock, records.VERSION, "ds-1", records.version_body(records.Version(manifest)))
    assert clock.add(version, "sender").verdict is Verdict.WAITING
    assert clock.wanted_blocks() == [manifest]
    assert version.id not in clock
    assert [e.id for e in clock.add_block(manifest).added] == [version.id]
    assert clock.wanted_blocks() == []


def test_a_new_session_goes_on_from_the_last_one(author):
    me = author(1)
    genesis = me.genesis()
    clock = MerkleClock(genesis.id)
    clock.add(genesis)
    clock.add(me.up(clock, "n"))
    again = author(1, session=7)
    event = again.write(clock, "note", "", {})
    assert clock.add(event).verdict is Verdict.ADDED
    assert (event.sequence, event.previous) == (0, clock.between(2)[0])
    assert clock.leaves(me.peer_id) == [event.id]


def test_two_tongues_are_kept_reported_and_do_not_count(swarm):
    clock, me = swarm.clocks[0], swarm.authors[0]
    before = swarm.write(0, "note")
    one = me.write(clock, "note", "", {"said": "one"})
    two = me.write(clock, "note", "", {"said": "two"})
    clock.add(one)
    after = me.write(clock, "note", "", {"said": "after one"})
    clock.add(after)
    assert clock.counts(after)
    assert clock.add(two).verdict is Verdict.ADDED
    (fork,) = clock.forks()
    assert set(fork.events) == {one.id, two.id}
    assert [clock.counts(e) for e in (before, one, two, after)] == [True, False, False, False]
    later = me.write(clock, "note", "", {"said": "later"})
    clock.add(later)
    assert not clock.counts(later)
    swarm.sync(0, 1)
    assert clock.counts(swarm.all[2]), "others are not touched"
    assert clock.leaves(me.peer_id) == sorted([two.id, later.id])


def test_forks_are_the_same_whichever_branch_came_first(swarm):
    clock, me = swarm.clocks[0], swarm.authors[0]
    branches = [me.write(clock, "note", "", {"said": n}) for n in range(3)]
    replicas = []
    for turn in range(3):
        replica = MerkleClock(clock.genesis)
        for event in [*clock.events(), *branches[turn:], *branches[:turn]]:
            replica.add(event)
        replicas.append(replica)
    assert state(replicas[0]) == state(replicas[1]) == state(replicas[2])
    assert all(not replica.counts(event) for replica in replicas for event in branches)


def test_more_heads_than_parents_are_tied_together_in_a_few_events(author):
    authors = [author(n + 1) for n in range(40)]
    genesis = authors[0].genesis()
    clock = MerkleClock(genesis.id)
    clock.add(genesis)
    lonely = MerkleClock(genesis.id)
    lonely.add(genesis)
    for n, one in enumerate(authors):
        clock.add(one.up(lonely, f"n{n}"))
    assert len(clock.heads()) == 40
    heads = clock.heads()
    chosen = [set(one.write(clock, "note", "", {}).parents) for one in authors]
    assert all(len(parents) == PARENTS_MAX for parents in chosen)
    assert set.union(*chosen) == set(heads), "who write at once tie up all of them among them"
    writer = next(
        one for one, parents in zip(authors, chosen, strict=True) if clock.leaves(one.peer_id)[0] not in parents
    )
    assert writer.write(clock, "note", "", {}).previous in heads, "it is one head more"
    for _ in range(4):
        event = writer.write(clock, "note", "", {})
        assert len(event.parents) <= PARENTS_MAX
        assert clock.add(event).verdict is Verdict.ADDED
        assert event.previous not in clock.heads()
    assert clock.heads() == [event.id]


# -- ranges, against their definitions -----------------------------------------------------------------------------

WILD_STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "sync", "elsewhere"]), st.integers(0, 2), st.integers(0, 2)), max_size=25
)


def wild(author, steps):
    """A swarm whose members also write on each other's clocks, which forks them."""
    swarm = Swarm(author)
    for who in range(3):
        swarm.write(who, records.UP)
    for step, one, other in steps:
        if step == "sync":
            swarm.sync(one, other)
        elif step == "write":
            swarm.write(one, "note", body={"n": len(swarm.all)})
        else:
            event = swarm.authors[one].up(swarm.clocks[other], f"elsewhere-{len(swarm.all)}")
            swarm.clocks[other].add(event)
            swarm.all.append(event)
    return swarm


def meet(swarm):
    clock = MerkleClock(swarm.all[0].id)
    for event in sorted(swarm.all, key=lambda event: event.order):
        clock.add(event)
    assert len(clock) == len(swarm.all)
    return clock


@settings(max_examples=60, deadline=None)
@given(steps=WILD_STEPS, data=st.data())
def test_ranges_are_what_they_say(author, steps, data):
    swarm = wild(author, steps)
    clock = meet(swarm)
    everything = sorted(swarm.all, key=lambda event: event.order)
    assert [event.id for event in clock.events()] == [event.id for event in everything]
    low, high = data.draw(st.integers(0, 12)), data.draw(st.none() | st.integers(0, 12))
    band = [event.id for event in everything if low <= event.height and (high is None or event.height < high)]
    assert clock.between(low, high) == band
    for peer_id in clock.authors():
        own = {event.id: event for event in everything if event.author == peer_id}
        followed = {event.previous for event in own.values()}
        assert clock.leaves(peer_id) == sorted(own.keys() - followed)
    for event in everything:
        assert clock.height_of(event.id) == event.height
        assert clock.previous_of(event.id) == event.previous
        assert clock.author_of(event.id) == event.author


def test_a_range_that_is_drawn_later_is_of_the_moment_it_was_asked_for(swarm):
    clock, me = swarm.clocks[0], swarm.authors[0]
    before, rising = clock.between(0), clock.rising(0)
    first = next(rising)
    clock.add(me.write(clock, "note", "", {}))
    assert [first, *rising] == before
    assert len(clock.between(0)) == len(before) + 1


@settings(max_examples=60, deadline=None)
@given(steps=WILD_STEPS, data=st.data())
def test_what_lies_beyond_heads_is_what_their_past_lacks(author, steps, data):
    swarm = wild(author, steps)
    clock = meet(swarm)
    heads = data.draw(st.lists(st.sampled_from([event.id for event in swarm.all]), max_size=3))
    theirs, pending = set(), list(heads)
    while pending:
        event_id = pending.pop()
        if event_id not in theirs:
            theirs.add(event_id)
            pending.extend(clock.get(event_id).past)
    assert clock.missing_beyond(heads) == [event.id for event in clock.events() if event.id not in theirs]
    assert clock.missing_beyond([*heads, record_cid(b"never heard of")]) is None


def test_what_is_too_far_behind_is_not_looked_for_on_the_loop(swarm, monkeypatch):
    monkeypatch.setattr("p2pnode.core.clock.BEYOND_STEPS_MAX", 4)
    clock = swarm.clocks[0]
    first = swarm.write(0, "note")
    for n in range(4):
        swarm.write(0, "note", body={"n": n})
    assert len(clock.missing_beyond([first.id])) == 4
    swarm.write(0, "note")
    assert clock.missing_beyond([first.id]) is None
    assert len(clock.missing_beyond([])) == len(clock)


def test_what_is_not_here_has_no_place(swarm):
    for ask in (swarm.clocks[0].height_of, swarm.clocks[0].previous_of, swarm.clocks[0].author_of):
        with pytest.raises(KeyError):
            ask(record_cid(b"never heard of"))
    assert swarm.clocks[0].leaves("nobody") == []


def test_old_events_are_read_and_new_ones_kept(swarm, monkeypatch):
    monkeypatch.setattr("p2pnode.core.clock.EVENTS_KEPT", 3)
    for n in range(6):
        swarm.write(0, "note", body={"n": n})
    by_id = {event.id: event for event in swarm.all}
    read = []

    def from_disk(event_id):
        read.append(event_id)
        return by_id[event_id]

    clock = MerkleClock(swarm.all[0].id, from_disk)
    for event in swarm.clocks[0].events():
        clock.add(event)
    assert read == [], "adding reads nothing"
    assert [clock.get(event.id) for event in swarm.all[-3:]] == swarm.all[-3:]
    assert read == []
    assert clock.get(swarm.all[0].id) == swarm.all[0]
    assert clock.get(record_cid(b"never heard of")) is None
    assert read == [swarm.all[0].id]
