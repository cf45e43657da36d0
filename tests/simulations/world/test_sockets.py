"""Nodes with their real libp2p stack in virtual time: they survive a crash and a partition."""

from __future__ import annotations

import pytest
import trio

from p2pnode.core import records
from simulations.world.loop import run_virtual
from simulations.world.world import World, open_world

SEED = 5
#: Virtual seconds in which a healed swarm is of one mind.
ONE_MIND_S = 40.0


async def _until_one(world: World) -> None:
    with trio.fail_after(ONE_MIND_S):
        while len({_known(host) for host in world.hosts.values()}) > 1:  # noqa: ASYNC110  # virtual time
            await trio.sleep(0.25)


def _known(host) -> tuple[int, bytes]:
    clock = host.node._metadata.clock
    return len(clock), clock.fingerprint


async def _write(host, name: str) -> None:
    body = records.define_body(records.Definition(name))
    await host.node._metadata.author(records.DEFINE, name, body, wait=False)


async def _story() -> set[str]:
    async with open_world(SEED, libp2p=True) as world:
        first = world.add("n0")
        others = [world.add(f"n{number}", bootstrap=[first]) for number in range(1, 4)]
        await first.start()
        for host in others:
            await host.start()
        await _write(first, "before")
        await _until_one(world)
        world.network.partition([["n0", "n1"], ["n2", "n3"]])
        await _write(first, "left")
        await _write(others[2], "right")
        await trio.sleep(12)
        assert _known(first) != _known(others[2])
        assert await others[0].crash() >= 0
        world.network.heal()
        await others[0].restart()
        await _until_one(world)
        assert world.network.counts["bytes"] > 50_000, "noise and yamux went over the simulated sockets"
        return {record.name for record in others[1].node._metadata.catalog.datasets()}


def test_the_real_stack_lives_in_a_world() -> None:
    assert run_virtual(_story, seed=SEED) == {"before", "left", "right"}


def test_nobody_answers_at_an_address_that_no_machine_has() -> None:
    async def story() -> None:
        async with open_world(SEED, libp2p=True):
            with pytest.raises(OSError, match="no machine of this world"):
                trio.socket.socket().listen()

    run_virtual(story, seed=SEED)
