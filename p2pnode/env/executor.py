"""Work that must leave the loop: hashing, Parquet, file reads, in a bounded set of threads.

A loop that stalls reads as death to its peers, so nothing that takes more than a few milliseconds runs on it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import trio

T = TypeVar("T")

#: Threads at work at once: two per core keeps disks busy while a core hashes, and never fewer than four.
THREADS_MAX = max(4, 2 * (os.cpu_count() or 2))


class Executor(Protocol):
    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """Run `work(*args)` off the loop. A cancelled caller stops waiting only when the work has ended."""
        ...


class Threads:
    """Real threads. Work is never abandoned: what it holds (files, locks) is released before the caller goes on."""

    def __init__(self, threads_max: int = THREADS_MAX) -> None:
        self._limiter = trio.CapacityLimiter(threads_max)

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        return await trio.to_thread.run_sync(work, *args, limiter=self._limiter)
