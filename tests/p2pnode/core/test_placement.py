"""Placement against a reference with 60-digit logarithms, and the laws that it promises."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from decimal import ROUND_FLOOR, Decimal, localcontext

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnode.core.model import EVERYWHERE, Member, NodeRole
from p2pnode.core.placement import check_preferences, minus_log2, place, place_each
from p2pnode.core.unixfs import ShardHasher
from p2pnode.errors import Infeasible, UsageError


def member(number: int, *, region: str = "", weight: int = 1000, role: NodeRole = NodeRole.WORKER) -> Member:
    return Member(f"12D3KooWpeer{number}", f"w{number}", role, region=region, weight=weight)


def shard(number: int) -> bytes:
    hasher = ShardHasher()
    hasher.update(number.to_bytes(8, "big"))
    return hasher.cid()


# -- the independent reference: decimals, a loop over subsets of the rule as the docstring words it
# ------------


def reference_cost(hash64: int) -> int:
    with localcontext() as exact:
        exact.prec = 60
        u = Decimal(2 * hash64 + 1) / Decimal(2**65)
        return int((-(u.ln() / Decimal(2).ln()) * 2**32).to_integral_value(ROUND_FLOOR))


def reference_place(cid: bytes, members: Sequence[Member], replicas: int, regions: int) -> list[str]:
    def price(m: Member) -> tuple[int, int]:
        hash64 = int.from_bytes(blake3(b"place/" + cid + m.peer_id.encode()).digest()[:8], "big")
        return reference_cost(hash64) * 2**32 // m.weight, 2**64 - hash64

    left = sorted(members, key=price)
    picked: list[Member] = []
    while left and len(picked) < replicas:
        spanned = {m.region for m in picked if m.region}
        seats = replicas - len(picked)
        if regions - len(spanned) >= seats:  # every seat left is needed for a new region
            left = [m for m in left if m.region and m.region not in spanned]
        picked.append(left.pop(0))
    return [m.peer_id for m in picked]


#: Pinned answers of the reference: another implementation can test itself against them.
SWARM = [
    member(0, region="eu", weight=1000),
    member(1, region="eu", weight=2000),
    member(2, region="us", weight=500),
    member(3, region="us", weight=1000),
    member(4, weight=1000),
    member(5, region="ap", weight=1500, role=NodeRole.HYBRID),
]
VECTORS = [
    "153", "540", "314", "213", "513", "453", "541", "430", "420", "134", "154", "451",
    "531", "150", "431", "450", "415", "415", "045", "103", "531", "521", "345", "530",
]  # fmt: skip


@pytest.mark.parametrize(("number", "digits"), list(enumerate(VECTORS)))
def test_pinned_vectors(number: int, digits: str) -> None:
    expected = [f"12D3KooWpeer{digit}" for digit in digits]
    assert place(shard(number), SWARM, 3) == expected
    assert reference_place(shard(number), SWARM, 3, 2) == expected


@given(st.integers(0, 2**64 - 1))
@settings(max_examples=300)
def test_the_logarithm_is_exact(hash64: int) -> None:
    assert minus_log2(hash64) == reference_cost(hash64)


@pytest.mark.parametrize("hash64", [0, 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_the_logarithm_at_its_edges(hash64: int) -> None:
    assert minus_log2(hash64) == reference_cost(hash64)
    assert 0 <= minus_log2(hash64) <= 65 << 32


swarms = st.lists(st.tuples(st.sampled_from(["", "eu", "us", "ap"]), st.integers(1, 5000)), min_size=1, max_size=9).map(
    lambda rows: [member(i, region=region, weight=weight) for i, (region, weight) in enumerate(rows)]
)


def regions_spanned(chosen: Sequence[str], members: Sequence[Member]) -> int:
    return len({m.region for m in members if m.peer_id in chosen and m.region})


@given(swarms, st.integers(1, 5), st.integers(0, 10**6))
def test_distinct_spanning_and_as_the_reference(members: list[Member], replicas: int, number: int) -> None:
    chosen = place(shard(number), members, replicas)
    assert len(chosen) == len(set(chosen)) == min(replicas, len(members))
    declared = len({m.region for m in members if m.region})
    needed = min(2, declared, len(chosen))
    assert regions_spanned(chosen, members) >= needed
    assert place(shard(number), members[::-1], replicas) == chosen
    assert sorted(reference_place(shard(number), members, len(chosen), needed)) == sorted(chosen)


@given(swarms, st.integers(1, 4), st.integers(0, 10**6), st.data())
def test_one_leaves_one_moves(members: list[Member], replicas: int, number: int, data: st.DataObject) -> None:
    before = place(shard(number), members, replicas)
    gone = data.draw(st.sampled_from(members))
    rest = [m for m in members if m != gone]
    if not rest:
        return
    after = place(shard(number), rest, replicas)
    if gone.peer_id in before:
        assert len(set(after) - set(before)) <= 1
        assert set(before) - set(after) == {gone.peer_id}
    else:
        assert after == before


@given(swarms, st.integers(1, 4), st.integers(0, 10**6), st.integers(1, 4000))
def test_more_weight_never_loses_a_shard(members: list[Member], replicas: int, number: int, more: int) -> None:
    """Monotone: raising one member's weight moves shards only towards it."""
    before = place(shard(number), members, replicas)
    heavier = Member(
        members[0].peer_id, "w0", NodeRole.WORKER, region=members[0].region, weight=members[0].weight + more
    )
    after = place(shard(number), [heavier, *members[1:]], replicas)
    if heavier.peer_id in before:
        assert heavier.peer_id in after
    assert set(after) - set(before) <= {heavier.peer_id} or len({m.region for m in members if m.region}) > 1


def test_shares_follow_weights() -> None:
    weights = [1000, 1000, 2000, 4000, 500]
    members = [member(i, weight=w) for i, w in enumerate(weights)]
    shards = 4000
    counts = Counter(place(shard(n), members, 1)[0] for n in range(shards))
    expected = [shards * w / sum(weights) for w in weights]
    chi2 = sum((counts[m.peer_id] - e) ** 2 / e for m, e in zip(members, expected, strict=True))
    assert chi2 < 18.5  # 4 degrees of freedom, p = 0.001; the ids are fixed, so this never flickers


def test_a_newcomer_takes_its_share_and_nothing_else_moves() -> None:
    members = [member(i) for i in range(9)]
    joined = [*members, member(9)]
    moved = 0
    for number in range(1000):
        before, after = place(shard(number), members, 3), place(shard(number), joined, 3)
        moved += len(set(after) - set(before))
        assert set(after) - set(before) <= {joined[9].peer_id}
    fair = 1000 * 3 / 10
    assert abs(moved - fair) < 4 * math.sqrt(fair)


def test_only_those_who_store_and_stay() -> None:
    left = Member("12D3KooWleft", "gone", NodeRole.WORKER, left=True)
    coordinator = member(1, role=NodeRole.COORDINATOR)
    drained = member(2, weight=0)
    worker, hybrid = member(3), member(4, role=NodeRole.HYBRID)
    members = [left, coordinator, drained, worker, hybrid]
    assert sorted(place(shard(1), members, 3)) == [worker.peer_id, hybrid.peer_id]
    assert sorted(place(shard(1), members, EVERYWHERE)) == [worker.peer_id, hybrid.peer_id]
    with pytest.raises(Infeasible, match="no member stores") as caught:
        place(shard(1), [left, coordinator, drained], 3)
    assert "worker" in caught.value.advice


def test_min_regions() -> None:
    members = [member(i, region=f"r{i % 3}") for i in range(9)]
    for number in range(50):
        assert regions_spanned(place(shard(number), members, 3, min_regions=3), members) == 3
    with pytest.raises(Infeasible, match="declare 3"):
        place(shard(1), members, 5, min_regions=4)
    with pytest.raises(Infeasible, match="2 replicas cannot span 3"):
        place(shard(1), members, 2, min_regions=3)
    assert len(place(shard(1), [member(1)], 3, min_regions=1)) == 1


def test_regions_may_be_named_by_who_publishes() -> None:
    members = [member(i) for i in range(4)]
    regions = {"w0": "eu", "w1": "eu", "w2": "us"}
    for number in range(50):
        chosen = place(shard(number), members, 2, min_regions=2, regions=regions)
        assert members[2].peer_id in chosen
        assert members[3].peer_id not in chosen
    with pytest.raises(Infeasible):
        place(shard(1), members, 2, min_regions=2)


def test_preferences_bend_shares() -> None:
    members = [member(i) for i in range(4)]
    counts = Counter(place(shard(n), members, 1, preferences={"w0": 1.0, "w1": 0.0})[0] for n in range(2000))
    # Weights 1.5, 0.5, 1, 1 of 4.
    assert 650 < counts["12D3KooWpeer0"] < 850
    assert 180 < counts["12D3KooWpeer1"] < 330


def test_wrong_preferences_are_refused_where_they_are_given() -> None:
    members = [member(0)]
    check_preferences({"w0": 0.8}, members)
    for wrong in (1.1, -0.1, math.nan):
        with pytest.raises(UsageError, match="between 0 and 1"):
            check_preferences({"w0": wrong}, members)
    with pytest.raises(UsageError, match="'w9'"):
        check_preferences({"w9": 0.5}, members)
    assert place(shard(1), members, 1, preferences={"w9": 0.5}) == [members[0].peer_id]


@pytest.mark.parametrize("shards", [4, 37, 400])
def test_balanced_keeps_everyone_within_his_share(shards: int) -> None:
    members = [member(i, region="ab"[i % 4 // 2], weight=1000 + 1000 * (i % 2)) for i in range(8)]
    cids = [shard(n) for n in range(shards)]
    placed = place_each(cids, members, 3, balanced=True)
    counts = Counter(peer_id for holders in placed for peer_id in holders)
    total = sum(m.weight for m in members)
    for m in members:
        assert counts[m.peer_id] <= math.ceil(1.05 * shards * 3 * m.weight / total) + 1
    for holders in placed:
        assert len(set(holders)) == 3
        assert regions_spanned(holders, members) == 2


def test_the_same_content_twice_lies_once() -> None:
    members = [member(i) for i in range(6)]
    first, _, again = place_each([shard(1), shard(2), shard(1)], members, 2, balanced=True)
    assert first == again
