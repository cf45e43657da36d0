"""The world as a proof machine, and what it finds of convergence: how much virtual time a second proves, and how soon a
swarm is one again.

Bound: everything but waiting. Twenty nodes ask each other for their health once a second, hash, sign, verify and write
as real ones do; virtual time only takes the waiting away.
"""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import trio

from simulations.bench.figure import Figure, at_least, at_most, stated
from simulations.world.inside import ledger_of
from simulations.world.loop import run_virtual
from simulations.world.network import Link
from simulations.world.options import WorldOptions
from simulations.world.run import run_seed
from simulations.world.swarm import Swarm
from simulations.world.workload import Deed, Writer
from simulations.world.world import open_world

T = TypeVar("T")

#: Virtual seconds that one wall second must prove, with twenty nodes on one core.
SPEED_MIN = 100.0
SEEDS = (1, 2, 3)
#: A large swarm's scenario, virtual seconds.
LARGE = WorldOptions(nodes=100, rounds=1, storm_s=60.0, rest_s=36.0, faults=("loss", "skew", "equivocate"))
#: The partition: seconds, nodes on the smaller side, loss on every link (also afterwards), writes on each side.
PARTITION_S, SMALLER, LOSS, WRITES = 600.0, 8, 0.1, 30
CONVERGED_MAX_S = 10.0
LOOK_S = 0.1


async def measure() -> list[Figure]:
    speeds, large, spread = [], None, []
    for seed in SEEDS:
        report = await _alone(run_seed, WorldOptions(seed=seed))
        speeds.append(report.virtual_s / report.wall_s)
    large = await _alone(run_seed, LARGE)
    for seed in SEEDS:
        spread += await _alone(partition, seed)
    p99 = statistics.quantiles(spread, n=100, method="inclusive")[98]
    return [
        at_least("world, 20 nodes", statistics.median(speeds), "virtual s/s", 1.0, SPEED_MIN, "real time"),
        replace(
            stated("world, 100 nodes", large.wall_s, "s", large.virtual_s, "its virtual time"),
            target="no violation",
            ok=large.ok,
        ),
        at_most("converged, p99", p99, "virtual s", PARTITION_S, "the partition", value_max=CONVERGED_MAX_S),
    ]


async def _alone(run: Callable[..., T], *args: Any) -> T:
    """In a process of its own, so that neither loop nor heap of this one has a part in it."""

    def there() -> T:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(run, args)

    return await trio.to_thread.run_sync(there)


def partition(seed: int) -> list[float]:
    """For each of twenty nodes, seconds from the end of a ten-minute partition until it knows what both sides wrote."""
    return run_virtual(_partition, seed, seed=seed)


async def _partition(seed: int) -> list[float]:
    options = WorldOptions(seed=seed, down_after_s=300.0, hostiles_max=0)
    async with open_world(seed) as world:
        swarm = Swarm(world, options)
        await swarm.assemble()
        _, why = await swarm.until_one(options.assembly_limit_s)
        assert not why, why
        names = [host.name for host in swarm.hosts]
        world.network.set_all(replace(Link(), loss=LOSS))
        world.network.partition([names[:-SMALLER], names[-SMALLER:]])
        began = world.now
        async with trio.open_nursery() as nursery:
            for index in (1, len(names) - 1 - len(names) % 2):
                nursery.start_soon(_write, swarm, index, began)
        await trio.sleep_until(began + PARTITION_S)
        everything = max(len(ledger_of(node).clock) for node in swarm.nodes())
        known = {event for node in swarm.nodes() for event in ledger_of(node).clock.between(0)}
        assert len(known) >= everything + WRITES
        world.network.heal()
        world.network.set_all(replace(Link(), loss=LOSS))
        return await _until_known(swarm, known)


async def _write(swarm: Swarm, index: int, began: float) -> None:
    host = swarm.hosts[index]
    assert host.settings.role.defines
    writer = Writer(host, lambda written: None, lambda text: None)
    for number in range(WRITES):
        await trio.sleep_until(began + PARTITION_S * number / WRITES)
        await writer.write(Deed(1000 * index + number, "define", 0, 0.0, index, number))


async def _until_known(swarm: Swarm, known: set[bytes]) -> list[float]:
    healed, took = swarm.world.now, {}
    while len(took) < len(swarm.hosts):
        for node in swarm.nodes():
            if node.node_id not in took and all(event in ledger_of(node).clock for event in known):
                took[node.node_id] = swarm.world.now - healed
        await trio.sleep(LOOK_S)
    return list(took.values())
