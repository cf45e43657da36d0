"""What is refused of a peer, put on its account, told to the log, and answered for: the hands of `core.conduct`.

Whoever refuses something notes it here. A paused peer's requests are answered `busy` by the guard; of a dropped one
no stream is taken and none is opened, and its connections are closed. Nothing here waits for the peer.
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
        """So many things of that peer were refused for that reason. `seen` goes to the log with it."""
        verdict = self.conduct.note(peer_id, reason, count, self._clock.now())
        if verdict.tell:
            _log.warning("refused", peer=peer_id, reason=reason.value, count=verdict.tell, **seen)
        if verdict.paused_s:
            _log.warning("peer_paused", peer=peer_id, seconds=verdict.paused_s)
        if verdict.dropped_s:
            _log.error("peer_dropped", peer=peer_id, seconds=verdict.dropped_s)

    def note_pushed(self, peer_id: str, known: int, here: int) -> None:
        """A peer pushed `known` events that were here before; there are `here` now. Too many are noted."""
        excess = self.conduct.pushed(peer_id, known, here, self._clock.now())
        if excess:
            self.note(peer_id, Reason.REPLAYED, excess)

    def pause_s(self, peer_id: str) -> float:
        """For how many seconds nothing of that peer is listened to; 0 for one in good standing."""
        return round(self.conduct.pause_s(peer_id, self._clock.now()), 1)

    def is_dropped(self, peer_id: str) -> bool:
        """Whether this node has nothing to do with that peer now."""
        return self.conduct.drop_s(peer_id, self._clock.now()) > 0

    def offenders(self) -> list[Offender]:
        """Peers of which something was refused, the worst first."""
        return self.conduct.offenders(self._clock.now())

    async def show_out(self, peer_id: str) -> None:
        """Close every connection to that peer if it is dropped."""
        if self.is_dropped(peer_id):
            await self._transport.disconnect(peer_id)
