from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from p2pnode.core.turns import turn

PEERS = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=12, unique=True)


@given(st.binary(max_size=8), PEERS)
def test_everybody_has_another_turn_whoever_is_left_out(occasion, peers):
    turns = {peer: turn(occasion, peer, peers) for peer in peers}
    assert sorted(turns.values()) == list(range(len(peers)))
    first = min(peers, key=turns.__getitem__)
    rest = [peer for peer in peers if peer != first]
    assert all(turn(occasion, peer, rest) == turns[peer] - 1 for peer in rest), "the next steps up, the order stays"


def test_turns_go_round():
    peers = [f"peer-{n}" for n in range(5)]
    firsts = Counter(next(p for p in peers if turn(bytes((n,)), p, peers) == 0) for n in range(200))
    assert min(firsts.values()) > 20
