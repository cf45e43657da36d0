"""Routing covers every shard that somebody holds exactly once, and spreads the rows."""

from hypothesis import given
from hypothesis import strategies as st

from p2pnode.core.routing import HOLDER_COST_CELLS, Wanted, route

PEERS = ["a", "b", "c", "d"]


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Wanted], dict[bytes, list[str]]]:
    count = draw(st.integers(0, 30))
    cids = [bytes([draw(st.integers(0, 9))]) for _ in range(count)]
    wanted = [Wanted(index, cid, draw(st.integers(1, 100))) for index, cid in enumerate(cids)]
    holders = {cid: draw(st.lists(st.sampled_from(PEERS), unique=True, max_size=3)) for cid in set(cids)}
    return wanted, holders


@given(situations())
def test_every_shard_goes_to_one_holder_or_is_missing(
    situation: tuple[list[Wanted], dict[bytes, list[str]]],
) -> None:
    wanted, holders = situation
    routes = route(wanted, holders)
    routed = [shard for shards in routes.by_peer.values() for shard in shards]
    assert sorted([*routed, *routes.missing], key=lambda shard: shard.index) == wanted
    assert all(
        shard.cid in holders and peer in holders[shard.cid] for peer, got in routes.by_peer.items() for shard in got
    )
    assert all(not holders[shard.cid] for shard in routes.missing)


def test_rows_are_spread_evenly_over_replicas() -> None:
    wanted = [Wanted(index, bytes([index]), HOLDER_COST_CELLS) for index in range(12)]
    routes = route(wanted, {shard.cid: PEERS[:3] for shard in wanted})
    counts = [len(shards) for shards in routes.by_peer.values()]
    assert len(counts) == 3
    assert max(counts) - min(counts) <= 1


def test_little_work_does_not_trouble_every_holder() -> None:
    wanted = [Wanted(index, bytes([index]), 1000) for index in range(16)]
    holders = {shard.cid: [PEERS[(shard.index + turn) % 4] for turn in range(3)] for shard in wanted}
    assert len(route(wanted, holders).by_peer) <= 2


def test_rows_that_are_only_counted_cost_nothing_to_read() -> None:
    wanted = [Wanted(index, bytes([index]), 10_000_000, columns=0) for index in range(16)]
    assert len(route(wanted, {shard.cid: PEERS for shard in wanted}).by_peer) == 1


def test_shards_with_one_holder_are_settled_before_those_with_a_choice() -> None:
    wanted = [Wanted(0, b"0", 2 * HOLDER_COST_CELLS), Wanted(1, b"1", 2 * HOLDER_COST_CELLS)]
    routes = route(wanted, {b"0": ["a", "b"], b"1": ["a"]})
    assert [shard.index for shard in routes.by_peer["a"]] == [1]
    assert [shard.index for shard in routes.by_peer["b"]] == [0]


def test_we_read_our_own_copy_on_equal_load() -> None:
    routes = route([Wanted(0, b"0", 5)], {b"0": ["a", "me"]}, me="me")
    assert list(routes.by_peer) == ["me"]


def test_the_same_content_twice_is_read_twice() -> None:
    routes = route([Wanted(0, b"0", 5), Wanted(1, b"0", 5)], {b"0": ["a"]})
    assert [shard.index for shard in routes.by_peer["a"]] == [0, 1]
