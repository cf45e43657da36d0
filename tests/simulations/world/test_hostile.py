"""One liar among honest members, one lie at a time: nobody honest is taken for dead or loses a write by it."""

from __future__ import annotations

import pytest
import trio

from simulations.world import checks
from simulations.world.hostile import LIES, Liar
from simulations.world.inside import ledger_of, state_of
from simulations.world.loop import run_virtual
from simulations.world.options import WorldOptions
from simulations.world.swarm import Swarm
from simulations.world.views import sizes_of
from simulations.world.workload import Deed, Writer, Written
from simulations.world.world import open_world

OPTIONS = WorldOptions(seed=5, nodes=5)
#: Virtual seconds of one lie, and until all are of one mind again.
LYING_S, MENDED_S = 20.0, 15.0


class Scene:
    """What came of one lie."""

    def __init__(self) -> None:
        self.dead: set[str] = set()
        self.found: list[checks.Violation] = []
        self.written: list[Written] = []
        self.equivocated = False
        self.exposed: set[frozenset[str]] = set()
        self.liar = ""
        self.down: set[str] = set()


async def play(lie: str) -> Scene:
    scene = Scene()
    async with open_world(OPTIONS.seed) as world:
        swarm = Swarm(world, OPTIONS)
        await swarm.assemble()
        _, why = await swarm.until_one(30)
        assert not why
        (index,) = swarm.hostile
        host = swarm.hosts[index]
        assert host.node is not None
        liar = Liar(host.node, world.rng("liar"))
        scene.liar = host.peer_id

        async def look() -> None:
            while True:
                for node in swarm.nodes():
                    scene.found += checks.within_bounds(node.node_id, sizes_of(node))
                    honest = swarm.alive - {node.peer_id}
                    scene.dead |= {peer for peer in honest if state_of(node, peer).value == "dead"}
                    scene.down |= {m.peer_id for m in ledger_of(node).catalog.members() if m.down}
                await trio.sleep(0.2)

        async def write() -> None:
            writer = Writer(swarm.hosts[0], lambda written: None, pytest.fail)
            for number in range(10):
                scene.written.append(await writer.write(Deed(number, "define", 0, 0.0, 0, number)))
                await trio.sleep(LYING_S / 10)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            nursery.start_soon(write)
            await liar.tell(lie, sorted(swarm.alive), LYING_S)
            await trio.sleep(LYING_S)
            nursery.cancel_scope.cancel()
        _, why = await swarm.until_one(MENDED_S)
        assert not why, why
        scene.equivocated = liar.equivocated
        views = swarm.views()
        scene.exposed = {view.exposed for view in views}
        scene.found += checks.one_set(views) + checks.same_events_same_answers(views)
    return scene


@pytest.mark.parametrize("lie", LIES)
def test_honest_members_are_none_the_worse_for_it(lie: str) -> None:
    scene = run_virtual(play, lie, seed=OPTIONS.seed)
    assert scene.found == []
    assert scene.dead == scene.down == set()
    assert len(scene.written) >= 10
    assert {written.outcome for written in scene.written} == {"acknowledged"}
    if lie == "equivocate":
        assert scene.equivocated
        assert scene.exposed == {frozenset({scene.liar})}
    else:
        assert scene.exposed == {frozenset()}
