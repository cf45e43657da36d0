from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2pnode.storage.tally import Tally

ROWS = st.lists(st.binary(min_size=36, max_size=36), min_size=2, max_size=8, unique=True).map(
    lambda ids: list(enumerate(ids, 1))
)


@given(ROWS, st.integers(0, 8))
def test_it_is_the_same_in_one_go_and_row_by_row(rows, cut):
    assert Tally().after(rows[:cut]).after(rows[cut:]) == Tally().after(rows)


@given(ROWS, st.data())
def test_no_row_goes_comes_or_moves_unnoticed(rows, data):
    whole = Tally().after(rows)
    ids = [event_id for _, event_id in rows]
    at, other = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=2, max_size=2, unique=True))
    without = ids[:at] + ids[at + 1 :]
    swapped = list(ids)
    swapped[at], swapped[other] = ids[other], ids[at]
    for changed in (without, [*ids, b"new"], swapped):
        assert Tally().after(enumerate(changed, 1)).chain != whole.chain


def test_it_comes_back_as_it_was_written():
    tally = Tally().after([(3, b"a"), (9, b"b")])
    assert (tally.place, tally.count) == (9, 2)
    assert Tally.decode(tally.encode()) == tally
    assert Tally.decode(b"") is None
    assert Tally.decode(tally.encode() + b"x") is None
