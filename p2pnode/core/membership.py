"""Who is alive: a failure detector that takes events and a clock reading and returns what to do.

    every probe_s   ping one member, round robin in shuffled order
    no answer       ask k others to ping it (their network may be better than ours)
    nobody reached  it is suspect; asked again every period, and told so
    it hears of it  it refutes with a higher incarnation and is alive again
    no refutation   after a patience that depends on the evidence it is dead

Sources: SWIM (Das, Gupta, Motivala, DSN 2002) for probes, suspicion and incarnations; Lifeguard (Dadgar,
Phillips, Currey, arXiv 1707.00788) for patience that grows while this node itself is slow. Two things are our
own. Evidence has grades: a peer whose connection fell and whose port refuses is gone, one that is merely
silent may be paused, one that others accuse is hearsay; the more it proves, the shorter the patience. And
time in which this process did not run (a stall, SIGSTOP) counts against nobody: every deadline is measured on
the time that the detector was awake.

This file refuses to wait, to send, and to remember anybody who is not a member: forged claims cannot grow it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from p2pnode.core.gossip import Gossip
from p2pnode.core.senses import Senses
from protocols.health import Claim


class State(StrEnum):
    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    LEFT = "left"


#: Of two claims at one incarnation the later in this order wins.
_RANK = {State.ALIVE: 0, State.SUSPECT: 1, State.DEAD: 2, State.LEFT: 3}


class Evidence(IntEnum):
    """Why somebody is suspect, from weak to strong."""

    HEARSAY = 0
    SILENT = 1
    GONE = 2


#: Periods of suspicion before death. GONE is short because a process that closed its connections and whose
#: port refuses does not come back by waiting; SILENT outlives a pause of three periods with two to spare;
#: HEARSAY only backs up a node whose own probes do not get to say anything.
PATIENCE = {Evidence.GONE: 1.5, Evidence.SILENT: 4.0, Evidence.HEARSAY: 6.0}
#: Wait for a pong on an open connection, in periods; a dial with its handshakes is allowed more.
PING_PERIODS = 0.5
DIAL_PERIODS = 2.0
#: Members asked to ping for us (SWIM's k): three independent paths.
RELAYS = 3
#: Pings under way at once: enough to try a small swarm in one go, few enough not to storm a large one.
PROBES_MAX = 16
#: Members that hear a refutation or a farewell at once; gossip brings it to the others.
ANNOUNCE_MAX = 16
#: A dead member is tried once in so many periods, so that a healed partition heals here too.
DEAD_EVERY = 5
#: Two events further apart than this many periods mean that this process did not run in between.
STALL_PERIODS = 0.75
#: A claim further ahead than this is a forgery: incarnations grow by one with each refutation.
INCARNATION_LEAP = 1_000_000


@dataclass(frozen=True, slots=True)
class SendPing:
    """Ping that peer; report `answered` or `failed` with the ticket."""

    ticket: int
    peer_id: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class SendRelay:
    """Ask `via` to ping that peer within `timeout_s`; report `relayed` with the ticket."""

    ticket: int
    via: str
    peer_id: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Changed:
    """That member's state is another now."""

    peer_id: str
    was: State
    state: State


Command = SendPing | SendRelay | Changed


@dataclass(slots=True)
class _Standing:
    """What is believed of one member. Times are awake seconds."""

    state: State = State.ALIVE
    incarnation: int = 0
    evidence: Evidence = Evidence.HEARSAY
    suspect_since: float = 0.0
    ask_at: float = 0.0


@dataclass(slots=True)
class _Probe:
    """One question under way: first direct, then through `relays`."""

    peer_id: str
    stalls: int
    gone: bool = False
    relays: list[str] = field(default_factory=list)
    asked: int = 0
    denied: int = 0


class Detector:
    """One node's view. `me` may be a client: it then observes, and nobody observes it.

    Every event method takes `now` (monotonic seconds) and returns commands, to be performed in order. `tick`
    must come at least every half period; whoever calls it more seldom is taken for stalled.
    """

    def __init__(self, me: str, rng: random.Random, *, probe_s: float = 1.0, relays: int = RELAYS) -> None:
        """`relays` is 0 for a client, for whom members do not ping."""
        self.me = me
        self._relays = relays
        self._rng = rng
        self._probe_s = probe_s
        self._incarnation = 0
        self._left = False
        self._members: dict[str, _Standing] = {}
        self._linked: set[str] = set()  # who is connected, member or not: as many as the transport allows
        self._order: list[str] = []
        self._gossip = Gossip()
        self._probes: dict[int, _Probe] = {}
        self._asking: dict[str, int] = {}
        self._tickets = 0
        self._commands: list[Command] = []
        self._senses = Senses(STALL_PERIODS * probe_s)
        self._next_probe = 0.0
        self._rounds = 0

    # -- what is known

    @property
    def incarnation(self) -> int:
        return self._incarnation

    @property
    def stretch(self) -> float:
        """How many times more patient than usual this node is, because it is itself slow."""
        return self._senses.stretch

    def state_of(self, peer_id: str) -> State | None:
        """None for somebody who is no member."""
        standing = self._members.get(peer_id)
        return None if standing is None else standing.state

    def states(self) -> dict[str, State]:
        return {peer_id: standing.state for peer_id, standing in self._members.items()}

    def claims_for(self, peer_id: str) -> list[Claim]:
        """News to put on the next message to that peer; its own bad standing first, so that it can refute."""
        bad = [_claim(who, standing) for who, standing in self._members.items() if standing.state is not State.ALIVE]
        own = [claim for claim in bad if claim.peer_id == peer_id]
        if self._left:
            own.append(Claim(self.me, State.LEFT, self._incarnation))
        return self._gossip.pick(own, bad, len(self._members))

    # -- events

    def set_members(self, peer_ids: Iterable[str], now: float) -> list[Command]:
        """The catalog's members who have not left. New ones are believed alive and asked at once."""
        self._senses.wake(now)
        wanted = sorted(set(peer_ids) - {self.me})
        for peer_id in sorted(self._members.keys() - set(wanted)):
            self._forget(peer_id)
        for peer_id in wanted:
            if peer_id not in self._members:
                self._members[peer_id] = _Standing(ask_at=self._senses.awake)
                self._order.insert(self._rng.randint(0, len(self._order)), peer_id)
        self._ask_due()
        return self._take()

    def tick(self, now: float, lag_s: float = 0.0) -> list[Command]:
        """Time has passed. `lag_s` is the worst recent delay of this node's own loop."""
        self._senses.wake(now, lag_s)
        for peer_id, standing in list(self._members.items()):
            if standing.state is State.SUSPECT and self._overdue(standing):
                self._believe(peer_id, State.DEAD, standing.incarnation)
        if self._senses.awake >= self._next_probe:
            self._next_probe = self._senses.awake + self._probe_s
            self._ask_next()
        self._ask_due()
        return self._take()

    def answered(self, ticket: int, incarnation: int, claims: Iterable[Claim], now: float) -> list[Command]:
        """The pong came."""
        self._senses.wake(now)
        probe = self._end(ticket)
        if probe is not None:
            self._senses.eased()
            self._hear(probe.peer_id, incarnation, claims)
        return self._take()

    def failed(self, ticket: int, now: float, *, gone: bool) -> list[Command]:
        """No pong: in time, or (`gone`) because the stream broke or the dial was refused."""
        self._senses.wake(now)
        probe = self._probes.get(ticket)
        if probe is None:
            return self._take()
        probe.gone = gone
        others = [
            who
            for who, standing in self._members.items()
            if who != probe.peer_id and standing.state is State.ALIVE and who in self._linked
        ]
        probe.relays = sorted(self._rng.sample(others, min(self._relays, len(others))))
        probe.asked = len(probe.relays)
        if probe.stalls != self._senses.stalls or not probe.relays:
            self._conclude(ticket)
        else:
            for via in probe.relays:
                self._commands.append(SendRelay(ticket, via, probe.peer_id, self._ping_s))
        return self._take()

    def relayed(self, ticket: int, via: str, answered: bool | None, now: float) -> list[Command]:
        """`via` reached it (True), did not (False), or did not even answer us (None)."""
        self._senses.wake(now)
        probe = self._probes.get(ticket)
        if probe is None or via not in probe.relays:
            return self._take()
        if answered:
            self._end(ticket)  # it lives; only our way to it is broken
            return self._take()
        probe.relays.remove(via)
        probe.denied += answered is False
        if not probe.relays:
            self._conclude(ticket)
        return self._take()

    def heard(self, peer_id: str, incarnation: int, claims: Iterable[Claim], now: float) -> list[Command]:
        """A ping came from that peer. Strangers and clients may ask, but their word on others does not
        count.
        """
        self._senses.wake(now)
        if peer_id in self._members:
            self._hear(peer_id, incarnation, claims)
        return self._take()

    def connected(self, peer_id: str, now: float) -> list[Command]:
        """A connection to that peer stands. If it was thought ill, ask it at once: it will say otherwise."""
        self._senses.wake(now)
        self._linked.add(peer_id)
        if self.state_of(peer_id) in (State.SUSPECT, State.DEAD, State.LEFT):
            self._hint(peer_id)
        return self._take()

    def disconnected(self, peer_id: str, now: float) -> list[Command]:
        """The last connection to that peer fell: a hint, not a verdict. Ask at once."""
        self._senses.wake(now)
        self._linked.discard(peer_id)
        if self.state_of(peer_id) in (State.ALIVE, State.SUSPECT):
            self._hint(peer_id)
        return self._take()

    def leave(self, now: float) -> list[Command]:
        """This node goes on purpose: tell some members, who tell the others."""
        self._senses.wake(now)
        self._left = True
        self._incarnation += 1
        self._announce()
        return self._take()

    # -- patience

    @property
    def _ping_s(self) -> float:
        return PING_PERIODS * self._probe_s * self.stretch

    def _overdue(self, standing: _Standing) -> bool:
        """Whether suspicion has lasted long enough for its evidence, the swarm's size and our slowness."""
        spread = max(1.0, math.log10(len(self._members) + 1))
        patience_s = PATIENCE[standing.evidence] * self._probe_s * spread * self.stretch
        return self._senses.awake >= standing.suspect_since + patience_s

    # -- asking

    def _ask_next(self) -> None:
        """The round robin: every member once a round, in an order that changes with each round."""
        self._rounds += 1
        if self._rounds % DEAD_EVERY == 0:
            dead = [who for who, standing in self._members.items() if standing.state is State.DEAD]
            if dead:
                self._ask(self._rng.choice(dead))
        for _ in range(len(self._members) + 1):
            if not self._order:
                self._order = sorted(self._members)
                self._rng.shuffle(self._order)
            if not self._order:
                return
            peer_id = self._order.pop()
            if self._members[peer_id].state in (State.ALIVE, State.SUSPECT):
                self._ask(peer_id)
                return

    def _hint(self, peer_id: str) -> None:
        """Something happened to that one: ask before its turn, after the question under way if there is
        one.
        """
        self._members[peer_id].ask_at = self._senses.awake
        self._ask(peer_id)

    def _ask_due(self) -> None:
        """Those whom a hint or a suspicion puts before their turn."""
        for peer_id, standing in self._members.items():
            if standing.ask_at <= self._senses.awake:
                self._ask(peer_id)

    def _ask(self, peer_id: str) -> None:
        standing = self._members[peer_id]
        if peer_id in self._asking or len(self._probes) >= PROBES_MAX:
            return
        standing.ask_at = self._senses.awake + self._probe_s if standing.state is State.SUSPECT else math.inf
        self._tickets += 1
        self._probes[self._tickets] = _Probe(peer_id, self._senses.stalls)
        self._asking[peer_id] = self._tickets
        periods = PING_PERIODS if peer_id in self._linked else DIAL_PERIODS
        self._commands.append(SendPing(self._tickets, peer_id, periods * self._probe_s * self.stretch))

    def _end(self, ticket: int) -> _Probe | None:
        probe = self._probes.pop(ticket, None)
        if probe is not None:
            del self._asking[probe.peer_id]
        return probe

    def _conclude(self, ticket: int) -> None:
        """Nobody reached it. How much that proves depends on whether anybody confirmed it and on the
        connection.
        """
        probe = self._probes[ticket]
        self._end(ticket)
        standing = self._members[probe.peer_id]
        if probe.stalls != self._senses.stalls:  # we may have slept through the answer: ask once more
            self._hint(probe.peer_id)
            return
        alone = probe.asked > 0 and probe.denied == 0
        if alone:
            self._senses.strained()
        refused = probe.gone and probe.peer_id not in self._linked and not alone
        evidence = Evidence.GONE if refused else Evidence.SILENT
        if standing.state is State.ALIVE:
            self._believe(probe.peer_id, State.SUSPECT, standing.incarnation, evidence)
        elif standing.state is State.SUSPECT:
            standing.evidence = max(standing.evidence, evidence)

    # -- believing

    def _hear(self, peer_id: str, incarnation: int, claims: Iterable[Claim]) -> None:
        """Word from a member itself: it lives at that incarnation, and says this of others."""
        self._consider(Claim(peer_id, State.ALIVE, incarnation))
        for claim in claims:
            self._consider(claim)

    def _consider(self, claim: Claim) -> None:
        try:
            state = State(claim.state)
        except ValueError:  # a newer peer's word
            return
        if claim.peer_id == self.me:
            self._defend(state, claim.incarnation)
            return
        standing = self._members.get(claim.peer_id)
        if standing is None or claim.incarnation > standing.incarnation + INCARNATION_LEAP:
            return
        if (claim.incarnation, _RANK[state]) > (standing.incarnation, _RANK[standing.state]):
            self._believe(claim.peer_id, state, claim.incarnation)
            if state is State.SUSPECT:
                self._hint(claim.peer_id)

    def _defend(self, state: State, incarnation: int) -> None:
        """Somebody thinks ill of this node: outbid that incarnation and say so at once."""
        if self._left or not self._incarnation <= incarnation <= self._incarnation + INCARNATION_LEAP:
            return
        if state is not State.ALIVE:
            self._incarnation = incarnation + 1
            self._announce()
        else:  # an earlier life of this node had got that far
            self._incarnation = incarnation

    def _announce(self) -> None:
        """Ping some members now: every ping carries this node's standing."""
        state = State.LEFT if self._left else State.ALIVE
        self._gossip.spread(Claim(self.me, state, self._incarnation))
        there = [who for who, standing in self._members.items() if standing.state in (State.ALIVE, State.SUSPECT)]
        for peer_id in self._rng.sample(there, min(ANNOUNCE_MAX, len(there))):
            self._hint(peer_id)

    def _believe(self, peer_id: str, state: State, incarnation: int, evidence: Evidence = Evidence.HEARSAY) -> None:
        standing = self._members[peer_id]
        was = standing.state
        standing.state, standing.incarnation = state, incarnation
        if state is State.SUSPECT:
            standing.evidence, standing.suspect_since = evidence, self._senses.awake
            standing.ask_at = self._senses.awake + self._probe_s
        else:
            standing.ask_at = math.inf
        self._gossip.spread(_claim(peer_id, standing))
        if state is not was:
            self._commands.append(Changed(peer_id, was, state))

    def _forget(self, peer_id: str) -> None:
        del self._members[peer_id]
        self._gossip.forget(peer_id)
        self._order = [who for who in self._order if who != peer_id]
        ticket = self._asking.get(peer_id)
        if ticket is not None:
            self._end(ticket)

    def _take(self) -> list[Command]:
        commands, self._commands = self._commands, []
        return commands


def _claim(peer_id: str, standing: _Standing) -> Claim:
    return Claim(peer_id, standing.state, standing.incarnation)
