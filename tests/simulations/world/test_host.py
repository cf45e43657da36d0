"""A crash is a crash: the dying change nothing and tell nobody, and what was promised is there when they come back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from p2pnode.core.cid import cid_text
from p2pnode.core.membership import State
from p2pnode.core.model import NodeRole
from p2pnode.errors import NotDurable, P2PNodeError, SqlRefused, StorageFailed, SwarmUnreachable
from p2pnode.node import Node
from simulations.world.clock import EPOCH_S
from simulations.world.host import Host
from simulations.world.loop import run_virtual
from simulations.world.world import World, open_world
from tests.simulations.world.test_world import known, swarm_of


def in_a_world(story: Callable[[World], Awaitable[Any]], size: int = 3, seed: int = 1) -> Any:
    async def main() -> Any:
        async with open_world(seed) as world:
            if size:
                await swarm_of(world, size)
            result = await story(world)
            assert [error for error in world.errors if error[2] != "author_forked"] == []
            return result

    return run_virtual(main, seed=seed)


def node_of(host: Host) -> Node:
    assert host.node is not None
    return host.node


async def define(host: Host, name: str) -> None:
    await node_of(host)._datasets.define(name)


async def until_one_mind(world: World, within_s: float = 60.0) -> None:
    with trio.fail_after(within_s):
        while len(set(known(world).values())) != 1:  # noqa: ASYNC110  # virtual seconds cost nothing
            await trio.sleep(0.5)


def test_what_was_acknowledged_is_there_after_everybody_lost_power() -> None:
    async def story(world: World) -> None:
        for number, host in enumerate(world.hosts.values()):
            await define(host, f"d{number}")
        before = known(world)
        for host in world.hosts.values():
            host.cut_power()
        for host in world.hosts.values():
            await host.until_down()
            assert host.node is None
            assert not host.running
        async with trio.open_nursery() as nursery:
            for host in world.hosts.values():
                nursery.start_soon(host.restart)
        await until_one_mind(world)
        for name, events in known(world).items():
            assert before[name] <= events
        assert [host.lives for host in world.hosts.values()] == [2, 2, 2]

    in_a_world(story)


def test_no_word_of_the_dying_gets_out() -> None:
    async def story(world: World) -> None:
        last = world.hosts["n2"]
        node, trace = node_of(last), world.trace.count
        last.cut_power()
        assert last.node is None, "from that moment on"
        sent = world.network.counts["delivered"]
        with pytest.raises((P2PNodeError, OSError)):
            await node.farewell()
            await node._metadata.leave(timeout_s=1.0)
        await last.until_down()
        assert world.trace.count - trace <= 4, "it crashed; nothing was delivered, nothing was written"
        assert world.network.counts["delivered"] == sent
        states = node_of(world.hosts["n0"])._health.state_of(last.peer_id).value
        assert states == "alive", "nobody was told that it left"

    in_a_world(story)


def test_a_node_that_is_stopped_says_goodbye() -> None:
    async def story(world: World) -> None:
        first, last = world.hosts["n0"], world.hosts["n2"]
        await trio.sleep(1)
        await last.stop()
        await trio.sleep(2)
        assert node_of(first)._health.state_of(last.peer_id).value == "left"
        assert last.failure is None
        assert last.crashes == []
        await last.restart()
        await trio.sleep(5)
        assert node_of(first)._health.state_of(last.peer_id).value == "alive"

    in_a_world(story)


def test_a_crash_aimed_into_a_write_takes_the_write_or_leaves_it_whole() -> None:
    async def story(world: World) -> None:
        last = world.hosts["n2"]
        for attempt in range(6):
            last.crash_at_disk_op(1 + attempt)
            with pytest.raises((P2PNodeError, OSError)):
                for number in range(10):
                    await define(last, f"attempt-{attempt}-{number}")
            await last.until_down()
            await last.restart()
            await define(last, f"afterwards-{attempt}")
        await until_one_mind(world)
        assert len(last.crashes) == 6
        assert not node_of(last)._metadata.clock.forks(), "no event that it spoke of was forgotten"

    in_a_world(story)


def test_a_node_whose_disk_fails_says_so_and_can_be_started_again() -> None:
    async def story(world: World) -> None:
        last = world.hosts["n2"]
        last.disk.faults.sync_error = 1.0
        with pytest.raises(StorageFailed):
            await define(last, "never")
        last.disk.faults.sync_error = 0.0
        await last.crash()
        last.wipe()
        last.disk.faults.full = True
        with pytest.raises((StorageFailed, OSError)) as refused:
            await last.start()
        assert last.failure is refused.value
        assert not last.running
        last.disk.faults.full = False
        await last.start()
        await until_one_mind(world)

    in_a_world(story)


def test_a_swarm_that_nobody_answers_for_is_not_joined() -> None:
    async def story(world: World) -> None:
        absent = world.add("absent")
        lonely = world.add("lonely", bootstrap=[absent], join_timeout_s=5.0)
        with pytest.raises(SwarmUnreachable):
            await lonely.start()
        assert world.now >= 5.0

    in_a_world(story, size=0)


def test_a_stale_backup_is_caught_up_by_the_others() -> None:
    async def story(world: World) -> None:
        last = world.hosts["n2"]
        backup = last.backup()
        await define(world.hosts["n0"], "later")
        await until_one_mind(world)
        await last.crash()
        last.restore(backup)
        await last.restart()
        await until_one_mind(world)

    in_a_world(story)


def test_one_member_alone_cannot_promise_and_its_event_spreads_when_the_others_are_back() -> None:
    async def story(world: World) -> None:
        first = world.hosts["n0"]
        world.network.partition([["n0"], ["n1", "n2"]])
        with pytest.raises(NotDurable):
            await define(first, "alone")
        world.network.heal()
        await until_one_mind(world)

    in_a_world(story)


def test_a_process_that_stands_still_for_three_seconds_is_not_declared_dead() -> None:
    async def story(world: World) -> None:
        first, last = world.hosts["n0"], world.hosts["n2"]
        dead: list[str] = []

        def note(peer: str, was: State, state: State) -> None:
            if state is State.DEAD:
                dead.append(peer)

        node_of(first)._health.on_change(note)
        node_of(last)._health.on_change(note)
        before = world.now
        last.pause(3.0)
        await trio.sleep(3.0)
        lag = node_of(last)._vitals
        await trio.sleep(0.5)
        assert last.failure is None
        assert lag.lag_s > 2.0, "it feels that it slept"
        await trio.sleep(10)
        assert dead == []
        assert world.now - before == pytest.approx(13.5)

    in_a_world(story)


def test_clocks_may_be_wrong_and_never_go_back() -> None:
    async def story(world: World) -> None:
        clock = world.hosts["n1"].clock
        await trio.sleep(100)
        now, true = clock.now(), world.now
        assert now == pytest.approx(true)
        clock.drift, clock.skew_s = 0.05, -3600.0
        assert clock.now() == now
        await trio.sleep(100)
        assert clock.now() - now == pytest.approx(105.0)
        clock.drift = -0.05
        before = clock.now()
        await trio.sleep(100)
        assert clock.now() - before == pytest.approx(95.0)
        assert clock.wall() == pytest.approx(EPOCH_S + clock.now() - 3600.0)
        await define(world.hosts["n1"], "by-a-wrong-clock")
        await until_one_mind(world)

    in_a_world(story)


def test_no_statement_runs_in_a_world() -> None:
    async def story(world: World) -> None:
        node = node_of(world.hosts["n0"])
        with pytest.raises(SqlRefused):
            async with node._runner.run("SELECT 1"):
                pass

    in_a_world(story)


def test_publishing_goes_through_the_disks_and_survives_them() -> None:
    async def story(world: World) -> None:
        first = world.hosts["n0"]
        await node_of(first).publish("numbers", [{"x": number} for number in range(10)], create=True, replicas=2)
        holders = [host for host in world.hosts.values() if node_of(host)._store.cids()]
        assert len(holders) == 2
        (cid,) = node_of(holders[0])._store.cids()
        await holders[0].crash()
        await holders[0].restart()
        assert node_of(holders[0])._store.cids() == [cid]
        shard = await node_of(first).fetch_shard(cid_text(cid))
        assert shard[:4] == b"PAR1"

    in_a_world(story)


def test_roles_and_settings_are_the_hosts_own() -> None:
    async def story(world: World) -> None:
        worker = world.add("w", NodeRole.WORKER, bootstrap=[world.hosts["n0"]], region="there")
        await worker.start()
        assert (worker.role, node_of(worker).role) == (NodeRole.WORKER, NodeRole.WORKER)
        await until_one_mind(world)
        views = {view.node_id: view for view in node_of(world.hosts["n0"]).peers()}
        assert (views["w"].peer_id, views["w"].region) == (worker.peer_id, "there")

    in_a_world(story)
