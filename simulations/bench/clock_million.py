"""Opening a log of a million events, which takes a minute to build: only when asked for by name."""

from __future__ import annotations

import tempfile
from pathlib import Path

from simulations.bench.clock_log import opening
from simulations.bench.figure import Figure

EVENTS = 1_000_000


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="p2pnode-bench-") as folder:
        return await opening(Path(folder), EVENTS)
