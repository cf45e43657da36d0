"""Threads that are none: work runs on the loop, at once, and time passes before and after it.

Half of its cost passes before the work and half after it, with what the disk took; a machine may therefore die
between asking and doing, and between doing and hearing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import trio

from simulations.world.life import Life
from simulations.world.mount import Mount

T = TypeVar("T")

#: Virtual seconds that a piece of work takes besides its disk: a thread hop and a little hashing.
COST_S = 0.0002


class SimExecutor:
    """`p2pnode.env.Executor` of one life."""

    def __init__(self, life: Life, disk: Mount, cost_s: float = COST_S) -> None:
        self._life = life
        self._disk = disk
        self._half_s = cost_s / 2

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """`work(*args)`. Raises what it raises, and Dead when the machine died meanwhile."""
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._life.rest(self._half_s)
        try:
            result = work(*args)
        except Exception:
            await self._life.rest(self._half_s + self._disk.elapsed())
            raise
        await self._life.rest(self._half_s + self._disk.elapsed())
        return result
