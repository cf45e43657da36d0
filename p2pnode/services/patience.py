"""Patience with a holder that fails: ask it again, ever later, and in the end leave it alone.

A `Destination` round another one, so that whoever pushes need not know. What may pass is tried `retries` times more,
each pause `backoff_factor` times the last; a holder found dead is not waited for, for the failure detector
knows better. One that lives and yet takes nothing, shard after shard, rests behind a circuit breaker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog
import trio

from p2pnode.core.breaker import Breaker
from p2pnode.core.receipts import Receipt
from p2pnode.core.settings import Settings
from p2pnode.env import Env
from p2pnode.errors import P2PNodeError, PeerLost
from p2pnode.services.push import Destination
from p2pnode.storage.splitter import CutShard

log = structlog.get_logger(__name__)

#: Seconds before the first retry; ± half of it, so that shards which failed together do not come back together.
FIRST_PAUSE_S = 0.3
#: Seconds of the longest pause, whatever the factor.
PAUSE_MAX_S = 30.0


class Patient:
    """Pushes through `destination` with patience.

    Args:
        settings: `retries`, `backoff_factor`, `breaker_threshold`, `breaker_timeout_s`.
        alive: whether the failure detector gives a peer a chance.
    """

    def __init__(self, env: Env, destination: Destination, settings: Settings, *, alive: Callable[[str], bool]) -> None:
        self._env = env
        self._destination = destination
        self._retries = settings.retries
        self._backoff_factor = settings.backoff_factor
        self._breaker = Breaker(settings.breaker_threshold, settings.breaker_timeout_s)
        self._alive = alive

    async def push(self, peer_id: str, cut: CutShard, ticket: bytes = b"") -> Receipt:
        """The holder's verified receipt. Raises what `destination` raised last, or PeerLost for a holder at rest."""
        if not self._breaker.admits(peer_id, self._env.clock.now()):
            raise PeerLost(f"{peer_id} failed too often in a row and is left alone for a while")
        try:
            receipt = await self._push(peer_id, cut, ticket)
        except P2PNodeError:
            # The dead are no matter of the breaker's: they are welcome as soon as they are back.
            if self._alive(peer_id) and self._breaker.failed(peer_id, self._env.clock.now()):
                log.warning("holder_rests", peer=peer_id)
            raise
        self._breaker.succeeded(peer_id)
        return receipt

    async def have(self, peer_id: str, cids: Sequence[bytes]) -> set[bytes]:
        """As `destination` says. Raises P2PNodeError."""
        return await self._destination.have(peer_id, cids)

    async def _push(self, peer_id: str, cut: CutShard, ticket: bytes) -> Receipt:
        pause_s = FIRST_PAUSE_S
        for _ in range(self._retries):
            try:
                return await self._destination.push(peer_id, cut, ticket)
            except P2PNodeError as error:
                if not error.retryable or not self._alive(peer_id):
                    raise
                log.info("push_repeated", peer=peer_id, shard=cut.cid.hex(), why=str(error))
            await trio.sleep(min(pause_s, PAUSE_MAX_S) * (0.5 + self._env.rng.random()))
            pause_s *= self._backoff_factor
        return await self._destination.push(peer_id, cut, ticket)
