"""The machine that proves things: real nodes, virtual time, and one history to a seed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import trio

from p2pnode.core.holdings import LIFE_S
from simulations.world.loop import Stillness, run_virtual
from simulations.world.world import World, open_world

ROOT = Path(__file__).parents[3]


async def swarm_of(world: World, size: int) -> None:
    """Begin a swarm and let everybody join."""
    first = world.add("n0")
    await first.start()
    async with trio.open_nursery() as nursery:
        for index in range(1, size):
            nursery.start_soon(world.add(f"n{index}", bootstrap=[first]).start)


async def define_each(world: World) -> None:
    for host in world.hosts.values():
        assert host.node is not None
        await host.node._datasets.define(f"of-{host.name}")


def known(world: World) -> dict[str, frozenset[bytes]]:
    """The ids of all events that each running node knows."""
    nodes = [host.node for host in world.hosts.values() if host.node is not None]
    return {node.node_id: frozenset(event.id for event in node._metadata.clock.events()) for node in nodes}


async def quiet_swarm(seed: int) -> tuple[str, int, float]:
    async with open_world(seed) as world:
        await swarm_of(world, 3)
        await define_each(world)
        await trio.sleep(10)
        sets = known(world)
        assert len(sets) == 3
        assert len(set(sets.values())) == 1, "three nodes, one set of events"
        (events,) = set(sets.values())
        return world.trace.digest(), len(events), world.now


def test_nodes_join_write_and_agree_without_any_time_passing() -> None:
    _, events, now = run_virtual(quiet_swarm, 1, seed=1)
    assert events >= 1 + 3 + 3, "a genesis, three that came up, three definitions"
    assert 10 < now < 20


def test_a_seed_has_one_history_and_another_seed_another() -> None:
    first, again, other = (run_virtual(quiet_swarm, seed, seed=seed)[0] for seed in (1, 1, 2))
    assert first == again
    assert first != other


STORY = """
from simulations.world.loop import Stillness, run_virtual
from tests.simulations.world.test_world import quiet_swarm
print(run_virtual(quiet_swarm, 3, seed=3)[0])
"""


def test_the_history_is_the_same_whatever_strings_hash_to() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", STORY],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2", "3")
    }
    assert len(digests) == 1


def test_what_a_story_raises_leaves_the_loop_as_it_was_raised() -> None:
    async def story() -> None:
        async with open_world(1):
            raise LookupError("the story's own")

    with pytest.raises(LookupError, match="the story's own"):
        run_virtual(story, seed=1)


def test_a_world_in_which_nothing_can_happen_any_more_says_so() -> None:
    async def story() -> None:
        await trio.sleep_forever()

    with pytest.raises(Stillness):
        run_virtual(story, seed=1)


async def lone_holder(seed: int) -> dict[str, object]:
    async with open_world(seed) as world:
        host = world.add("n0")
        await host.start()
        node = host.node
        assert node is not None
        await node.publish("trips", pa.table({"id": [1, 2, 3]}), create=True, replicas=1)
        await trio.sleep(LIFE_S + 60)
        return next(found for found in await node.doctor() if found["check"] == "replicas")


def test_a_node_does_not_forget_what_it_holds_itself() -> None:
    found = run_virtual(lone_holder, 1, seed=1)
    assert found["ok"], found
