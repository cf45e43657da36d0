"""Chains are gone along in jumps, and to the same places as step by step."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2pnode.core.event_index import NO_ROW, EventIndex


def grown(parents):
    """An index whose rows stand on these rows of their author, or on none."""
    index = EventIndex()
    for row, parent in enumerate(parents):
        event_id = EventIndex().id(0) + bytes(28) + row.to_bytes(4, "big")
        index.add(event_id, height=row, session=0, sequence=row, previous=parent, standing=0, past=())
    return index


def chain(index, row):
    while row != NO_ROW:
        yield row
        row = index.previous[row]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.data())
def test_where_chains_part_is_found_as_if_gone_step_by_step(back, data):
    index = grown([max(NO_ROW, row - 1 - steps) for row, steps in enumerate(back)])
    rows = st.integers(NO_ROW, len(back) - 1)
    one, other = data.draw(rows), data.draw(rows)
    theirs = set(chain(index, other))
    assert index.common(one, other) == next((row for row in chain(index, one) if row in theirs), NO_ROW)
    for row in range(len(back)):
        assert index.is_on_chain(row, other) == (row in theirs)


def test_a_long_chain_takes_few_steps(monkeypatch):
    index = grown([*range(NO_ROW, 9999), 5])
    steps = 0

    def counted(row):
        nonlocal steps
        steps += 1
        return 0 if row == NO_ROW else index.depth[row]

    monkeypatch.setattr(index, "_depth", counted)
    assert index.common(9999, 10000) == 5
    assert index.is_on_chain(3, 9999)
    assert steps < 200
