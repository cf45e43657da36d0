"""A swarm in one process: real peers, guard, exchanges and state machines over a network made of memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from bootstrap.identity import Identity
from p2pnode.core.model import NodeRole
from p2pnode.core.settings import Settings
from p2pnode.env import Env, LocalDisk
from p2pnode.env.net import DialFailed, StreamBroken
from p2pnode.env.rng import Rng
from p2pnode.net.guard import Guard
from p2pnode.net.peers import Peers
from p2pnode.services.metadata import MetadataService
from p2pnode.storage.event_log import EventLog
from protocols.metadata import METADATA


class Inline:
    """Work done at once, so that virtual time cannot jump while a thread is busy."""

    async def run(self, work, *args):
        await trio.lowlevel.checkpoint()
        return work(*args)


class UnsyncedDisk(LocalDisk):
    """Durability is the storage tests' matter; these run many nodes."""

    def database(self, path):
        connection = super().database(path)
        connection.execute("PRAGMA synchronous=OFF")
        return connection


class MemoryStream:
    def __init__(self, peer_id, stream):
        self.peer_id = peer_id
        self._stream = stream

    def is_quiet(self):
        incoming = self._stream.receive_stream._incoming  # for this trio has no public word
        return not (incoming._closed or incoming._data)

    async def read(self, max_bytes):
        try:
            return bytes(await self._stream.receive_some(max_bytes))
        except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
            raise StreamBroken("closed") from error

    async def write(self, data):
        try:
            await self._stream.send_all(bytes(data))
        except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
            raise StreamBroken("closed") from error

    async def close(self):
        await self.reset()

    async def reset(self):
        with trio.CancelScope() as scope:
            scope.cancel()
            await self._stream.aclose()


class MemoryTransport:
    def __init__(self, net, peer_id):
        self.net, self.peer_id = net, peer_id
        self.handlers = {}
        self.callbacks = []
        self.links = set()
        self.streams = []

    def addresses(self):
        return [f"/memory/{self.peer_id}"]

    def serve(self, protocol_id, handler):
        self.handlers[protocol_id] = handler

    def on_change(self, callback):
        self.callbacks.append(callback)

    def connected(self):
        return sorted(self.links)

    async def dial(self, peer_id, addresses):
        await trio.lowlevel.checkpoint()
        other = self.net.transports.get(peer_id)
        if other is None or self.net.is_cut(self.peer_id, peer_id):
            raise DialFailed("no route")
        self.link(other)
        return None

    def link(self, other):
        for one, two in ((self, other), (other, self)):
            if two.peer_id not in one.links:
                one.links.add(two.peer_id)
                for callback in one.callbacks:
                    callback(two.peer_id, True)

    async def open_stream(self, peer_id, protocol_id):
        other = self.net.transports[peer_id]
        if peer_id not in self.links or protocol_id not in other.handlers:
            raise StreamBroken("not connected")
        near, far = trio.testing.memory_stream_pair()
        mine, theirs = MemoryStream(peer_id, near), MemoryStream(self.peer_id, far)
        self.streams.append((peer_id, mine))
        other.streams.append((self.peer_id, theirs))
        self.net.nursery.start_soon(other.handlers[protocol_id], theirs)
        return mine

    async def disconnect(self, peer_id):
        self.links.discard(peer_id)
        for callback in self.callbacks:
            callback(peer_id, False)
        for to, stream in self.streams:
            if to == peer_id:
                await stream.reset()


class Node:
    """The parts of a node that know facts, with a home of their own."""

    def __init__(self, swarm, number, role):
        self.swarm = swarm
        self.identity = Identity.from_seed(bytes([number + 1]) * 32)
        self.peer_id = self.identity.peer_id
        self.settings = Settings(home=swarm.home / str(number), node_id=f"node-{number}", role=role)
        self.settings.home.mkdir(exist_ok=True)

    async def open(self):
        self.env = Env(rng=Rng(self.settings.node_id), disk=UnsyncedDisk(), executor=Inline())
        self.transport = self.swarm.transports[self.peer_id] = MemoryTransport(self.swarm, self.peer_id)
        self.peers = Peers(self.transport, self.env)
        self.log = await EventLog.open(self.env, self.settings.home / "events.db")
        self.metadata = MetadataService(self.peers, self.log, self.identity, self.env, self.settings)
        await self.metadata.open(self.transport.addresses())
        self.guard = Guard(self.transport, self.metadata.authorise, self.peers.blame)
        self.guard.serve(METADATA, self.metadata.handlers())
        return self

    async def run(self):
        """Start the background work."""
        self.swarm.nursery.start_soon(self.metadata.run)

    async def join(self, other):
        await self.metadata.greet(other.peer_id)
        if self.settings.role.is_member:
            await self.metadata.announce()

    async def crash(self):
        """Gone without a word; its home stays."""
        del self.swarm.transports[self.peer_id]
        for peer_id in self.transport.connected():
            await self.swarm.part(self, self.swarm.nodes[peer_id])
        await self.log.close()

    @property
    def state(self):
        clock = self.metadata.clock
        return (len(clock), clock.fingerprint, self.metadata.catalog.digest())


class Swarm:
    def __init__(self, home: Path, nursery):
        self.home, self.nursery = home, nursery
        self.transports = {}
        self.nodes = {}
        self.cuts = set()

    async def node(self, number, role=NodeRole.HYBRID, *, run=True):
        node = await Node(self, number, role).open()
        self.nodes[node.peer_id] = node
        if run:
            await node.run()
        return node

    async def founded(self, count, *, run=True):
        """That many hybrids that know each other."""
        first = await self.node(0, run=run)
        await first.metadata.found("test")
        await first.metadata.announce()
        nodes = [first]
        for number in range(1, count):
            node = await self.node(number, run=run)
            for other in nodes:
                await node.join(other)
            nodes.append(node)
        for node in nodes:
            for other in nodes:
                if node is not other:
                    await node.metadata.greet(other.peer_id)
        return nodes

    def is_cut(self, one, other):
        return frozenset((one, other)) in self.cuts

    async def cut(self, *nodes):
        """No way between these from now on."""
        self.cuts |= {frozenset((a.peer_id, b.peer_id)) for a in nodes for b in nodes if a is not b}
        for a in nodes:
            for b in nodes:
                if a is not b:
                    await self.part(a, b)

    async def part(self, a, b):
        await a.transport.disconnect(b.peer_id)
        await b.transport.disconnect(a.peer_id)

    def heal(self):
        self.cuts.clear()


@pytest.fixture
async def swarm(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Swarm(tmp_path, nursery)
        nursery.cancel_scope.cancel()
