"""How far a node may trust its own senses: it may have slept, lagged, or lost its own network.

Lifeguard's local health (Dadgar, Phillips, Currey, arXiv 1707.00788): a node that is itself slow sees
everybody else as slow, so it grows patient instead of accusing. Here also: time in which the process did not
run (SIGSTOP, a suspended machine, a long collection) is taken off the clock altogether. This file refuses to
judge anybody.
"""

from __future__ import annotations

#: Local health: unconfirmed failures raise the strain, answers lower it.
STRAIN_MAX = 3
#: Loop lag that doubles patience, in seconds, and the most that strain and lag together may stretch it.
LAG_UNIT_S = 0.25
STRETCH_MAX = 4.0


class Senses:
    """`awake` is a clock that stands still while this node sleeps: from `gap_s` after a waking on, when the next one
    comes more than `gap_s` later than was expected.
    """

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self._last: float | None = None
        self._expected = 0.0
        self._asleep_s = 0.0
        self._strain = 0
        self._lag_s = 0.0
        self.awake = 0.0
        #: How often this process was found to have slept.
        self.stalls = 0

    def wake(self, now: float, lag_s: float | None = None) -> None:
        """An event came at `now` (monotonic seconds); `lag_s` is the worst recent delay of the loop, if
        known.
        """
        if self._last is not None and now - self._expected > self._gap_s:
            self._asleep_s += now - self._last - self._gap_s
            self.stalls += 1
        self._last = self._expected = now
        self.awake = now - self._asleep_s
        if lag_s is not None:
            self._lag_s = lag_s

    def expect(self, awake: float) -> float:
        """The next waking shall come when the awake clock reads `awake`, or earlier. Returns that in `now`'s terms."""
        due = awake + self._asleep_s
        self._expected = max(self._expected, due)
        return due

    def strained(self) -> None:
        """A question failed and nobody could confirm it: perhaps it is us."""
        self._strain = min(STRAIN_MAX, self._strain + 1)

    def eased(self) -> None:
        """Somebody answered in time."""
        self._strain = max(0, self._strain - 1)

    @property
    def stretch(self) -> float:
        """How many times more patient than usual to be, 1.0 .. STRETCH_MAX."""
        return min(STRETCH_MAX, 1.0 + self._strain + self._lag_s / LAG_UNIT_S)
