"""A network between simulated machines: who may reach whom, how long it takes, what is lost on the way.

Packets are lost, late and overtaken; streams are not, as over TCP: what a stream carries comes in order or not at all.
Loss shows as retransmission (each try doubles the wait), reordering as streams that overtake each other, duplication
as a request that a ghost asks once more on a stream of its own. Nothing passes a blocked way; a connection that got
nothing through for BLACKOUT_S is broken at the end that tried, and the other end learns of it when it tries itself, or
by keepalive. A machine that lost its power says nothing; once it is back, whatever still comes for its old self is
answered with a reset.

Peer ids are proved: a transport answers for the identity it was opened with, and a dial for another one fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from bootstrap.identity import Identity
from p2pnode.env import Rng
from p2pnode.env.net import Transport
from p2pnode.env.together import one_failure
from simulations.world.chance import stream
from simulations.world.life import Life
from simulations.world.loop import VirtualClock
from simulations.world.trace import Trace
from simulations.world.transport import SimTransport

if TYPE_CHECKING:
    from simulations.world.wire import End, Machine, Pipe

#: Seconds before the first retransmission; each further one doubles it, up to the last.
RTO_S, RTO_MAX_S = 0.2, 4.0
#: Tries of one packet that random loss may take in a row: more than that is a blocked way.
LOSSES_MAX = 5
#: A connection that got nothing through for so long is broken.
BLACKOUT_S = 10.0
#: After a way is cut, an end that says nothing learns of it within these (keepalive, three tries).
KEEPALIVE_S = (15.0, 30.0)
#: A ghost repeats a request so long after it came, at most.
GHOST_S = 5.0


@dataclass(frozen=True, slots=True)
class Link:
    """One direction between two machines. Times in virtual seconds, chances per packet, 0–1."""

    latency_s: float = 0.002
    #: Added, evenly from nothing to this.
    jitter_s: float = 0.001
    loss: float = 0.0
    #: A request is asked once more by a ghost.
    duplicate: float = 0.0
    #: Up to this is added to a stream's packet now and then (one in four), so that streams overtake each other.
    reorder_s: float = 0.0
    #: A packet is late by up to `spike_s`.
    spike: float = 0.0
    spike_s: float = 0.0
    bytes_s: float = 12.5e6


class SimNetwork:
    """All links of one world. Machines are known by name."""

    def __init__(self, seed: int, clock: VirtualClock, trace: Trace) -> None:
        self.clock = clock
        self.trace = trace
        #: What every direction is like that was not set by itself.
        self.conditions = Link()
        #: What passes is encrypted under keys that no seed knows: the trace takes its length only.
        self.sealed = False
        #: What happened, for people: dials, refused, streams, delivered, bytes, lost, duplicated, broken.
        self.counts: Counter[str] = Counter()
        self._seed = seed
        self._links: dict[tuple[str, str], Link] = {}
        self._chances: dict[tuple[str, str], Rng] = {}
        self._blocked: dict[tuple[str, str], float] = {}
        self._transports: dict[str, SimTransport] = {}
        #: By name, as it is now; it stays when it loses its power.
        self._machines: dict[str, Machine] = {}
        self._stalled: dict[Pipe, None] = {}

    # -- conditions --------------------------------------------------------------------------------------------

    def set_all(self, link: Link) -> None:
        """Every direction is like this from now on."""
        self.conditions = link
        self._links.clear()

    def set_link(self, source: str, target: str, link: Link) -> None:
        """One direction is like this from now on."""
        self._links[source, target] = link

    def link(self, source: str, target: str) -> Link:
        return self._links.get((source, target), self.conditions) if self._links else self.conditions

    def block(self, source: str, target: str, *, both: bool = True) -> None:
        """Nothing passes from `source` to `target` (and back) any more."""
        for pair in ((source, target), (target, source))[: 2 if both else 1]:
            if pair not in self._blocked:
                self._blocked[pair] = self.clock.current_time()
                self.trace.note("blocked", *pair)
        self._watch_idle(source, target)

    def unblock(self, source: str, target: str, *, both: bool = True) -> None:
        """What waits passes again with its next retransmission."""
        for pair in ((source, target), (target, source))[: 2 if both else 1]:
            if self._blocked.pop(pair, None) is not None:
                self.trace.note("unblocked", *pair)
        self._resume({source, target})

    def partition(self, groups: Sequence[Sequence[str]]) -> None:
        """Nothing passes between the groups; a machine in none of them keeps its links."""
        for index, group in enumerate(groups):
            for other in groups[index + 1 :]:
                for source in group:
                    for target in other:
                        self.block(source, target)

    def heal(self) -> None:
        """No way is blocked, and every direction is as a plain `Link` has it."""
        self.set_all(Link())
        for pair in self._blocked:
            self.trace.note("unblocked", *pair)
        self._blocked.clear()
        self._resume()

    def is_open(self, source: str, target: str) -> bool:
        """Whether a packet may pass from one to the other now."""
        return not self._blocked or (source, target) not in self._blocked

    # -- transports --------------------------------------------------------------------------------------------

    def open(
        self, name: str, address: str, life: Life
    ) -> Callable[[bytes, Sequence[str], str], AbstractAsyncContextManager[Transport]]:
        """What `open_node` wants as its transport: the transport of that machine, at that address, for one life."""

        @asynccontextmanager
        async def transport(seed: bytes, listen: Sequence[str], swarm_key: str) -> AsyncIterator[Transport]:
            life.check()
            peer_id = Identity.from_seed(seed).peer_id
            with one_failure():
                async with trio.open_nursery() as nursery:
                    transport = SimTransport(self, name, peer_id, address, life, nursery)
                    self._transports[address] = transport
                    self.settle(transport)
                    try:
                        yield transport
                    finally:
                        transport.close()
                        nursery.cancel_scope.cancel()

        return transport

    def settle(self, machine: Machine) -> None:
        """A machine of that name is there from now on."""
        self._machines[machine.name] = machine
        self.trace.note("opens", machine.name, machine.peer_id)
        self._resume({machine.name})

    def transport_at(self, address: str) -> SimTransport | None:
        """Who listens there now, dead or alive."""
        return self._transports.get(address)

    def machine(self, name: str) -> Machine | None:
        """The last life of that machine at the network, dead or alive."""
        return self._machines.get(name)

    def buffered_bytes(self, name: str) -> int:
        """Bytes on their way to that machine or unread by it."""
        machine = self._machines.get(name)
        return 0 if machine is None else machine.buffered_bytes()

    # -- for transports and pipes ------------------------------------------------------------------------------

    def chance(self, source: str, target: str) -> Rng:
        """What befalls packets that way: a stream of its own."""
        found = self._chances.get((source, target))
        if found is None:
            found = self._chances[source, target] = stream(self._seed, "link", source, target)
        return found

    def delay_s(self, source: str, target: str, size: int) -> float:
        """How long a packet takes that way, its losses included."""
        link, random = self.link(source, target), self.chance(source, target).random
        delay = link.latency_s + link.jitter_s * random() + size / link.bytes_s
        if link.loss:
            wait = RTO_S
            for _ in range(LOSSES_MAX):
                if random() >= link.loss:
                    break
                self.counts["lost"] += 1
                delay += wait
                wait = min(2 * wait, RTO_MAX_S)
        if link.reorder_s and random() < 0.25:
            delay += link.reorder_s * random()
        if link.spike and random() < link.spike:
            delay += link.spike_s * random()
        return delay

    def stall(self, pipe: Pipe) -> None:
        """That pipe gets nothing through; look again when a way opens, and give it up after BLACKOUT_S."""
        now = self.clock.current_time()
        self._stalled[pipe] = None
        pipe.stalled_at = now
        self.clock.at(now + BLACKOUT_S, self._give_up, pipe, now)

    def _give_up(self, pipe: Pipe, since: float) -> None:
        if pipe in self._stalled and pipe.stalled_at == since:
            del self._stalled[pipe]
            pipe.waiting.clear()
            pipe.source.break_("nothing gets through")

    def unacknowledged(self, end: End) -> None:
        """What that end sends arrives, and it never hears of it: it gives up after BLACKOUT_S."""
        if not end.unacknowledged:
            end.unacknowledged = True
            since = self._blocked.get((end.far, end.near))
            self.clock.at(self.clock.current_time() + BLACKOUT_S, self._unheard, end, since)

    def _unheard(self, end: End, since: float | None) -> None:
        end.unacknowledged = False
        if since is not None and self._blocked.get((end.far, end.near)) == since:
            end.break_("nothing is acknowledged")

    def _resume(self, between: Collection[str] | None = None) -> None:
        """Ways have opened, to or between these: what waits is sent again when its retransmission is due."""
        now = self.clock.current_time()
        for pipe in list(self._stalled):
            if (between is None or pipe.source.far in between) and pipe.source.passes():
                del self._stalled[pipe]
                self.clock.at(_next_try(pipe.stalled_at, now), pipe.resume)

    def _watch_idle(self, one: str, other: str) -> None:
        """Ends that say nothing find out by keepalive."""
        for name, far in ((one, other), (other, one)):
            machine = self._machines.get(name)
            if machine is not None:
                for end in machine.ends_to(far):
                    self.watch(end.check, self.chance(name, far))

    def replay(self, end: End, protocol_id: str, data: bytes, chance: Rng) -> None:
        """A ghost asks that of the machine at the other end, now or later."""

        def ask() -> None:
            there = self.machine(end.far)
            if there is not None and self.is_open(end.near, end.far):
                there.replayed(end.machine.peer_id, protocol_id, data)

        self.clock.at(self.clock.current_time() + GHOST_S * chance.random(), ask)

    def watch(self, check: Callable[[], None], chance: Rng) -> None:
        """Call `check` when keepalive has had its time."""
        self.clock.at(self.clock.current_time() + chance.uniform(*KEEPALIVE_S), check)

    def lost_power(self, machine: Machine) -> None:
        """A machine is gone without a word."""
        self.trace.note("dark", machine.name)
        for name in list(self._machines):
            self._watch_idle(name, machine.name)


def _next_try(first: float, now: float) -> float:
    """When a packet that was tried at `first` is tried next, from now on."""
    at, wait = first, RTO_S
    while at <= now:
        at += wait
        wait = min(2 * wait, RTO_MAX_S)
    return at
