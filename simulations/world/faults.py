"""Carries out what the plan says: each fault from its beginning to its end, upon real hosts, disks and links.

A host is in one trouble at a time (two power cuts of a machine come one after the other), links in any number. When
the storm is over everything that lasts ends at once, and whoever is away comes back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import count

import trio

from p2pnode.core.model import NodeRole
from p2pnode.errors import P2PNodeError
from simulations.world.checks import Violation
from simulations.world.conditions import KINDS, calm, conditions
from simulations.world.disk import DiskFaults
from simulations.world.host import Host
from simulations.world.hostile import LIES, Liar
from simulations.world.inside import metadata_of
from simulations.world.plan import ONCE, Fault
from simulations.world.swarm import Swarm
from simulations.world.workload import Deed, Writer

#: Virtual seconds after which a host that was to die in a disk operation, and did none, loses its power anyway.
STRIKE_S = 5.0
#: Bits that rot at once.
FLIPPED_BITS = 3
#: Pause before a member that nobody heard leaving says it again.
FAREWELL_AGAIN_S = 1.0

#: What a fault does to the host of that index.
Act = Callable[[int, Host, Fault], Awaitable[None]]


class FaultInjector:
    """One world's. `writer_of` gives the writer of a host by its index."""

    def __init__(self, swarm: Swarm, writer_of: Callable[[int], Writer], report: Callable[[Violation], None]) -> None:
        self._swarm = swarm
        self._writer_of = writer_of
        self._report = report
        self._over = trio.Event()
        self._acting: dict[int, Fault] = {}
        self._blocked: frozenset[tuple[int, int]] = frozenset()
        self._turns: dict[int, trio.Lock] = {}
        self._liars: dict[int, Liar] = {}
        self._extra = count(1_000_000)
        self._nursery: trio.Nursery | None = None
        self._links = calm(swarm.options, len(swarm.hosts))
        self._acts: dict[str, Act] = {
            "crash": self._crash,
            "pause": self._pause,
            "skew": self._skew,
            "drift": self._drift,
            "slow_fsync": self._slow_disk,
            "disk_full": self._full_disk,
            "disk_error": self._failing_disk,
            "bit_flip": self._rot,
            "stale_restore": self._restore_stale,
            "leave": self._leave,
        }
        #: When a host's disk last lost what had been certain, by index.
        self.lost_at: dict[int, float] = {}
        self.partitions = 0
        self._refresh()

    @property
    def equivocators(self) -> frozenset[str]:
        """Who has shown somebody two events in one place."""
        return self._swarm.peer_ids(index for index, liar in sorted(self._liars.items()) if liar.equivocated)

    @property
    def losses(self) -> int:
        """Crashes that discarded something."""
        return sum(lost > 0 for host in self._swarm.hosts for lost in host.crashes)

    async def inject(self, fault: Fault, began: float) -> None:
        """One fault, from waiting for its hour to its end. The nursery of a storm runs one of these for each."""
        await trio.sleep_until(began + fault.at_s)
        if self._over.is_set() or fault.kind in ONCE:
            return
        self._swarm.world.trace.note("fault", fault.number, fault.kind)
        if fault.kind in KINDS:
            await self._blow(fault)
        elif fault.kind == "join":
            await self._swarm.join(NodeRole.WORKER if fault.number % 2 else NodeRole.HYBRID)
        elif fault.kind in LIES:
            await self._lie(fault)
        elif fault.kind == "blackout":
            async with trio.open_nursery() as nursery:
                for index in fault.hosts:
                    nursery.start_soon(self._with_host, index, self._cut_power, fault)
        else:
            await self._with_host(fault.hosts[0], self._acts[fault.kind], fault)

    def begin(self, nursery: trio.Nursery) -> None:
        """A storm begins; what faults start beside themselves runs in that nursery."""
        self._over = trio.Event()
        self._nursery = nursery

    def heal(self) -> None:
        """The storm is over: links and disks are well again, and who is away comes back."""
        self._acting.clear()
        self._refresh()
        for host in self._swarm.hosts:
            host.disk.faults = DiskFaults()
        self._over.set()

    # -- the network ---------------------------------------------------------------------------------------------

    async def _blow(self, fault: Fault) -> None:
        self.partitions += fault.kind == "partition"
        self._acting[fault.number] = fault
        self._refresh()
        await self._lasts(fault.for_s)
        self._acting.pop(fault.number, None)
        self._refresh()

    def _refresh(self) -> None:
        """Bring every link to what the acting faults make of it."""
        network, names = self._swarm.world.network, [host.name for host in self._swarm.hosts]
        if len(self._links) != len(names) ** 2:
            self._links = calm(self._swarm.options, len(names))
        now = conditions(self._links, len(names), [self._acting[number] for number in sorted(self._acting)])
        for (source, target), link in now.links.items():
            network.set_link(names[source], names[target], link)
        for source, target in sorted(now.blocked - self._blocked):
            network.block(names[source], names[target], both=False)
        for source, target in sorted(self._blocked - now.blocked):
            network.unblock(names[source], names[target], both=False)
        self._blocked = now.blocked

    # -- machines ------------------------------------------------------------------------------------------------

    async def _with_host(self, index: int, act: Act, fault: Fault) -> None:
        async with self._turns.setdefault(index, trio.Lock()):
            if index not in self._swarm.gone and not self._over.is_set():
                await act(index, self._swarm.hosts[index], fault)

    async def crash_in_write(self, index: int, operations: int) -> None:
        """The host dies within so many of its disk's operations from the beginning of a write on."""
        host = self._swarm.hosts[index]
        defines = host.settings.role.defines
        deed = Deed(next(self._extra), "define" if defines else "up", 0, 0.0, index, index % 12)
        host.crash_at_disk_op(operations)
        assert self._nursery is not None
        self._nursery.start_soon(self._writer_of(index).write, deed)
        with trio.move_on_after(STRIKE_S):
            await host.until_down()
        if host.running:
            await host.crash()

    async def _crash(self, index: int, host: Host, fault: Fault) -> None:
        if host.node is not None:
            await self.crash_in_write(index, round(fault.amount))
        await self._away(host, fault.for_s)

    async def _cut_power(self, index: int, host: Host, fault: Fault) -> None:
        if host.running:
            await host.crash()
        await self._away(host, fault.for_s)

    async def _away(self, host: Host, seconds: float) -> None:
        """It stays away so long, at most to the end of the storm, and then comes back."""
        await self._lasts(seconds)
        await self.bring_up(host)

    async def bring_up(self, host: Host) -> None:
        why = await self._swarm.bring_up(host)
        if why:
            self._report(Violation("will not start", f"{host.name}: {why}"))

    async def _pause(self, index: int, host: Host, fault: Fault) -> None:
        if host.running:
            host.pause(fault.for_s)
            await trio.sleep(fault.for_s)

    async def _skew(self, index: int, host: Host, fault: Fault) -> None:
        host.clock.skew_s = fault.amount

    async def _drift(self, index: int, host: Host, fault: Fault) -> None:
        host.clock.drift = fault.amount

    # -- disks ---------------------------------------------------------------------------------------------------

    async def _slow_disk(self, index: int, host: Host, fault: Fault) -> None:
        host.disk.faults = replace(host.disk.faults, fsync_s=fault.amount)
        await self._lasts(fault.for_s)
        host.disk.faults = DiskFaults()

    async def _full_disk(self, index: int, host: Host, fault: Fault) -> None:
        host.disk.faults = replace(host.disk.faults, full=True)
        await self._lasts(fault.for_s)
        host.disk.faults = DiskFaults()
        await self._replaced(host)

    async def _failing_disk(self, index: int, host: Host, fault: Fault) -> None:
        host.disk.faults = replace(host.disk.faults, write_error=fault.amount, sync_error=fault.amount)
        await self._lasts(fault.for_s)
        host.disk.faults = DiskFaults()
        await self._replaced(host)

    async def _replaced(self, host: Host) -> None:
        """A store that a disk failed is not trusted again by the life that saw it fail: somebody restarts the node."""
        if host.running:
            await host.crash()
        await self.bring_up(host)

    async def _rot(self, index: int, host: Host, fault: Fault) -> None:
        if host.running:
            await host.crash()
        self.lost_at[index] = self._swarm.world.now
        for hit in host.disk.flip_bits(FLIPPED_BITS, under="catalog.db"):
            self._swarm.world.trace.note("rot", host.name, hit)
        await self._away(host, fault.for_s)

    async def _restore_stale(self, index: int, host: Host, fault: Fault) -> None:
        """A backup is made, the swarm goes on, and then the backup is played back."""
        backup = host.backup()
        await self._lasts(fault.for_s)
        if host.running:
            await host.crash()
        self.lost_at[index] = self._swarm.world.now
        host.restore(backup)
        await self.bring_up(host)

    # -- members -------------------------------------------------------------------------------------------------

    async def _leave(self, index: int, host: Host, fault: Fault) -> None:
        """For good: it writes nothing any more, and goes when the swarm has noted that and not before."""
        await self._writer_of(index).close()
        while host.node is not None:
            try:
                await metadata_of(host.node).leave()
                break
            except P2PNodeError:
                await trio.sleep(FAREWELL_AGAIN_S)
        self._swarm.gone.add(index)
        await host.stop()

    async def _lie(self, fault: Fault) -> None:
        index = fault.hosts[0]
        host = self._swarm.hosts[index]
        if host.node is None:
            return
        rng = self._swarm.world.rng("lie", fault.number)
        liar = Liar(host.node, rng)
        victims = [other.peer_id for other in self._swarm.honest() if other.peer_id]
        await liar.tell(fault.kind, rng.sample(victims, len(victims)), fault.for_s)
        told = self._liars.setdefault(index, liar)
        told.equivocated |= liar.equivocated

    async def _lasts(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._over.wait()
