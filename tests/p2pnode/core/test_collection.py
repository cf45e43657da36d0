"""Nothing named ever goes; what is unnamed goes in its own time and no sooner."""

from hypothesis import given
from hypothesis import strategies as st

from p2pnode.core.collection import NEVER_NAMED_S, NO_LONGER_NAMED_S, Collection

A, B = b"a", b"b"


def running() -> Collection:
    """One that has had its first look, at an empty disk."""
    collection = Collection()
    collection.due([], set(), 0.0)
    return collection


def test_a_shard_that_was_never_named_goes_after_an_hour() -> None:
    collection = running()
    assert collection.due([A], set(), 0.0) == []
    assert collection.due([A], set(), NEVER_NAMED_S - 1) == []
    assert collection.due([A], set(), NEVER_NAMED_S) == [A]


def test_one_that_was_named_stays_a_day_longer() -> None:
    collection = Collection()
    assert collection.due([A], {A}, 0.0) == []
    assert collection.due([A], set(), 10.0) == []
    assert collection.due([A], set(), 10.0 + NEVER_NAMED_S) == []
    assert collection.due([A], set(), 10.0 + NO_LONGER_NAMED_S) == [A]


def test_what_lay_here_at_the_start_may_have_been_named_and_stays_a_day() -> None:
    collection = Collection()
    assert collection.due([A], set(), 0.0) == []
    assert collection.due([A], set(), NO_LONGER_NAMED_S - 1) == []
    assert collection.due([A], set(), NO_LONGER_NAMED_S) == [A]


def test_a_promise_starts_the_clock_anew_even_at_the_last_moment() -> None:
    collection = running()
    collection.due([A, B], set(), 0.0)
    assert collection.due([A, B], set(), NEVER_NAMED_S) == [A, B]
    collection.promised(A)
    assert not collection.is_due(A)
    assert collection.is_due(B)
    assert collection.due([A], set(), NEVER_NAMED_S + 1) == []
    assert collection.due([A], set(), 2 * NEVER_NAMED_S + 1) == [A]


def test_being_named_again_starts_the_clock_anew() -> None:
    collection = running()
    collection.due([A], set(), 0.0)
    collection.due([A], {A}, NEVER_NAMED_S - 1)
    assert collection.due([A], set(), NEVER_NAMED_S) == []


def test_a_shard_that_left_and_came_back_is_new() -> None:
    collection = running()
    collection.due([A], set(), 0.0)
    collection.due([], set(), 1.0)
    assert collection.due([A], set(), NEVER_NAMED_S) == []


@given(
    st.lists(
        st.tuples(st.sets(st.sampled_from([A, B])), st.sets(st.sampled_from([A, B])), st.floats(0, 1e6)), max_size=20
    )
)
def test_a_named_shard_never_goes(history: list[tuple[set[bytes], set[bytes], float]]) -> None:
    collection, now = Collection(), 0.0
    for held, named, step in history:
        now += step
        assert not set(collection.due(held, named, now)) & named
