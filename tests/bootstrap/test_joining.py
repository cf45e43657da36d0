"""Whom to dial when: backoff, jitter, persistence."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from bootstrap.address import parse_bootstrap
from bootstrap.identity import Identity
from bootstrap.joining import BACKOFF_FIRST_S, BACKOFF_MAX_S, MEMBER_RETRY_S, Dial, Joining

OWN, HUB, OTHER, MEMBER = (Identity.from_seed(bytes((n,)) * 32).peer_id for n in range(4))


def planned(*peers: str, seed: int = 0) -> Joining:
    texts = [f"/ip4/192.0.2.{n}/tcp/4001/p2p/{peer}" for n, peer in enumerate(peers, start=1)]
    return Joining(OWN, parse_bootstrap(texts), random.Random(seed))


def test_all_bootstrap_peers_are_dialed_at_once_and_oneself_never():
    plan = planned(HUB, OWN, OTHER, HUB)
    assert sorted(plan.next_dials(0.0), key=lambda dial: dial.addresses) == [
        Dial(HUB, ("/ip4/192.0.2.1/tcp/4001", "/ip4/192.0.2.4/tcp/4001")),
        Dial(OTHER, ("/ip4/192.0.2.3/tcp/4001",)),
    ]
    assert plan.next_dials(0.0) == []
    assert plan.next_at() is None


def test_one_success_leaves_the_others_to_be_dialed():
    plan = planned(HUB, OTHER)
    plan.next_dials(0.0)
    plan.failed(OTHER, 1.0)
    plan.connected(HUB)
    due = plan.next_at()
    assert due is not None
    assert [dial.peer_id for dial in plan.next_dials(due)] == [OTHER]


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_a_dead_bootstrap_peer_is_tried_for_ever_ever_more_slowly(seed, tries):
    plan = planned(HUB, seed=seed)
    now, delays = 0.0, []
    for _ in range(tries):
        assert [dial.peer_id for dial in plan.next_dials(now)] == [HUB]
        plan.failed(HUB, now)
        due = plan.next_at()
        assert due is not None
        assert plan.next_dials(due - 1e-6) == []
        delays.append(due - now)
        now = due
    for number, delay in enumerate(delays):
        full = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2**number)
        assert full / 2 - 1e-6 <= delay <= full + 1e-6
    plan.next_dials(now)
    plan.connected(HUB)
    assert plan.next_at() is None


def test_many_nodes_do_not_return_in_step():
    dues = set()
    for seed in range(50):
        plan = planned(HUB, seed=seed)
        plan.connected(HUB)
        plan.lost(HUB, 100.0)
        dues.add(plan.next_at())
    assert len(dues) == 50


def test_a_lost_member_is_dialed_again_for_a_while():
    plan = planned()
    plan.connected(MEMBER)
    plan.lost(MEMBER, 0.0)
    now, tries = 0.0, 0
    while (due := plan.next_at()) is not None:
        now = due
        assert plan.next_dials(now) == [Dial(MEMBER)]
        plan.failed(MEMBER, now)
        tries += 1
    assert MEMBER_RETRY_S - BACKOFF_MAX_S <= now <= MEMBER_RETRY_S
    assert 20 < tries < 60


def test_a_member_that_left_is_let_go_and_a_bootstrap_peer_is_not():
    plan = planned(HUB)
    plan.want([MEMBER, OWN, HUB], 5.0)
    assert {dial.peer_id for dial in plan.next_dials(5.0)} == {HUB, MEMBER}
    plan.forget(MEMBER)
    plan.failed(MEMBER, 6.0)
    plan.forget(HUB)
    plan.failed(HUB, 6.0)
    assert plan.next_dials(1000.0) == [Dial(HUB, ("/ip4/192.0.2.1/tcp/4001",))]


def test_news_out_of_order_does_no_harm():
    plan = planned(HUB)
    plan.lost(HUB, 0.0)
    plan.failed("unknown", 0.0)
    plan.lost("unknown", 0.0)
    plan.next_dials(0.0)
    plan.connected(HUB)  # it dialed us while we dialed it
    plan.failed(HUB, 1.0)
    assert [dial.peer_id for dial in plan.next_dials(3.0)] == [HUB], "it said hello to us, we have not to it"
    plan.connected(HUB)
    assert plan.next_at() is None
    plan.connected(OWN)
    assert plan.next_dials(100.0) == []
