"""A failing seed made small: the fewest faults with which it still fails.

Delta debugging (Zeller & Hildebrandt, IEEE TSE 2002) over fault numbers: drop halves, then quarters, then single
ones, as long as the run goes on failing. What is left is 1-minimal: without any one of its faults the run passes.
This file refuses to know what a run is; it asks a callable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

#: Whether the run fails with exactly these faults.
Fails = Callable[[tuple[int, ...]], bool]


def shrink(numbers: Sequence[int], fails: Fails) -> tuple[int, ...]:
    """A smallest part of `numbers` with which the run fails, in their order.

    The run must fail with all of them. Asks for at most n² parts, none of them twice.
    """
    asked: dict[tuple[int, ...], bool] = {}

    def failing(part: tuple[int, ...]) -> bool:
        if part not in asked:
            asked[part] = fails(part)
        return asked[part]

    left = tuple(numbers)
    if failing(()):
        return ()
    pieces = 2
    while len(left) > 1:
        spans = _cut(left, pieces)
        alone = next((part for part in spans if failing(part)), None)
        without = next((part for part in _without_each(spans) if failing(part)), None) if alone is None else None
        if alone is not None:
            left, pieces = alone, 2
        elif without is not None:
            left, pieces = without, max(2, pieces - 1)
        elif pieces < len(left):
            pieces = min(len(left), 2 * pieces)
        else:
            break
    return left


def _cut(numbers: tuple[int, ...], pieces: int) -> list[tuple[int, ...]]:
    cuts = [len(numbers) * index // pieces for index in range(pieces + 1)]
    return [numbers[start:stop] for start, stop in pairwise(cuts)]


def _without_each(spans: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    return [tuple(number for other in spans if other is not span for number in other) for span in spans]
