"""What is looked at while a storm goes on, for some promises hold at every moment and not only when all is well again.

Once in a while: every buffer that strangers may fill, and the owners that some nodes name. And at once: who records
that another is down while it sees no more than half of the members itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from p2pnode.core import records
from p2pnode.core.event import Event
from p2pnode.core.membership import State
from p2pnode.errors import StorageFailed
from p2pnode.node import Node
from simulations.world import checks
from simulations.world.checks import Sight, Violation
from simulations.world.host import Host
from simulations.world.inside import ledger_of, session_of, state_of
from simulations.world.swarm import Swarm
from simulations.world.views import sight_of, sizes_of

#: Nodes whose owners are compared in one look, of so many versions each: placement is the dearest thing to look at.
SIGHTS, VERSIONS = 5, 3


class Watch:
    """One world's. `look` about once a second."""

    def __init__(self, swarm: Swarm, report: Callable[[Violation], None]) -> None:
        self._swarm = swarm
        self._report = report
        self._rng = swarm.world.rng("watch")
        self._known: dict[str, Node] = {}

    def look(self) -> None:
        there = [host for host in self._swarm.honest() if host.node is not None]
        for host in there:
            assert host.node is not None
            self._attend(host, host.node)
            self._report_all(checks.within_bounds(host.name, sizes_of(host.node)))
        some = [host.node for host in self._rng.sample(there, min(SIGHTS, len(there)))]
        sights: list[Sight] = []
        for node in some:
            try:
                sights += [sight_of(node, VERSIONS)] if node is not None else []
            except StorageFailed:  # its disk fails just now
                continue
        self._report_all(checks.owners_follow(sights))

    def _report_all(self, found: Sequence[Violation]) -> None:
        for violation in found:
            self._report(violation)

    def _attend(self, host: Host, node: Node) -> None:
        """Hear of what this life records, at the moment at which it counts."""
        if self._known.get(host.name) is node:
            return
        self._known[host.name] = node
        session = session_of(node)

        def heard(events: Sequence[Event]) -> None:
            accused = {e.object_id for e in events if e.kind == records.DOWN and e.session == session}
            members = accused.union(member.peer_id for member in ledger_of(node).catalog.present())
            gone = sum(peer != node.peer_id and state_of(node, peer) in (State.DEAD, State.LEFT) for peer in members)
            self._report_all(checks.minority_is_silent(host.name, len(members) - gone, len(members), len(accused)))

        ledger_of(node).on_change(heard)
