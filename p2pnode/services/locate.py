"""Where a shard can be read: by what holders say, then by where it should be, then by asking everyone.

Three steps because each may be behind: holdings arrive with the next ping, placement is not yet (or no longer) true,
and asking costs a round trip to every member. Only peers that answer are named; whoever reads verifies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from p2pnode.core.holdings import Holdings
from p2pnode.core.model import Member
from p2pnode.core.placement import place
from p2pnode.env import Env
from p2pnode.env.together import together
from p2pnode.errors import P2PNodeError
from p2pnode.services.shard_transfer import ShardTransferService
from protocols.message import CIDS_MAX

#: Holders that placement would name where holdings say nothing; the usual R and two to spare.
GUESSES_MAX = 5
#: Seconds that one member may take to say what it has.
HAVE_TIMEOUT_S = 2.0


class Locator:
    """One node's view of who can serve which shard.

    Args:
        me: this node's peer id, and `mine` whether it holds a shard itself.
        storing: the storage members of the catalog.
        alive: whether a peer is worth asking now.
    """

    def __init__(
        self,
        env: Env,
        me: str,
        holdings: Holdings,
        transfer: ShardTransferService,
        *,
        mine: Callable[[bytes], bool],
        storing: Callable[[], Sequence[Member]],
        alive: Callable[[str], bool],
    ) -> None:
        self._env = env
        self._me = me
        self._holdings = holdings
        self._transfer = transfer
        self._mine = mine
        self._storing = storing
        self._alive = alive

    def told(self, cid: bytes) -> list[str]:
        """Live peers that said they hold the shard, and this node if it does; nobody is asked."""
        told = [peer for peer in self._holdings.holders_of(cid) if peer != self._me and self._alive(peer)]
        return [self._me, *told] if self._mine(cid) else told

    def candidates(self, cid: bytes) -> list[str]:
        """Live peers worth asking for a shard, best first; nobody is asked for it."""
        told = self.told(cid)
        if told:
            return told
        storing = self._storing()
        guessed = place(cid, storing, GUESSES_MAX) if storing else []
        return [peer for peer in guessed if peer != self._me and self._alive(peer)]

    async def holders(self, cids: Sequence[bytes]) -> dict[bytes, list[str]]:
        """Live peers that say they hold each shard; those that nobody told of are asked for."""
        found = {cid: self.told(cid) for cid in cids}
        silent = [cid for cid, peers in found.items() if not peers]
        if silent:
            found.update(await self.ask_everyone(silent))
        return found

    async def ask_everyone(self, cids: Sequence[bytes]) -> dict[bytes, list[str]]:
        """Which storage members have these shards, each asked; what they say is remembered. Those that are taken for
        dead are asked for what nobody else has: they may be back, and we the last to hear of it.
        """
        found: dict[bytes, list[str]] = {cid: [] for cid in cids}
        others = [member.peer_id for member in self._storing() if member.peer_id != self._me]
        await self._ask([peer_id for peer_id in others if self._alive(peer_id)], cids, found)
        lacking = [cid for cid, peers in found.items() if not peers and not self._mine(cid)]
        if lacking:
            await self._ask([peer_id for peer_id in others if not self._alive(peer_id)], lacking, found)
        for cid in cids:
            found[cid].sort()
            if self._mine(cid):
                found[cid].insert(0, self._me)
        return found

    async def _ask(self, peer_ids: Sequence[str], cids: Sequence[bytes], found: dict[bytes, list[str]]) -> None:
        """Ask all these peers at once and enter what they have in `found`."""

        async def one(peer_id: str) -> None:
            for start in range(0, len(cids), CIDS_MAX):
                with trio.move_on_after(HAVE_TIMEOUT_S):
                    try:
                        present = await self._transfer.have(peer_id, cids[start : start + CIDS_MAX])
                    except P2PNodeError:
                        return  # whoever does not answer holds nothing for us now
                    for cid in present:
                        found[cid].append(peer_id)
                        self._holdings.add(peer_id, cid, self._env.clock.now())

        async with together() as nursery:
            for peer_id in peer_ids:
                nursery.start_soon(one, peer_id)
