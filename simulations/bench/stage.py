"""What the benchmarks play on: a swarm of processes, and one more node in this process to measure from."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from p2pnode.core.model import NodeRole
from p2pnode.core.settings import Settings
from p2pnode.node import Node, open_node
from simulations.local import LocalSwarm


@asynccontextmanager
async def stage(workers: int) -> AsyncIterator[tuple[Node, LocalSwarm]]:
    """A coordinator in this process beside one coordinator and `workers` workers in processes of their own."""
    async with AsyncExitStack() as stack:
        swarm = await stack.enter_async_context(LocalSwarm(coordinators=1, workers=workers, clients=0))
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="p2pnode-bench-")))
        settings = Settings(home, "bench", NodeRole.COORDINATOR, bootstrap=tuple(swarm.addresses))
        node = await stack.enter_async_context(open_node(settings))
        yield node, swarm


def noise(megabytes: int, columns: int = 4, seed: int = 2013) -> pa.Table:
    """Random integers, which no encoding and no compression makes smaller: bytes on the wire are bytes of data."""
    rows = megabytes * 1_000_000 // (8 * columns)
    dice = np.random.default_rng(seed)
    return pa.table({f"c{column}": dice.integers(0, 1 << 62, rows, dtype=np.int64) for column in range(columns)})
