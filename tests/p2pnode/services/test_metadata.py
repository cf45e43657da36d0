from __future__ import annotations

import dataclasses

import pytest
import trio

from bootstrap.identity import Identity
from p2pnode.core import records
from p2pnode.core.cid import record_cid
from p2pnode.core.event import Position, compose, mint_session
from p2pnode.core.model import Manifest, NodeRole
from p2pnode.errors import (
    Busy,
    GenesisMismatch,
    NodeIdTaken,
    NotDurable,
    RoleError,
    Unauthorized,
    UsageError,
)
from p2pnode.services import authoring, syncing
from p2pnode.services import metadata as service
from protocols import metadata as words
from protocols.metadata import METADATA

# pytest-trio takes a clock only from the test function itself.
pytestmark = pytest.mark.trio


def define(name):
    return records.define_body(records.Definition(name))


def manifest(dataset_id="ds-1", note=""):
    return records.encode_manifest(Manifest(dataset_id, "parquet", b"", (), (), policy={"note": note}))


async def publish(node, dataset_id="ds-1", note="", **options):
    block = manifest(dataset_id, note)
    over = node.metadata.catalog.tips(dataset_id)
    body = records.version_body(records.Version(record_cid(block), None, False, over))
    return await node.metadata.author(records.VERSION, dataset_id, body, blocks=(block,), **options)


async def converge(nodes, seconds=60):
    with trio.fail_after(seconds):
        while len({node.state for node in nodes}) > 1:  # noqa: ASYNC110  # a state that is nowhere announced
            await trio.sleep(0.5)


# -- joining --


async def test_a_newcomer_adopts_the_genesis_and_everybody_learns_of_it(swarm, autojump_clock):
    first, second, third = await swarm.founded(3)
    await converge([first, second, third])
    assert first.metadata.genesis == second.metadata.genesis == third.metadata.genesis
    for node in (first, second, third):
        assert [m.node_id for m in node.metadata.catalog.members()] != []
        assert {m.node_id for m in node.metadata.catalog.members()} == {"node-0", "node-1", "node-2"}
        known = {record.node_id: record.addresses for record in node.peers.known()}
        others = {"node-0", "node-1", "node-2"} - {node.settings.node_id}
        assert set(known) == others
        assert all(addresses for addresses in known.values())


async def test_peers_are_passed_on_by_the_one_who_knows_them(swarm, autojump_clock):
    first, second = await swarm.founded(2)
    newcomer = await swarm.node(7)
    await newcomer.metadata.greet(first.peer_id)
    assert second.peer_id in {record.peer_id for record in newcomer.peers.known()}


async def test_two_swarms_refuse_each_other_and_say_so(swarm, autojump_clock):
    (first,) = await swarm.founded(1)
    other = await swarm.node(5)
    await other.metadata.found("other")
    with pytest.raises(GenesisMismatch):
        await other.metadata.greet(first.peer_id)
    with pytest.raises(GenesisMismatch):
        await first.metadata.greet(other.peer_id)
    assert first.metadata.role_of(other.peer_id) is None


async def test_a_taken_node_id_is_refused_naming_the_peer(swarm, autojump_clock):
    first, _ = await swarm.founded(2)
    impostor = await swarm.node(8)
    impostor.metadata._settings = dataclasses.replace(impostor.settings, node_id="node-1")
    with pytest.raises(NodeIdTaken, match=first.metadata.catalog.member_named("node-1").peer_id):
        await impostor.metadata.greet(first.peer_id)
    assert impostor.metadata.genesis is None


async def test_guests_with_long_records_keep_no_newcomer_out(swarm, autojump_clock):
    first, second = await swarm.founded(2)
    for number in range(200):
        guest = Identity.from_seed(bytes([number, *[7] * 31])).peer_id
        addresses = [f"/dns4/{number}-{place}.{'x' * 480}/tcp/1" for place in range(words.ADDRESSES_MAX)]
        first.peers.learn(guest, f"guest-{number}", NodeRole.CLIENT, addresses)
    newcomer = await swarm.node(6)
    await newcomer.join(first)
    assert second.peer_id in {record.peer_id for record in newcomer.peers.known()}


async def test_a_client_asks_and_follows_but_is_no_member(swarm, autojump_clock):
    first, _ = await swarm.founded(2)
    client = await swarm.node(6, NodeRole.CLIENT)
    with pytest.raises(RoleError):
        await client.metadata.found()
    await client.join(first)
    assert client.state == first.state
    assert len(first.metadata.catalog.members()) == 2
    assert first.metadata.role_of(client.peer_id) is NodeRole.CLIENT
    with pytest.raises(RoleError):
        await client.metadata.author(records.DEFINE, "ds-1", define("flights"))
    push = words.Push(sizes=[])
    with pytest.raises(Unauthorized):
        await client.peers.ask(first.peer_id, METADATA, push)
    await first.metadata.author(records.DEFINE, "ds-1", define("flights"))
    await trio.sleep(authoring.ASK_AGAIN_S)  # well before it compares notes of its own accord
    assert client.metadata.catalog.dataset("flights").dataset_id == "ds-1"


async def test_a_restart_with_the_same_settings_writes_nothing(swarm, autojump_clock):
    first, second = await swarm.founded(2)
    await converge([first, second])
    before = first.state
    await second.crash()
    again = await swarm.node(1)
    assert again.metadata.genesis == first.metadata.genesis
    assert again.state == before
    await again.join(first)
    assert first.state == again.state == before
    await again.metadata.author("note", "", {})
    assert first.state == again.state


async def test_who_left_is_no_member_and_may_come_back(swarm, autojump_clock):
    first, second = await swarm.founded(2)
    await second.metadata.leave()
    assert [m.node_id for m in first.metadata.catalog.members()] == ["node-0"]
    await second.metadata.announce()
    await converge([first, second])
    assert len(first.metadata.catalog.members()) == 2


# -- authoring --


async def test_acknowledged_means_on_three_disks(swarm, autojump_clock):
    nodes = await swarm.founded(5)
    await converge(nodes)
    event = await nodes[0].metadata.author(records.DEFINE, "ds-1", define("flights"))
    holders = [node for node in nodes if event.id in {e.id for e in node.log.events()}]
    assert len(holders) >= 3
    assert nodes[0] in holders


async def test_a_swarm_of_one_or_two_needs_no_more_disks_than_it_has(swarm, autojump_clock):
    (first,) = await swarm.founded(1)
    await first.metadata.author(records.DEFINE, "ds-1", define("one"))
    second = await swarm.node(1)
    await second.join(first)
    event = await second.metadata.author(records.DEFINE, "ds-2", define("two"))
    assert event.id in {e.id for e in first.log.events()}


async def test_too_few_disks_is_an_error_in_bounded_time_and_the_event_spreads_later(swarm, autojump_clock):
    first, second = await swarm.founded(2)
    await swarm.cut(first, second)
    started = trio.current_time()
    with pytest.raises(NotDurable) as caught:
        await first.metadata.author(records.DEFINE, "ds-1", define("flights"))
    assert trio.current_time() - started == pytest.approx(authoring.DURABLE_S, abs=1.5)
    assert caught.value.details == {"copies": 1, "needed": 2}
    swarm.heal()
    await first.metadata.greet(second.peer_id)
    assert second.metadata.catalog.dataset("flights") is not None


async def test_durability_does_not_need_the_first_members_asked(swarm, autojump_clock):
    nodes = await swarm.founded(4)
    await converge(nodes)
    await nodes[1].crash()
    started = trio.current_time()
    await nodes[0].metadata.author(records.DEFINE, "ds-1", define("flights"))
    assert trio.current_time() - started < 2


async def test_a_member_that_is_not_connected_is_dialed_for_its_disk(swarm, autojump_clock):
    first, second = await swarm.founded(2)
    await swarm.part(first, second)
    await first.metadata.author(records.DEFINE, "ds-1", define("flights"))
    assert second.metadata.catalog.dataset("flights") is not None


async def test_one_that_was_dialed_for_its_disk_and_has_never_heard_of_us_is_greeted(swarm, autojump_clock):
    first, second = await swarm.founded(2)
    await swarm.cut(first, second)  # nobody else tells the first of the third
    third = await swarm.node(2)
    await third.metadata.greet(second.peer_id)
    started = trio.current_time()
    await third.metadata.announce()
    assert trio.current_time() - started < 1
    assert first.metadata.catalog.member(third.peer_id) is not None


async def test_a_member_that_lacks_the_past_of_an_event_gets_it_at_once(swarm, autojump_clock):
    first, second = await swarm.founded(2)
    await swarm.cut(first, second)
    for number in range(3):
        await first.metadata.author("note", "", {"n": number}, wait=False)
    await trio.sleep(1)
    swarm.heal()
    started = trio.current_time()
    await first.metadata.author("note", "", {})
    assert trio.current_time() - started < 1
    assert first.state == second.state


async def test_many_authors_at_once_agree(swarm, autojump_clock):
    nodes = await swarm.founded(3)
    async with trio.open_nursery() as nursery:
        for number in range(60):
            node = nodes[number % 3]
            nursery.start_soon(node.metadata.author, records.DEFINE, f"ds-{number}", define(f"name-{number % 7}"))
    await converge(nodes)
    assert len(nodes[0].metadata.catalog.datasets()) == 60


async def test_what_this_role_may_not_say_is_refused_before_it_is_written(swarm, autojump_clock):
    first, _ = await swarm.founded(2)
    worker = await swarm.node(4, NodeRole.WORKER)
    await worker.join(first)
    before = worker.state
    with pytest.raises(RoleError, match="worker may not define"):
        await worker.metadata.author(records.DEFINE, "ds-1", define("flights"))
    with pytest.raises(UsageError, match="block"):
        await first.metadata.author("note", "", {"x": bytes(70_000)})
    with pytest.raises(UsageError, match="Block"):
        body = records.version_body(records.Version(record_cid(b"absent")))
        await first.metadata.author(records.VERSION, "ds-1", body)
    assert worker.state == before
    assert len([*worker.log.events()]) == before[0]


async def test_changes_are_told_once_durable(swarm, autojump_clock):
    first, second = await swarm.founded(2)
    told = []
    second.metadata.on_change(lambda events: told.extend(event.kind for event in events))
    await first.metadata.author(records.DEFINE, "ds-1", define("flights"))
    assert told == [records.DEFINE]


# -- blocks --


async def test_a_version_counts_where_its_block_is(swarm, autojump_clock):
    nodes = await swarm.founded(3)
    await converge(nodes)
    await nodes[0].metadata.author(records.DEFINE, "ds-1", define("flights"))
    event = await publish(nodes[0])
    cid = records.read_version(event).manifest
    await converge(nodes)
    for node in nodes:
        assert node.metadata.catalog.dataset("flights").version == cid
        assert await node.log.block(cid) == manifest()


async def test_a_newcomer_fetches_every_block_of_the_history(swarm, autojump_clock):
    (first,) = await swarm.founded(1)
    await first.metadata.author(records.DEFINE, "ds-1", define("flights"))
    for number in range(30):
        await publish(first, note=str(number))
    newcomer = await swarm.node(3)
    await newcomer.metadata.greet(first.peer_id)
    assert newcomer.state == first.state
    assert len(newcomer.log.block_ids()) == 30
    assert newcomer.metadata.catalog.dataset("flights").manifest.policy == {"note": "29"}


async def test_a_version_whose_block_does_not_come_waits_and_enters_later(swarm, autojump_clock, monkeypatch):
    first, second = await swarm.founded(2, run=True)
    await first.metadata.author(records.DEFINE, "ds-1", define("flights"))
    await converge([first, second])
    hidden = first.metadata.ledger.block

    async def none(cid):
        return None

    monkeypatch.setattr(first.metadata.ledger, "block", none)
    first.guard.serve(METADATA, first.metadata.handlers())
    with pytest.raises(NotDurable):
        await publish(first)
    assert second.metadata.catalog.dataset("flights").version is None
    assert second.metadata.clock.waiting == 1
    monkeypatch.setattr(first.metadata.ledger, "block", hidden)
    await converge([first, second])
    assert second.metadata.catalog.dataset("flights").version is not None


# -- comparing notes --


async def test_a_missed_push_is_made_good_by_anti_entropy(swarm, autojump_clock):
    nodes = await swarm.founded(4)
    await converge(nodes)
    await swarm.cut(nodes[0], nodes[3])
    for number in range(5):
        await nodes[0].metadata.author(records.DEFINE, f"ds-{number}", define(f"d{number}"))
    assert nodes[3].metadata.catalog.datasets() == []
    await converge(nodes, seconds=60)
    assert len(nodes[3].metadata.catalog.datasets()) == 5


async def test_both_halves_of_a_partition_come_together(swarm, autojump_clock):
    nodes = await swarm.founded(4)
    await converge(nodes)
    for one in nodes[:2]:
        for other in nodes[2:]:
            await swarm.cut(one, other)
    for number, node in enumerate(nodes):
        body = define(f"d{number}")
        with pytest.raises(NotDurable):
            await node.metadata.author(records.DEFINE, f"ds-{number}", body, timeout_s=1)
    swarm.heal()
    await nodes[0].metadata.greet(nodes[3].peer_id)
    await converge(nodes)
    assert len(nodes[0].metadata.catalog.datasets()) == 4


async def test_equal_replicas_say_so_in_one_message(swarm, autojump_clock):
    first, second = await swarm.founded(2, run=False)
    await second.metadata.greet(first.peer_id)
    clock = second.metadata.clock
    request = words.Sync(genesis=clock.genesis, count=len(clock), fingerprint=clock.fingerprint, heads=clock.heads())
    answer, _ = await second.peers.ask(first.peer_id, METADATA, request)
    assert answer == words.Synced(count=len(clock), fingerprint=clock.fingerprint)


async def test_a_long_history_comes_in_batches(swarm, autojump_clock, monkeypatch):
    (first,) = await swarm.founded(1)
    monkeypatch.setattr("p2pnode.services.spreading.EVENTS_MAX", 7)
    monkeypatch.setattr("p2pnode.services.spreading.EVENTS_BYTES_MAX", 9_000)
    for number in range(40):
        await first.metadata.author("note", "", {"n": number, "x": bytes(number * 97)})
    newcomer = await swarm.node(1)
    await newcomer.metadata.greet(first.peer_id)
    assert newcomer.state == first.state


async def test_many_refreshes_at_once_do_not_starve_each_other_of_streams(swarm, autojump_clock):
    (first,) = await swarm.founded(1)
    await first.metadata.author(records.DEFINE, "ds-1", define("flights"))
    newcomer = await swarm.node(1)
    await newcomer.join(first)
    # Who left is not pushed to, so all of them find the same version lacking, and each would fetch its block.
    await newcomer.metadata.leave()
    await publish(first)
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(newcomer.metadata.refresh)
    assert trio.current_time() - started < 1
    assert newcomer.metadata.catalog.dataset("flights").version is not None


async def test_one_that_was_dead_and_answers_is_synced_with_at_once(swarm, autojump_clock, monkeypatch):
    monkeypatch.setattr(service, "ANTI_ENTROPY_S", 1e6)
    first, second, third = await swarm.founded(3)
    await swarm.cut(first, second, third)
    await second.metadata.author("note", "", {}, wait=False)
    await third.metadata.author("note", "", {}, wait=False)
    swarm.heal()
    for gone in (third, second):
        first.metadata.returned(gone.peer_id)
    await trio.sleep(1)
    assert len({node.metadata.clock.fingerprint for node in (first, second, third)}) == 1


async def test_a_fork_of_which_each_saw_one_branch_is_found_and_agreed_on(swarm, autojump_clock):
    first, second, third = await swarm.founded(3, run=False)
    for node, other in ((second, first), (third, first), (third, second), (first, second)):
        await node.metadata.greet(other.peer_id)
    traitor = third
    clock = traitor.metadata.clock
    session = traitor.metadata.ledger._session
    position = clock.next_position(traitor.peer_id, session)
    tongues = [
        compose(
            namespace=clock.genesis,
            author=traitor.peer_id,
            session=session,
            position=position,
            time=0,
            kind=records.DEFINE,
            object_id=f"ds-{number}",
            body=define(f"d{number}"),
            sign=traitor.identity.sign,
        )
        for number in range(2)
    ]
    for node, said in zip((first, second), tongues, strict=True):
        push = words.Push(sizes=[len(said.wire)])
        answer, _ = await traitor.peers.ask(node.peer_id, METADATA, push, said.wire)
        assert answer.durable == [said.id]
    assert first.state != second.state
    await first.metadata.greet(second.peer_id)
    await second.metadata.greet(first.peer_id)
    assert first.state == second.state
    assert len(first.metadata.clock.forks()) == 1
    assert first.metadata.catalog.datasets() == []
    again = await syncing_after_restart(swarm, first)
    assert again == second.state


async def syncing_after_restart(swarm, node):
    await node.crash()
    return (await swarm.node(0, run=False)).state


# -- misbehaviour --


def forged(node, victim, body=None):
    """A push of one event that claims to be `victim`'s but is signed by somebody else."""
    clock = node.metadata.clock
    return compose(
        namespace=clock.genesis,
        author=victim.peer_id,
        session=mint_session(bytes(16)),
        position=clock.next_position(victim.peer_id, mint_session(bytes(16))),
        time=0,
        kind="note",
        object_id="",
        body=body or {},
        sign=Identity.from_seed(b"x" * 32).sign,
    )


@pytest.mark.parametrize("what", ["forged", "damaged", "oversized", "garbage", "invalid"])
async def test_bad_events_are_refused_counted_and_harm_nothing(swarm, autojump_clock, what):
    first, second, third = await swarm.founded(3)
    await converge([first, second, third])
    before = first.state
    good = forged(second, third)
    wire = {
        "forged": good.wire,
        "damaged": good.wire[:50] + bytes((good.wire[50] ^ 1,)) + good.wire[51:],
        "oversized": good.wire + bytes(100_000),
        "garbage": b"\xff" * 300,
        "invalid": compose(
            namespace=first.metadata.genesis,
            author=second.peer_id,
            session=mint_session(bytes(16)),
            position=Position(9, None, tuple(first.metadata.clock.heads()), 99),
            time=0,
            kind="note",
            object_id="",
            body={},
            sign=second.identity.sign,
        ).wire,
    }[what]
    answer, _ = await second.peers.ask(first.peer_id, METADATA, words.Push(sizes=[len(wire)]), wire)
    assert (answer.durable, answer.waiting) == ([], [])
    assert answer.refused == [record_cid(wire[:-64])]
    assert first.state == before
    assert sum(first.peers.blame.conduct.counts(second.peer_id).values()) == 1


async def test_a_sender_of_bad_events_is_paused_and_then_heard_again(swarm, autojump_clock):
    first, second, third = await swarm.founded(3)
    wires = [forged(second, third, {"n": n}).wire for n in range(20)]
    push = words.Push(sizes=[len(wire) for wire in wires])
    answer, _ = await second.peers.ask(first.peer_id, METADATA, push, b"".join(wires))
    assert len(answer.refused) == 20
    with pytest.raises(Busy) as caught:
        await second.peers.ask(first.peer_id, METADATA, push, b"".join(wires))
    await third.metadata.author(records.DEFINE, "ds-1", define("others are heard"), timeout_s=5)
    await trio.sleep(caught.value.retry_after_s + 120)
    event = await second.metadata.author(records.DEFINE, "ds-2", define("forgiven"))
    assert event.id in first.metadata.clock


async def test_sizes_that_do_not_fit_the_payload_are_refused(swarm, autojump_clock):
    first, second = await swarm.founded(2)
    with pytest.raises(Exception, match="sizes"):
        await second.peers.ask(first.peer_id, METADATA, words.Push(sizes=[5, 5]), b"123456789")
    assert sum(first.peers.blame.conduct.counts(second.peer_id).values()) == 1


async def test_a_sync_with_another_swarm_is_refused(swarm, autojump_clock):
    (first,) = await swarm.founded(1)
    stranger = await swarm.node(2)
    request = words.Sync(genesis=record_cid(b"other"), count=0, fingerprint=bytes(32))
    with pytest.raises(GenesisMismatch):
        await stranger.peers.ask(first.peer_id, METADATA, request)


async def test_a_node_without_a_swarm_asks_to_come_back(swarm, autojump_clock):
    one, other = await swarm.node(1), await swarm.node(2)
    await one.metadata.greet(other.peer_id)
    assert one.metadata.genesis is None
    request = words.Sync(genesis=record_cid(b"x"), count=0, fingerprint=bytes(32))
    with pytest.raises(Busy):
        await one.peers.ask(other.peer_id, METADATA, request)


# -- clients' wishes --


async def test_wishes_go_to_what_the_node_supplies(swarm, autojump_clock):
    first, _ = await swarm.founded(2)
    client = await swarm.node(6, NodeRole.CLIENT)
    await client.join(first)
    propose = words.Propose(kind="define", signature=b"s")
    with pytest.raises(RoleError):
        await client.peers.ask(first.peer_id, METADATA, propose, b"body")
    heard = []

    async def proposals(peer_id, kind, body, signature):
        heard.append((peer_id, kind, body, signature))
        return b"answer"

    async def tickets(peer_id, dataset_id, cids, size):
        heard.append((peer_id, dataset_id, cids, size))
        return b"ticket"

    first.metadata.answer_with(proposals, tickets)
    accepted, answer = await client.peers.ask(first.peer_id, METADATA, propose, b"body")
    assert (accepted, answer) == (words.Accepted(), b"answer")
    ask = words.AskTicket(dataset_id="ds-1", cids=[record_cid(b"shard")], bytes=5)
    ticket, _ = await client.peers.ask(first.peer_id, METADATA, ask)
    assert ticket.ticket == b"ticket"
    assert heard == [
        (client.peer_id, "define", b"body", b"s"),
        (client.peer_id, "ds-1", [record_cid(b"shard")], 5),
    ]


async def test_a_sync_that_falls_silent_ends_in_bounded_time(swarm, autojump_clock):
    first, second = await swarm.founded(2, run=False)

    async def silent(peer_id, request, exchange):
        await trio.sleep_forever()

    first.guard.serve(METADATA, {**first.metadata.handlers(), words.Sync: silent})
    await swarm.part(first, second)
    with trio.fail_after(syncing.ANSWER_S + 1):
        await second.metadata.refresh()


async def test_one_that_leaves_hears_so_also_from_those_who_forgot_it(swarm, autojump_clock):
    """The answer to its first word was lost, and those who heard it started anew since."""
    first, second, third = await swarm.founded(3)
    for node in (first, second):
        node.metadata._guests.clear()
    event = await third.metadata.author(records.LEAVE, third.peer_id, {})
    for node in (first, second):
        assert event.id in node.metadata.clock
    assert third.peer_id not in {member.peer_id for member in first.metadata.catalog.members()}
    await third.metadata.leave(timeout_s=5)
