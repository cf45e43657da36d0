"""The hosts of one world as a swarm: who is there, how they start and come back, and whether they are of one mind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import trio

from p2pnode.core.cid import record_cid
from p2pnode.core.model import NodeRole
from p2pnode.errors import IntegrityError, P2PNodeError
from p2pnode.node import Node
from simulations.world.checks import View
from simulations.world.host import Host
from simulations.world.inside import ledger_of, log_is_unreadable, state_of
from simulations.world.life import Life
from simulations.world.mount import Mount
from simulations.world.options import WorldOptions
from simulations.world.plan import cast
from simulations.world.views import view_of
from simulations.world.world import World

#: Virtual seconds between two looks whether all are of one mind; what is measured by them is that coarse.
LOOK_S = 0.25
#: Pause before a host that did not come up tries again, and how often it does before that is called a failure.
RETRY_S = 1.0
RETRIES_MAX = 30
#: Members that a newcomer is told of.
BOOTSTRAP_MAX = 3
#: The event log, as an operator finds it.
LOG_FILES = ("catalog.db", "catalog.db-wal", "catalog.db-shm")
#: Keys whose owners are compared.
SAMPLES = tuple(record_cid(b"sample %d" % number) for number in range(4))


class Swarm:
    """Hosts by index, in the order of coming. The first founds; the others join through it."""

    def __init__(self, world: World, options: WorldOptions) -> None:
        self.world = world
        self.options = options
        self.hostile = frozenset(cast(options).hostile)
        #: Who left for good.
        self.gone: set[int] = set()
        self.hosts: list[Host] = []
        for role in options.roles:
            self._add(role, self.hosts[:1])

    def _add(self, role: NodeRole, bootstrap: Iterable[Host]) -> Host:
        host = self.world.add(
            f"n{len(self.hosts):03}",
            role,
            bootstrap=bootstrap,
            join_timeout_s=None,
            retries=1,
            down_after_s=self.options.down_after_s,
        )
        self.hosts.append(host)
        return host

    async def assemble(self) -> None:
        """Start everybody. Returns when each is ready, which is before all have met."""
        await self.hosts[0].start()
        async with trio.open_nursery() as nursery:
            for host in self.hosts[1:]:
                nursery.start_soon(host.start)

    async def join(self, role: NodeRole) -> Host:
        """A newcomer, ready when this returns."""
        there = [host for host in self.honest() if host.node is not None]
        host = self._add(role, there[:BOOTSTRAP_MAX] or self.hosts[:1])
        await host.start()
        return host

    async def bring_up(self, host: Host) -> str:
        """Start a host that is down, again and again; empty, or why it never came up."""
        why = ""
        for _ in range(RETRIES_MAX):
            if host.running:
                return ""
            try:
                await host.restart()
            except (P2PNodeError, OSError) as error:
                if isinstance(error, IntegrityError):
                    self._follow_advice(host)
                why = f"{type(error).__name__}: {error}"
                await trio.sleep(RETRY_S)
        return "" if host.running else why

    def _follow_advice(self, host: Host) -> None:
        """What a node whose log cannot be read tells its operator: move the log away, the others have it all."""
        hand = Life(host.name, 0, self.world.clock)
        mount = Mount(host.disk, hand)
        for name in LOG_FILES:
            if mount.size(host.home / name) is not None:
                mount.rename(host.home / name, host.home / f"{name}.aside")
        mount.sync_dir(host.home)
        hand.die()
        self.world.trace.note("aside", host.name)

    def honest(self) -> list[Host]:
        """Who is to be trusted and has not left."""
        return [host for at, host in enumerate(self.hosts) if at not in self.hostile and at not in self.gone]

    def nodes(self) -> list[Node]:
        """The honest ones that run."""
        return [host.node for host in self.honest() if host.node is not None]

    def peer_ids(self, indices: Iterable[int]) -> frozenset[str]:
        return frozenset(self.hosts[index].peer_id for index in indices)

    @property
    def alive(self) -> frozenset[str]:
        """Who should be seen as alive when all is well."""
        return frozenset(host.peer_id for host in self.honest())

    def views(self) -> list[View]:
        return [view_of(node, SAMPLES) for node in self.nodes()]

    # -- being of one mind ---------------------------------------------------------------------------------------

    def disunity(self) -> str:
        """What still differs, in a word; empty when every honest node knows the same and sees all the others."""
        down = [host.name for host in self.honest() if host.node is None]
        if down:
            return f"down: {', '.join(down)}"
        nodes = self.nodes()
        ledgers = [ledger_of(node) for node in nodes]
        if any(ledger.genesis is None or not ledger.settled for ledger in ledgers):
            return "unsettled"
        if len({(len(ledger.clock), ledger.clock.fingerprint) for ledger in ledgers}) > 1:
            return f"events: {sorted(len(ledger.clock) for ledger in ledgers)}"
        return self._blindness(nodes)

    def _blindness(self, nodes: Sequence[Node]) -> str:
        alive, left = sorted(self.alive), sorted(self.peer_ids(self.gone))
        for node in nodes:
            catalog = ledger_of(node).catalog
            recorded = {member.peer_id: member for member in catalog.members()}
            for peer in alive:
                if peer not in recorded or recorded[peer].down:
                    return f"{node.node_id} has no record of {peer[-6:]} as up"
                if peer != node.peer_id and state_of(node, peer).value != "alive":
                    return f"{node.node_id} sees {peer[-6:]} as {state_of(node, peer).value}"
            if any(peer in recorded for peer in left):
                return f"{node.node_id} knows nothing of a farewell"
        return ""

    async def until_one(self, limit_s: float) -> tuple[float, str]:
        """Seconds until all are of one mind, and what is left of their disunity at the limit."""
        began = self.world.now
        await self._restart_the_rotten()
        # Virtual time: looking costs none of it.
        while (why := self.disunity()) and self.world.now - began < limit_s:
            await trio.sleep(LOOK_S)
            await self._restart_the_rotten()
        return self.world.now - began, why

    async def _restart_the_rotten(self) -> None:
        """A node that finds its log unreadable while it runs says so, and whoever reads that starts it again."""
        for node in self.nodes():
            if log_is_unreadable(node):
                host = self.world.hosts[node.node_id]
                await host.crash()
                await self.bring_up(host)
