from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnode.core.cid import record_cid
from p2pnode.core.model import Manifest
from p2pnode.core.records import Version
from p2pnode.core.versions import VersionHistory

LINKS = st.binary(max_size=4).map(record_cid)
VERSIONS = st.builds(
    Version,
    LINKS,
    st.none() | LINKS,
    st.booleans(),
    st.lists(LINKS, max_size=4, unique=True).map(tuple),
    st.text(max_size=12),
)


@given(said=st.dictionaries(st.tuples(st.integers(0, 2**63 - 1), LINKS), VERSIONS, max_size=8))
def test_what_went_into_a_history_comes_out_of_it_in_order(said):
    history = VersionHistory("ds-1", {}.get)
    seen = set()
    for (height, event_id), version in said.items():
        if event_id not in seen:
            history.add((height, event_id), version)
        seen.add(event_id)
    firsts = {}
    for order, version in said.items():
        firsts.setdefault(order[1], (order, version))
    expected = [(order[1], version) for order, version in sorted(firsts.values(), key=lambda entry: entry[0])]
    assert history.listed() == expected
    replaced = {over for _, version in expected for over in version.over}
    assert history.tips() == tuple(sorted(event_id for event_id, _ in expected if event_id not in replaced))
    for publish in {version.publish for _, version in expected} - {""}:
        first = next(event_id for event_id, version in expected if version.publish == publish)
        assert history.of_publish(publish) == first
    again = VersionHistory("ds-1", {}.get)
    again.load(history.dump())
    assert again.listed() == history.listed()
    assert again.tips() == history.tips()


def test_loading_a_history_reads_no_manifest():
    def manifest(cid):
        raise AssertionError(cid)

    history = VersionHistory("ds-1", {}.get)
    first, second = record_cid(b"1"), record_cid(b"2")
    history.add((1, first), Version(record_cid(b"m")))
    history.add((2, second), Version(record_cid(b"n"), over=(first,)))
    again = VersionHistory("ds-1", manifest)
    again.load(history.dump())
    assert again.tips() == (second,)


def named(number):
    return record_cid(b"%d" % number)


#: For each version its height above the one before, how it was made, and which others it names by their distance: such
#: as came before it, such as are not here, and such as nobody could have seen.
STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([True, True, True, False]), st.lists(st.integers(-3, 6), max_size=3)),
    min_size=2,
    max_size=24,
)


@settings(max_examples=400)
@given(steps=STEPS, data=st.data())
def test_where_lineages_part_is_found_as_if_they_were_gone_through(steps, data):
    history, height = VersionHistory("ds-1", {}.get), 1
    for number, (rise, append, back) in enumerate(steps):
        height += rise
        over = tuple(sorted({named(number - distance) for distance in back if distance}))
        history.add((height, named(number)), Version(named(-1), None, append, over))
    numbers = st.integers(0, len(steps) - 1)
    one, other = data.draw(st.lists(numbers, min_size=2, max_size=2, unique=True))
    one, other = named(one), named(other)
    lineage = {event_id: history._lineage(event_id) for event_id in (one, other)}
    assert history._beyond(one, other) == lineage[one] - lineage[other]
    roots = [history._roots_among(history._reached(event_id)) for event_id in (one, other)]
    assert history._have_one_root(one, other) == (roots[0] == roots[1])


def test_concurrent_appends_to_a_long_history_cost_what_is_new(monkeypatch):
    history, last = VersionHistory("ds-1", lambda cid: Manifest("ds-1", "parquet", b"", (), ())), ()
    for number in range(3000):
        history.add((number, named(number)), Version(named(-1), None, True, last, f"p{number}"))
        last = (named(number),)
    for number in range(3000, 3010):
        history.add((3000, named(number)), Version(named(-1), None, True, last, f"p{number}"))
    asked = []
    find = VersionHistory._version
    monkeypatch.setattr(VersionHistory, "_version", lambda *args: asked.append(args) or find(*args))
    monkeypatch.setattr(VersionHistory, "_find", lambda *args: asked.append(args) or find(*args))
    assert history.fold().siblings == ()
    assert len(asked) < 300
