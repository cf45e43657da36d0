"""The figures of the log are taken of a log that was really written, taken and opened; here, a short one."""

from __future__ import annotations

import pytest

from p2pnode.services import replay
from simulations.bench import clock_log


@pytest.mark.trio
async def test_every_figure_is_there_and_shares_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_log, "EVENTS", 40)
    monkeypatch.setattr(clock_log, "LOG_EVENTS", 300)
    monkeypatch.setattr(clock_log, "_COMMIT", 64)
    monkeypatch.setattr(replay, "TAIL_EVENTS", 50)
    figures = {figure.name: figure for figure in await clock_log.measure()}
    assert figures["own appends, batched"].target == "≥ 12000 events/s"
    assert figures["received, durable"].target == "≥ 6000 events/s"
    opening = figures["opening 300 events after SIGKILL"]
    assert opening.target == "≤ 5 s"
    assert opening.value > 0
    assert 50 < figures["  clock's memory"].value < 5000
    taking = [figure for figure in figures.values() if figure.name.startswith("  of it")]
    assert all(figure.unit == "µs" for figure in taking)


@pytest.mark.trio
async def test_the_parts_of_a_whole_add_up() -> None:
    parts = clock_log._breakdown("of it", 100.0, {"parse": 20.0, "log": 30.0})
    assert [figure.value for figure in parts] == [20.0, 30.0, 50.0]
    assert sum(figure.ratio for figure in parts) == pytest.approx(1.0)
