"""Many detectors on a network in virtual time: loss, delay, pauses, kills, silent deaths, partitions.

The model comes first, then what the swarm promises under each fault, then detectors with planted defects,
each of which a promise must catch.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from p2pnode.core.membership import (
    PROBES_MAX,
    Changed,
    Command,
    Detector,
    Evidence,
    SendPing,
    SendRelay,
    State,
)
from p2pnode.core.senses import Senses
from protocols.health import CLAIMS_MAX, Claim

#: Nodes start within this; their detectors wake when they want to.
START_S = 1.0
#: The least that a loop sleeps.
WAKE_S = 0.001
#: What a dial to a closed port costs before it fails.
REFUSED_S = 0.3


class Liar(Detector):
    """A member that says of everybody else what it likes, at growing incarnations, to everybody and often."""

    state = State.DEAD
    _lies_at = 0.0

    def claims_for(self, peer_id: str) -> list[Claim]:
        others = self._rng.sample(sorted(self._members), min(CLAIMS_MAX, len(self._members)))
        return [Claim(who, self.state, self._tickets) for who in others]

    def tick(self, now: float, lag_s: float = 0.0) -> list[Command]:
        commands = super().tick(now, lag_s)
        if self._senses.awake >= self._lies_at:
            self._lies_at = self._next_probe = self._senses.awake + 0.2
            self._tell(PROBES_MAX, tuple(State))
        return [*commands, *self._take()]


class Swarm:
    """`size` detectors that know each other. Events are (time, sequence, action); equal seeds give equal
    runs.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        *,
        loss: float = 0.0,
        detector: Callable[[str, random.Random], Detector] = Detector,
        delay_s: tuple[float, float] = (0.0005, 0.02),
    ) -> None:
        self.rng = random.Random(seed)
        self.loss, self.delay_s = loss, delay_s
        self.now = 0.0
        self.names = [f"peer-{index:04d}" for index in range(size)]
        self.detectors = {name: detector(name, random.Random(f"{seed}/{name}")) for name in self.names}
        self.dead: set[str] = set()
        self.fallen: set[str] = set()  # of the dead, those whose port refuses
        self.deaf: set[frozenset[str]] = set()
        self.asleep_until: dict[str, float] = {}
        self.changes: list[tuple[float, str, Changed]] = []
        #: Questions asked, by asker.
        self.asked: Counter[str] = Counter()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._wakes: dict[str, float] = {}
        for name in self.names:
            for other in self.names:
                if other != name:
                    self.detectors[name].connected(other, 0.0)
            self._at(self.rng.uniform(0, START_S), lambda name=name: self._begin(name))

    def _begin(self, name: str) -> None:
        self._perform(name, self.detectors[name].set_members(self.names, self.now))

    # -- faults

    def kill(self, name: str) -> None:
        """The process is gone and the kernel closes its connections."""
        self.dead.add(name)
        self.fallen.add(name)
        for other in self.names:
            if other != name:
                self._deliver(other, lambda other=other: self.detectors[other].disconnected(name, self.now))

    def vanish(self, name: str) -> None:
        """The power is gone: nothing is said to anybody."""
        self.dead.add(name)

    def pause(self, name: str, seconds: float) -> None:
        self.asleep_until[name] = self.now + seconds

    def restart(self, name: str) -> None:
        """A new process with the same key: it remembers nothing, connects to all, and says hello."""
        self.dead.discard(name)
        self.fallen.discard(name)
        self.detectors[name] = type(self.detectors[name])(name, random.Random(f"again/{name}"))
        for other in self.names:
            if other != name and other not in self.dead:
                self.detectors[name].connected(other, self.now)
                self._deliver(other, lambda other=other: self.detectors[other].connected(name, self.now))
        self._wakes.pop(name, None)
        self._perform(name, self.detectors[name].set_members(self.names, self.now))

    def part(self, left: Sequence[str], right: Sequence[str]) -> None:
        self.deaf |= {frozenset((a, b)) for a in left for b in right}

    def heal(self) -> None:
        self.deaf.clear()

    def leave(self, name: str) -> None:
        self._perform(name, self.detectors[name].leave(self.now))
        self._at(self.now + 0.5, lambda: self.dead.add(name))

    # -- what came of it

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            self.now, _, action = heapq.heappop(self._queue)
            action()
        self.now = end

    def views(self, of: str) -> set[State | None]:
        """How the others who live see that one."""
        return {self.detectors[name].state_of(of) for name in self.names if name != of and name not in self.dead}

    def deaths(self, of: str) -> dict[str, float]:
        """When each observer first declared that one dead."""
        found: dict[str, float] = {}
        for when, observer, change in self.changes:
            if change.peer_id == of and change.state is State.DEAD:
                found.setdefault(observer, when)
        return found

    # -- the mechanics

    def _at(self, when: float, action: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._queue, (when, self._sequence, action))

    def _deliver(self, name: str, event: Callable[[], list[Command]], after_s: float | None = None) -> None:
        """Let `event` happen at that node after a delay; a sleeper meets it when it wakes, a dead one
        never.
        """
        delay = self.rng.uniform(*self.delay_s) if after_s is None else after_s

        def happen() -> None:
            if name in self.dead:
                return
            wakes = self.asleep_until.get(name, 0.0)
            if wakes > self.now:
                self._at(wakes, happen)
            else:
                self._perform(name, event())

        self._at(self.now + delay, happen)

    def _tick(self, name: str) -> None:
        if name in self.dead or self._wakes.get(name) != self.now:
            return
        wakes = self.asleep_until.get(name, 0.0)
        if wakes > self.now:
            self._wake_at(name, wakes)
            return
        del self._wakes[name]
        self._perform(name, self.detectors[name].tick(self.now))

    def _wake_at(self, name: str, when: float) -> None:
        self._wakes[name] = when
        self._at(when, lambda: self._tick(name))

    def _reaches(self, a: str, b: str) -> bool:
        return frozenset((a, b)) not in self.deaf and self.rng.random() >= self.loss

    def _perform(self, name: str, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case SendPing():
                    self._ping(name, command)
                case SendRelay():
                    self._relay(name, command)
                case Changed():
                    self.changes.append((self.now, name, command))
        due = max(self.detectors[name].due, self.now + WAKE_S)
        if due < self._wakes.get(name, math.inf):
            self._wake_at(name, due)

    def _ping(self, name: str, ask: SendPing) -> None:
        asker = self.detectors[name]
        self._exchange(
            name,
            ask.peer_id,
            ask.timeout_s,
            lambda incarnation, claims: asker.answered(ask.ticket, incarnation, claims, self.now),
            lambda gone: asker.failed(ask.ticket, self.now, gone=gone),
        )

    def _relay(self, name: str, ask: SendRelay) -> None:
        asker = self.detectors[name]
        done: list[bool] = []

        def report(answered: bool | None) -> list[Command]:
            if done:
                return []
            done.append(True)
            return asker.relayed(ask.ticket, ask.via, answered, self.now)

        def reply(answered: bool) -> list[Command]:
            if self._reaches(name, ask.via):
                self._deliver(name, lambda: report(answered))
            return []

        self._deliver(name, lambda: report(None), ask.timeout_s * 1.5)
        if not self._reaches(name, ask.via):
            return
        self.asked[name] += 1

        def ping_for() -> list[Command]:
            via = self.detectors[ask.via]
            if isinstance(via, Liar):
                return reply(via.state == State.ALIVE)
            self._exchange(
                ask.via,
                ask.peer_id,
                ask.timeout_s,
                lambda incarnation, claims: [
                    *via.heard(ask.peer_id, incarnation, claims, self.now),
                    *reply(True),
                ],
                lambda gone: reply(False),
            )
            return []

        self._deliver(ask.via, ping_for)

    def _exchange(
        self,
        name: str,
        peer_id: str,
        timeout_s: float,
        answered: Callable[..., list[Command]],
        failed: Callable[[bool], list[Command]],
    ) -> None:
        self.asked[name] += 1
        asker, done = self.detectors[name], []

        def once(event: Callable[[], list[Command]]) -> list[Command]:
            if done:
                return []
            done.append(True)
            return event()

        refused = peer_id in self.fallen
        self._deliver(name, lambda: once(lambda: failed(refused)), REFUSED_S if refused else timeout_s)
        if refused or not self._reaches(name, peer_id):
            return
        incarnation, claims = asker.incarnation, asker.claims_for(peer_id)

        def receive() -> list[Command]:
            target = self.detectors[peer_id]
            commands = target.heard(name, incarnation, claims, self.now)
            pong = target.incarnation, target.claims_for(name)
            if self._reaches(name, peer_id):
                self._deliver(name, lambda: once(lambda: answered(*pong)))
            return commands

        self._deliver(peer_id, receive)


# -- promises


def deaths_declared(swarm: Swarm) -> set[str]:
    return {change.peer_id for _, _, change in swarm.changes if change.state is State.DEAD}


def killed(seed: int, fault: Callable[[Swarm, str], None]) -> float:
    """Seconds until everybody of six holds a faulted member dead; nobody else is ever declared dead."""
    swarm = Swarm(6, seed)
    swarm.run(7 + seed * 0.13)
    victim, then = swarm.names[seed % 6], swarm.now
    fault(swarm, victim)
    swarm.run(15)
    assert deaths_declared(swarm) == {victim}
    found = swarm.deaths(victim)
    assert len(found) == 5
    return max(found.values()) - then


def paused(seed: int, detector: type[Detector] = Detector) -> Swarm:
    swarm = Swarm(6, seed, loss=0.02, detector=detector)
    swarm.run(5 + seed * 0.037)
    swarm.pause(swarm.names[seed % 6], 3.0)
    swarm.run(15)
    return swarm


def test_a_killed_member_is_dead_to_everyone_within_two_seconds() -> None:
    times = [killed(seed, Swarm.kill) for seed in range(20)]
    assert statistics.median(times) <= 2.0
    assert max(times) <= 4.0


def test_a_member_that_vanishes_without_a_word_is_dead_to_everyone_too() -> None:
    times = [killed(seed, Swarm.vanish) for seed in range(20)]
    assert statistics.median(times) <= 7.0
    assert max(times) <= 10.0


def test_a_member_paused_for_three_seconds_is_suspected_but_never_dead_and_accuses_nobody() -> None:
    suspected = 0
    for seed in range(60):
        swarm = paused(seed)
        assert deaths_declared(swarm) == set(), f"seed {seed}"
        sleeper = swarm.names[seed % 6]
        assert swarm.views(sleeper) == {State.ALIVE}
        suspected += any(c.peer_id == sleeper and c.state is State.SUSPECT for _, _, c in swarm.changes)
    assert suspected > 40, "the pause was too short to test anything"


def test_one_that_was_paused_until_dead_is_alive_again_within_a_second() -> None:
    for seed in range(10):
        swarm = Swarm(6, seed)
        swarm.run(5)
        sleeper = swarm.names[seed % 6]
        swarm.pause(sleeper, 30.0)
        swarm.run(30)
        assert swarm.views(sleeper) == {State.DEAD}
        swarm.run(1.0)
        assert swarm.views(sleeper) == {State.ALIVE}
        assert deaths_declared(swarm) == {sleeper}, "its own long stall must not make it bury the others"


def test_one_that_was_killed_and_starts_again_is_alive_within_a_second() -> None:
    for seed in range(10):
        swarm = Swarm(6, seed)
        swarm.run(5)
        victim = swarm.names[seed % 6]
        swarm.kill(victim)
        swarm.run(8)
        assert swarm.views(victim) == {State.DEAD}
        swarm.restart(victim)
        swarm.run(1.0)
        assert swarm.views(victim) == {State.ALIVE}


def test_both_sides_of_a_partition_bury_each_other_and_find_each_other_again() -> None:
    swarm = Swarm(6, 3)
    swarm.run(5)
    left, right = swarm.names[:3], swarm.names[3:]
    swarm.part(left, right)
    swarm.run(30)
    assert all(swarm.detectors[a].state_of(b) is State.DEAD for a in left for b in right)
    assert all(swarm.detectors[a].state_of(b) is not State.DEAD for a in left for b in left if a != b)
    swarm.heal()
    swarm.run(20)
    assert all(swarm.views(name) == {State.ALIVE} for name in swarm.names)


def found_again(seed: int, detector: Callable[[str, random.Random], Detector] = Detector) -> float:
    """Seconds after a partition has healed until each of twenty knows all of the other half again."""
    swarm = Swarm(20, seed, loss=0.1, detector=detector)
    swarm.run(5 + seed * 0.17)
    left, right = swarm.names[::2], swarm.names[1::2]
    swarm.part(left, right)
    swarm.run(60)
    assert all(swarm.detectors[a].state_of(b) is State.DEAD for a in left for b in right)
    swarm.heal()
    healed = swarm.now
    while any(swarm.views(name) - {State.ALIVE, State.SUSPECT} for name in swarm.names):
        swarm.run(0.1)
        if swarm.now > healed + 60:
            break
    return swarm.now - healed


def test_two_halves_of_twenty_find_each_other_within_a_few_seconds() -> None:
    assert max(found_again(seed) for seed in range(3)) <= 5.0


def lied_to(
    seed: int, state: State, size: int = 8, detector: Callable[[str, random.Random], Detector] = Detector
) -> Swarm:
    """Half a minute in which the first member lies, and the others lose some of what they say to each other."""

    def some(name: str, rng: random.Random) -> Detector:
        return Liar(name, rng) if name == "peer-0000" else detector(name, rng)

    Liar.state = state
    swarm = Swarm(size, seed, loss=0.02, detector=some)
    swarm.run(30)
    return swarm


def buried(swarm: Swarm) -> set[str]:
    """Whom somebody else than the first member ever took for dead or gone."""
    gone = (State.DEAD, State.LEFT)
    return {change.peer_id for _, who, change in swarm.changes if change.state in gone and who != swarm.names[0]}


@pytest.mark.parametrize("state", [State.SUSPECT, State.DEAD, State.LEFT])
@pytest.mark.parametrize("size", [3, 8, 16])
def test_one_liar_buries_nobody_and_costs_no_more_than_its_own_messages(state: State, size: int) -> None:
    for seed in range(2):
        swarm = lied_to(seed, state, size)
        assert buried(swarm) == set(), f"seed {seed}"
        lies = swarm.asked.pop(swarm.names[0])
        assert swarm.asked.total() <= 4 * lies
        assert max(swarm.asked.values()) / swarm.now < 2 * size, "questions per second"


def test_one_liar_does_not_keep_the_dead_alive() -> None:
    for seed in range(4):
        swarm = lied_to(seed, State.ALIVE, 12)
        victim = swarm.names[1 + seed]
        swarm.vanish(victim)
        swarm.run(30)
        honest = {swarm.detectors[who].state_of(victim) for who in swarm.names[1:] if who != victim}
        assert honest == {State.DEAD}, f"seed {seed}"


def test_one_that_was_cut_off_buries_everybody_alone_and_takes_it_back() -> None:
    for seed in range(5):
        swarm = Swarm(12, seed, loss=0.02)
        swarm.run(5)
        alone = swarm.names[seed]
        others = [name for name in swarm.names if name != alone]
        swarm.part([alone], others)
        swarm.run(120)
        assert {swarm.detectors[alone].state_of(name) for name in others} == {State.DEAD}
        swarm.heal()
        swarm.run(10)
        assert all(swarm.views(name) <= {State.ALIVE, State.SUSPECT} for name in swarm.names)
        assert all(set(swarm.deaths(name)) <= {alone} for name in others), f"seed {seed}"


def test_where_two_cannot_reach_each_other_the_word_of_those_between_them_revives() -> None:
    swarm = Swarm(6, 5)
    swarm.run(5)
    one, other = swarm.names[:2]
    swarm.kill(one)
    swarm.run(10)
    swarm.part([one], [other])
    swarm.restart(one)
    swarm.run(10)
    assert swarm.views(one) == {State.ALIVE}


def test_one_broken_path_makes_nobody_dead() -> None:
    swarm = Swarm(6, 5)
    swarm.run(5)
    swarm.part(swarm.names[:1], swarm.names[1:2])
    swarm.run(60)
    assert deaths_declared(swarm) == set()


def test_a_member_that_leaves_is_left_to_everyone_and_never_suspect() -> None:
    swarm = Swarm(8, 2)
    swarm.run(5)
    swarm.leave(swarm.names[0])
    swarm.run(15)
    assert swarm.views(swarm.names[0]) == {State.LEFT}
    assert not any(c.state is State.SUSPECT for _, _, c in swarm.changes)


def test_ten_minutes_of_five_percent_loss_bury_nobody_and_cost_little() -> None:
    swarm = Swarm(16, 11, loss=0.05)
    swarm.run(600)
    assert deaths_declared(swarm) == set()
    assert swarm.asked.total() / swarm.now / len(swarm.names) < 2.0, "questions per node and second"


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_day_of_five_percent_loss_buries_nobody_who_lives_more_than_once() -> None:
    swarm = Swarm(20, 7, loss=0.05)
    swarm.run(24 * 3600)
    false = [change for _, _, change in swarm.changes if change.state is State.DEAD]
    assert len(false) <= len(swarm.names), "one for each node and day"


def test_equal_seeds_give_equal_histories() -> None:
    def history(seed: int) -> list[tuple[float, str, Changed]]:
        swarm = Swarm(8, seed, loss=0.1)
        swarm.run(10)
        swarm.kill(swarm.names[3])
        swarm.run(20)
        return swarm.changes

    assert history(4) == history(4) != history(5)


# -- planted defects


class BelievesTheAccuser(Detector):
    def _consider(self, claim: Claim, source: str) -> bool:
        standing = self._members.get(claim.peer_id)
        if standing is not None and standing.state is State.ALIVE and claim.state == State.DEAD:
            self._believe(claim.peer_id, State.DEAD)
        return super()._consider(claim, source)


class BelievesThatOthersLeft(Detector):
    def _hear(self, peer_id: str, incarnation: int, claims: Iterable[Claim]) -> None:
        for claim in claims:
            if claim.state == State.LEFT and self.state_of(claim.peer_id) is State.ALIVE:
                self._believe(claim.peer_id, State.LEFT)
        super()._hear(peer_id, incarnation, claims)


class BelievesWhoVouches(Detector):
    def _consider(self, claim: Claim, source: str) -> bool:
        if claim.state == State.ALIVE and self.state_of(claim.peer_id) in (State.SUSPECT, State.DEAD):
            self._believe(claim.peer_id, State.ALIVE)
        return super()._consider(claim, source)


class CountsItsOwnStalls(Detector):
    def __init__(self, me: str, rng: random.Random) -> None:
        super().__init__(me, rng)
        self._senses = Senses(gap_s=1e9)


class TreatsSilenceAsGone(Detector):
    def _dies_at(self, standing: Any) -> float:
        return super()._dies_at(replace(standing, evidence=Evidence.GONE))


class TriesTheDeadOneByOne(Detector):
    def _sweep(self) -> None:
        return


class NeverAsksRelays(Detector):
    def failed(self, ticket: int, now: float, *, gone: bool) -> list[Command]:
        linked, self._linked = self._linked, set()
        commands = super().failed(ticket, now, gone=gone)
        self._linked = linked
        return commands


class ForgetsTheDead(Detector):
    def _ask_next(self) -> None:
        ill, self._ill = self._ill, {}
        super()._ask_next()
        self._ill = ill


def survives_a_liar(kind: type[Detector]) -> None:
    for state in (State.DEAD, State.LEFT):
        assert buried(lied_to(1, state, detector=kind)) == set()


def buries_in_spite_of_a_liar(kind: type[Detector]) -> None:
    swarm = lied_to(1, State.ALIVE, detector=kind)
    swarm.vanish(swarm.names[5])
    swarm.run(20)
    assert {swarm.detectors[who].state_of(swarm.names[5]) for who in swarm.names[1:5]} == {State.DEAD}


def finds_the_other_half(kind: type[Detector]) -> None:
    assert max(found_again(seed, kind) for seed in (3, 4)) <= 5.0


def survives_pauses(kind: type[Detector]) -> None:
    for seed in range(60):
        assert deaths_declared(paused(seed, kind)) == set()


def survives_sleeping_while_it_suspects(kind: type[Detector]) -> None:
    for seed in range(5):
        swarm = Swarm(6, seed, detector=kind)
        swarm.run(5)
        swarm.pause(swarm.names[0], 13.5)  # all wake together, as after a suspended machine
        swarm.run(3.5)
        for name in swarm.names[1:]:
            swarm.pause(name, 10.0)
        swarm.run(25)
        assert any(c.state is State.SUSPECT for _, _, c in swarm.changes)
        assert deaths_declared(swarm) == set()


def survives_one_broken_path(kind: type[Detector]) -> None:
    swarm = Swarm(6, 5, detector=kind)
    swarm.run(5)
    swarm.part(swarm.names[:1], swarm.names[1:2])
    swarm.run(60)
    assert not any(c.state is State.SUSPECT for _, _, c in swarm.changes)


def heals(kind: type[Detector]) -> None:
    swarm = Swarm(6, 3, detector=kind)
    swarm.run(5)
    swarm.part(swarm.names[:3], swarm.names[3:])
    swarm.run(30)
    swarm.heal()
    swarm.run(20)
    assert all(swarm.views(name) == {State.ALIVE} for name in swarm.names)


@pytest.mark.parametrize(
    ("defect", "promise"),
    [
        (BelievesTheAccuser, survives_a_liar),
        (BelievesThatOthersLeft, survives_a_liar),
        (BelievesWhoVouches, buries_in_spite_of_a_liar),
        (TriesTheDeadOneByOne, finds_the_other_half),
        (TreatsSilenceAsGone, survives_pauses),
        (CountsItsOwnStalls, survives_sleeping_while_it_suspects),
        (NeverAsksRelays, survives_one_broken_path),
        (ForgetsTheDead, heals),
    ],
)
def test_a_planted_defect_breaks_its_promise(defect: type[Detector], promise: Callable[[type[Detector]], None]) -> None:
    promise(Detector)
    with pytest.raises(AssertionError):
        promise(defect)
