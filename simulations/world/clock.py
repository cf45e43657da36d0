"""A machine's clocks, which may be wrong: the wall by any amount, both by running too fast or too slow.

A node's waiting is trio's and runs true; a drift therefore shows as a clock that disagrees with the timers, which is
harder on a program than one that drifts with them.
"""

from __future__ import annotations

from simulations.world.loop import VirtualClock

#: Seconds since 1970 at which worlds begin: 2026-01-01 00:00:00 UTC.
EPOCH_S = 1_767_225_600.0


class SimClock:
    """`p2pnode.env.Clock` of one machine. It goes on while its node is down."""

    def __init__(self, true: VirtualClock) -> None:
        self._true = true
        self._drift = 0.0
        self._since, self._shown = true.current_time(), true.current_time()
        #: Added to the wall clock, seconds; may be set at any time.
        self.skew_s = 0.0

    @property
    def drift(self) -> float:
        """0.05 gains a twentieth of a second each second. Setting it does not make `now` jump."""
        return self._drift

    @drift.setter
    def drift(self, drift: float) -> None:
        self._shown, self._since = self.now(), self._true.current_time()
        self._drift = drift

    def now(self) -> float:
        """Seconds, never going back."""
        return self._shown + (self._true.current_time() - self._since) * (1.0 + self._drift)

    def wall(self) -> float:
        """Seconds since 1970 as this machine believes."""
        return EPOCH_S + self.now() + self.skew_s
