"""An executor without threads: work runs on the loop, at once, and time passes before and after it.

Its cost passes after the work, with what the disk took; now and then as much passes before it, as in a queue. A
machine may therefore die between asking and doing, and between doing and hearing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import trio

from p2pnode.env import Rng
from simulations.world.life import Life
from simulations.world.mount import Mount

T = TypeVar("T")

#: Virtual seconds that a piece of work takes besides its disk: a thread hop and a little hashing.
COST_S = 0.0002
#: How often work waits before it is done: each wait costs the simulator a pass through the loop.
QUEUED = 0.25


class SimExecutor:
    """`p2pnode.env.Executor` of one life."""

    def __init__(self, life: Life, disk: Mount, rng: Rng) -> None:
        self._life = life
        self._disk = disk
        self._rng = rng

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """`work(*args)`. Raises what it raises, and Dead when the machine died meanwhile."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._rng.random() < QUEUED:
            await self._life.rest(COST_S)
        self._life.check()
        try:
            result = work(*args)
        except Exception:
            await self._life.rest(COST_S + self._disk.elapsed())
            raise
        await self._life.rest(COST_S + self._disk.elapsed())
        return result
