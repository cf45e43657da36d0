"""An author that forked does not count until it is forgiven, and then only as far as it was."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnode.core import records
from p2pnode.core.clock import MerkleClock, Verdict
from p2pnode.core.event import Event
from p2pnode.core.forks import Forks
from p2pnode.core.model import Member, NodeRole
from p2pnode.core.records import Readmission


class Court:
    """One clock on which an offender, a judge and an accomplice speak."""

    def __init__(self, author) -> None:
        self.offender, self.judge, self.accomplice = (author(number) for number in (1, 2, 3))
        genesis = self.judge.genesis()
        self.clock = MerkleClock(genesis.id)
        self.take(genesis)
        self.ups = [
            self.take(one.up(self.clock, one.peer_id[-4:])) for one in (self.offender, self.judge, self.accomplice)
        ]

    def take(self, event: Event) -> Event:
        outcome = self.clock.add(event)
        assert outcome.verdict is Verdict.ADDED, outcome
        return event

    def say(self, who, said="") -> Event:
        return self.take(who.write(self.clock, "note", "", {"said": said}))

    def fork(self, who) -> tuple[Event, Event]:
        """Two events at one place, the first of which goes on."""
        one, two = (who.write(self.clock, "note", "", {"branch": n}) for n in range(2))
        return self.take(one), self.take(two)

    def readmit(self, who, whom, forks, keep=None) -> Event:
        body = records.readmit_body(Readmission(tuple(sorted(e.id for e in forks)), keep and keep.id))
        return self.take(who.write(self.clock, records.READMIT, whom.peer_id, body))

    def up_again(self, who, readmit: Event | None) -> Event:
        body = records.up_body(Member(who.peer_id, "again", NodeRole.HYBRID), readmit and readmit.id)
        return self.take(who.write(self.clock, records.UP, who.peer_id, body))

    def counted(self, *events: Event) -> list[bool]:
        return [self.clock.counts(event) for event in events]


@pytest.fixture
def court(author):
    return Court(author)


def test_a_readmission_lets_the_kept_branch_and_what_follows_its_up_count(court):
    before = court.say(court.offender)
    one, two = court.fork(court.offender)
    after = court.say(court.offender, "after one")
    rulings = court.clock.rulings
    assert court.counted(court.ups[0], before, one, two, after) == [True, True, False, False, False]
    readmit = court.readmit(court.judge, court.offender, [one, two], keep=one)
    assert court.clock.rulings > rulings, "the fold must be made anew"
    assert court.counted(before, one, two, after) == [True, True, False, False]
    unheard = court.say(court.offender, "without an up that takes it up")
    assert court.counted(unheard) == [False]
    up = court.up_again(court.offender, readmit)
    later = court.say(court.offender, "later")
    assert court.counted(before, one, two, after, unheard, up, later) == [True, True, False, False, False, True, True]
    assert len(court.clock.forks()) == 1, "the proof stays"


def test_without_a_kept_event_only_what_lies_before_counts(court):
    before = court.say(court.offender)
    one, two = court.fork(court.offender)
    court.readmit(court.judge, court.offender, [one, two])
    assert court.counted(before, one, two) == [True, False, False]


def test_a_branch_that_turns_up_later_is_a_new_reason(court):
    third = court.offender.write(court.clock, "note", "", {"branch": 3})
    one, two = court.fork(court.offender)
    readmit = court.readmit(court.judge, court.offender, [one, two], keep=one)
    up = court.up_again(court.offender, readmit)
    later = court.say(court.offender)
    assert court.counted(one, up, later) == [True, True, True]
    court.take(third)
    assert court.counted(one, two, third, up, later) == [False] * 5
    again = court.readmit(court.judge, court.offender, [one, two, third], keep=one)
    assert court.counted(one, up, later) == [True, False, False], "an up takes up the readmission that it names"
    assert court.counted(court.up_again(court.offender, again)) == [True]


def test_a_second_fork_after_a_readmission_counts_from_the_second_on(court):
    one, two = court.fork(court.offender)
    readmit = court.readmit(court.judge, court.offender, [one, two], keep=two)
    up = court.up_again(court.offender, readmit)
    three, four = court.fork(court.offender)
    assert court.counted(one, two, up, three, four) == [False, False, True, False, False]


def test_two_forked_members_cannot_forgive_each_other(court):
    of_one = court.fork(court.offender)
    of_other = court.fork(court.accomplice)
    first = court.readmit(court.offender, court.accomplice, of_other, keep=of_other[0])
    second = court.readmit(court.accomplice, court.offender, of_one, keep=of_one[0])
    ups = court.up_again(court.offender, second), court.up_again(court.accomplice, first)
    assert court.counted(*of_one, *of_other, first, second, *ups) == [False] * 8
    honest = court.readmit(court.judge, court.offender, of_one, keep=of_one[0])
    free = court.up_again(court.offender, honest)
    third = court.readmit(court.offender, court.accomplice, of_other, keep=of_other[1])
    assert court.counted(free, third, of_other[1]) == [True, True, True]
    assert court.counted(of_other[0], first, second) == [False, False, False]


def test_who_may_readmit_whom(court, author):
    one, two = court.fork(court.offender)
    body = records.readmit_body(Readmission(tuple(sorted((one.id, two.id)))))
    own = court.offender.write(court.clock, records.READMIT, court.offender.peer_id, body)
    assert court.clock.add(own).verdict is Verdict.REFUSED
    worker = author(4)
    court.take(worker.up(court.clock, "w", NodeRole.WORKER))
    unentitled = worker.write(court.clock, records.READMIT, court.offender.peer_id, body)
    assert "may not readmit" in court.clock.add(unentitled).refused[0].reason


def test_an_up_waits_for_the_readmission_that_it_takes_up_and_it_must_be_its_own(court):
    one, two = court.fork(court.offender)
    elsewhere = MerkleClock(court.clock.genesis)
    for event in court.clock.events():
        elsewhere.add(event)
    readmit = court.readmit(court.judge, court.offender, [one, two], keep=one)
    body = records.up_body(Member(court.offender.peer_id, "again", NodeRole.HYBRID), readmit.id)
    up = court.offender.write(elsewhere, records.UP, court.offender.peer_id, body)
    assert elsewhere.add(up).verdict is Verdict.WAITING
    assert elsewhere.wanted_blocks() == []
    assert {event.id for event in elsewhere.add(readmit).added} == {readmit.id, up.id}
    assert elsewhere.counts(up)
    stolen = records.up_body(Member(court.accomplice.peer_id, "again", NodeRole.HYBRID), readmit.id)
    refused = court.clock.add(court.accomplice.write(court.clock, records.UP, court.accomplice.peer_id, stolen))
    assert "no readmission of its author" in refused.refused[0].reason
    note = records.up_body(Member(court.offender.peer_id, "again", NodeRole.HYBRID), one.id)
    refused = court.clock.add(court.offender.write(court.clock, records.UP, court.offender.peer_id, note))
    assert "no readmission of its author" in refused.refused[0].reason


def test_a_keep_of_another_author_or_not_here_keeps_nothing(court):
    one, two = court.fork(court.offender)
    foreign = court.say(court.accomplice)
    missing = court.offender.write(court.clock, "note", "", {"not": "sent yet"})
    court.readmit(court.judge, court.offender, [one, two], keep=foreign)
    court.readmit(court.judge, court.offender, [one, two], keep=missing)
    assert court.counted(one, two, foreign) == [False, False, True]
    rulings = court.clock.rulings
    court.take(missing)
    assert court.counted(one, missing) == [True, True]
    assert court.clock.rulings > rulings


def test_more_of_a_fork_that_changes_nothing_makes_no_fold_out_of_date(court):
    branches = [court.offender.write(court.clock, "note", "", {"branch": n}) for n in range(5)]
    for event in branches[:2]:
        court.take(event)
    rulings = court.clock.rulings
    for event in branches[2:]:
        court.take(event)
    assert court.clock.rulings == rulings
    assert len(court.clock.forks()[0].events) == 5


ACTS = st.lists(
    st.tuples(
        st.sampled_from(["say", "fork", "readmit", "up"]),
        st.integers(0, 2),
        st.integers(0, 2),
        st.booleans(),
    ),
    max_size=14,
)


def play(author, acts) -> Court:
    """What these acts make of a court."""
    court = Court(author)
    people = (court.offender, court.judge, court.accomplice)
    last_readmit: dict[int, Event] = {}
    for n, (act, one, other, flag) in enumerate(acts):
        if act == "say":
            court.say(people[one], str(n))
        elif act == "fork":
            court.fork(people[one])
        elif act == "readmit" and one != other:
            forks = [f for f in court.clock.forks() if f.author == people[other].peer_id]
            ids = [event_id for fork in forks[: 1 if flag else None] for event_id in fork.events]
            if ids:
                events = [court.clock.get(event_id) for event_id in ids]
                keep = events[n % len(events)] if flag else None
                last_readmit[other] = court.readmit(people[one], people[other], events, keep)
        elif act == "up":
            court.up_again(people[one], last_readmit.get(one) if flag else None)
    return court


def chain(events: dict[bytes, Event], event_id: bytes | None) -> set[bytes]:
    found = set()
    while event_id is not None:
        found.add(event_id)
        event_id = events[event_id].previous
    return found


def counted_by_definition(events: dict[bytes, Event]) -> set[bytes]:
    """What counts, straight from the words at the head of `forks`, by brute force."""
    slots: dict[tuple[str, bytes, int], set[bytes]] = {}
    for event in events.values():
        slots.setdefault((event.author, event.session, event.sequence), set()).add(event.id)
    forks = [(author, ids) for (author, _, _), ids in slots.items() if len(ids) > 1]
    readmits = {e.id: (e.object_id, records.read_readmit(e)) for e in events.values() if e.kind == records.READMIT}
    before = {frozenset(ids): set.intersection(*(chain(events, events[i].previous) for i in ids)) for _, ids in forks}

    def innocent(event: Event, heard: set[bytes]) -> bool:
        taken_up = {records.readmission_of(events[step]) for step in chain(events, event.id)}
        for author, ids in forks:
            if author != event.author or event.id in before[frozenset(ids)]:
                continue
            forgiving = {r for r in heard if readmits[r][0] == author and ids <= set(readmits[r][1].forks)}
            kept = {readmits[r][1].keep for r in forgiving} & {e.id for e in events.values() if e.author == author}
            if not (forgiving & taken_up or any(event.id in chain(events, keep) for keep in kept)):
                return False
        return True

    heard: set[bytes] = set()
    while (now := {r for r in readmits if innocent(events[r], heard)}) != heard:
        heard = now
    return {event.id for event in events.values() if innocent(event, heard)}


@settings(max_examples=100, deadline=None)
@given(acts=ACTS, order=st.randoms(use_true_random=False))
def test_what_counts_is_a_function_of_the_set(author, acts, order):
    court = play(author, acts)
    events = {event.id: event for event in court.clock.events()}
    expected = counted_by_definition(events)
    shuffled = list(events.values())
    order.shuffle(shuffled)
    replica = MerkleClock(court.clock.genesis)
    for event in shuffled:
        replica.add(event)
    for clock in (court.clock, replica):
        assert {event_id for event_id in events if clock.counts(events[event_id])} == expected


def test_what_a_forked_author_goes_on_saying_is_not_weighed_again_and_again(court, monkeypatch):
    weighed = []
    weigh = Forks._weigh_all
    monkeypatch.setattr(Forks, "_weigh_all", lambda *args: weighed.append(1) or weigh(*args))
    court.fork(court.offender)
    assert court.counted(court.say(court.offender)) == [False]
    before = len(weighed)
    for number in range(20):
        assert court.counted(court.say(court.offender, number)) == [False]
        court.readmit(court.judge, court.accomplice, court.ups[:2])  # who never forked
    assert (len(weighed), court.clock.rulings) == (before, 1)


def test_taking_up_ever_more_readmissions_takes_no_more_room_each_time(court):
    sizes = []
    for _ in range(2):
        for _ in range(100):
            readmit = court.readmit(court.judge, court.offender, court.ups[:2])
            court.up_again(court.offender, readmit)
        sizes.append(len(msgspec.msgpack.encode(court.clock.dump()["forks"])))
    assert sizes[1] < 2.2 * sizes[0]
