"""How peers behave: who sends what is refused is made to wait.

Honest peers pass on only what they have checked, so a refused event speaks against its sender; a few may
come from another version. Counts fade, nothing is for ever. Pure: `now` is given (seconds, monotonic).
"""

from __future__ import annotations

from dataclasses import dataclass

#: Refused events that a peer may send before it must wait.
REFUSED_MAX = 16
#: Seconds in which one refused event is forgiven.
FORGIVEN_S = 4.0
#: Seconds for which a peer over the limit is not listened to.
PAUSE_S = 30.0
#: Peers remembered; the one that behaved worst longest ago goes first.
PEERS_MAX = 4096


@dataclass(slots=True)
class _Record:
    level: float = 0.0
    seen_at: float = 0.0
    paused_until: float = float("-inf")
    refused: int = 0


class Conduct:
    """A leaky bucket per peer, filled by what it sends that is refused."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}

    def refused(self, peer_id: str, count: int, now: float) -> None:
        """That many events of one batch were refused."""
        if count == 0:
            return
        record = self._records.pop(peer_id, None) or _Record(seen_at=now)
        self._records[peer_id] = record
        record.level = max(0.0, record.level - (now - record.seen_at) / FORGIVEN_S) + count
        record.seen_at = now
        record.refused += count
        if record.level > REFUSED_MAX:
            record.paused_until = now + PAUSE_S
        while len(self._records) > PEERS_MAX:
            del self._records[next(iter(self._records))]

    def pause_s(self, peer_id: str, now: float) -> float:
        """For how many seconds that peer is not listened to; 0 for one in good standing."""
        record = self._records.get(peer_id)
        return max(0.0, record.paused_until - now) if record else 0.0

    def counts(self) -> dict[str, int]:
        """Refused events by peer, for `doctor` and metrics."""
        return {peer_id: record.refused for peer_id, record in sorted(self._records.items())}
