"""The shrinker keeps what matters and only that."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from simulations.world.shrink import shrink

numbers = st.lists(st.integers(1, 60), unique=True, max_size=24)


@given(numbers, st.data())
def test_what_it_takes_together_is_what_is_left(everything: list[int], data: st.DataObject) -> None:
    needed = set(data.draw(st.lists(st.sampled_from(everything), unique=True) if everything else st.just([])))
    assert set(shrink(everything, lambda part: needed <= set(part))) == needed


@given(numbers, st.integers(0, 2**32))
def test_what_is_left_fails_and_no_part_with_one_less_does(everything: list[int], salt: int) -> None:
    """Even when failing has no rhyme or reason."""

    def fails(part: tuple[int, ...]) -> bool:
        return list(part) == everything or hash((salt, part)) % 3 == 0

    left = shrink(everything, fails)
    assert fails(left)
    assert list(left) == [number for number in everything if number in left]
    if len(left) > 1:
        assert not any(fails(left[:at] + left[at + 1 :]) for at in range(len(left)))


@given(numbers)
def test_no_part_is_run_twice_and_few_are_run(everything: list[int]) -> None:
    asked: list[tuple[int, ...]] = []

    def fails(part: tuple[int, ...]) -> bool:
        asked.append(part)
        return set(everything[::3]) <= set(part)

    shrink(everything, fails)
    assert len(asked) == len(set(asked)) <= max(2, len(everything) ** 2 + len(everything))
