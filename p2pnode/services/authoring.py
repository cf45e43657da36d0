"""This node's own events made durable: on its own disk first, then on others', and only then acknowledged.

An author pushes to the members and clients that it is connected to; whoever stored it says so, and min(COPIES, present
members) disks are enough. The outboxes and the count of copies are `spreading`'s. This file refuses to decide who is
present (the catalog does) and what is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import trio

from p2pnode.core.event import Event
from p2pnode.core.model import NodeRole
from p2pnode.errors import NotDurable, RoleError
from p2pnode.net.peers import Peers
from p2pnode.services.ledger import Ledger
from p2pnode.services.spreading import Push, Spreader

#: Disks that an acknowledged event is on, as far as there are members: it survives any two of them.
COPIES = 3
#: Seconds that `author` tries to get there.
DURABLE_S = 10.0
#: Seconds after which it asks members again, or others, that did not store it.
ASK_AGAIN_S = 1.0


class Authoring:
    """What one node records. `run` brings what was written to others, until cancelled."""

    def __init__(
        self,
        me: str,
        role: NodeRole,
        ledger: Ledger,
        peers: Peers,
        push: Push,
        role_of: Callable[[str], NodeRole | None],
    ) -> None:
        """`role_of` tells what any connected peer is."""
        self._me = me
        self._role = role
        self._ledger = ledger
        self._peers = peers
        self._role_of = role_of
        self._to_members = Spreader(push)
        #: Clients hear of events as soon as members do, and are no disks to count on.
        self._to_clients = Spreader(push)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._to_members.run)
            nursery.start_soon(self._to_clients.run)

    # -- who there is ----------------------------------------------------------------------------------------

    def others(self) -> list[str]:
        """The other members, those who are down among them."""
        return [member.peer_id for member in self._ledger.catalog.members() if member.peer_id != self._me]

    def connected(self) -> list[str]:
        """The other members that this node has a connection to."""
        connected = set(self._peers.connected())
        return [peer_id for peer_id in self.others() if peer_id in connected]

    def _present(self) -> list[str]:
        return [member.peer_id for member in self._ledger.catalog.present() if member.peer_id != self._me]

    def _clients(self) -> list[str]:
        return [peer_id for peer_id in self._peers.connected() if self._role_of(peer_id) is NodeRole.CLIENT]

    # -- writing ---------------------------------------------------------------------------------------------

    async def author(
        self,
        kind: str,
        object_id: str,
        body: dict[str, Any],
        *,
        blocks: Iterable[bytes] = (),
        wait: bool = True,
        timeout_s: float = DURABLE_S,
    ) -> Event:
        """Record an event of this node's own, with the blocks that it names.

        Returns when it is on min(COPIES, present members) disks, this one included; with `wait=False` when it is on
        this one. It is on this disk in any case, and spreads also when this raises.

        Raises:
            NotDurable: too few members stored it within `timeout_s`. Repeating is safe.
            RoleError: this node's role may not say that.
            UsageError: it cannot be encoded, or is too large. StorageFailed: this disk refuses.
        """
        if not self._role.is_member:
            raise RoleError("A client records no events; a coordinator does it on its behalf.")
        event = await self._ledger.write(kind, object_id, body, blocks)
        self._to_members.spread(event, self.connected())
        self._to_clients.spread(event, self._clients())
        if wait:
            await self._until_durable(event, timeout_s)
        return event

    async def confirm(self, event_id: bytes, timeout_s: float = DURABLE_S) -> None:
        """Return when an event that is here is on min(COPIES, present members) disks. Raises NotDurable."""
        event = self._ledger.clock.get(event_id)
        assert event is not None  # whoever names it found it in the catalog
        await self._until_durable(event, timeout_s)

    def expose(self, event_ids: Sequence[bytes]) -> None:
        """Push these events, whoever wrote them, to every connected member now."""
        for event_id in event_ids:
            event = self._ledger.clock.get(event_id)
            if event is not None:
                self._to_members.spread(event, self.connected())

    async def _until_durable(self, event: Event, timeout_s: float) -> None:
        copies = self._to_members.watch(event)
        try:
            with trio.move_on_after(timeout_s):
                # Who is present may change while we wait: of three members the third may be found to be down.
                while len(copies.holders) < (needed := self._needed()):
                    self._to_members.spread(event, self._next_holders(copies.holders, needed))
                    with trio.move_on_after(ASK_AGAIN_S):
                        await copies.reach(needed)
        finally:
            self._to_members.unwatch(event)
        needed = self._needed()
        if len(copies.holders) < needed:
            raise NotDurable(
                f"The {event.kind} event is on {1 + len(copies.holders)} of {1 + needed} disks after {timeout_s:g} s.",
                copies=1 + len(copies.holders),
                needed=1 + needed,
            )

    def _needed(self) -> int:
        return min(COPIES - 1, len(self._present()))

    def _next_holders(self, have: set[str], needed: int) -> list[str]:
        """Members to push to now: the connected ones, and if they are too few the others as well."""
        connected = [peer_id for peer_id in self.connected() if peer_id not in have]
        wanted = connected
        if len(have) + len(connected) < needed:
            wanted = [peer_id for peer_id in self.others() if peer_id not in have]
        return [peer_id for peer_id in wanted if not self._to_members.busy_with(peer_id)]
