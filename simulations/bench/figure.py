"""What a benchmark gives back, and how it measures: interleaved rounds, medians, a ratio."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

#: Rounds of each figure: the median of five shrugs off two that a neighbour spoilt.
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure. `ratio` is value / baseline; `target` is the mark in words and `ok` whether it is met."""

    name: str
    value: float
    unit: str
    baseline: float
    ratio: float
    target: str
    ok: bool
    #: What the baseline is, for the table.
    against: str

    def as_document(self) -> dict[str, Any]:
        return {name: _short(value) for name, value in asdict(self).items()}


def at_least(name: str, value: float, unit: str, baseline: float, ratio_min: float, against: str) -> Figure:
    """A figure of which more is better, marked against its baseline (MB/s)."""
    ratio = value / baseline
    return Figure(name, value, unit, baseline, ratio, f"≥ {ratio_min:g} ×", ratio >= ratio_min, against)


def at_most(
    name: str,
    value: float,
    unit: str,
    baseline: float,
    against: str,
    *,
    value_max: float | None = None,
    ratio_max: float | None = None,
) -> Figure:
    """A figure of which less is better (ms, %, MiB), marked absolutely or against its baseline."""
    ratio = value / baseline if baseline else 0.0
    if value_max is not None:
        return Figure(name, value, unit, baseline, ratio, f"≤ {value_max:g} {unit}", value <= value_max, against)
    most = ratio_max if ratio_max is not None else 1.0
    return Figure(name, value, unit, baseline, ratio, f"≤ {most:g} ×", ratio <= most, against)


def stated(name: str, value: float, unit: str, baseline: float, against: str) -> Figure:
    """A figure that no mark is set for."""
    return Figure(name, value, unit, baseline, value / baseline, "stated", True, against)


async def interleave(*sides: Callable[[], Awaitable[float]], rounds: int = ROUNDS) -> list[float]:
    """Each side's median over `rounds` rounds of every side once, after one round unmeasured."""
    taken: list[list[float]] = [[] for _ in sides]
    for number in range(rounds + 1):
        for side, measure in enumerate(sides):
            value = await measure()
            if number:
                taken[side].append(value)
    return [statistics.median(values) for values in taken]


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
