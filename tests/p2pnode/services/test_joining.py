"""The shell round the joining plan: who is dialed, who is greeted, when a node may call itself joined."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import trio

from bootstrap.address import parse_peer_address
from bootstrap.identity import Identity
from bootstrap.joining import Joining
from p2pnode.env import Env
from p2pnode.errors import Busy, GenesisMismatch, PeerLost
from p2pnode.services.joining import JoiningService

ME, HUB, OTHER = (Identity.from_seed(bytes([number]) * 32).peer_id for number in range(3))
HUB_ADDRESS = parse_peer_address(f"/ip4/127.0.0.1/tcp/4001/p2p/{HUB}")

pytestmark = pytest.mark.trio


class Swarm:
    """Peers that answer or do not, and what was asked of them."""

    def __init__(self, *, up: Iterable[str] = (), refusing: Exception | None = None) -> None:
        self.up = set(up)
        self.refusing = refusing
        self.dialed: list[str] = []
        self.greeted: list[str] = []
        self.members: list[str] = []
        self.on_connect: Callable[[str, bool], None] = lambda *_: None

    async def connect(self, peer_id: str, addresses: Iterable[str] = ()) -> None:
        self.dialed.append(peer_id)
        if peer_id not in self.up:
            raise PeerLost("nobody is there")
        self.on_connect(peer_id, True)

    async def greet(self, peer_id: str) -> None:
        if self.refusing:
            raise self.refusing
        self.greeted.append(peer_id)

    def service(self, *bootstrap: object) -> JoiningService:
        env = Env()
        plan = Joining(ME, bootstrap, env.rng)  # type: ignore[arg-type]
        return JoiningService(env, self, plan, greet=self.greet, wanted=lambda: self.members)  # type: ignore[arg-type]


async def test_a_dead_bootstrap_peer_is_dialed_until_it_lives(autojump_clock: trio.testing.MockClock) -> None:
    swarm = Swarm()
    joining = swarm.service(HUB_ADDRESS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(joining.run)
        await trio.sleep(120)
        assert len(swarm.dialed) > 3
        assert not joining.settled.is_set()
        assert "nobody is there" in joining.last_failure
        swarm.up.add(HUB)
        await joining.settled.wait()
        assert swarm.greeted == [HUB]
        nursery.cancel_scope.cancel()


async def test_who_is_reached_but_does_not_answer_is_greeted_again(autojump_clock: trio.testing.MockClock) -> None:
    swarm = Swarm(up=[HUB], refusing=Busy("too much at once"))
    joining = swarm.service(HUB_ADDRESS)
    swarm.on_connect = joining.connection_changed
    async with trio.open_nursery() as nursery:
        nursery.start_soon(joining.run)
        await trio.sleep(120)
        assert len(swarm.dialed) > 3
        swarm.refusing = None
        await joining.settled.wait()
        assert swarm.greeted == [HUB]
        await trio.sleep(120)
        assert swarm.greeted == [HUB], "once is enough"
        swarm.refusing = GenesisMismatch("another swarm")
        joining.connection_changed(HUB, False)
        await trio.sleep(120)
        before = len(swarm.dialed)
        await trio.sleep(120)
        assert len(swarm.dialed) == before, "a refusal is an answer"
        nursery.cancel_scope.cancel()


async def test_a_refusal_is_final_and_says_why(autojump_clock: trio.testing.MockClock) -> None:
    joining = Swarm(up=[HUB], refusing=GenesisMismatch("another swarm")).service(HUB_ADDRESS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(joining.run)
        await joining.settled.wait()
        assert isinstance(joining.refusal, GenesisMismatch)
        nursery.cancel_scope.cancel()


async def test_a_bootstrap_peer_that_could_not_answer_and_comes_back_by_itself_is_greeted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    swarm = Swarm(up=[HUB], refusing=Busy("its disk fails"))
    joining = swarm.service(HUB_ADDRESS)
    swarm.on_connect = joining.connection_changed
    async with trio.open_nursery() as nursery:
        nursery.start_soon(joining.run)
        await trio.sleep(0.01)
        assert "its disk fails" in joining.last_failure
        joining.connection_changed(HUB, False)
        swarm.refusing = None
        swarm.up.clear()  # we cannot reach it, but it reaches us
        joining.connection_changed(HUB, True)
        swarm.up.add(HUB)
        await joining.settled.wait()
        assert swarm.greeted == [HUB]
        nursery.cancel_scope.cancel()


async def test_who_came_as_a_stranger_and_turns_out_to_be_a_member_is_greeted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    swarm = Swarm(up=[OTHER])
    joining = swarm.service(HUB_ADDRESS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(joining.run)
        joining.connection_changed(OTHER, True)
        await trio.sleep(30)
        assert swarm.greeted == []
        swarm.members = [OTHER]  # somebody's push brought the catalog meanwhile
        with trio.fail_after(30):
            await joining.settled.wait()
        assert swarm.greeted == [OTHER]
        nursery.cancel_scope.cancel()


async def test_a_member_that_comes_to_us_first_ends_the_waiting(autojump_clock: trio.testing.MockClock) -> None:
    swarm = Swarm(up=[OTHER])
    swarm.members = [OTHER]
    joining = swarm.service(HUB_ADDRESS)
    joining.connection_changed(OTHER, True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(joining.run)
        await joining.settled.wait()
        assert swarm.greeted == [OTHER]
        nursery.cancel_scope.cancel()


async def test_a_newcomer_does_not_greet_whoever_comes(autojump_clock: trio.testing.MockClock) -> None:
    swarm = Swarm(up=[OTHER])
    joining = swarm.service(HUB_ADDRESS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(joining.run)
        joining.connection_changed(OTHER, True)
        await trio.sleep(30)
        assert OTHER not in swarm.greeted
        assert not joining.settled.is_set()
        nursery.cancel_scope.cancel()
