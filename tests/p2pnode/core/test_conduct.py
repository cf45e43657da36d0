from __future__ import annotations

from p2pnode.core import conduct as module
from p2pnode.core.conduct import FORGIVEN_S, PAUSE_S, REFUSED_MAX, Conduct


def test_a_few_refusals_are_forgiven_and_many_cost_a_pause():
    conduct = Conduct()
    conduct.refused("p", REFUSED_MAX, now=0)
    assert conduct.pause_s("p", now=0) == 0
    conduct.refused("p", 1, now=0)
    assert conduct.pause_s("p", now=0) == PAUSE_S
    assert conduct.pause_s("p", now=PAUSE_S - 1) == 1
    assert conduct.pause_s("p", now=PAUSE_S) == 0
    assert conduct.counts() == {"p": REFUSED_MAX + 1}


def test_refusals_that_come_slowly_enough_never_add_up():
    conduct = Conduct()
    for number in range(200):
        conduct.refused("p", 1, now=number * FORGIVEN_S)
    assert conduct.pause_s("p", now=200 * FORGIVEN_S) == 0


def test_nobody_pays_for_another_and_nothing_is_remembered_of_the_good():
    conduct = Conduct()
    conduct.refused("bad", 1000, now=0)
    conduct.refused("good", 0, now=0)
    assert conduct.pause_s("good", now=0) == 0
    assert list(conduct.counts()) == ["bad"]


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "PEERS_MAX", 3)
    conduct = Conduct()
    for number in range(10):
        conduct.refused(f"p{number}", 1, now=number)
    assert list(conduct.counts()) == ["p7", "p8", "p9"]
