"""One node's door to a worker, without the rest of a node: what the connect and request figures ask through."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from p2pnode.core.model import NodeRole
from p2pnode.env import Env
from p2pnode.net.host import Libp2pTransport, open_transport
from p2pnode.net.peers import Peers
from protocols.health import HEALTH, AskStatus, Status
from simulations.local import LocalNode, LocalSwarm


class Door:
    """A transport and its peers, with one worker of a swarm known by address."""

    def __init__(self, transport: Libp2pTransport, worker: LocalNode) -> None:
        self._transport = transport
        self._peers = Peers(transport, Env())
        self._worker = worker.peer_id
        self._parted = trio.Event()
        self._peers.learn(worker.peer_id, worker.node_id, NodeRole.WORKER, worker.addresses)
        transport.on_change(self._changed)

    async def ask(self) -> None:
        """A small request with a small answer: how are you?"""
        answer, _ = await self._peers.ask(self._worker, HEALTH, AskStatus())
        assert isinstance(answer, Status)

    async def part(self) -> None:
        """Close the connection, if there is one, and wait until that is known here."""
        if self._worker in self._transport.connected():
            self._parted = trio.Event()
            await self._transport.disconnect(self._worker)
            await self._parted.wait()

    def _changed(self, peer_id: str, connected: bool) -> None:
        if not connected:
            self._parted.set()


@asynccontextmanager
async def door() -> AsyncIterator[Door]:
    async with (
        LocalSwarm(coordinators=1, workers=1, clients=0) as swarm,
        open_transport(os.urandom(32), ["/ip4/127.0.0.1/tcp/0"]) as transport,
    ):
        yield Door(transport, swarm.nodes[-1])
