"""What members do for the record unasked, between nodes in one process and in virtual time.

Whom a node holds for dead is set by the test; the rest is real.
"""

from __future__ import annotations

import pytest
import trio

from bootstrap.identity import Identity
from p2pnode.core import records
from p2pnode.core.event import Position, compose, mint_session
from p2pnode.core.membership import State
from p2pnode.core.merging import HEADS_MAX, MERGE_AFTER_S
from p2pnode.core.model import Member, NodeRole
from p2pnode.errors import NotDurable, NotFound, Refused, RoleError
from p2pnode.services.upkeep import Upkeep
from protocols import metadata as words
from protocols.metadata import METADATA

pytestmark = pytest.mark.trio

DOWN_S = 30.0


class Views:
    """`HealthService`, as one node's upkeep uses it."""

    def __init__(self):
        self.dead = set()
        self.callbacks = []

    def awake(self):
        return trio.current_time()

    def state_of(self, peer_id):
        return State.DEAD if peer_id in self.dead else State.ALIVE

    def on_change(self, callback):
        self.callbacks.append(callback)

    def lose(self, peer_id):
        self.dead.add(peer_id)
        for callback in self.callbacks:
            callback(peer_id, State.SUSPECT, State.DEAD)

    def find(self, peer_id):
        self.dead.discard(peer_id)
        for callback in self.callbacks:
            callback(peer_id, State.DEAD, State.ALIVE)


class Kept:
    """A node with its upkeep at work, until `stop`."""

    def __init__(self, node):
        self.node, self.views, self.life = node, Views(), trio.CancelScope()
        self.metadata, self.peer_id = node.metadata, node.peer_id
        self.upkeep = Upkeep(node.peer_id, node.metadata, self.views, DOWN_S)
        node.swarm.nursery.start_soon(self._run)

    async def _run(self):
        with self.life:
            await self.upkeep.run()

    @property
    def down(self):
        return {member.node_id for member in self.metadata.catalog.members() if member.down}

    def said(self, kind):
        return [event for event in self.metadata.clock.events() if event.kind == kind]


async def kept(swarm, count):
    return [Kept(node) for node in await swarm.founded(count)]


async def crash(gone, others):
    gone.life.cancel()
    await gone.node.crash()
    for other in others:
        other.views.lose(gone.peer_id)


async def converge(nodes):
    for _ in range(60):
        await trio.sleep(1)
        if len({node.node.state for node in nodes}) == 1:
            return
    raise AssertionError("the nodes still differ")


async def test_a_swarm_of_three_goes_on_without_the_third_after_the_grace(swarm, autojump_clock):
    first, second, third = await kept(swarm, 3)
    await crash(third, (first, second))
    with pytest.raises(NotDurable):
        await first.metadata.author("note", "", {})
    await trio.sleep(DOWN_S)
    for node in (first, second):
        assert node.down == {"node-2"}
        assert len(node.said(records.DOWN)) == 2
    event = await first.metadata.author("note", "", {}, timeout_s=2.0)
    assert event.id in second.metadata.clock


async def test_an_author_that_waits_for_the_third_disk_is_done_when_the_third_is_down(swarm, autojump_clock):
    first, second, third = await kept(swarm, 3)
    await crash(third, (first, second))
    await trio.sleep(DOWN_S - 4)
    await first.metadata.author("note", "", {}, timeout_s=10.0)
    assert first.down == {"node-2"}


async def test_one_that_was_called_down_is_up_again_as_soon_as_it_returns(swarm, autojump_clock):
    first, second, third = await kept(swarm, 3)
    await crash(third, (first, second))
    await trio.sleep(DOWN_S + 5)
    assert first.down == {"node-2"}
    back = await swarm.node(2)
    for node in (first, second):
        node.views.find(back.peer_id)
    await back.join(first.node)
    await converge([first, second])
    assert first.down == set()
    assert len(first.metadata.catalog.present()) == 3


async def test_one_that_reads_of_its_own_end_says_otherwise_at_once(swarm, autojump_clock):
    first, second, third = await kept(swarm, 3)
    up = first.metadata.catalog.member(third.peer_id).up
    await first.metadata.author(records.DOWN, third.peer_id, records.down_body(up))
    await trio.sleep(1)
    assert second.metadata.catalog.member(third.peer_id).up != up, "one witness is enough to protest"
    assert second.metadata.catalog.witnesses(third.peer_id) == []
    assert second.down == set()


async def test_one_that_is_leaving_does_not_come_back_because_it_is_called_down(swarm, autojump_clock):
    first, second, third = await kept(swarm, 3)
    for other in (first, second):
        await swarm.cut(third.node, other.node)
        third.views.lose(other.peer_id)
        other.views.lose(third.peer_id)
    with pytest.raises(NotDurable):
        await third.metadata.leave(timeout_s=1.0)
    await trio.sleep(DOWN_S + 5)
    assert first.down == {"node-2"}
    swarm.heal()
    for node in (first, second):
        await third.metadata.greet(node.peer_id)
    await third.metadata.leave(timeout_s=1.0)
    await converge([first, second, third])
    await trio.sleep(30)
    assert first.metadata.catalog.member(third.peer_id).left
    assert [event.author for event in first.said(records.LEAVE)] == [third.peer_id]


async def test_one_that_calls_another_down_again_and_again_does_not_make_it_fill_the_log(swarm, autojump_clock):
    first, second, third = await kept(swarm, 3)
    for _ in range(1800):
        record = first.metadata.catalog.member(third.peer_id)
        if first.peer_id not in first.metadata.catalog.witnesses(third.peer_id):
            await first.metadata.author(records.DOWN, third.peer_id, records.down_body(record.up), wait=False)
        await trio.sleep(1)
        assert not second.metadata.catalog.member(third.peer_id).down
    assert len(first.said(records.DOWN)) < 12


async def test_a_cut_off_minority_records_nothing(swarm, autojump_clock):
    nodes = await kept(swarm, 5)
    left, right = nodes[:2], nodes[2:]
    for a in left:
        for b in right:
            await swarm.cut(a.node, b.node)
            a.views.lose(b.peer_id)
            b.views.lose(a.peer_id)
    await trio.sleep(5 * DOWN_S)
    assert all(node.said(records.DOWN) == [] for node in left)
    assert all(node.down == {"node-0", "node-1"} for node in right)
    swarm.heal()
    for a in left:
        for b in right:
            a.views.find(b.peer_id)
            b.views.find(a.peer_id)
    for node in nodes[1:]:
        await node.metadata.greet(nodes[0].peer_id)
    await converge(nodes)
    await trio.sleep(5)
    assert all(node.down == set() for node in nodes), "they protested as soon as they read it"


def strangers(first, count):
    """`up`s of so many other peers, none of which saw another's."""
    clock = first.metadata.clock
    for number in range(count):
        identity = Identity.from_seed(bytes([100 + number]) * 32)
        member = Member(identity.peer_id, f"stranger-{number}", NodeRole.WORKER)
        yield compose(
            namespace=clock.genesis,
            author=identity.peer_id,
            session=mint_session(bytes([number]) * 16),
            position=Position(parents=(clock.genesis,), height=2),
            time=0,
            kind=records.UP,
            object_id=identity.peer_id,
            body=records.up_body(member),
            sign=identity.sign,
        )


async def test_many_heads_are_tied_together_once_by_one(swarm, autojump_clock):
    nodes = await kept(swarm, 3)
    first = nodes[0]
    events = list(strangers(first, 3 * HEADS_MAX))
    push = words.Push(sizes=[len(event.wire) for event in events])
    await nodes[1].node.peers.ask(first.peer_id, METADATA, push, b"".join(event.wire for event in events))
    for event in events:
        for node in nodes:
            node.views.lose(event.author)
    await converge(nodes)
    assert len(first.metadata.clock.heads()) > HEADS_MAX
    await trio.sleep(MERGE_AFTER_S * 1.5)
    await converge(nodes)
    merges = first.said(records.MERGE)
    assert 1 <= len(merges) <= 2
    assert len({event.author for event in merges}) == 1
    assert len(first.metadata.clock.heads()) <= HEADS_MAX
    await trio.sleep(20 * MERGE_AFTER_S)
    assert first.said(records.MERGE) == merges, "and it ends"


# -- forks --


async def tongues(traitor, hearers):
    """The traitor tells each of these something else at one and the same sequence."""
    clock, session = traitor.metadata.clock, traitor.metadata.ledger._session
    position = clock.next_position(traitor.peer_id, session)
    said = [
        compose(
            namespace=clock.genesis,
            author=traitor.peer_id,
            session=session,
            position=position,
            time=0,
            kind=records.DEFINE,
            object_id=f"ds-{number}",
            body=records.define_body(records.Definition(f"d{number}")),
            sign=traitor.node.identity.sign,
        )
        for number in range(len(hearers))
    ]
    for node, event in zip(hearers, said, strict=True):
        push = words.Push(sizes=[len(event.wire)])
        await traitor.node.peers.ask(node.peer_id, METADATA, push, event.wire)
    return said


async def test_whoever_sees_both_tongues_shows_them_to_everybody_at_once(swarm, autojump_clock, monkeypatch):
    monkeypatch.setattr("p2pnode.services.metadata.ANTI_ENTROPY_S", 1e6)
    nodes = await kept(swarm, 5)
    said = await tongues(nodes[4], nodes[:2])
    await trio.sleep(1)
    assert not any(event in nodes[2].metadata.clock for event in said)
    await nodes[0].metadata.catch_up(nodes[1].peer_id)
    await trio.sleep(0.5)
    for node in nodes[:4]:
        assert [fork.events for fork in node.metadata.clock.forks()] == [tuple(sorted(event.id for event in said))]
        assert node.metadata.catalog.datasets() == []


async def test_one_whose_words_do_not_count_does_not_witness_over_and_over(swarm, autojump_clock):
    nodes = await kept(swarm, 4)
    await tongues(nodes[0], nodes[2:])
    await converge(nodes)
    await crash(nodes[3], nodes[:3])
    await trio.sleep(3 * DOWN_S)
    assert len(nodes[1].said(records.DOWN)) == 2, "of the two that are heard"
    assert nodes[0].peer_id not in {event.author for event in nodes[1].said(records.DOWN)}
    assert nodes[1].down == {"node-3"}


async def test_a_readmitted_author_takes_it_up_and_counts_again(swarm, autojump_clock):
    nodes = await kept(swarm, 4)
    first, traitor = nodes[0], nodes[3]
    said = await tongues(traitor, nodes[:2])
    await converge(nodes)
    await traitor.metadata.author(records.DEFINE, "ds-9", records.define_body(records.Definition("later")), wait=False)
    await converge(nodes)
    assert first.metadata.catalog.dataset("later") is None
    first.metadata.check_heard()
    with pytest.raises(Refused, match="counts no more"):
        traitor.metadata.check_heard()
    with pytest.raises(NotFound):
        await first.metadata.readmit(nodes[1].peer_id)
    with pytest.raises(NotFound, match="There is no member 'nobody'"):
        await first.metadata.readmit("nobody")
    with pytest.raises(NotFound):
        await first.metadata.readmit(traitor.peer_id, first.metadata.clock.genesis)
    await first.metadata.readmit(traitor.peer_id, said[0].id)
    await trio.sleep(2)
    ups = [event for event in first.said(records.UP) if event.author == traitor.peer_id]
    assert sum(records.readmission_of(event) is not None for event in ups) == 1
    traitor.metadata.check_heard()
    with pytest.raises(NotFound, match="node-3 counts"):
        await first.metadata.readmit(traitor.peer_id)
    await traitor.metadata.author(records.DEFINE, "ds-8", records.define_body(records.Definition("again")), wait=False)
    await converge(nodes)
    for node in nodes:
        assert [record.name for record in node.metadata.catalog.datasets()] == ["again", "d0"]
        assert node.metadata.catalog.readmissions(traitor.peer_id) == []


async def test_an_up_that_a_further_fork_spoils_is_not_repeated(swarm, autojump_clock):
    nodes = await kept(swarm, 4)
    first, traitor = nodes[0], nodes[3]
    await tongues(traitor, nodes[:2])
    await converge(nodes)
    await first.metadata.readmit(traitor.peer_id)
    await tongues(traitor, nodes[:2])
    await converge(nodes)
    before = len(first.metadata.clock)
    await trio.sleep(120)
    assert len(first.metadata.clock) - before <= 1
    await first.metadata.readmit(traitor.peer_id)
    await trio.sleep(5)
    await traitor.metadata.author(records.DEFINE, "ds-8", records.define_body(records.Definition("again")), wait=False)
    await converge(nodes)
    assert [record.name for record in first.metadata.catalog.datasets()] == ["again"]


async def test_a_worker_readmits_nobody(swarm, autojump_clock):
    nodes = await swarm.founded(2)
    worker = await swarm.node(5, NodeRole.WORKER)
    await worker.join(nodes[0])
    with pytest.raises(RoleError):
        await worker.metadata.readmit(nodes[0].peer_id)
