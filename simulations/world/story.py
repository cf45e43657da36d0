"""One world from beginning to end: the swarm assembles, storms come and go, and in each calm everything is checked.

    assemble → (storm → calm → checks) × rounds → more of it where a run was too quiet → stillness → a power cut of all

In a storm writes and faults go on side by side; at its end links and disks are well again, who was away comes back,
what is under way ends, and then the clock runs: within the limit every honest node knows the same and sees everybody.
This file refuses to know how a fault is done (`faults`) or what a promise is (`checks`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TypeVar

import trio

from p2pnode.core.cid import cid_text
from p2pnode.core.merging import HEADS_MAX
from p2pnode.core.model import FORMATS, ShardEntry
from simulations.world import checks
from simulations.world.checks import Ack, Violation
from simulations.world.faults import FaultInjector
from simulations.world.host import Host
from simulations.world.inside import blocks_of, ledger_of
from simulations.world.options import WorldOptions
from simulations.world.plan import Fault, cast, plan
from simulations.world.second_opinion import second_opinion
from simulations.world.swarm import Swarm
from simulations.world.views import facts_of, refold
from simulations.world.watch import Watch
from simulations.world.workload import Deed, Writer, Written, deeds
from simulations.world.world import World

T = TypeVar("T")

#: Virtual seconds after a storm in which every write must have come to an end of some kind.
ENDING_S = 90.0
#: Looks at the buffers.
LOOK_S = 1.0
#: Times that a run which was too quiet is made louder.
EXTENSIONS_MAX = 5
#: The last part of the final stillness, in which nothing may be written any more.
STILL_S = 15.0


class Story:
    """`tell` it once; what came of it stands in the attributes."""

    def __init__(self, world: World, options: WorldOptions) -> None:
        self.world = world
        self.options = options
        self.violations: list[Violation] = []
        self.acks: list[Ack] = []
        self.converged_s: list[float] = []
        self.swarm = Swarm(world, options)
        self._writers: dict[int, Writer] = {}
        self._honest, self._fragile = cast(options).honest, cast(options).fragile
        self._faults = FaultInjector(self.swarm, self._writer_of, self.violations.append)
        self._watch = Watch(self.swarm, self.violations.append)

    @property
    def written(self) -> list[Written]:
        return [written for _, writer in sorted(self._writers.items()) for written in writer.written]

    @property
    def events(self) -> int:
        """In the largest clock."""
        return max((len(ledger_of(node).clock) for node in self.swarm.nodes()), default=0)

    async def tell(self) -> None:
        """All of it."""
        if not await self._assemble():
            return
        planned, faults = deeds(self.options), plan(self.options)
        for number in range(self.options.rounds):
            await self._storm(
                [deed for deed in planned if deed.round == number], [fault for fault in faults if fault.round == number]
            )
            await self._calm()
        if not self.options.drop:
            await self._louder()
            self.violations += checks.strong_enough(
                len(self.written), self.options.writes, self._faults.partitions, self._faults.losses
            )
        await self._rest()
        await self._lights_out()

    # -- the parts -----------------------------------------------------------------------------------------------

    async def _assemble(self) -> bool:
        with trio.move_on_after(self.options.assembly_limit_s):
            await self.swarm.assemble()
        _, why = await self.swarm.until_one(self.options.assembly_limit_s)
        if why:
            self.violations.append(Violation("never assembled", why))
        return not why

    async def _storm(self, planned: list[Deed], faults: list[Fault]) -> None:
        began = self.world.now
        with trio.move_on_after(self.options.storm_s + ENDING_S) as limit:
            async with trio.open_nursery() as nursery:
                self._faults.begin(nursery)
                for fault in faults:
                    nursery.start_soon(self._faults.inject, fault, began)
                for deed in planned:
                    nursery.start_soon(self._write, deed, began)
                while self.world.now < began + self.options.storm_s:
                    self._watch.look()
                    await trio.sleep(LOOK_S)
                self._faults.heal()
        if limit.cancelled_caught:
            open_ = [written for written in self.written if not written.ended]
            self.violations.append(Violation("stuck", f"{len(open_)} writes: {[str(w.deed) for w in open_[:3]]}"))

    async def _write(self, deed: Deed, began: float) -> None:
        await trio.sleep_until(began + deed.at_s)
        if deed.host not in self.swarm.gone:
            await self._writer_of(deed.host).write(deed)

    async def _calm(self) -> None:
        for host in self.swarm.hosts:
            if not host.running and self.swarm.hosts.index(host) not in self.swarm.gone:
                await self._faults.bring_up(host)
        took_s, why = await self.swarm.until_one(self.options.converge_limit_s)
        self.converged_s.append(took_s)
        if why:
            self.violations.append(Violation("slow", f"after {took_s:g} s of calm: {why}"))
        self._check()

    async def _louder(self) -> None:
        """Crash in the middle of a write again until something was lost by it, and write until it was enough."""
        rng = self.world.rng("louder")
        for number in range(EXTENSIONS_MAX):
            lacking = self.options.writes - len(self.written)
            if self._faults.losses and lacking <= 0:
                return
            more = [
                Deed(2_000_000 + 1000 * number + n, "define", 0, 0.0, self._writer(n), n % 12) for n in range(lacking)
            ]
            crash = Fault(-1 - number, "crash", 0, 0.0, 1.0, (rng.choice(self._honest),), float(1 + number))
            await self._storm(more, [crash])
            await self._calm()

    def _writer(self, number: int) -> int:
        writers = [index for index in self._honest if self.options.roles[index].defines]
        return writers[number % len(writers)]

    async def _rest(self) -> None:
        """Nobody writes any more: nothing is written, and loose ends were tied."""
        await trio.sleep(max(0.0, self.options.rest_s - STILL_S))
        before = self.swarm.views()
        await trio.sleep(STILL_S)
        after = self.swarm.views()
        self.violations += checks.still(before, after, facts_of(self.swarm.nodes()))
        for view in after:
            self.violations += checks.few_heads(view, HEADS_MAX)

    async def _lights_out(self) -> None:
        """Every machine loses its power at one moment. What was acknowledged is there when they come back."""
        for host in self.swarm.hosts:
            if host.running:
                await host.crash()
        async with trio.open_nursery() as nursery:
            for index, host in enumerate(self.swarm.hosts):
                if index not in self.swarm.gone:
                    nursery.start_soon(self._faults.bring_up, host)
        await self._calm()
        self._ask_another()

    # -- looking -------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Everything that must hold at a moment of rest."""
        swarm, nodes = self.swarm, self.swarm.nodes()
        views, facts = swarm.views(), facts_of(nodes)
        found = checks.one_set(views) + checks.same_events_same_answers(views)
        found += checks.nothing_lost(self.acks, views)
        found += checks.sights_agree(views, swarm.alive, swarm.peer_ids(swarm.gone))
        found += checks.exposed(views, self._faults.equivocators, swarm.peer_ids(swarm.hostile))
        for view in views:
            found += checks.heads_are_heads(view, facts)
            found += checks.downs_are_witnessed(view, facts, len(swarm.hosts))
        refolded: set[frozenset[bytes]] = set()
        rotten = {swarm.hosts[index].name for index in self._fragile}
        for node, view in zip(nodes, views, strict=True):
            if view.events not in refolded and node.node_id not in rotten:  # the fold reads manifests off its disk
                refolded.add(view.events)
                rng = self.world.rng("order", len(self.converged_s), node.node_id)
                found += checks.order_does_not_show(view, refold(ledger_of(node), rng))
        self._watch.look()
        self.violations += found
        self.world.trace.note("state", *(view.state.hex() for view in views))

    def _ask_another(self) -> None:
        """Whether the founder, whose disk is sound, made of its events what the specification says."""
        for node in self.swarm.nodes()[:1]:
            clock, state = ledger_of(node).clock, ledger_of(node).catalog.digest()
            wires = [event.wire for event in clock.events()]
            blocks = blocks_of(node)
            self.violations += second_opinion(node.node_id, clock.genesis, wires, blocks, clock.heads(), state)

    def _writer_of(self, index: int) -> Writer:
        writer = self._writers.get(index)
        if writer is None:
            host = self.swarm.hosts[index]
            writer = self._writers[index] = Writer(host, self._acknowledged, self._unhandled)
        return writer

    def _unhandled(self, text: str) -> None:
        self.violations.append(Violation("unhandled", text))

    def _acknowledged(self, written: Written) -> None:
        """At this moment it must be on as many disks as promised, whatever happens next."""
        # A disk that lost it again before its author heard of the others was one of them all the same.
        lost = {index for index, at_s in self._faults.lost_at.items() if at_s >= written.began_s}
        found = min((self._disks(lost, _has, event) for event in written.events), default=0)
        promised = min(checks.EVENT_DISKS, written.present)
        ack = Ack(written.deed.number, written.host, written.events, promised, found)
        self.acks.append(ack)
        self.violations += checks.enough_disks(ack)
        for shard in written.shards:
            disks = self._disks(lost, _holds, shard)
            self.violations += checks.shard_on_disks(written.deed.number, cid_text(shard.cid), disks, written.storing)

    def _disks(self, lost: set[int], has: Callable[[Host, T], bool], what: T) -> int:
        """Disks that would still have it if all power went now; those that lost something count as having had it."""
        return sum(index in lost or has(host, what) for index, host in enumerate(self.swarm.hosts))


def _holds(host: Host, shard: ShardEntry) -> bool:
    """Whether all of the shard is on that disk for certain."""
    folder = host.home / "shards"
    sizes = [host.disk.certain_size(folder / f"{cid_text(shard.cid)}.{kind}") for kind in FORMATS]
    return shard.bytes in sizes


def _has(host: Host, event_id: bytes) -> bool:
    path = host.home / "catalog.db"
    try:
        return bool(host.disk.after_power_cut(path, "SELECT 1 FROM events WHERE id = ?", (event_id,)))
    except sqlite3.DatabaseError:  # it rots
        return False
