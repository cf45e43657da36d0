from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnode.core import bands
from p2pnode.core.bands import Band, BandDigest, Plan
from p2pnode.core.clock import MerkleClock


def wide(author, count=9):
    """A clock of one height after the other, and then many events of one height."""
    people = [author(n + 1) for n in range(count)]
    genesis = people[0].genesis()
    clock, lonely = MerkleClock(genesis.id), MerkleClock(genesis.id)
    clock.add(genesis)
    lonely.add(genesis)
    for one in people:
        clock.add(one.up(clock, f"node-{one.peer_id[-4:]}"))
    for one in people[1:]:
        clock.add(one.up(lonely, f"again-{one.peer_id[-4:]}"))
    return clock


def test_bands_cover_the_history_once_and_cut_no_height_in_two(author, monkeypatch):
    monkeypatch.setattr(bands, "BAND_EVENTS", 5)
    clock = wide(author)
    cut = bands.cut(clock, 1)
    assert len(cut) > 1
    assert [band.low for band in cut] == [1, *(band.high for band in cut[:-1])]
    assert cut[-1].high == clock.height + 1
    assert sum(band.count for band in cut) == len(clock)
    assert all(band.count >= 5 for band in cut[:-1])
    for band in cut:
        digest = BandDigest()
        for event_id in clock.between(band.low, band.high):
            assert not digest.matches(band)
            digest.add([event_id])
        assert digest.matches(band)
    assert bands.is_plausible(cut, 0, len(clock))
    assert bands.cut(clock, clock.height + 1) == []
    monkeypatch.setattr(bands, "BANDS_MAX", 2)
    assert len(bands.cut(clock, 1)) <= 2


def test_a_promise_with_gaps_or_of_too_much_is_none():
    good = [Band(5, 7, 3, bytes(16)), Band(7, 9, 3, bytes(16))]
    assert bands.is_plausible(good, 4, 6)
    assert bands.is_plausible(good, 8, 6), "the clock has grown since it asked"
    assert not bands.is_plausible(good, 3, 6)
    assert not bands.is_plausible(good, 4, 5)
    assert not bands.is_plausible(good[::-1], 4, 6)
    assert not bands.is_plausible([Band(5, 5, 3, bytes(16))], 4, 6)
    assert not bands.is_plausible([Band(5, 7, 0, bytes(16))], 4, 6)
    assert not bands.is_plausible([Band(5, 7, 1, bytes(8))], 4, 6)


def plan(count=6, sources=("a", "b", "c")):
    return Plan([Band(n, n + 1, 1, bytes(16)) for n in range(count)], sources)


def test_sources_fetch_different_bands_the_lowest_first():
    p = plan()
    assert [p.assign(source, room=True) for source in "abca"] == [0, 1, 2, 3]
    p.stage(1)
    p.stage(2)
    assert not p.is_staged(0)
    p.lose("a")
    assert p.assign("b", room=False) == 0, "what the lost one had begun is begun anew"
    assert p.assign("c", room=False) is None
    assert p.assign("a", room=True) is None
    p.stage(0)
    for _ in range(3):
        p.admit()
    assert p.next == 3


def test_a_band_that_did_not_match_is_asked_of_another_and_a_source_twice_wrong_is_left_out():
    p = plan(sources=("liar", "honest"))
    for expected in range(bands.MISMATCHES_MAX + 1):
        number = p.assign("liar", room=True)
        assert number == expected
        p.fail("liar", number)
    assert p.sources == ["honest"]
    assert p.assign("honest", room=True) == 0
    assert not p.is_hopeless
    p.fail("honest", 0)
    assert p.is_hopeless
    assert p.assign("honest", room=True) == 1


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_whatever_sources_do_every_band_is_admitted_once_in_order_or_it_is_hopeless(data):
    count = data.draw(st.integers(0, 8))
    sources = ("a", "b", "c")
    p = plan(count, sources)
    honest = data.draw(st.booleans())
    fetching: dict[str, int] = {}
    for _ in range(500):
        if p.is_done or p.is_hopeless:
            break
        source = data.draw(st.sampled_from(sources))
        if source not in fetching:
            number = p.assign(source, room=data.draw(st.booleans()))
            if number is None:
                continue
            assert number not in fetching.values()
            fetching[source] = number
        number = fetching.pop(source)
        fate = (
            "stage" if honest and source == "a" else data.draw(st.sampled_from(("stage", "fail", "lose", "give_back")))
        )
        if fate == "fail":
            p.fail(source, number)
        elif fate == "lose":
            p.lose(source)
        else:
            getattr(p, fate)(number)
        while not p.is_done and p.is_staged(p.next):
            p.admit()
    if honest:
        assert not p.is_hopeless
    if p.is_done:
        assert p.next == count
