"""Figures are medians of interleaved rounds, and a mark is met or it is not."""

from __future__ import annotations

import pytest

from p2pnode.errors import UsageError
from simulations.bench.figure import at_least, at_most, interleave
from simulations.bench.run import NAMES, run_bench, table_of


@pytest.mark.trio
async def test_rounds_interleave_and_the_first_of_each_is_not_counted() -> None:
    order: list[str] = []
    left, right = iter([1000.0, 1, 2, 3, 4, 90]), iter([1000.0, 5, 5, 7, 5, 5])

    async def measure_left() -> float:
        order.append("left")
        return next(left)

    async def measure_right() -> float:
        order.append("right")
        return next(right)

    assert await interleave(measure_left, measure_right) == [3, 5]
    assert order == ["left", "right"] * 6


def test_marks() -> None:
    assert at_least("speed", 80.0, "MB/s", 100.0, 0.8, "bare").ok
    assert not at_least("speed", 79.0, "MB/s", 100.0, 0.8, "bare").ok
    assert at_most("wait", 29.0, "ms", 10.0, "bare", value_max=30.0).ok
    assert not at_most("wait", 31.0, "ms", 10.0, "bare", value_max=30.0).ok
    assert at_most("wait", 1.5, "ms", 1.0, "bare", ratio_max=1.5).ok
    assert not at_most("wait", 1.6, "ms", 1.0, "bare", ratio_max=1.5).ok


def test_a_document_has_the_public_keys_in_short_numbers() -> None:
    document = at_most("wait", 1.234567, "ms", 3.0, "bare", ratio_max=1.0).as_document()
    assert list(document)[:5] == ["name", "value", "unit", "baseline", "ratio"]
    assert document["value"] == 1.235
    assert document["ratio"] == 0.4115


def test_an_unknown_figure_is_a_misuse_that_names_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        run_bench(["speed-of-light"])
    assert "speed-of-light" in caught.value.message
    assert all(name in caught.value.advice for name in NAMES)


def test_the_table_shows_what_was_missed() -> None:
    table = table_of([at_most("wait", 31.0, "ms", 10.0, "bare", value_max=30.0)])
    assert table.row_count == 1
    assert list(table.columns[5].cells) == ["[red]✗[/]"]
