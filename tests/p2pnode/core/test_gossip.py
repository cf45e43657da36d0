"""News is told often enough, not too often, and within the bound."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2pnode.core.gossip import TELLINGS_PER_LOG, Gossip
from protocols.health import CLAIMS_MAX, Claim


def claim(index: int, state: str = "alive", incarnation: int = 0) -> Claim:
    return Claim(f"peer-{index:04d}", state, incarnation)


def test_news_is_told_a_logarithmic_number_of_times_and_then_dropped() -> None:
    gossip = Gossip()
    gossip.spread(claim(1))
    told = 0
    while gossip.pick([], [], members=6):
        told += 1
    assert told == TELLINGS_PER_LOG * 3


def test_the_least_told_goes_first_when_there_is_more_news_than_room() -> None:
    gossip = Gossip()
    for index in range(CLAIMS_MAX + 8):
        gossip.spread(claim(index))
    first = {c.peer_id for c in gossip.pick([], [], members=100)}
    second = {c.peer_id for c in gossip.pick([], [], members=100)}
    assert len(first) == CLAIMS_MAX
    assert {f"peer-{index:04d}" for index in range(CLAIMS_MAX, CLAIMS_MAX + 8)} <= second


def test_newer_news_replaces_older_and_is_told_afresh() -> None:
    gossip = Gossip()
    gossip.spread(claim(1, "suspect"))
    gossip.pick([], [], members=6)
    gossip.spread(claim(1, "alive", 1))
    assert gossip.pick([], [], members=6) == [claim(1, "alive", 1)]
    gossip.forget("peer-0001")
    assert gossip.pick([], [], members=6) == []


def test_what_must_be_first_is_first_and_reminders_only_fill() -> None:
    gossip = Gossip()
    for index in range(CLAIMS_MAX):
        gossip.spread(claim(index))
    picked = gossip.pick([claim(500, "dead")], [claim(600, "dead")], members=100)
    assert picked[0] == claim(500, "dead")
    assert claim(600, "dead") not in picked
    assert Gossip().pick([], [claim(600, "dead")], members=100) == [claim(600, "dead")]


@given(
    st.lists(st.integers(0, 80), max_size=120),
    st.lists(st.integers(0, 80), max_size=60),
    st.lists(st.integers(0, 80), max_size=3),
    st.integers(1, 1000),
)
def test_never_over_the_bound_never_two_claims_about_one(
    news: list[int], bad: list[int], own: list[int], members: int
) -> None:
    gossip = Gossip()
    for index in news:
        gossip.spread(claim(index))
    for _ in range(4):
        picked = gossip.pick([claim(i, "dead") for i in own], [claim(i, "suspect") for i in bad], members)
        assert len(picked) <= CLAIMS_MAX
        assert len({c.peer_id for c in picked}) == len(picked)
