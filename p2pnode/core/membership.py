"""Who is alive: a failure detector that takes events and a clock reading and returns what to do.

    every probe_s   ping one member, round robin in shuffled order
    no answer       ask k others to ping it (their network may be better than ours)
    nobody reached  it is suspect; asked again every period, and told so
    it answers      to us or to one of the others: it is alive
    it does not     after a patience that depends on the evidence it is dead; it is still tried now and then

Sources: SWIM (Das, Gupta, Motivala, DSN 2002) for probes, suspicion and incarnations; Lifeguard (Dadgar,
Phillips, Currey, arXiv 1707.00788) for patience that grows while this node itself is slow. Three things are our
own. Evidence has grades: a peer whose connection fell and whose port refuses is gone, one that is merely
silent may be paused; the more it proves, the shorter the patience. Time in which this process did not run (a
stall, SIGSTOP) counts against nobody: every deadline is measured on the time that the detector was awake. And
**hearsay makes us look, it never decides**: claims bear no signature, so one lying or cut-off node could otherwise
bury the swarm, or keep the dead alive. Whatever is said of somebody, we ask that one ourselves; only when it
does not answer us either does the word of two others count, and then it saves the patience. So each node tells what
it found out itself, and news still spreads as fast as rumours do, for whoever hears one checks it at once. A member's
incarnation is what that member said to us; that somebody left for good, too, is only its own to say.

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


#: The states in which a member may answer, and those in which nothing is expected of it.
THERE = (State.ALIVE, State.SUSPECT)
ABSENT = (State.DEAD, State.LEFT)


class Evidence(IntEnum):
    """What our own asking showed of a suspect, from weak to strong."""

    SILENT = 1
    GONE = 2


#: Periods of suspicion before death. GONE is short because a process that closed its connections and whose
#: port refuses does not come back by waiting; SILENT outlives a pause of three periods with one to spare, and grows
#: with the logarithm of the swarm, as the time does in which its answer to anybody becomes known.
PATIENCE = {Evidence.GONE: 1.2, Evidence.SILENT: 4.0}
#: Others who say that somebody is dead, from which on our own failure to reach it needs no patience; and others who
#: reached one whom we do not, from which on we take back that it is ill. One may lie.
ACCUSERS = 2
VOUCHERS = 2
#: Wait for a pong on an open connection, in periods; a dial with its handshakes is allowed more.
PING_PERIODS = 0.5
DIAL_PERIODS = 2.0
#: Members asked to ping for us (SWIM's k): three independent paths.
RELAYS = 3
#: Pings under way at once: enough to try a small swarm in one go, few enough not to storm a large one.
PROBES_MAX = 16
#: Of these, pings to the dead, which mostly wait for their deadline.
PROBES_OF_DEAD_MAX = 8
#: Members that hear a refutation or a farewell at once, and that hear so of somebody found ill; gossip brings it to
#: the others.
ANNOUNCE_MAX = 16
WARNED = 3
#: One of the dead is tried in so many periods, at random so that nodes do not march in step. A healed partition thus
#: heals here too: half a swarm that finds the other half dead tries some of it many times a second.
DEAD_EVERY = 3
#: When one of the dead answers, others may have come back with it: each of them is tried within so many periods, and
#: as often again, a period apart, if a message was lost. No new sweep begins before SWEEP_PAUSE_PERIODS.
SWEEP_PERIODS = 1.0
SWEEP_AGAIN = 2
SWEEP_PAUSE_PERIODS = 2.0
#: Members that one message can make us ask before their turn. A liar costs us no more than that.
RUMOURS_MAX = 4
#: Somebody who spoke to us within so many periods needs no asking, whatever is said of it.
FRESH_PERIODS = 1.0
#: Waking so many periods later than was wanted means that this process did not run in between.
STALL_PERIODS = 0.75
#: An accusation of us further ahead than this is a forgery: incarnations grow by one with each refutation.
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
    #: The highest that it told us itself.
    incarnation: int = 0
    evidence: Evidence = Evidence.SILENT
    suspect_since: float = 0.0
    #: When to ask before its turn; infinity: not.
    ask_at: float = math.inf
    asked_at: float = -math.inf
    #: When it last spoke to us.
    met_at: float = -math.inf
    #: Who said that it is dead, since then.
    accusers: dict[str, None] = field(default_factory=dict)
    #: Others say that it left; that it lives after all.
    farewell: bool = False
    vouched: bool = False
    #: How often it is still to be tried because others of the dead answered.
    again: int = 0
    #: It has not outbid yet what we said of it at its incarnation; we tell it so until it does.
    accused: State | None = None


@dataclass(slots=True)
class _Probe:
    """One question under way: first direct, then through `relays`."""

    peer_id: str
    stalls: int
    gone: bool = False
    relays: list[str] = field(default_factory=list)
    asked: int = 0
    reached: int = 0
    denied: int = 0


class Detector:
    """One node's view. `me` may be a client: it then observes, and nobody observes it.

    Every event method takes `now` (monotonic seconds) and returns commands, to be performed in order. `tick`
    must come when `due` says; whoever calls it much later is taken for stalled.
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
        #: Members that are not simply alive, or that were told off and have not outbid it: few, in order of mishap.
        self._ill: dict[str, _Standing] = {}
        #: Members to be asked before their turn.
        self._urgent: dict[str, _Standing] = {}
        self._linked: set[str] = set()  # who is connected, member or not: as many as the transport allows
        self._order: list[str] = []
        self._gossip = Gossip()
        self._probes: dict[int, _Probe] = {}
        self._asking: dict[str, int] = {}
        self._tickets = 0
        self._commands: list[Command] = []
        self._senses = Senses(STALL_PERIODS * probe_s)
        self._next_probe = 0.0
        self._announce_at = -math.inf
        self._sweep_at = -math.inf
        #: Monotonic seconds at which `tick` is wanted next; events may bring it nearer.
        self.due = -math.inf

    # -- what is known

    @property
    def incarnation(self) -> int:
        return self._incarnation

    @property
    def stretch(self) -> float:
        """How many times more patient than usual this node is, because it is itself slow."""
        return self._senses.stretch

    def awake(self, now: float) -> float:
        """Seconds on a clock that stood still while this process did not run."""
        self._senses.wake(now)
        self._expect()
        return self._senses.awake

    def state_of(self, peer_id: str) -> State | None:
        """None for somebody who is no member."""
        standing = self._members.get(peer_id)
        return None if standing is None else standing.state

    def states(self) -> dict[str, State]:
        return {peer_id: standing.state for peer_id, standing in self._members.items()}

    def claims_for(self, peer_id: str) -> list[Claim]:
        """News to put on the next message to that peer; its own bad standing first, so that it can refute."""
        own: list[Claim] = []
        accused = self._ill.get(peer_id)
        if accused is not None and accused.accused is not None:
            own.append(Claim(peer_id, accused.accused, accused.incarnation))
        if self._left:
            own.append(Claim(self.me, State.LEFT, self._incarnation))
        bad = [
            _claim(who, standing)
            for who, standing in self._ill.items()
            if standing.state is not State.ALIVE and who != peer_id
        ]
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
                self._members[peer_id] = _Standing()
                self._order.insert(self._rng.randint(0, len(self._order)), peer_id)
                self._hurry(peer_id, self._senses.awake)
        self._ask_due()
        return self._take()

    def tick(self, now: float, lag_s: float = 0.0) -> list[Command]:
        """Time has passed. `lag_s` is the worst recent delay of this node's own loop."""
        self._senses.wake(now, lag_s)
        for peer_id, standing in list(self._ill.items()):
            if standing.state is State.SUSPECT and self._senses.awake >= self._dies_at(standing):
                self._believe(peer_id, State.LEFT if standing.farewell else State.DEAD)
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
        standing = self._members[probe.peer_id]
        hopeless = standing.state in ABSENT and not standing.vouched
        standing.vouched = False
        if probe.stalls == self._senses.stalls and not hopeless:
            others = [
                who
                for who, other in self._members.items()
                if who != probe.peer_id and other.state is State.ALIVE and who in self._linked
            ]
            probe.relays = sorted(self._rng.sample(others, min(self._relays, len(others))))
        probe.asked = len(probe.relays)
        for via in probe.relays:
            self._commands.append(SendRelay(ticket, via, probe.peer_id, self._ping_s))
        if not probe.relays:
            self._conclude(ticket)
        return self._take()

    def relayed(self, ticket: int, via: str, answered: bool | None, now: float) -> list[Command]:
        """`via` reached it (True), did not (False), or did not even answer us (None)."""
        self._senses.wake(now)
        probe = self._probes.get(ticket)
        if probe is None or via not in probe.relays:
            return self._take()
        probe.relays.remove(via)
        probe.reached += answered is True
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
        if self.state_of(peer_id) in THERE:
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

    def _dies_at(self, standing: _Standing) -> float:
        """When a suspicion has lasted long enough for its evidence, the swarm's size and our slowness."""
        silent = standing.evidence is Evidence.SILENT
        spread = max(1.0, math.log10(len(self._members) + 1)) if silent else 1.0
        return standing.suspect_since + PATIENCE[standing.evidence] * self._probe_s * spread * self.stretch

    # -- asking

    def _ask_next(self) -> None:
        """The round robin: every member once a round, in an order that changes with each round."""
        if self._ill and self._rng.random() * DEAD_EVERY < 1:
            dead = [who for who, standing in self._ill.items() if standing.state in ABSENT]
            if dead:
                self._ask(self._rng.choice(dead))
        for _ in range(len(self._members) + 1):
            if not self._order:
                self._order = sorted(self._members)
                self._rng.shuffle(self._order)
            if not self._order:
                return
            peer_id = self._order.pop()
            if self._members[peer_id].state not in ABSENT:
                self._ask(peer_id)
                return

    def _hint(self, peer_id: str) -> None:
        """Something happened to that one: ask before its turn, after the question under way if there is
        one.
        """
        self._hurry(peer_id, self._senses.awake)
        self._ask(peer_id)

    def _hurry(self, peer_id: str, ask_at: float) -> None:
        """Ask that one at `ask_at` at the latest."""
        standing = self._members[peer_id]
        standing.ask_at = ask_at
        self._urgent[peer_id] = standing

    def _ask_due(self) -> None:
        """Those whom a hint or a suspicion puts before their turn."""
        for peer_id, standing in list(self._urgent.items()):
            if standing.ask_at <= self._senses.awake:
                self._ask(peer_id)

    def _ask(self, peer_id: str) -> None:
        standing = self._members[peer_id]
        if peer_id in self._asking or len(self._probes) >= PROBES_MAX:
            return
        if standing.state in ABSENT and self._absent_under_way() >= PROBES_OF_DEAD_MAX:
            return
        standing.asked_at = self._senses.awake
        if standing.state is State.SUSPECT:
            self._hurry(peer_id, self._senses.awake + self._probe_s)
        else:
            standing.ask_at = math.inf
            self._urgent.pop(peer_id, None)
        self._tickets += 1
        self._probes[self._tickets] = _Probe(peer_id, self._senses.stalls)
        self._asking[peer_id] = self._tickets
        periods = PING_PERIODS if peer_id in self._linked else DIAL_PERIODS
        self._commands.append(SendPing(self._tickets, peer_id, periods * self._probe_s * self.stretch))

    def _absent_under_way(self) -> int:
        return sum(self._members[who].state in ABSENT for who in self._asking)

    def _end(self, ticket: int) -> _Probe | None:
        probe = self._probes.pop(ticket, None)
        if probe is not None:
            del self._asking[probe.peer_id]
        return probe

    def _conclude(self, ticket: int) -> None:
        """We did not reach it. If others did, it lives; yet one of them alone, who may lie, does not revive it. How
        much else it proves depends on whether anybody confirmed it and on the connection.
        """
        probe = self._probes[ticket]
        self._end(ticket)
        standing = self._members[probe.peer_id]
        if probe.reached and probe.reached >= probe.denied:
            if standing.state is not State.ALIVE and probe.reached >= min(VOUCHERS, probe.asked):
                self._believe(probe.peer_id, State.ALIVE)
            return
        if standing.state in ABSENT:
            if standing.again:
                standing.again -= 1
                self._hurry(probe.peer_id, self._senses.awake + self._probe_s)
            return
        if probe.stalls != self._senses.stalls:  # we may have slept through the answer: ask once more
            self._hint(probe.peer_id)
            return
        alone = probe.asked > 0 and probe.denied == 0
        if alone:
            self._senses.strained()
        refused = probe.gone and probe.peer_id not in self._linked and not alone
        evidence = Evidence.GONE if refused else Evidence.SILENT
        if standing.farewell and refused:
            self._believe(probe.peer_id, State.LEFT)
        elif len(standing.accusers) >= ACCUSERS:
            self._believe(probe.peer_id, State.DEAD)
        elif standing.state is State.ALIVE:
            self._believe(probe.peer_id, State.SUSPECT, evidence)
        else:
            standing.evidence = max(standing.evidence, evidence)

    def _sweep(self) -> None:
        """One of the dead has answered: try the others too, spread over a while."""
        if self._senses.awake < self._sweep_at:
            return
        self._sweep_at = self._senses.awake + SWEEP_PAUSE_PERIODS * self._probe_s
        for peer_id, standing in self._ill.items():
            if standing.state is State.DEAD:
                standing.again = SWEEP_AGAIN
                self._hurry(peer_id, self._senses.awake + SWEEP_PERIODS * self._probe_s * self._rng.random())

    # -- believing

    def _hear(self, peer_id: str, incarnation: int, claims: Iterable[Claim]) -> None:
        """Word from a member itself: it lives, at that incarnation, and says this of others."""
        claims = list(claims)
        goes = any(claim.peer_id == peer_id and claim.state == State.LEFT for claim in claims)
        self._meet(peer_id, incarnation, goes=goes)
        rumours = 0
        for claim in claims:
            if claim.peer_id == self.me:
                self._defend(claim)
            elif claim.peer_id != peer_id and rumours < RUMOURS_MAX:
                rumours += self._consider(claim, peer_id)

    def _meet(self, peer_id: str, incarnation: int, *, goes: bool) -> None:
        standing = self._members[peer_id]
        ahead = incarnation > standing.incarnation
        standing.incarnation = max(standing.incarnation, incarnation)
        standing.met_at = self._senses.awake
        standing.accusers.clear()
        standing.farewell = False
        if goes or (standing.state is State.LEFT and not ahead):  # what it sent before its farewell may come after it
            if standing.state is not State.LEFT:
                self._believe(peer_id, State.LEFT)
            return
        if ahead:
            standing.accused = None
        was = standing.state
        if was is not State.ALIVE:
            self._believe(peer_id, State.ALIVE)
        elif ahead:
            self._gossip.spread(_claim(peer_id, standing))
            self._note(peer_id)
        if was is State.DEAD:
            self._sweep()

    def _consider(self, claim: Claim, source: str) -> bool:
        """What `source` says of a third. Returns whether it made us ask that one before its turn."""
        standing = self._members.get(claim.peer_id)
        if standing is None:
            return False
        match claim.state:
            case State.ALIVE if standing.state in ABSENT:
                if self._senses.awake < standing.asked_at + self._probe_s:
                    return False
                standing.vouched = True
            case State.SUSPECT | State.DEAD | State.LEFT if standing.state in THERE:
                fresh = self._senses.awake < standing.met_at + FRESH_PERIODS * self._probe_s
                if (fresh and standing.state is State.ALIVE) or claim.incarnation < standing.incarnation:
                    return False
                standing.farewell = standing.farewell or claim.state == State.LEFT
                if claim.state == State.DEAD:
                    standing.accusers[source] = None
                if standing.state is State.SUSPECT:  # we are asking it anyway, and did not reach it
                    if len(standing.accusers) >= ACCUSERS:
                        self._believe(claim.peer_id, State.DEAD)
                    return False
            case _:  # nothing new, or a newer peer's word
                return False
        if claim.peer_id in self._asking:
            return False
        self._hint(claim.peer_id)
        return True

    def _defend(self, claim: Claim) -> None:
        """Somebody speaks of this node: if ill, outbid that incarnation and say so at once."""
        if self._left or not self._incarnation <= claim.incarnation <= self._incarnation + INCARNATION_LEAP:
            return
        if claim.state == State.ALIVE:  # an earlier life of this node had got that far
            self._incarnation = claim.incarnation
        elif claim.state in (State.SUSPECT, State.DEAD, State.LEFT):
            self._incarnation = claim.incarnation + 1
            if self._senses.awake >= self._announce_at:
                self._announce_at = self._senses.awake + self._probe_s
                self._announce()

    def _announce(self) -> None:
        """Ping some members now: every ping carries this node's standing."""
        state = State.LEFT if self._left else State.ALIVE
        self._gossip.spread(Claim(self.me, state, self._incarnation))
        self._tell(ANNOUNCE_MAX, THERE)

    def _tell(self, count: int, states: tuple[State, ...]) -> None:
        """Ping some members in these states now, so that they hear the news."""
        there = [who for who, standing in self._members.items() if standing.state in states]
        for peer_id in self._rng.sample(there, min(count, len(there))):
            self._hint(peer_id)

    def _believe(self, peer_id: str, state: State, evidence: Evidence = Evidence.SILENT) -> None:
        """Change that member's state: each change is our own finding, and we tell it as such."""
        standing = self._members[peer_id]
        was, standing.state = standing.state, state
        if state is not State.ALIVE:
            standing.accused = state
        if state is State.SUSPECT:
            standing.evidence, standing.suspect_since = evidence, self._senses.awake
            self._hurry(peer_id, self._senses.awake + self._probe_s)
        else:
            standing.ask_at = math.inf
            self._urgent.pop(peer_id, None)
        self._note(peer_id)
        self._gossip.spread(_claim(peer_id, standing))
        self._commands.append(Changed(peer_id, was, state))
        if state in (State.SUSPECT, State.DEAD):
            self._tell(WARNED, (State.ALIVE,))

    def _note(self, peer_id: str) -> None:
        """Keep `_ill` what it says it is."""
        standing = self._members[peer_id]
        if standing.state is State.ALIVE and standing.accused is None:
            self._ill.pop(peer_id, None)
        else:
            self._ill[peer_id] = standing

    def _forget(self, peer_id: str) -> None:
        del self._members[peer_id]
        self._ill.pop(peer_id, None)
        self._urgent.pop(peer_id, None)
        self._gossip.forget(peer_id)
        self._order = [who for who in self._order if who != peer_id]
        ticket = self._asking.get(peer_id)
        if ticket is not None:
            self._end(ticket)

    def _take(self) -> list[Command]:
        """What the event gave rise to."""
        self._expect()
        commands, self._commands = self._commands, []
        return commands

    def _expect(self) -> None:
        """Make `due` what it should be."""
        due = self._next_probe
        if self._urgent and len(self._probes) < PROBES_MAX:
            full = self._absent_under_way() >= PROBES_OF_DEAD_MAX
            for peer_id, standing in self._urgent.items():
                if peer_id not in self._asking and not (full and standing.state in ABSENT):
                    due = min(due, standing.ask_at)
        for standing in self._ill.values():
            if standing.state is State.SUSPECT:
                due = min(due, self._dies_at(standing))
        self.due = self._senses.expect(due)


def _claim(peer_id: str, standing: _Standing) -> Claim:
    return Claim(peer_id, standing.state, standing.incarnation)
