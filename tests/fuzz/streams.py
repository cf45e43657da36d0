"""Accidents on the streams of a whole node: guard, exchange, handlers and all behind them, in virtual time.

A member of a world of three asks its victim wrong words, and answers it with wrong words, on every protocol. Nothing
may leave the victim but its own refusals: no handler fails, no task dies, nothing that it asks raises what has no
name, the loop stays free, and afterwards the swarm works as before. What is accepted here was well formed and badly
meant, so this is where a field's nonsense reaches those who act on it.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random

import trio

from p2pnode.core.conduct import Conduct, Reason
from p2pnode.env.net import RawStream, StreamBroken
from p2pnode.errors import P2PNodeError
from protocols.codec import encode
from protocols.errors import LocalProtocolError
from protocols.frame import frame
from protocols.metadata import METADATA, Push
from simulations.world.host import Host
from simulations.world.inside import define, ledger_of, metadata_of, peers_of, raw_stream
from simulations.world.loop import run_virtual
from simulations.world.world import World, open_world
from tests.fuzz import samples
from tests.fuzz.mutate import CBOR, mutate
from tests.fuzz.targets import make_words

#: Virtual seconds that a case is given: the far end may keep quiet, and has a deadline of its own.
CASE_S = 2.0
#: Resolution of the times of steps.
STEP_S = 20e-6
#: Every so many cases the accounts are closed and whoever was dropped is let in again.
CLEAN_EVERY = 4


@dataclass
class Outcome:
    """What came of the cases."""

    cases: int = 0
    #: Answers that the attacker heard, and such of its own that were accepted.
    answered: int = 0
    blamed: Counter[Reason] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    #: Processor time of single steps of tasks, in units of STEP_S: how long the loop was not free.
    steps: Counter[int] = field(default_factory=Counter)


class Steps(trio.abc.Instrument):
    """Times every step of every task, in processor time: the machine's other work is not the node's."""

    def __init__(self, into: Counter[int]) -> None:
        self._into = into
        self._since = time.thread_time()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._since = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._into[int((time.thread_time() - self._since) / STEP_S)] += 1


def run(seed: int, first: int, count: int) -> Outcome:
    """So many cases from number `first` on, in one world of that seed."""
    return run_virtual(_story, seed, first, count, seed=seed)


async def _story(seed: int, first: int, count: int) -> Outcome:
    outcome = Outcome()
    async with open_world(seed) as world:
        hosts = [world.add("n0")]
        await hosts[0].start()
        for name in ("n1", "mallory"):
            hosts.append(world.add(name, bootstrap=hosts[:1]))
            await hosts[-1].start()
        attack = _Attack(world, hosts[0], hosts[2], outcome)
        steps = Steps(outcome.steps)
        trio.lowlevel.add_instrument(steps)
        for number in range(first, first + count):
            await attack.case(seed, number)
        trio.lowlevel.remove_instrument(steps)
        attack.close_accounts()
        await _as_before(world, hosts, outcome)
    return outcome


async def _as_before(world: World, hosts: list[Host], outcome: Outcome) -> None:
    """All three write together again, and nothing went wrong that only the log knows."""
    hosts[2].cut_power()
    await hosts[2].until_down()
    await hosts[2].start()
    for host in hosts:
        assert host.node is not None
        peers_of(host.node).blame.conduct = Conduct()  # the other honest one was answered nonsense as well
    for host in hosts:
        assert host.node is not None, f"{host.name} died: {host.failure!r}"
        await define(host.node, f"after-{host.name}", "")
    await trio.sleep(20)
    sets = {ledger_of(host.node).clock.fingerprint for host in hosts if host.node}
    if len(sets) != 1:
        outcome.failures.append("the nodes differ afterwards")
    for at, host, event, fields in world.errors:
        if event not in ("peer_dropped", "author_forked") and host != "mallory":
            outcome.failures.append(f"logged by {host} at {at:.1f} s: {event} {str(fields)[-300:]}")


class _Attack:
    def __init__(self, world: World, victim: Host, mallory: Host, outcome: Outcome) -> None:
        assert victim.node is not None
        assert mallory.node is not None
        self._victim, self._mallory, self._outcome = victim.node, mallory.node, outcome
        self._hosts = (victim, mallory)
        genesis = metadata_of(self._victim).genesis or b""
        #: Names in the golden messages become those of this world.
        self._names = {
            samples.VECTOR_GENESIS: genesis,
            samples.VECTOR_PEERS[0]: victim.peer_id.encode(),
            samples.VECTOR_PEERS[1]: mallory.peer_id.encode(),
        }

    async def case(self, seed: int, number: int) -> None:
        rng = Random(f"{seed}/streams/{number}")
        choice = rng.randrange(2 * len(samples.talks()))
        talk = samples.talks()[choice // 2]
        words = self._named(make_words(rng, choice))
        if choice % 2 == 0 and talk.spec is METADATA and rng.random() < 0.3:
            words = self._pushed(rng)
        before = self._outcome.blamed.copy()
        with trio.move_on_after(CASE_S):
            try:
                if choice % 2:
                    await self._ask(talk, words, rng)
                else:
                    await self._tell(talk.spec.protocol_id, words, rng)
            except (P2PNodeError, StreamBroken, LocalProtocolError):
                pass  # refusals, each with its name
            except Exception as error:  # noqa: BLE001  # this is the oracle
                self._outcome.failures.append(f"case {number}: {type(error).__name__}: {str(error)[:200]}")
        self._outcome.cases += 1
        if number % CLEAN_EVERY == 0:
            self.close_accounts()
        if self._outcome.blamed[Reason.FAILED] > before[Reason.FAILED]:
            self._outcome.failures.append(f"a handler failed by case {number} or one of {CLEAN_EVERY} before it")

    def close_accounts(self) -> None:
        """Add up what is blamed on the attacker, and forgive it."""
        blame = peers_of(self._victim).blame
        self._outcome.blamed.update(blame.conduct.counts(self._hosts[1].peer_id))
        blame.conduct = Conduct()

    def _named(self, words: bytes) -> bytes:
        for old, new in self._names.items():
            words = words.replace(old, new)
        return words

    def _pushed(self, rng: Random) -> bytes:
        """The swarm's own events, some of them with an accident."""
        wires = [event.wire for event in ledger_of(self._mallory).clock.events()][-8:]
        sent = [mutate(rng, wire, rng.choice(wires), CBOR) if rng.random() < 0.5 else wire for wire in wires]
        rng.shuffle(sent)
        payload = b"".join(sent)
        return frame(encode(Push(sizes=[len(wire) for wire in sent]), len(payload))) + payload

    async def _tell(self, protocol_id: str, words: bytes, rng: Random) -> None:
        """Ask the victim, in pieces, and hear what it says until it has no more to say."""
        stream = await raw_stream(self._mallory, self._hosts[0].peer_id, protocol_id)
        try:
            at = rng.randrange(len(words) + 1)
            for piece in (words[:at], words[at:]):
                if piece:
                    await stream.write(piece)
            while await stream.read(1 << 16):
                self._outcome.answered += 1
        finally:
            await stream.reset()

    async def _ask(self, talk: samples.Talk, words: bytes, rng: Random) -> None:
        """Let the victim ask, and be answered these words."""

        async def answer(stream: RawStream) -> None:
            try:
                await stream.read(1 << 16)
                await stream.write(words)
                await stream.close()
            except StreamBroken:
                pass  # it has heard enough

        self._mallory._transport.serve(talk.spec.protocol_id, answer)
        mallory = self._hosts[1].peer_id
        if talk.verb.request.verb() == "sync" and rng.random() < 0.7:
            return await metadata_of(self._victim).catch_up(mallory)
        request = talk.asked[0]
        async with peers_of(self._victim).exchange(mallory, talk.spec, request.message, request.payload) as exchange:
            for _ in range(64):
                await exchange.receive()
                self._outcome.answered += 1
                async for _piece in exchange.payload():
                    pass
