"""Real processes die, hang and come back; every other member must see it, soon and without error."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest
import trio

from simulations.local import LocalNode, LocalSwarm

#: What the swarm promises: seconds from SIGKILL until everybody knows.
MEDIAN_MAX_S, WORST_MAX_S = 4.0, 8.0
LOOK_EVERY_S = 0.1


async def states_of(node: LocalNode, observers: list[LocalNode]) -> set[str]:
    """How all the others see that node now."""
    found: set[str] = set()

    async def look(observer: LocalNode) -> None:
        peers = await trio.to_thread.run_sync(lambda: observer.client().get("peers"))
        found.update(peer["state"] for peer in peers if peer["node_id"] == node.node_id)

    async with trio.open_nursery() as nursery:
        for observer in observers:
            nursery.start_soon(look, observer)
    return found


async def until(wanted: Callable[[set[str]], bool], node: LocalNode, observers: list[LocalNode]) -> float:
    """Seconds until all observers agree; fails after twice the worst that is promised."""
    began = trio.current_time()
    with trio.fail_after(2 * WORST_MAX_S):
        while True:
            if wanted(await states_of(node, observers)):
                return trio.current_time() - began
            await trio.sleep(LOOK_EVERY_S)


async def kills(swarm: LocalSwarm, count: int) -> list[float]:
    """Kill one after another, each started again before the next; seconds until each was dead to everyone."""
    taken: list[float] = []
    for number in range(count):
        victim = swarm.nodes[number % len(swarm.nodes)]
        others = [node for node in swarm.nodes if node is not victim]
        victim.kill()
        taken.append(await until(lambda states: states == {"dead"}, victim, others))
        await victim.start()
        await until(lambda states: states == {"alive"}, victim, others)
    print("dead to everyone after", ", ".join(f"{seconds:.1f}" for seconds in sorted(taken)), "s")
    return taken


@pytest.mark.trio
async def test_the_killed_are_dead_to_everyone_the_paused_are_not(hurt: LocalSwarm) -> None:
    taken = await kills(hurt, 3)
    assert max(taken) <= WORST_MAX_S

    sleeper, *others = hurt.nodes[::-1]
    seen: set[str] = set()
    sleeper.pause()
    with trio.move_on_after(3.0):
        while True:
            seen |= await states_of(sleeper, others)
            await trio.sleep(LOOK_EVERY_S)
    sleeper.resume()
    with trio.move_on_after(3.0):
        while True:
            seen |= await states_of(sleeper, others)
            await trio.sleep(LOOK_EVERY_S)
    assert "dead" not in seen
    assert await states_of(sleeper, others) == {"alive"}


@pytest.mark.nightly
@pytest.mark.trio
async def test_twenty_kills(hurt: LocalSwarm) -> None:
    taken = await kills(hurt, 20)
    assert statistics.median(taken) <= MEDIAN_MAX_S
    assert max(taken) <= WORST_MAX_S
