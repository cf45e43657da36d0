from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnode.core import conduct as module
from p2pnode.core.conduct import (
    DEGREE_FORGIVEN_S,
    DROP_S,
    DROP_S_MAX,
    FORGIVEN_S,
    LOG_EVERY_S,
    PAUSE_S,
    REPLAYS_FREE,
    REPLAYS_PER_NEW,
    Conduct,
    Reason,
)
from protocols import errors as codes

LIE, MISTAKE, HARMLESS = Reason.BAD_SIGNATURE, Reason.UNAUTHORIZED, Reason.UNKNOWN_VERB


def test_the_frames_reasons_are_the_protocols_codes():
    named = {value for name, value in vars(codes).items() if name.isupper() and value not in (codes.TRUNCATED,)}
    assert named <= {reason.value for reason in Reason}


def test_a_few_lies_are_forgiven_and_many_cost_a_pause():
    conduct = Conduct()
    for _ in range(16):
        assert conduct.note("p", LIE, 1, now=0).paused_s == 0
    assert conduct.pause_s("p", now=0) == 0
    assert conduct.note("p", LIE, 1, now=0).paused_s == PAUSE_S
    assert conduct.pause_s("p", now=0) == PAUSE_S
    assert conduct.pause_s("p", now=PAUSE_S - 1) == 1
    assert conduct.pause_s("p", now=PAUSE_S) == 0
    assert conduct.counts("p") == {LIE: 17}


def test_one_batch_however_bad_pauses_and_going_on_drops():
    conduct = Conduct()
    verdict = conduct.note("p", LIE, 1024, now=0)
    assert (verdict.paused_s, verdict.dropped_s) == (PAUSE_S, 0)
    assert conduct.drop_s("p", now=0) == 0
    dropped = [conduct.note("p", LIE, 1024, now=1).dropped_s for _ in range(4)]
    assert dropped == [0, 0, DROP_S, 0]
    assert conduct.drop_s("p", now=1) == DROP_S
    assert conduct.pause_s("p", now=2) == DROP_S + 1 - 2 or conduct.pause_s("p", now=2) == PAUSE_S - 2


def test_each_drop_is_longer_than_the_last_and_shorter_than_a_death():
    conduct = Conduct()
    now, lengths = 0.0, []
    for _ in range(6):
        while not (dropped_s := conduct.note("p", LIE, 1, now).dropped_s):
            pass
        lengths.append(dropped_s)
        now += dropped_s
        assert conduct.drop_s("p", now) == 0
    assert lengths == [DROP_S, 2 * DROP_S, 4 * DROP_S, DROP_S_MAX, DROP_S_MAX, DROP_S_MAX]
    assert DROP_S_MAX < 300


def test_a_drop_is_forgiven_by_degrees():
    conduct = Conduct()

    def lies_until_dropped(now: float) -> tuple[int, float]:
        lies = 1
        while not (dropped_s := conduct.note("p", LIE, 1, now).dropped_s):
            lies += 1
        return lies, dropped_s

    first, _ = lies_until_dropped(0)
    again, longer_s = lies_until_dropped(DROP_S)
    assert again < first
    assert longer_s == 2 * DROP_S
    late = DROP_S + longer_s + 2 * DEGREE_FORGIVEN_S
    assert lies_until_dropped(late) == (first, DROP_S)


def test_refusals_that_come_slowly_enough_never_add_up():
    conduct = Conduct()
    for number in range(200):
        conduct.note("p", LIE, 1, now=number * FORGIVEN_S)
    assert conduct.pause_s("p", now=200 * FORGIVEN_S) == 0


def test_mistakes_weigh_little_and_a_batch_of_them_is_one():
    conduct = Conduct()
    for second in range(600):
        # A newer peer's whole log, again and again; and a burst of pushes that overtook each other.
        if second % 5 == 0:
            conduct.note("newer", Reason.NEWER, 1000, now=second)
        for _ in range(50):
            conduct.note("newer", Reason.ORPHAN, 1, now=second)
    assert conduct.pause_s("newer", now=600) == 0
    while not (verdict := conduct.note("flood", MISTAKE, 1, now=0)).paused_s:
        assert verdict.dropped_s == 0
    assert conduct.counts("flood")[MISTAKE] > 250


def test_who_asks_on_while_paused_is_dropped_within_seconds():
    conduct = Conduct()
    conduct.note("p", LIE, 1000, now=0)
    now = 0.0
    while not conduct.note("p", Reason.IMPATIENT, 1, now).dropped_s:
        now += 1 / 200
    assert 1 < now < 10


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 5000)), max_size=200))
def test_what_is_harmless_is_counted_and_nothing_more(notes):
    conduct, now = Conduct(), 0.0
    for later, count in notes:
        now += later
        verdict = conduct.note("p", HARMLESS, count, now)
        assert (verdict.paused_s, verdict.dropped_s) == (0, 0)
    assert conduct.counts("p").get(HARMLESS, 0) == sum(count for _, count in notes)
    assert conduct.pause_s("p", now) == 0


def test_repeating_is_free_in_proportion_to_the_news():
    conduct = Conduct()
    assert conduct.pushed("p", REPLAYS_FREE, here=100, now=0) == 0
    assert conduct.pushed("p", 10, here=100, now=0) == 10
    assert conduct.pushed("p", REPLAYS_PER_NEW * 5 + 1, here=105, now=0) == 1
    assert conduct.pushed("other", 10, here=105, now=0) == 0
    assert conduct.offenders(now=0) == []


def test_the_log_hears_of_the_first_and_then_now_and_again_with_a_count():
    conduct = Conduct()
    told = [conduct.note("p", MISTAKE, 1, now=number / 10).tell for number in range(250)]
    assert [(number, count) for number, count in enumerate(told) if count] == [
        (0, 1),
        (int(LOG_EVERY_S * 10), int(LOG_EVERY_S * 10)),
        (int(LOG_EVERY_S * 20), int(LOG_EVERY_S * 10)),
    ]
    assert conduct.note("p", LIE, 3, now=1).tell == 3


def test_nobody_pays_for_another_and_offenders_are_listed_worst_first():
    conduct = Conduct()
    conduct.note("clumsy", MISTAKE, 2, now=0)
    conduct.note("liar", LIE, 40, now=0)
    conduct.note("liar", Reason.FORGED_HEIGHT, 1, now=2)
    conduct.note("liar", HARMLESS, 100, now=2)
    assert conduct.pause_s("good", now=2) == 0
    assert conduct.counts("good") == {}
    liar, clumsy = conduct.offenders(now=2)
    assert (liar.peer_id, liar.refused, liar.since_s) == ("liar", 41, 0)
    assert liar.counts == ((HARMLESS, 100), (LIE, 40), (Reason.FORGED_HEIGHT, 1))
    assert liar.paused_s == PAUSE_S - 2
    assert (clumsy.peer_id, clumsy.refused, clumsy.paused_s, clumsy.since_s) == ("clumsy", 2, 0, 2)


@pytest.mark.parametrize("dropped", [True, False])
def test_memory_is_bounded_and_the_dropped_are_forgotten_last(monkeypatch, dropped):
    monkeypatch.setattr(module, "PEERS_MAX", 3)
    conduct = Conduct()
    for _ in range(5 if dropped else 1):
        conduct.note("bad", LIE, 1000, now=0)
    for number in range(10):
        conduct.note(f"p{number}", MISTAKE, 1, now=1)
    names = [offender.peer_id for offender in conduct.offenders(now=1)]
    assert names == (["bad", "p8", "p9"] if dropped else ["p7", "p8", "p9"])
