"""When a member is called down, by whom, and who keeps silent: look by look."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from p2pnode.core.model import Member, NodeRole
from p2pnode.core.witness import PROTEST_PAUSE_S, PROTEST_PAUSE_S_MAX, WITNESS_STEP_S, Protest, Swarm, Witness

DOWN_S = 300.0


class Watch:
    """Several members that watch each other; what one records the others read at once."""

    def __init__(self, count: int) -> None:
        self.names = [f"peer-{n:02d}" for n in range(count)]
        self.ups = dict.fromkeys(self.names, b"up-1")
        self.down: set[str] = set()
        self.said: dict[tuple[str, bytes], list[str]] = {}
        self.cut: dict[str, set[str]] = {name: set() for name in self.names}
        self.witnesses = {name: Witness(name, DOWN_S) for name in self.names}
        self.silent: set[str] = set()
        self.now = 1000.0

    @property
    def needed(self) -> int:
        return 2 if len(self.names) >= 3 else 1

    def lose(self, *names: str) -> None:
        """Nobody reaches these, and they reach nobody."""
        for name in self.names:
            for other in self.names:
                if name != other and (name in names) != (other in names):
                    self.cut[name].add(other)

    def heal(self) -> None:
        for reached in self.cut.values():
            reached.clear()

    def look(self, name: str) -> float:
        present = [Member(n, n, NodeRole.WORKER, up=self.ups[n]) for n in self.names if n not in self.down]
        swarm = Swarm(present, self.cut[name].__contains__, lambda n: self.said.get((n, self.ups[n]), []), self.needed)
        ended, due = self.witnesses[name].look(self.now, swarm)
        for member in ended:
            said = self.said.setdefault((member.peer_id, member.up), [])
            assert name not in said, "once is enough"
            said.append(name)
            if len(said) >= self.needed:
                self.down.add(member.peer_id)
        assert due > self.now
        return due

    def wait(self, seconds: float, step_s: float = 1.0) -> None:
        for _ in range(round(seconds / step_s)):
            self.now += step_s
            for name in self.names:
                if name not in self.silent:
                    self.look(name)


def test_two_of_those_left_witness_an_end_after_the_grace_and_no_more():
    watch = Watch(6)
    watch.wait(10)
    watch.lose("peer-03")
    watch.wait(DOWN_S - 1)
    assert watch.said == {}
    watch.wait(5)
    assert watch.down == {"peer-03"}
    watch.wait(200)
    assert [len(said) for said in watch.said.values()] == [2]


def test_the_next_in_turn_step_in_for_those_who_keep_silent():
    watch = Watch(6)
    watch.lose("peer-03")
    watch.wait(DOWN_S + 1)
    first = watch.said["peer-03", b"up-1"]
    again = Watch(6)
    again.silent = set(first)
    again.lose("peer-03")
    again.wait(DOWN_S + 1)
    assert again.said == {}
    again.wait(2 * WITNESS_STEP_S + 1)
    assert again.down == {"peer-03"}
    assert not set(first) & set(again.said["peer-03", b"up-1"])


def test_a_look_says_when_the_next_is_due():
    watch = Watch(4)
    watch.lose("peer-00")
    begun = watch.now
    dues = sorted(watch.look(name) for name in watch.names[1:])
    assert dues == [begun + DOWN_S, begun + DOWN_S, begun + DOWN_S + WITNESS_STEP_S]
    assert watch.look("peer-00") == math.inf


def test_who_sees_half_or_less_records_nothing_and_does_not_count_that_time():
    for size, lost in ((6, 3), (7, 4), (3, 2)):
        watch = Watch(size)
        watch.lose(*watch.names[:lost])
        left = set(watch.names[lost:])
        watch.wait(2 * DOWN_S, 5.0)
        accused = {who for who, _ in watch.said}
        assert accused <= (left if 2 * lost > size else set())
        watch.said.clear()
        watch.down.clear()
        watch.heal()
        watch.lose(watch.names[0])  # the others are back, and one of them is found a little later
        watch.wait(30)
        assert watch.said == {}


def test_a_member_that_came_back_in_between_or_anew_begins_afresh():
    watch = Watch(4)
    watch.lose("peer-01")
    watch.wait(DOWN_S - 10)
    watch.heal()
    watch.wait(1)
    watch.lose("peer-01")
    watch.wait(DOWN_S - 10)
    assert watch.said == {}
    watch.ups["peer-01"] = b"up-2"
    watch.wait(DOWN_S - 10)
    assert watch.said == {}
    watch.wait(20)
    assert list(watch.said) == [("peer-01", b"up-2")]


def test_who_is_called_down_itself_bears_no_witness():
    watch = Watch(3)
    watch.down.add("peer-02")
    watch.lose("peer-02")
    assert watch.look("peer-02") == math.inf
    watch.now += DOWN_S + 1
    assert watch.look("peer-02") == math.inf
    assert watch.said == {}


def test_of_three_members_the_last_two_call_the_third_down():
    watch = Watch(3)
    watch.lose("peer-02")
    watch.wait(DOWN_S + 1)
    assert watch.down == {"peer-02"}


def test_of_two_members_one_may_call_the_other_down():
    watch = Watch(2)
    watch.lose("peer-01")
    watch.wait(DOWN_S + 1)
    assert "peer-01" in watch.down


@given(st.integers(2, 9), st.sets(st.integers(0, 8), min_size=1), st.lists(st.floats(0.5, 90), max_size=40))
def test_nobody_is_called_down_sooner_than_the_grace_and_never_by_a_minority(size, lost, steps):
    watch = Watch(size)
    gone = [name for number, name in enumerate(watch.names) if number in lost]
    watch.lose(*gone)
    begun = watch.now
    for step_s in steps:
        watch.wait(step_s, step_s)
        if watch.now - begun < DOWN_S:
            assert watch.said == {}
    for (accused, _), said in watch.said.items():
        assert len(said) <= watch.needed
        for witness in said:
            assert (accused in gone) != (witness in gone)
            assert size == 2 or 2 * sum((name in gone) == (witness in gone) for name in watch.names) > size


def test_protests_grow_rare_when_they_do_not_help_and_quick_again_after_quiet():
    protest, now, times = Protest(), 50.0, []
    for _ in range(14):
        now = protest.due(now)
        protest.made(now)
        times.append(now)
    pauses = [b - a for a, b in pairwise(times)]
    assert times[0] == 50.0
    assert pauses[0] == PROTEST_PAUSE_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == PROTEST_PAUSE_S_MAX
    later = now + 3 * PROTEST_PAUSE_S_MAX
    assert protest.due(later) == later
    protest.made(later)
    assert protest.due(later) == later + PROTEST_PAUSE_S
