from __future__ import annotations

import pytest

from simulations.bench import clock_sync
from simulations.bench.figure import Figure

pytestmark = pytest.mark.trio


async def test_the_figures_of_a_small_swarm_are_taken_and_in_their_bounds(monkeypatch):
    for name, value in (
        ("EVENTS", 400),
        ("AUTHORS", 20),
        ("MISSING", 20),
        ("MANY_EVENTS", 200),
        ("MANY_AUTHORS", 60),
        ("NEWCOMER_EVENTS", 300),
    ):
        monkeypatch.setattr(clock_sync, name, value)
    figures = await clock_sync.measure()
    assert all(isinstance(figure, Figure) and figure.ok and figure.value > 0 for figure in figures)
    found = {(figure.name, figure.unit): figure.value for figure in figures}
    assert found["sync behind", "trips"] == 1
    assert found["sync both ways", "trips"] == 3
    assert found["sync equal", "bytes"] < 300
    # Twenty authors: a digest, the asker's leaf and what frames them, for each of them.
    assert found["sync both ways", "kB"] < 2
