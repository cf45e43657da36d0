"""A circuit breaker: whoever kept failing is left alone for a while, and then tried once.

The pattern is Nygard's (Release It!, 2007): closed, open, half-open. It protects the one who asks from paying
a whole round of patience for each thing that it sends to a peer which takes none of them. Pure: `now` is given
(seconds, monotonic). This file refuses to say what a failure is.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    #: Of meaning from the threshold on.
    open_until: float = float("-inf")


class Breaker:
    """A circuit for each peer whose last attempt failed.

    Args:
        threshold: failures in a row that open a circuit.
        rest_s: seconds that it stays open before one trial is let through.
    """

    def __init__(self, threshold: int, rest_s: float) -> None:
        self._threshold = threshold
        self._rest_s = rest_s
        self._circuits: dict[str, _Circuit] = {}

    def admits(self, peer_id: str, now: float) -> bool:
        """Whether to ask that peer now. The trial after a rest is admitted once; the next one a rest later."""
        circuit = self._circuits.get(peer_id)
        if circuit is None or circuit.failures < self._threshold:
            return True
        if now < circuit.open_until:
            return False
        circuit.open_until = now + self._rest_s
        return True

    def succeeded(self, peer_id: str) -> None:
        """It did what was asked: all is forgiven."""
        self._circuits.pop(peer_id, None)

    def failed(self, peer_id: str, now: float) -> bool:
        """It did not. True if this very failure opened its circuit."""
        circuit = self._circuits.setdefault(peer_id, _Circuit())
        circuit.failures += 1
        if circuit.failures >= self._threshold:
            circuit.open_until = now + self._rest_s
        return circuit.failures == self._threshold
