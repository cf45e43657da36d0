"""Time, as the node sees it.

`now()` never jumps and is what every timeout, lease and suspicion is measured on; `wall()` is for people's eyes
and never decides anything. Waiting is trio's own (`trio.sleep`, `trio.fail_after`): under trio's MockClock it is
virtual, so the simulator needs no second way to wait.
"""

from __future__ import annotations

import time
from typing import Protocol

import trio


class Clock(Protocol):
    def now(self) -> float:
        """Seconds on the monotonic clock of the running loop."""
        ...

    def wall(self) -> float:
        """Seconds since 1970 as this machine believes, for display only."""
        ...


class LoopClock:
    """The running trio loop's clock beside the machine's wall clock."""

    def now(self) -> float:
        return trio.current_time()

    def wall(self) -> float:
        return time.time()
