from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnode.core.event import PARENTS_MAX
from p2pnode.core.merging import HEADS_MAX, MERGE_AFTER_S, Merging

PEERS = [f"peer-{n}" for n in range(6)]


def heads(count, first=0):
    return [n.to_bytes(4, "big") for n in range(first, first + count)]


def test_few_heads_are_left_alone():
    merging = Merging("peer-0")
    assert merging.look(0.0, heads(HEADS_MAX), PEERS) == (False, math.inf)
    assert merging.look(1e6, heads(HEADS_MAX), PEERS) == (False, math.inf)


def test_of_those_who_see_the_same_heads_one_ties_them_and_the_next_only_if_it_does_not():
    found = {}
    for peer in PEERS:
        merging = Merging(peer)
        mine, due = merging.look(100.0, heads(12), PEERS)
        assert not mine
        assert merging.look(due - 0.1, heads(12), PEERS)[0] is False
        assert merging.look(due, heads(12), PEERS) == (True, math.inf)
        found[peer] = due
    assert sorted(found.values()) == [100.0 + MERGE_AFTER_S * (1 + n) for n in range(len(PEERS))]


def test_heads_that_change_begin_the_wait_anew():
    merging = Merging("peer-0")
    now = 0.0
    for first in range(50):
        mine, _ = merging.look(now, heads(12, first), [])
        assert not mine
        now += MERGE_AFTER_S - 1
    assert merging.look(now, heads(12, 49), [])[0] is False
    assert merging.look(now + 1, heads(12, 49), [])[0] is True


@settings(max_examples=60)
@given(
    count=st.integers(HEADS_MAX + 1, 120),
    peers=st.integers(1, 8),
    lag_s=st.floats(0, 2 * MERGE_AFTER_S),
    asleep=st.sets(st.integers(0, 7)),
)
def test_merging_ends_however_slowly_its_news_travels(count, peers, lag_s, asleep):
    """Each member sees the others' merges only after `lag_s`, and may merge meanwhile; all come to rest."""
    names = [f"peer-{n}" for n in range(peers)]
    awake = [name for number, name in enumerate(names) if number not in asleep or number == 0]
    views = {name: set(heads(count)) for name in names}
    watches = {name: Merging(name) for name in names}
    mail: list[tuple[float, str, frozenset[bytes], bytes]] = []
    now, merges, stands_on = 0.0, 0, {}
    while now < 40 * MERGE_AFTER_S:
        now += 1.0
        for when, name, tied, merge in list(mail):
            if when <= now:
                mail.remove((when, name, tied, merge))
                views[name] -= tied
                views[name].add(merge)
                views[name] -= {old for new in views[name] for old in stands_on.get(new, ())}
        for name in awake:
            mine, _ = watches[name].look(now, sorted(views[name]), names)
            while mine and len(views[name]) > HEADS_MAX:
                merges += 1
                merge = (10_000 + merges).to_bytes(4, "big")
                tied = stands_on[merge] = frozenset(sorted(views[name])[:PARENTS_MAX])
                views[name] = (views[name] - tied) | {merge}
                mail += [(now + lag_s, other, tied, merge) for other in names if other != name]
    assert mail == [] or merges == 0
    assert all(len(views[name]) <= HEADS_MAX for name in awake)
    assert merges <= 4 * peers * (1 + count // (PARENTS_MAX - 1))
