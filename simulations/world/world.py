"""A whole world in one process: machines, the network between them, the trace of what happens, all from one seed.

    async def story() -> str:
        async with open_world(seed=7) as world:
            first = world.add("n0")
            await first.start()
            ...
            return world.trace.digest()

    run_virtual(story, seed=7)

Every node is a real `p2pnode.node.Node`; only what `p2pnode.env` stands for is simulated. This package refuses to
say what should happen and what must hold: `plan`, `workload` and `checks` do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from p2pnode.core.model import NodeRole
from p2pnode.core.settings import Settings
from p2pnode.env import Rng
from p2pnode.env.shield import shielded
from p2pnode.env.together import one_failure
from p2pnode.node import OpenTransport
from simulations.world.chance import stream
from simulations.world.host import Host
from simulations.world.life import Life
from simulations.world.loop import CLOCK, LOGGED
from simulations.world.network import SimNetwork
from simulations.world.sockets import SimSockets, over_libp2p
from simulations.world.trace import Trace

PORT = 4001


class World:
    """Made by `open_world`."""

    def __init__(self, seed: int, nursery: trio.Nursery, *, libp2p: bool = False) -> None:
        self.seed = seed
        self.nursery = nursery
        self.clock = CLOCK.get()
        self.logged = LOGGED.get()
        self.trace = Trace(self.clock.current_time, readable=self.logged.verbose)
        self.network = SimNetwork(seed, self.clock, self.trace)
        #: Where the nodes' real libp2p stack finds its TCP; None where the network itself carries their streams.
        self.sockets = SimSockets(self.network) if libp2p else None
        #: By name, in the order in which they were added.
        self.hosts: dict[str, Host] = {}

    @property
    def now(self) -> float:
        """Virtual seconds since the world began."""
        return self.clock.current_time()

    @property
    def errors(self) -> list[tuple[float, str, str, dict[str, Any]]]:
        """What nodes logged as errors: (virtual time, host, event, fields)."""
        return self.logged.errors

    def transport(self, name: str, address: str, life: Life) -> OpenTransport:
        """How the node on that machine opens its network, for one life."""
        if self.sockets is None:
            return self.network.open(name, address, life)
        return over_libp2p(self.sockets, name, address, life)

    def rng(self, *purpose: object) -> Rng:
        """The seed's generator for one purpose; see `chance.stream`."""
        return stream(self.seed, *purpose)

    def add(
        self, name: str, role: NodeRole = NodeRole.HYBRID, *, bootstrap: Iterable[Host] = (), **settings: Any
    ) -> Host:
        """A new machine, not started. `settings` are fields of `Settings` that shall differ from a plain node's."""
        number = len(self.hosts)
        plain = Settings(
            home=Path("/home") / name,
            node_id=name,
            role=role,
            listen=(f"/ip4/10.{number >> 16}.{number >> 8 & 255}.{number & 255}/tcp/{PORT}",),
            bootstrap=tuple(f"{host.address}/p2p/{host.peer_id}" for host in bootstrap),
            open_swarm=True,
        )
        host = self.hosts[name] = Host(self, replace(plain, **settings))
        return host


@asynccontextmanager
async def open_world(seed: int, *, libp2p: bool = False) -> AsyncIterator[World]:
    """A world without machines; leaving it switches off whatever runs. Only inside `run_virtual`.

    With `libp2p`, nodes run the real stack over simulated sockets: some times slower, of every message the trace knows
    the length only, and a run repeats closely rather than exactly, for the library resets streams in the order of a
    set.
    """
    with one_failure():
        async with trio.open_nursery() as nursery:
            world = World(seed, nursery, libp2p=libp2p)
            try:
                yield world
            finally:
                with shielded():
                    for host in world.hosts.values():
                        host.cut_power()
                    for host in world.hosts.values():
                        await host.until_down()
                nursery.cancel_scope.cancel()
