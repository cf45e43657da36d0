"""Health between nodes in one process and in virtual time: deaths, returns, holdings, statuses.

The network is a twin that runs every exchange through two protocol machines, so what one side may not say the
test may not say either.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing

from p2pnode.core.holdings import Holdings, holdings_digest
from p2pnode.core.membership import Detector, State
from p2pnode.core.model import Member, NodeRole
from p2pnode.core.settings import Settings
from p2pnode.env import Env
from p2pnode.errors import PeerLost, Timeout, Unauthorized
from p2pnode.services.health import HealthService
from p2pnode.services.vitals import Sample
from protocols.health import HEALTH, AskHoldings, Ping, Probe, Probed
from protocols.machine import Link, NeedData, Payload, PayloadEnd, Received, Side
from protocols.message import Error, Message

CIDS = [bytes([1, 0x55, 0x1E, 0x20]) + bytes([n]) * 32 for n in range(4)]


class FakeVitals:
    lag_s = 0.0
    uptime_s = 12.0
    latest = Sample(0.0, 11.0, 22.0, 33.0, 4.4, 0.5, 55 << 20)


@dataclass
class Twin:
    """One node: its service, and how the network treats it."""

    name: str
    service: HealthService
    detector: Detector
    holdings: Holdings
    cids: list[bytes]
    killed: bool = False
    silent: bool = False
    asked: list[Message] = field(default_factory=list)
    refuses: bool = False
    life: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def run(self) -> None:
        with self.life:
            await self.service.run()


class Network:
    """Twins by peer id; an exchange takes 10 ms of virtual time."""

    def __init__(self, names: list[str], nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.twins: dict[str, Twin] = {}
        self.members = [Member(self.peer_id(name), name, NodeRole.WORKER) for name in names]
        for name in names:
            self.start(name, [])

    def start(self, name: str, cids: list[bytes]) -> None:
        """A new process: it remembers nothing but what is on its disk."""
        peer_id = self.peer_id(name)
        detector, holdings = Detector(peer_id, random.Random(name)), Holdings()
        wire = Wire(self, peer_id)
        service = HealthService(
            wire,  # type: ignore[arg-type]
            detector,
            holdings,
            Env(),
            Settings(home=Path(), node_id=name),
            FakeVitals(),  # type: ignore[arg-type]
            my_digest=lambda: holdings_digest(cids),
            my_cids=lambda: list(cids),
            held_bytes=lambda: 1000 * len(cids),
            members=lambda: self.members,
        )
        wire.twin = self.twins[peer_id] = Twin(name, service, detector, holdings, cids)
        self._nursery.start_soon(self.twins[peer_id].run)

    @staticmethod
    def peer_id(name: str) -> str:
        return f"12D3Koo-{name}"

    def __getitem__(self, name: str) -> Twin:
        return self.twins[self.peer_id(name)]

    def kill(self, name: str) -> None:
        self[name].killed = True
        for twin in self.twins.values():
            if twin.name != name:
                twin.service.connection_changed(self.peer_id(name), False)

    def restart(self, name: str) -> None:
        """It runs again and has dialed ann, no other yet."""
        self.start(name, self[name].cids)
        self["ann"].service.connection_changed(self.peer_id(name), True)

    def views(self, name: str) -> set[State]:
        peer_id = self.peer_id(name)
        return {twin.service.state_of(peer_id) for twin in self.twins.values() if twin.name != name}


class Wire:
    """`Peers` as one process has it."""

    twin: Twin

    def __init__(self, network: Network, me: str) -> None:
        self._network = network
        self._me = me

    def connected(self) -> list[str]:
        return [p for p, twin in self._network.twins.items() if p != self._me and not twin.killed]

    async def ask(self, peer_id, spec, request, payload=b"", *, timeout_s=10.0):
        me = self.twin
        await trio.sleep(0.01)
        target = self._network.twins[peer_id]
        if me.killed:
            await trio.sleep_forever()
        if target.killed:
            raise PeerLost("refused")
        if target.silent or me.silent:
            await trio.sleep(timeout_s)
            raise Timeout("no answer")
        target.asked.append(request)
        asker, answerer = Link(spec, Side.ASKER), Link(spec, Side.ANSWERER)
        answerer.receive_data(asker.send(request))
        received = answerer.next_event()
        assert isinstance(received, Received)
        if target.refuses:
            asker.receive_data(answerer.send(Error(code="unauthorized")))
        else:
            exchange = Said(answerer)
            await target.service.handlers()[type(request)](self._me, received.message, exchange)  # type: ignore[arg-type]
            asker.receive_data(bytes(exchange.wire))
        answer = asker.next_event()
        assert isinstance(answer, Received)
        if isinstance(answer.message, Error):
            raise Unauthorized(answer.message.message)
        body = bytearray()
        while not isinstance(piece := asker.next_event(), PayloadEnd | NeedData):
            assert isinstance(piece, Payload)
            body += piece.data
        return answer.message, bytes(body)


class Said:
    """`Exchange`, as far as these handlers use it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.wire = bytearray()

    async def send(self, message: Message, payload: bytes = b"") -> None:
        self.wire += self._link.send(message, len(payload))
        if payload:
            self._link.send_payload(payload)
            self.wire += payload


Start = Callable[..., Network]


@pytest.fixture
def network(nursery: trio.Nursery) -> Start:
    return lambda *names: Network(list(names) or ["ann", "bob", "cat", "dan"], nursery)


@pytest.mark.trio
async def test_a_killed_node_is_dead_to_all_within_four_seconds_and_listeners_hear(
    network: Start, autojump_clock: trio.testing.MockClock
) -> None:
    swarm = network()
    await trio.sleep(3)
    heard: list[tuple[str, State]] = []
    swarm["ann"].service.on_change(lambda peer_id, was, state: heard.append((peer_id, state)))
    swarm.kill("dan")
    await trio.sleep(4)
    assert swarm.views("dan") == {State.DEAD}
    assert heard == [(swarm.peer_id("dan"), State.SUSPECT), (swarm.peer_id("dan"), State.DEAD)]


@pytest.mark.trio
async def test_a_node_silent_for_three_seconds_is_not_dead_to_anyone(
    network: Start, autojump_clock: trio.testing.MockClock
) -> None:
    swarm = network()
    await trio.sleep(3)
    dead: list[str] = []
    for twin in swarm.twins.values():
        twin.service.on_change(lambda peer_id, was, state: dead.append(peer_id) if state is State.DEAD else None)
    swarm["bob"].silent = True
    await trio.sleep(3)
    swarm["bob"].silent = False
    await trio.sleep(5)
    assert swarm.views("bob") == {State.ALIVE}
    assert dead == []


@pytest.mark.trio
async def test_one_that_comes_back_is_alive_at_once(network: Start, autojump_clock: trio.testing.MockClock) -> None:
    swarm = network()
    await trio.sleep(2)
    swarm.kill("cat")
    await trio.sleep(6)
    assert swarm.views("cat") == {State.DEAD}
    swarm.restart("cat")
    await trio.sleep(0.5)
    assert swarm.views("cat") == {State.ALIVE}


@pytest.mark.trio
async def test_holdings_follow_the_digest_and_are_fetched_only_when_it_changed(
    network: Start, autojump_clock: trio.testing.MockClock
) -> None:
    swarm = network("ann", "bob")
    swarm["bob"].cids[:] = CIDS[:2]
    await trio.sleep(3)
    bob = swarm.peer_id("bob")
    assert swarm["ann"].holdings.held_by(bob) == set(CIDS[:2])
    before = sum(isinstance(request, AskHoldings) for request in swarm["bob"].asked)
    await trio.sleep(30)
    assert sum(isinstance(request, AskHoldings) for request in swarm["bob"].asked) == before
    swarm["bob"].cids[:] = CIDS[1:]
    await trio.sleep(2.5)
    assert swarm["ann"].holdings.held_by(bob) == set(CIDS[1:])
    assert swarm["ann"].holdings.holders_of(CIDS[0]) == []


@pytest.mark.trio
async def test_the_dead_hold_nothing_and_their_return_restores_their_list(
    network: Start, autojump_clock: trio.testing.MockClock
) -> None:
    swarm = network()
    swarm["bob"].cids[:] = CIDS
    await trio.sleep(6)
    swarm.kill("bob")
    await trio.sleep(5)
    assert swarm["ann"].holdings.holders_of(CIDS[0]) == []
    swarm.restart("bob")
    await trio.sleep(6)
    assert swarm["ann"].holdings.holders_of(CIDS[0]) == [swarm.peer_id("bob")]


@pytest.mark.trio
async def test_statuses_are_documents_with_the_dead_among_them(
    network: Start, autojump_clock: trio.testing.MockClock
) -> None:
    swarm = network()
    swarm["bob"].cids[:] = CIDS
    await trio.sleep(2)
    swarm.kill("dan")
    await trio.sleep(5)
    found = await swarm["ann"].service.all_statuses()
    assert list(found) == ["ann", "bob", "cat", "dan"]
    assert found["bob"] == {
        "node_id": "bob",
        "status": "alive",
        "cpu_usage": 11.0,
        "memory_usage": 22.0,
        "disk_usage": 33.0,
        "network_usage": 4.4,
        "loop_lag_ms": 0.0,
        "uptime_s": 12.0,
        "shards": 4,
        "shard_bytes": 4000,
        "process_rss_bytes": 55 << 20,
    }
    assert found["dan"]["status"] == "dead"
    assert found["dan"]["cpu_usage"] is None
    assert found["ann"]["status"] == "alive"


@pytest.mark.trio
async def test_a_refusal_to_answer_a_ping_is_a_sign_of_life(
    network: Start, autojump_clock: trio.testing.MockClock
) -> None:
    swarm = network()
    await trio.sleep(2)
    swarm["bob"].refuses = True
    await trio.sleep(20)
    assert swarm.views("bob") == {State.ALIVE}


@pytest.mark.trio
async def test_leaving_is_known_to_all_without_suspicion(
    network: Start, autojump_clock: trio.testing.MockClock
) -> None:
    swarm = network()
    await trio.sleep(2)
    states: list[State] = []
    for twin in swarm.twins.values():
        twin.service.on_change(lambda peer_id, was, state: states.append(state))
    await swarm["cat"].service.leave()
    swarm.kill("cat")
    await trio.sleep(5)
    assert swarm.views("cat") == {State.LEFT}
    assert State.SUSPECT not in states


@pytest.mark.trio
async def test_nobody_pings_a_client_and_a_stranger_named_in_a_probe_is_not_dialed(
    network: Start, autojump_clock: trio.testing.MockClock
) -> None:
    swarm = network()
    client = swarm["dan"]
    swarm.members[:] = [member for member in swarm.members if member.node_id != "dan"]
    await trio.sleep(5)
    client.asked.clear()
    await trio.sleep(20)
    assert client.asked == []
    assert swarm["ann"].service.state_of(swarm.peer_id("dan")) is State.ALIVE, "connected"
    assert any(isinstance(request, Ping) for request in swarm["ann"].asked)
    exchange = Said(link := Link(HEALTH, Side.ANSWERER))
    asker = Link(HEALTH, Side.ASKER)
    link.receive_data(asker.send(Probe(peer_id="12D3Koo-stranger", timeout_ms=10**9)))
    event = link.next_event()
    assert isinstance(event, Received)
    await swarm["ann"].service.handlers()[Probe](swarm.peer_id("bob"), event.message, exchange)  # type: ignore[arg-type]
    asker.receive_data(bytes(exchange.wire))
    answer = asker.next_event()
    assert isinstance(answer, Received)
    assert answer.message == Probed(answered=False)


@pytest.mark.trio
async def test_when_all_is_well_a_node_wakes_once_a_period(
    network: Start, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks: list[float] = []
    tick = Detector.tick
    monkeypatch.setattr(Detector, "tick", lambda self, now, lag_s: ticks.append(now) or tick(self, now, lag_s))
    swarm = network()
    await trio.sleep(5)
    ticks.clear()
    await trio.sleep(60)
    assert len(ticks) <= 61 * len(swarm.twins)


@pytest.mark.trio
async def test_a_new_member_is_asked_as_soon_as_it_is_known(
    network: Start, autojump_clock: trio.testing.MockClock
) -> None:
    swarm = network("ann", "dan")
    newcomer = swarm.members.pop()
    await trio.sleep(5.1)
    swarm["dan"].asked.clear()
    swarm.members.append(newcomer)
    swarm["ann"].service.members_changed()
    await trio.sleep(0.05)
    assert [type(request) for request in swarm["dan"].asked][:1] == [Ping]


@pytest.mark.trio
async def test_waiting_for_doubt_ends_with_the_first_suspicion(
    network: Start, autojump_clock: trio.testing.MockClock
) -> None:
    swarm = network()
    await trio.sleep(3)
    swarm.kill("dan")
    began = trio.current_time()
    await swarm["ann"].service.until_doubtful(swarm.peer_id("dan"))
    assert trio.current_time() - began < 0.5
    assert swarm["ann"].service.state_of(swarm.peer_id("dan")) is State.SUSPECT


@pytest.mark.trio
async def test_connections_that_fall_while_the_node_stops_are_nobody_s_concern(
    network: Start, autojump_clock: trio.testing.MockClock
) -> None:
    swarm = network()
    await trio.sleep(3)
    swarm["ann"].life.cancel()
    await trio.sleep(0.1)
    swarm["ann"].service.connection_changed(swarm.peer_id("bob"), False)
    await trio.sleep(5)
    assert swarm["ann"].service.state_of(swarm.peer_id("bob")) is State.ALIVE, "nobody asked, so nobody doubts"
