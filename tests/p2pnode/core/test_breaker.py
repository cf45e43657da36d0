"""Closed, open, tried once, closed again; each peer by itself."""

from __future__ import annotations

from p2pnode.core.breaker import Breaker


def broken(now: float = 0.0) -> Breaker:
    breaker = Breaker(threshold=3, rest_s=60)
    assert [breaker.failed("ann", now) for _ in range(3)] == [False, False, True]
    return breaker


def test_it_opens_at_the_threshold_and_for_that_peer_alone():
    breaker = Breaker(threshold=3, rest_s=60)
    breaker.failed("ann", 0)
    breaker.failed("ann", 1)
    assert breaker.admits("ann", 2)
    breaker.failed("ann", 2)
    assert not breaker.admits("ann", 61.9)
    assert breaker.admits("bob", 2)


def test_a_success_between_failures_begins_the_count_anew():
    breaker = Breaker(threshold=2, rest_s=60)
    breaker.failed("ann", 0)
    breaker.succeeded("ann")
    assert not breaker.failed("ann", 1)
    assert breaker.admits("ann", 1)


def test_after_the_rest_one_is_let_through_and_the_others_wait_for_what_comes_of_it():
    breaker = broken()
    assert [breaker.admits("ann", 60) for _ in range(3)] == [True, False, False]
    breaker.succeeded("ann")
    assert breaker.admits("ann", 60)


def test_a_trial_that_fails_or_is_never_heard_of_costs_another_rest():
    breaker = broken()
    assert breaker.admits("ann", 60)
    assert not breaker.failed("ann", 70)
    assert not breaker.admits("ann", 129)
    assert breaker.admits("ann", 130)
    assert breaker.admits("ann", 190), "nobody told what came of the trial at 130"
