"""Two implementations asked the same: ours, and the plain one that was written from the specification alone.

Stories are drawn at random: members who come, leave, fork, are called down and readmitted, and publish on three
replicas that now and then meet. Whatever they amount to here they must amount to there. The same for bytes that an
accident has changed: an event that one of the two reads and the other refuses would split a swarm.
"""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from p2pnode.core import records
from p2pnode.core.clock import MerkleClock
from p2pnode.core.event import BadEvent, parse
from p2pnode.core.model import NodeRole
from p2pnode.errors import IntegrityError
from simulations.world import second_reader as theirs

TESTS = Path(__file__).parents[2]
STEPS = 60
MUTANTS = 1500


def _load(path: Path) -> ModuleType:
    name = f"second_opinion_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def recorded(name: str) -> dict[str, Any]:
    return json.loads((TESTS.parent / "protocols" / "vectors" / f"{name}.json").read_text(encoding="utf-8"))


ours = _load(TESTS / "p2pnode" / "core" / "test_event_vectors.py")


class Story:
    """A random history of three replicas; what the rules forbid is left out."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        #: Whether an author uses one session on several replicas, which is a fork.
        self.careless = seed % 2 == 0
        first = ours.Replica.founded()
        for author in ours.AUTHORS[:3]:
            first.up(author)
        self.replicas = [first, first.copy(), first.copy()]

    def told(self):
        for _ in range(STEPS):
            number = self.rng.randrange(3)
            author = self.rng.choice(ours.AUTHORS)
            author.session = 1 if self.careless else 1 + number
            try:
                self.act(self.replicas[number], author)
            except (AssertionError, IndexError):
                continue  # not allowed, or nothing there to act on
        for other in self.replicas[1:]:
            self.replicas[0].merge(other)
        return self.replicas[0]

    def act(self, one, author) -> None:
        rng, dataset = self.rng, f"ds-{self.rng.randrange(3)}"
        match rng.randrange(16):
            case 0:
                roles = (NodeRole.HYBRID, NodeRole.HYBRID, NodeRole.WORKER)
                one.up(author, rng.choice(roles), node_id=rng.choice(ours.NAMES))
            case 1 if rng.random() < 0.3:
                one.write(author, records.LEAVE, author.peer_id)
            case 2 | 3:
                one.define(author, rng.choice("xyz"), dataset)
            case 4 | 5 | 6:
                shards = (rng.randrange(5) for _ in range(rng.randrange(3)))
                one.publish(author, dataset, *shards, append=rng.random() < 0.7, publish=rng.choice(("", "", "p", "q")))
            case 7:
                one.write(author, records.DELETE, dataset, records.delete_body(one.catalog.observed(dataset)))
            case 8 | 13:
                dead = rng.choice(ours.AUTHORS)
                one.write(author, records.DOWN, dead.peer_id, ours._down(one, dead))
            case 9 | 10 | 14:
                rng.choice(self.replicas).merge(one)
            case 11 | 15:
                self.readmit(one, author)
            case 12:
                readmit = rng.choice([event for event in one.clock.events() if event.kind == records.READMIT])
                (back,) = [other for other in ours.AUTHORS if other.peer_id == readmit.object_id]
                back.session = 10 + rng.randrange(3)
                one.up(back, readmit=readmit.id)

    def readmit(self, one, author) -> None:
        fork = self.rng.choice(one.clock.forks())
        every = [event_id for other in one.clock.forks() if other.author == fork.author for event_id in other.events]
        named = self.rng.choice((list(fork.events), every))
        said = records.Readmission(tuple(sorted(set(named))), self.rng.choice([None, *every]))
        one.write(author, records.READMIT, fork.author, records.readmit_body(said))


@pytest.mark.parametrize("seed", range(48))
def test_a_story_amounts_to_the_same(seed):
    told = Story(seed).told()
    clock: MerkleClock = told.clock
    events = [theirs.read_form(event.wire) for event in clock.events()]
    random.Random(seed).shuffle(events)
    blocks = {theirs.link_of(block): block for block in told.blocks.values()}
    swarm = theirs.Swarm(theirs.Link(clock.genesis), events, blocks)
    assert len(swarm.events) == len(clock) > 1
    assert [head.cid for head in swarm.heads] == clock.heads()
    assert swarm.fingerprint == clock.fingerprint
    assert list(swarm.forks) == [(fork.author, fork.session, fork.sequence) for fork in clock.forks()]
    assert {event_id.cid for event_id in swarm.counted()} == {e.id for e in clock.events() if clock.counts(e)}
    assert theirs.Fold(swarm).digest == told.catalog.digest()


def test_the_stories_are_worth_telling():
    told = [Story(seed).told() for seed in range(48)]
    forked = [one for one in told if one.clock.forks()]
    readmitted = [one for one in forked if any(event.kind == records.READMIT for event in one.clock.events())]
    united = [one for one in told if any(len(one.catalog.tips(d.dataset_id)) > 1 for d in one.catalog.datasets())]
    down = [one for one in told if any(member.down for member in one.catalog.everyone())]
    assert min(len(forked), len(readmitted), len(united), len(down)) >= 4


#: Bytes that mean something to CBOR.
_TELLING = bytes.fromhex("0001171819 1a1b20383b40415860617880819fa0a1bfc2d8d9f4f5f6f7f9fafbff")


def _mutated(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at, other = rng.randrange(len(changed)), rng.randrange(len(changed))
        match rng.randrange(5):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at] = rng.choice(_TELLING)
            case 2:
                changed.insert(at, rng.choice(_TELLING))
            case 3:
                changed[at:at] = changed[other : other + rng.randint(1, 12)]
            case 4 if len(changed) > 8:
                del changed[at : at + rng.randint(1, 4)]
    return bytes(changed)


def _our_reading(wire: bytes) -> tuple[bytes, bool] | None:
    try:
        event = parse(wire)
    except BadEvent:
        return None
    try:
        records.check(event)
    except BadEvent:
        return event.id, False
    return event.id, True


def _their_reading(wire: bytes) -> tuple[bytes, bool] | None:
    try:
        event = theirs.read_form(wire)
    except theirs.Bad:
        return None
    try:
        theirs.check_payload(event)
    except theirs.Bad:
        return event.id.cid, False
    return event.id.cid, True


def test_changed_events_are_read_by_both_or_by_neither():
    rng = random.Random("events")
    vectors = recorded("events")
    wires = [bytes.fromhex(one["wire"]) for one in (*vectors["events"], *vectors["refused"])]
    short = [wire for wire in wires if len(wire) < 4096]
    mutants = [_mutated(rng, rng.choice(short)) for _ in range(MUTANTS)]
    readings = [_our_reading(wire) for wire in mutants]
    assert readings == [_their_reading(wire) for wire in mutants]
    assert None in readings
    assert {reading[1] for reading in readings if reading} == {True, False}


def test_changed_manifests_are_read_by_both_or_by_neither():
    rng = random.Random("manifests")
    blocks = [bytes.fromhex(block) for fold in recorded("folds")["folds"] for block in fold["blocks"]]
    names = ("v", "dataset", "format", "schema", "columns", "shards", "replicas", "policy", "base")
    read = 0
    for _ in range(MUTANTS):
        mutant = _mutated(rng, rng.choice(blocks))
        try:
            again = records.encode_manifest(records.decode_manifest(mutant))
        except IntegrityError:
            with pytest.raises(theirs.Bad):
                theirs.read_manifest(mutant)
            continue
        fields = theirs.read_manifest(mutant)
        assert theirs.write({name: fields[name] for name in names}) == again
        read += 1
    assert 0 < read < MUTANTS
