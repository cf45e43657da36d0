"""What peers did wrong, as this node counts, logs and answers it: the shell around `core.conduct`.

Whoever refuses something notes it here. The guard answers a paused peer's requests with `busy`; a dropped one is
disconnected, and no stream to or from it is opened. Nothing here waits for the peer.
"""

from __future__ import annotations

import structlog

from p2pnode.core.conduct import Conduct, Offender, Reason
from p2pnode.env import Env
from p2pnode.env.net import Transport

_log = structlog.get_logger("p2pnode.net")


class Blame:
    """One for a node, shared by everything that refuses."""

    def __init__(self, transport: Transport, env: Env) -> None:
        self._transport = transport
        self._clock = env.clock
        self.conduct = Conduct()

    def note(self, peer_id: str, reason: Reason, count: int = 1, **seen: object) -> None:
        """`count` things from that peer were refused for that reason. `seen` is logged along with it."""
        penalty = self.conduct.note(peer_id, reason, count, self._clock.now())
        if penalty.tell:
            _log.warning("refused", peer=peer_id, reason=reason.value, count=penalty.tell, **seen)
        if penalty.paused_s:
            _log.warning("peer_paused", peer=peer_id, seconds=penalty.paused_s)
        if penalty.dropped_s:
            _log.error("peer_dropped", peer=peer_id, seconds=penalty.dropped_s)

    def note_pushed(self, peer_id: str, known: int, here: int) -> None:
        """A peer pushed `known` events that were here before; there are `here` now. Too many are noted."""
        excess = self.conduct.pushed(peer_id, known, here, self._clock.now())
        if excess:
            self.note(peer_id, Reason.REPLAYED, excess)

    def pause_s(self, peer_id: str) -> float:
        """For how many more seconds that peer's requests are refused; 0 for one in good standing."""
        return round(self.conduct.pause_s(peer_id, self._clock.now()), 1)

    def is_dropped(self, peer_id: str) -> bool:
        """Whether that peer is cut off for the time being."""
        return self.conduct.drop_s(peer_id, self._clock.now()) > 0

    def offenders(self) -> list[Offender]:
        """Peers from which something was refused, the worst first."""
        return self.conduct.offenders(self._clock.now())

    async def disconnect_if_dropped(self, peer_id: str) -> None:
        """Close every connection to a dropped peer."""
        if self.is_dropped(peer_id):
            await self._transport.disconnect(peer_id)
