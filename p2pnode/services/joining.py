"""Performing the way into the swarm: dial, greet, and dial again whom we lost.

The decisions (whom, when, how long to wait) stand in `bootstrap.joining`; this is the thin shell that carries them
out. A bootstrap peer that is dead when we start is tried for ever; a refusal before we have joined (another swarm, a
taken node_id) is final, because trying again would change nothing: whoever waits for `settled` reads `refusal`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import structlog
import trio

from bootstrap.joining import Dial, Joining
from p2pnode.env import Env
from p2pnode.env.net import DialFailed
from p2pnode.errors import GenesisMismatch, NodeIdTaken, P2PNodeError
from p2pnode.net.peers import Peers

log = structlog.get_logger(__name__)

#: Seconds between looks at the catalog for members that we are not connected to and did not lose ourselves.
LOOK_S = 5.0
#: Seconds for one dial and greeting; a reachable peer needs a few milliseconds.
GREET_TIMEOUT_S = 15.0
#: Dials under way at once; each costs both ends about 10 ms of handshake.
DIALS_MAX = 8


class JoiningService:
    """One node's relations: made, kept, and made again.

    Args:
        plan: the pure state machine, already told the bootstrap peers.
        greet: says hello on a new connection and brings both catalogs together.
        wanted: the members that we should be connected to, as the catalog has them now.
    """

    def __init__(
        self,
        env: Env,
        peers: Peers,
        plan: Joining,
        *,
        greet: Callable[[str], Awaitable[None]],
        wanted: Callable[[], Iterable[str]],
    ) -> None:
        self._env = env
        self._peers = peers
        self._plan = plan
        self._greet = greet
        self._wanted = wanted
        self._wake = trio.Event()
        self._limit = trio.CapacityLimiter(DIALS_MAX)
        #: Set after the first successful greeting, or when the swarm refused us for good.
        self.settled = trio.Event()
        #: Why the swarm will not have this node; None as long as it may.
        self.refusal: GenesisMismatch | NodeIdTaken | None = None
        #: Peers that came to us while we are still waiting for anybody, as long as they are connected.
        self._came: dict[str, None] = {}
        #: Why the last attempt failed, for the message of whoever waits.
        self.last_failure = ""

    def connection_changed(self, peer_id: str, connected: bool) -> None:
        """Told by the transport when a peer's first connection appears or its last one goes."""
        if connected:
            if not self.settled.is_set() and not self._plan.is_dialing(peer_id):
                self._came[peer_id] = None
            self._plan.connected(peer_id)
        else:
            self._came.pop(peer_id, None)
            self._plan.lost(peer_id, self._env.clock.now())
        self._wake.set()

    async def run(self) -> None:
        """Keep dialing until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                now = self._env.clock.now()
                self._plan.want(self._wanted(), now)
                for dial in [*self._plan.next_dials(now), *self._returned()]:
                    nursery.start_soon(self._dial, dial)
                due = self._plan.next_at()
                with trio.move_on_after(LOOK_S if due is None else min(LOOK_S, max(0.0, due - now))):
                    await self._wake.wait()

    def _returned(self) -> list[Dial]:
        """Bootstrap peers and members that came to us before we reached them, and those who came and turn out to be
        members now. Strangers are not greeted: a newcomer would take their swarm.
        """
        if self.settled.is_set():
            self._came.clear()
        members = set(self._wanted()) if self._came else set[str]()
        known = [peer_id for peer_id in self._came if peer_id in members or self._plan.is_bootstrap(peer_id)]
        for peer_id in known:
            del self._came[peer_id]
        return [Dial(peer_id) for peer_id in known]

    async def _dial(self, dial: Dial) -> None:
        try:
            async with self._limit:
                with trio.fail_after(GREET_TIMEOUT_S):
                    await self._peers.connect(dial.peer_id, dial.addresses)
                    await self._greet(dial.peer_id)
        except (GenesisMismatch, NodeIdTaken) as error:
            if not self.settled.is_set():
                self.refusal = error
                self.settled.set()
            self._failed(dial, error)
            self._plan.refused(dial.peer_id, self._env.clock.now())
        except (P2PNodeError, DialFailed, trio.TooSlowError) as error:
            self._failed(dial, error)
            self._plan.failed(dial.peer_id, self._env.clock.now())
        else:
            self._plan.connected(dial.peer_id)
            self.settled.set()

    def _failed(self, dial: Dial, error: Exception) -> None:
        self.last_failure = str(error) or type(error).__name__
        log.info("dial_failed", peer=dial.peer_id, why=self.last_failure)
        self._wake.set()
