"""What is looked at while a storm goes on, for some promises hold at every moment and not only when all is well again.

Once in a while: every buffer that strangers may fill, the owners that some nodes name, who is cut off from the
majority. And at once: whoever records that another is down while it has long been in a minority itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from p2pnode.core import records
from p2pnode.core.event import Event
from p2pnode.errors import StorageFailed
from p2pnode.node import Node
from simulations.world import checks
from simulations.world.checks import Sight, Violation
from simulations.world.host import Host
from simulations.world.inside import ledger_of, session_of
from simulations.world.swarm import Swarm
from simulations.world.views import sight_of, sizes_of

#: Nodes whose owners are compared in one look, of so many versions each: placement is the dearest thing to look at.
SIGHTS, VERSIONS = 5, 3
#: Virtual seconds of being cut off after which a node has noticed: its slowest suspicion, and a look of ours.
NOTICED_S = 8.0


class Watch:
    """One world's. `look` about once a second."""

    def __init__(self, swarm: Swarm, report: Callable[[Violation], None]) -> None:
        self._swarm = swarm
        self._report = report
        self._rng = swarm.world.rng("watch")
        self._known: dict[str, Node] = {}
        self._cut_off_since: dict[str, float] = {}

    def look(self) -> None:
        now, there = self._swarm.world.now, [host for host in self._swarm.honest() if host.node is not None]
        for host in there:
            assert host.node is not None
            self._attend(host, host.node)
            self._report_all(checks.within_bounds(host.name, sizes_of(host.node)))
            if self._is_cut_off(host, host.node):
                self._cut_off_since.setdefault(host.name, now)
            else:
                self._cut_off_since.pop(host.name, None)
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

    def _is_cut_off(self, host: Host, node: Node) -> bool:
        """Whether it can reach no more than half of those whom it counts as present, itself included."""
        network, hosts = self._swarm.world.network, {other.peer_id: other for other in self._swarm.hosts}
        present = [member.peer_id for member in ledger_of(node).catalog.present()]
        reached = 0
        for peer in present:
            other = hosts.get(peer)
            if other is host:
                reached += 1
            elif other is not None and other.node is not None:
                reached += network.is_open(host.name, other.name) and network.is_open(other.name, host.name)
        return 2 * reached <= len(present)

    def _attend(self, host: Host, node: Node) -> None:
        """Hear of what this life records."""
        if self._known.get(host.name) is node:
            return
        self._known[host.name] = node
        self._cut_off_since.pop(host.name, None)
        session = session_of(node)

        def heard(events: Sequence[Event]) -> None:
            downs = sum(event.kind == records.DOWN and event.session == session for event in events)
            now = self._swarm.world.now
            cut_off_s = now - self._cut_off_since.get(host.name, now)
            self._report_all(checks.minority_is_silent(host.name, cut_off_s, NOTICED_S, downs))

        ledger_of(node).on_change(heard)
