"""What is looked at while a storm goes on, for some promises hold at every moment and not only when all is well again.

Once in a while: every buffer that strangers may fill, the owners that some nodes name, and who could reach whom
without trouble. And at once: who records that another is down while it sees no more than half of the members itself, or
on too few words; and who takes another for dead that it could have asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from p2pnode.core import records
from p2pnode.core.event import Event
from p2pnode.core.membership import ABSENT, State
from p2pnode.errors import StorageFailed
from p2pnode.node import Node
from simulations.world import checks
from simulations.world.checks import Sight, Violation
from simulations.world.host import Host
from simulations.world.inside import health_of, ledger_of, session_of, state_of
from simulations.world.plan import plan
from simulations.world.swarm import Swarm
from simulations.world.views import sight_of, sizes_of

#: Nodes whose owners are compared in one look, of so many versions each: placement is the dearest thing to look at.
SIGHTS, VERSIONS = 5, 3
#: Virtual seconds of easy reach after which nobody may be taken for dead: more than the longest suspicion, which
#: the first answer ends.
REACH_S = 10.0

#: Faults that let time pass between what a host decides and what it records.
SLOW = ("slow_fsync", "pause", "disk_error", "disk_full")


class Watch:
    """One world's. `look` about once a second."""

    def __init__(self, swarm: Swarm, report: Callable[[Violation], None]) -> None:
        self._swarm = swarm
        self._report = report
        self._rng = swarm.world.rng("watch")
        self._known: dict[str, Node] = {}
        #: Whose decisions may be seconds old when they count.
        slow = [fault.hosts for fault in plan(swarm.options) if fault.kind in SLOW]
        self._slow = {swarm.hosts[index].name for hosts in slow for index in hosts}
        #: (who, whom) -> since when nothing has been between them, and the lives of both that this is about.
        self._in_reach: dict[tuple[str, str], tuple[float, Node, Node]] = {}

    def look(self) -> None:
        there = [host for host in self._swarm.honest() if host.node is not None]
        for host in there:
            assert host.node is not None
            self._attend(host, host.node)
            self._report_all(checks.within_bounds(host.name, sizes_of(host.node)))
        self._reach()
        some = [host.node for host in self._rng.sample(there, min(SIGHTS, len(there)))]
        sights: list[Sight] = []
        for node in some:
            try:
                sights += [sight_of(node, VERSIONS)] if node is not None else []
            except StorageFailed:  # its disk fails just now
                continue
        self._report_all(checks.owners_follow(sights))

    def _reach(self) -> None:
        """Note who can reach whom without trouble."""
        known, self._in_reach = self._in_reach, {}
        there = [(host, host.node) for host in self._swarm.honest() if host.node is not None]
        for one, node in there:
            for other, theirs in there:
                if one is not other and self._is_easy(one, other):
                    since, *lives = known.get((one.name, other.name), (self._swarm.world.now, node, theirs))
                    fresh = lives != [node, theirs]
                    self._in_reach[one.name, other.name] = (self._swarm.world.now if fresh else since, node, theirs)

    def _is_easy(self, one: Host, other: Host) -> bool:
        network = self._swarm.world.network
        ways = ((one.name, other.name), (other.name, one.name))
        return all(
            network.is_open(*way) and not network.link(*way).loss and not network.link(*way).spike for way in ways
        )

    def _burial(self, host: Host, node: Node, peer_id: str) -> None:
        """`node` takes that peer for dead from now on."""
        for other in self._swarm.honest():
            since, *lives = self._in_reach.get((host.name, other.name), (self._swarm.world.now, None, None))
            if other.peer_id == peer_id and lives == [node, other.node] and self._is_easy(host, other):
                in_reach_s = self._swarm.world.now - since
                self._report_all(checks.burial_has_a_reason(host.name, other.name, in_reach_s, REACH_S))

    def _witnessed(self, name: str, node: Node, peer_ids: Iterable[str]) -> None:
        """Somebody has just been called down; whoever the record then has as down was called so by enough."""
        clock, catalog = ledger_of(node).clock, ledger_of(node).catalog
        for peer_id in sorted(peer_ids):
            member = catalog.member(peer_id)
            if member is not None and member.down:
                downs = (e for e in clock.events() if e.kind == records.DOWN and e.object_id == peer_id)
                authors = {e.author for e in downs if e.author != peer_id and records.read_down(e) == member.up}
                self._report_all(checks.end_was_witnessed(name, peer_id[-6:], len(authors), len(catalog.members())))

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
            gone = sum(peer != node.peer_id and state_of(node, peer) in ABSENT for peer in members)
            if host.name not in self._slow:
                self._report_all(checks.minority_is_silent(host.name, len(members) - gone, len(members), len(accused)))
            self._witnessed(host.name, node, {e.object_id for e in events if e.kind == records.DOWN})

        def changed(peer_id: str, was: State, state: State) -> None:
            if state is State.DEAD and host.node is node:
                self._burial(host, node, peer_id)

        ledger_of(node).on_change(heard)
        health_of(node).on_change(changed)
