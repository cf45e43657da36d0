"""The merkle clock's figures: the log on disk, the comparing of notes, the world that proves it."""

from __future__ import annotations

from simulations.bench import clock_log, clock_sync, clock_world
from simulations.bench.figure import Figure


async def measure() -> list[Figure]:
    return [*await clock_log.measure(), *await clock_sync.measure(), *await clock_world.measure()]
