"""The holdings table against a plain dictionary of sets."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from p2pnode.core.cid import BadContentId, record_cid
from p2pnode.core.holdings import LIFE_S, Holdings, holdings_digest, pack_holdings, unpack_holdings

CIDS = [record_cid(bytes([n])) for n in range(6)]
PEERS = ["12D3KooWa", "12D3KooWb", "12D3KooWc"]

peers = st.sampled_from(PEERS)
cids = st.sampled_from(CIDS)


class AgainstADictionary(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table = Holdings()
        self.model: dict[str, set[bytes]] = {peer: set() for peer in PEERS}
        self.heard: dict[str, float] = {}
        self.now = 0.0

    @rule(peer=peers, held=st.sets(cids))
    def update(self, peer: str, held: set[bytes]) -> None:
        self.table.update(peer, held, self.now)
        self.model[peer] = set(held)
        self.heard[peer] = self.now

    @rule(peer=peers, cid=cids)
    def add(self, peer: str, cid: bytes) -> None:
        self.table.add(peer, cid, self.now)
        self.model[peer].add(cid)
        self.heard.setdefault(peer, self.now)

    @rule(peer=peers, cid=cids)
    def discard(self, peer: str, cid: bytes) -> None:
        self.table.discard(peer, cid)
        self.model[peer].discard(cid)

    @rule(peer=peers)
    def forget(self, peer: str) -> None:
        self.table.forget(peer)
        self.model[peer] = set()
        self.heard.pop(peer, None)

    @rule(peer=peers, right=st.booleans())
    def confirm(self, peer: str, right: bool) -> None:
        digest = holdings_digest(self.model[peer]) if right else bytes(31) + b"\x07"
        known = self.table.confirm(peer, digest, self.now)
        nothing = not self.model[peer]  # of which no list needs to be asked for
        assert known == (right and (nothing or peer in self.heard))
        if known:
            self.heard[peer] = self.now

    @rule(peer=peers)
    def hold_nothing(self, peer: str) -> None:
        assert self.table.confirm(peer, holdings_digest(()), self.now)
        self.model[peer] = set()
        self.heard[peer] = self.now

    @rule(step=st.sampled_from([1.0, LIFE_S / 2, LIFE_S + 1]))
    def time_passes(self, step: float) -> None:
        self.now += step
        silent = sorted(peer for peer, heard in self.heard.items() if self.now - heard > LIFE_S)
        assert self.table.expire(self.now) == silent
        for peer in silent:
            self.model[peer] = set()
            del self.heard[peer]

    @invariant()
    def agrees(self) -> None:
        for cid in CIDS:
            assert self.table.holders_of(cid) == [peer for peer in PEERS if cid in self.model[peer]]
        for peer in PEERS:
            assert self.table.held_by(peer) == self.model[peer]
            assert self.table.digest(peer) == holdings_digest(sorted(self.model[peer], reverse=True))


TestAgainstADictionary = AgainstADictionary.TestCase


def test_the_digest_tells_sets_apart() -> None:
    seen = {holdings_digest(CIDS[:n]) for n in range(len(CIDS) + 1)}
    assert len(seen) == len(CIDS) + 1
    assert holdings_digest([]) == bytes(32)


def test_lists_travel_in_order() -> None:
    packed = pack_holdings(CIDS)
    assert packed == pack_holdings(CIDS[::-1])
    assert unpack_holdings(packed) == set(CIDS)
    with pytest.raises(BadContentId, match="71 bytes"):
        unpack_holdings(packed[:71])
