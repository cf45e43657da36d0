"""One node's door to a worker, without the rest of a node: what the connect and request figures ask through."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from p2pnode.core.model import NodeRole
from p2pnode.env import Env
from p2pnode.net.host import Libp2pTransport, open_transport
from p2pnode.net.peers import Peers
from protocols.health import HEALTH, AskStatus, Status
from simulations.local import LocalSwarm


@dataclass(frozen=True, slots=True)
class Door:
    """A transport and its peers, with one worker of a swarm known by address."""

    transport: Libp2pTransport
    peers: Peers
    worker: str

    async def ask(self) -> None:
        """A small request with a small answer: how are you?"""
        answer, _ = await self.peers.ask(self.worker, HEALTH, AskStatus())
        assert isinstance(answer, Status)


@asynccontextmanager
async def door() -> AsyncIterator[Door]:
    async with (
        LocalSwarm(coordinators=1, workers=1, clients=0) as swarm,
        open_transport(os.urandom(32), ["/ip4/127.0.0.1/tcp/0"]) as transport,
    ):
        worker = swarm.nodes[-1]
        peers = Peers(transport, Env())
        peers.learn(worker.peer_id, worker.node_id, NodeRole.WORKER, worker.addresses)
        yield Door(transport, peers, worker.peer_id)
