from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2pnode.core.cid import record_cid
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
