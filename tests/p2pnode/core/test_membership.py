"""The failure detector, event by event: what comes in, what must come out, at which second."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnode.core.membership import (
    ANNOUNCE_MAX,
    DIAL_PERIODS,
    INCARNATION_LEAP,
    PATIENCE,
    PING_PERIODS,
    PROBES_MAX,
    RUMOURS_MAX,
    Changed,
    Command,
    Detector,
    Evidence,
    SendPing,
    SendRelay,
    State,
)
from p2pnode.core.senses import STRETCH_MAX
from protocols.health import Claim

ME, ANN, BOB, CAT = "peer-me", "peer-ann", "peer-bob", "peer-cat"


class Script:
    """A detector with a clock that only the test moves, ticking four times a second as its shell does."""

    def __init__(self, members: Iterable[str] = (ANN, BOB, CAT), *, linked: bool = True) -> None:
        self.detector = Detector(ME, random.Random(7))
        self.now = 100.0
        if linked:
            for peer_id in members:
                self.detector.connected(peer_id, self.now)
        self.first = self.detector.set_members(members, self.now)
        self.answer_all(self.first)

    def answer_all(self, commands: list[Command], *, but: str = "") -> list[Command]:
        """Pong to every ping except those to `but`, whose commands come back."""
        left: list[Command] = []
        for command in commands:
            if isinstance(command, SendPing) and command.peer_id != but:
                left += self.answer_all(self.detector.answered(command.ticket, 0, [], self.now), but=but)
            else:
                left.append(command)
        return left

    def wait(self, seconds: float, *, but: str = "", lag_s: float = 0.0) -> list[Command]:
        """Tick on; everybody answers at once, except `but`."""
        found: list[Command] = []
        for _ in range(round(seconds / 0.25)):
            self.now += 0.25
            found += self.answer_all(self.detector.tick(self.now, lag_s), but=but)
        return found

    def wonder(self, peer_id: str) -> None:
        """It is long since that one spoke to us."""
        self.detector._members[peer_id].met_at = self.now - 60.0

    def lose(self, peer_id: str) -> list[Command]:
        """Its connection falls, its port refuses, and those asked to relay confirm it."""
        [ping] = pings(self.detector.disconnected(peer_id, self.now), peer_id)
        found = self.detector.failed(ping.ticket, self.now, gone=True)
        for relay in relays(found):
            found += self.detector.relayed(relay.ticket, relay.via, False, self.now)
        return self.answer_all(found, but=peer_id)


def pings(commands: list[Command], peer_id: str) -> list[SendPing]:
    return [c for c in commands if isinstance(c, SendPing) and c.peer_id == peer_id]


def relays(commands: list[Command]) -> list[SendRelay]:
    return [c for c in commands if isinstance(c, SendRelay)]


def changes(commands: list[Command]) -> list[tuple[str, State]]:
    return [(c.peer_id, c.state) for c in commands if isinstance(c, Changed)]


def test_new_members_are_asked_at_once_with_time_for_a_dial() -> None:
    script = Script(linked=False)
    assert [(c.peer_id, c.timeout_s) for c in script.first if isinstance(c, SendPing)] == [
        (ANN, DIAL_PERIODS),
        (BOB, DIAL_PERIODS),
        (CAT, DIAL_PERIODS),
    ]


def test_each_round_asks_every_member_once_one_a_period() -> None:
    script = Script()
    asked: list[str] = []
    for _ in range(9 * 4):
        script.now += 0.25
        commands = script.detector.tick(script.now)
        asked += [c.peer_id for c in commands if isinstance(c, SendPing)]
        script.answer_all(commands)
    assert len(asked) == 9
    for start in (0, 3, 6):
        assert sorted(asked[start : start + 3]) == [ANN, BOB, CAT]


def test_no_pong_asks_others_and_one_who_reaches_it_settles_it() -> None:
    script = Script()
    [ping] = pings(script.detector.disconnected(ANN, script.now), ANN)
    asked = relays(script.detector.failed(ping.ticket, script.now + 0.5, gone=False))
    assert sorted(relay.via for relay in asked) == [BOB, CAT]
    assert all(relay.peer_id == ANN and relay.timeout_s == PING_PERIODS for relay in asked)
    assert script.detector.relayed(ping.ticket, BOB, True, script.now + 0.6) == []
    assert script.detector.relayed(ping.ticket, CAT, False, script.now + 0.6) == []
    assert script.detector.state_of(ANN) is State.ALIVE


def test_a_refusing_port_confirmed_by_others_is_death_after_the_short_patience() -> None:
    script = Script()
    assert changes(script.lose(ANN)) == [(ANN, State.SUSPECT)]
    assert changes(script.wait(PATIENCE[Evidence.GONE] - 0.25, but=ANN)) == []
    assert changes(script.wait(0.5, but=ANN)) == [(ANN, State.DEAD)]


def test_silence_on_an_open_connection_gets_the_long_patience() -> None:
    script = Script()
    (ping,) = pings(script.wait(4, but=ANN), ANN)
    for relay in relays(script.detector.failed(ping.ticket, script.now, gone=False)):
        script.detector.relayed(relay.ticket, relay.via, False, script.now)
    assert script.detector.state_of(ANN) is State.SUSPECT
    assert changes(script.wait(PATIENCE[Evidence.SILENT] - 0.5, but=ANN)) == []
    assert changes(script.wait(1.0, but=ANN)) == [(ANN, State.DEAD)]


def test_refusal_that_nobody_confirms_may_be_our_own_network_and_gets_the_long_patience() -> None:
    script = Script()
    [ping] = pings(script.detector.disconnected(ANN, script.now), ANN)
    for relay in relays(script.detector.failed(ping.ticket, script.now, gone=True)):
        script.detector.relayed(relay.ticket, relay.via, None, script.now)
    assert script.detector.stretch == 2.0, "and makes us doubt ourselves"
    assert changes(script.wait(PATIENCE[Evidence.GONE] + 0.5, but=ANN)) == []


def test_a_suspect_is_asked_every_period_and_told_so_first() -> None:
    script = Script()
    script.lose(ANN)
    (again,) = pings(script.wait(1.0, but=ANN), ANN)
    assert script.detector.claims_for(ANN)[0] == Claim(ANN, "suspect", 0)
    found = script.detector.answered(again.ticket, 1, [], script.now)
    assert changes(found) == [(ANN, State.ALIVE)]


def test_a_suspect_that_speaks_is_alive_and_told_of_the_accusation_until_it_outbids_it() -> None:
    script = Script()
    script.lose(ANN)
    assert changes(script.detector.heard(ANN, 0, [], script.now)) == [(ANN, State.ALIVE)]
    accusation = Claim(ANN, "suspect", 0)
    assert script.detector.claims_for(ANN)[0] == accusation
    assert accusation not in script.detector.claims_for(BOB)
    script.detector.heard(ANN, 1, [], script.now)
    assert script.detector.claims_for(ANN) == [Claim(ANN, "alive", 1)]


@pytest.mark.parametrize("state", ["suspect", "dead", "left"])
def test_what_one_says_of_another_only_makes_us_ask_that_other(state: str) -> None:
    script = Script()
    script.wonder(ANN)
    found = script.detector.heard(BOB, 0, [Claim(ANN, state, 0)], script.now)
    assert changes(found) == []
    [ping] = pings(found, ANN)
    assert script.detector.heard(CAT, 0, [Claim(ANN, state, 9)], script.now) == [], "asked already"
    assert script.detector.answered(ping.ticket, 0, [], script.now) == []
    assert script.detector.heard(BOB, 0, [Claim(ANN, state, 99)], script.now) == [], "it has just spoken to us"


def unreached(script: Script, claims: dict[str, Claim]) -> list[Command]:
    """The others say this of ann, and neither we nor they reach her."""
    found = [c for who, claim in claims.items() for c in script.detector.heard(who, 0, [claim], script.now)]
    [ping] = pings(found, ANN)
    found = script.detector.failed(ping.ticket, script.now, gone=False)
    for relay in relays(found):
        found += script.detector.relayed(relay.ticket, relay.via, False, script.now)
    return found


def test_two_who_say_dead_save_the_patience_once_we_did_not_reach_it_either() -> None:
    for claims, then in (
        ({BOB: Claim(ANN, "dead", 0)}, State.SUSPECT),
        ({BOB: Claim(ANN, "suspect", 0), CAT: Claim(ANN, "suspect", 0)}, State.SUSPECT),
        ({BOB: Claim(ANN, "dead", 0), CAT: Claim(ANN, "dead", 7)}, State.DEAD),
        ({BOB: Claim(ANN, "left", 0)}, State.SUSPECT),
    ):
        script = Script()
        script.wonder(ANN)
        assert changes(unreached(script, claims)) == [(ANN, then)]


def test_one_who_left_as_others_say_and_does_not_answer_has_left() -> None:
    script = Script()
    script.wonder(ANN)
    script.detector.heard(BOB, 0, [Claim(ANN, "left", 0)], script.now)
    script.detector.disconnected(ANN, script.now)
    for ticket in list(script.detector._probes):
        for relay in relays(script.detector.failed(ticket, script.now, gone=True)):
            found = script.detector.relayed(relay.ticket, relay.via, False, script.now)
    assert changes(found) == [(ANN, State.LEFT)], "its port refuses: at once"
    script = Script()
    script.wonder(ANN)
    unreached(script, {BOB: Claim(ANN, "left", 0)})
    assert changes(script.wait(PATIENCE[Evidence.SILENT] + 0.5, but=ANN)) == [(ANN, State.LEFT)]


def test_accusers_who_come_later_bury_a_suspect_and_its_answer_clears_it_of_them() -> None:
    script = Script()
    script.lose(ANN)
    dead = Claim(ANN, "dead", 0)
    assert script.detector.heard(BOB, 0, [dead, dead], script.now) == []
    assert changes(script.detector.heard(CAT, 0, [dead], script.now)) == [(ANN, State.DEAD)]
    script.detector.heard(ANN, 1, [], script.now)
    script.wonder(ANN)
    assert changes(script.lose(ANN)) == [(ANN, State.SUSPECT)]
    assert changes(script.detector.heard(CAT, 0, [Claim(ANN, "dead", 1)], script.now)) == []


def test_one_message_makes_us_ask_only_so_many() -> None:
    many = [f"peer-{index:04d}" for index in range(40)]
    script = Script(many)
    for who in many:
        script.wonder(who)
    found = script.detector.heard(many[0], 0, [Claim(who, "dead", 5) for who in many[1:30]], script.now)
    assert len(found) == RUMOURS_MAX


def test_accused_again_and_again_we_do_not_shout_each_time() -> None:
    script = Script()
    told = 0
    for incarnation in range(50):
        found = script.detector.heard(BOB, 0, [Claim(ME, "dead", incarnation)], script.now)
        told += len(script.answer_all(found)) + len(found)
    assert script.detector.incarnation == 50
    assert told <= 3


def test_one_of_the_dead_that_answers_makes_us_try_all_of_them_soon() -> None:
    dead = ("peer-x", "peer-y", "peer-z")
    script = Script([ANN, BOB, *dead])
    for who in dead:
        script.lose(who)
        for accuser in (ANN, BOB):
            found = script.detector.heard(accuser, 0, [Claim(who, "dead", 0)], script.now)
            script.answer_all(found)
    assert {script.detector.state_of(who) for who in dead} == {State.DEAD}
    assert changes(script.detector.heard("peer-x", 1, [], script.now)) == [("peer-x", State.ALIVE)]
    assert changes(script.wait(1.0)) == [("peer-y", State.ALIVE), ("peer-z", State.ALIVE)]


def test_accused_we_refute_with_a_higher_incarnation_and_tell_the_others_at_once() -> None:
    script = Script()
    found = script.detector.heard(BOB, 0, [Claim(ME, "suspect", 0)], script.now)
    assert script.detector.incarnation == 1
    assert {c.peer_id for c in found if isinstance(c, SendPing)} == {ANN, BOB, CAT}
    script.detector.heard(BOB, 0, [Claim(ME, "dead", 0)], script.now)
    assert script.detector.incarnation == 1, "that accusation is already refuted"


def test_the_dead_who_connect_are_asked_at_once_and_live_again_by_their_answer() -> None:
    script = Script()
    script.lose(ANN)
    script.wait(6, but=ANN)
    assert script.detector.state_of(ANN) is State.DEAD
    detector = script.detector
    for ticket in list(detector._probes):
        for relay in relays(detector.failed(ticket, script.now, gone=True)):
            detector.relayed(ticket, relay.via, False, script.now)
    [ping] = pings(detector.connected(ANN, script.now), ANN)
    assert Claim(ANN, "dead", 0) in detector.claims_for(ANN)
    assert changes(detector.answered(ping.ticket, 1, [], script.now)) == [(ANN, State.ALIVE)]


def test_time_in_which_this_process_did_not_run_counts_against_nobody() -> None:
    script = Script()
    script.lose(ANN)
    script.now += 60.0
    assert changes(script.detector.tick(script.now)) == []
    assert script.detector.state_of(ANN) is State.SUSPECT


def test_an_answer_that_we_slept_through_is_asked_for_again_and_proves_nothing() -> None:
    script = Script()
    [ping] = pings(script.detector.disconnected(ANN, script.now), ANN)
    script.now += 3.0
    found = script.detector.failed(ping.ticket, script.now, gone=False)
    assert len(pings(found, ANN)) == 1
    assert relays(found) == []
    assert script.detector.state_of(ANN) is State.ALIVE


def test_our_own_loop_lag_makes_us_patient() -> None:
    script = Script()
    script.lose(ANN)
    assert changes(script.wait(PATIENCE[Evidence.GONE] + 1.0, but=ANN, lag_s=0.25)) == []
    assert script.detector.stretch == 2.0
    script.detector.tick(script.now, 60.0)
    assert script.detector.stretch == STRETCH_MAX


def test_leaving_is_announced_and_outlives_accusations() -> None:
    script = Script()
    found = script.detector.leave(script.now)
    assert {c.peer_id for c in found if isinstance(c, SendPing)} == {ANN, BOB, CAT}
    farewell = Claim(ME, "left", 1)
    assert farewell in script.detector.claims_for(ANN)
    other = Detector(ANN, random.Random(1))
    other.set_members([ME, BOB], 0.0)
    assert changes(other.heard(ME, 1, [farewell], 0.1)) == [(ME, State.LEFT)]
    assert other.disconnected(ME, 0.2) == [], "one who left is not missed"


def test_a_client_s_word_on_others_does_not_count() -> None:
    script = Script()
    assert script.detector.heard("peer-client", 0, [Claim(ANN, "dead", 0)], script.now) == []
    assert script.detector.state_of(ANN) is State.ALIVE
    assert script.detector.state_of("peer-client") is None


@pytest.mark.parametrize(
    "claim",
    [
        Claim(ANN, "zombie", 5),
        Claim("peer-stranger", "dead", 1),
        Claim(ANN, "alive", 0),
    ],
)
def test_forged_unknown_and_stale_claims_change_nothing(claim: Claim) -> None:
    script = Script()
    script.wonder(ANN)
    assert script.detector.heard(BOB, 0, [claim], script.now) == []
    assert script.detector.states() == {ANN: State.ALIVE, BOB: State.ALIVE, CAT: State.ALIVE}


def test_a_forged_incarnation_of_our_own_cannot_exhaust_ours() -> None:
    script = Script()
    for forged in (INCARNATION_LEAP + 1, (1 << 63) - 1):
        script.detector.heard(BOB, 0, [Claim(ME, "dead", forged)], script.now)
    assert script.detector.incarnation == 0


def test_a_member_removed_from_the_catalog_is_forgotten_with_its_question() -> None:
    script = Script()
    [ping] = pings(script.detector.disconnected(ANN, script.now), ANN)
    script.detector.set_members([BOB, CAT], script.now)
    assert script.detector.failed(ping.ticket, script.now, gone=True) == []
    assert script.detector.state_of(ANN) is None
    assert ANN not in {c.peer_id for c in script.wait(10) if isinstance(c, SendPing)}


def test_a_storm_of_hints_is_bounded() -> None:
    many = [f"peer-{index:04d}" for index in range(100)]
    script = Script(many)
    hints = [c for peer_id in many for c in script.detector.disconnected(peer_id, script.now)]
    assert len(hints) == PROBES_MAX
    assert len(script.detector.leave(script.now)) <= ANNOUNCE_MAX


STATES = ["alive", "suspect", "dead", "left", "new-word"]
PEERS = [ME, ANN, BOB, CAT, "peer-stranger"]
EVENTS = st.one_of(
    st.tuples(st.just("tick"), st.floats(0.01, 5.0), st.floats(0, 3)),
    st.tuples(st.just("answer"), st.integers(0, 30), st.integers(0, 3)),
    st.tuples(st.just("fail"), st.integers(0, 30), st.booleans()),
    st.tuples(st.just("relay"), st.integers(0, 30), st.sampled_from([True, False, None])),
    st.tuples(st.just("link"), st.sampled_from(PEERS), st.booleans()),
    st.tuples(
        st.just("hear"),
        st.sampled_from(PEERS),
        st.lists(st.builds(Claim, st.sampled_from(PEERS), st.sampled_from(STATES), st.integers(0, 4)), max_size=5),
    ),
    st.tuples(st.just("members"), st.sets(st.sampled_from(PEERS)), st.none()),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(EVENTS, max_size=80))
def test_whatever_happens_the_table_stays_small_and_the_story_consistent(events: list[tuple]) -> None:
    detector, now = Detector(ME, random.Random(1)), 0.0
    told: dict[str, State] = {}
    incarnation = 0
    for kind, one, two in events:
        now += 0.05
        match kind:
            case "tick":
                now += one
                commands = detector.tick(now, two)
            case "answer":
                commands = detector.answered(one, two, [], now)
            case "fail":
                commands = detector.failed(one, now, gone=two)
            case "relay":
                commands = [c for via in PEERS for c in detector.relayed(one, via, two, now)]
            case "link":
                commands = detector.connected(one, now) if two else detector.disconnected(one, now)
            case "hear":
                commands = detector.heard(one, 0, two, now)
            case _:
                commands = detector.set_members(one, now)
        for command in commands:
            if isinstance(command, Changed):
                assert told.get(command.peer_id, State.ALIVE) is command.was is not command.state
                told[command.peer_id] = command.state
            else:
                assert command.peer_id != ME
                assert 0 < command.timeout_s <= DIAL_PERIODS * STRETCH_MAX
        states = detector.states()
        told = {peer_id: state for peer_id, state in told.items() if peer_id in states}
        assert all(told.get(peer_id, State.ALIVE) is state for peer_id, state in states.items())
        assert ME not in states
        assert len(detector._probes) == len(detector._asking) <= PROBES_MAX
        assert detector.incarnation >= incarnation
        incarnation = detector.incarnation
