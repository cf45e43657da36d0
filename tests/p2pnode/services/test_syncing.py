"""Two nodes comparing notes: what moves, how often, in how many round trips; and what liars achieve."""

from __future__ import annotations

import functools
import random
import sqlite3

import pytest
import trio

from p2pnode.core import bands, reconcile, records
from p2pnode.core.cid import record_cid
from p2pnode.core.conduct import Conduct, Reason
from p2pnode.core.event import compose, mint_session
from p2pnode.core.model import Manifest
from p2pnode.errors import IntegrityError, P2PNodeError, PeerLost, Timeout
from p2pnode.services import catching_up, event_stream, syncing
from p2pnode.services.ledger import Draft
from protocols import metadata as words
from protocols.metadata import METADATA

# pytest-trio takes a clock only from the test function itself.
pytestmark = pytest.mark.trio


async def write(node, count, **body):
    """That many notes of one node, told to nobody."""
    return await node.metadata.ledger.write_many([Draft("note", "", {"n": n, **body}) for n in range(count)])


async def lonely(swarm, count):
    """That many members that know each other and say nothing of their own accord."""
    nodes = await swarm.founded(count, run=False)
    for node in nodes:
        for other in nodes:
            if node is not other:
                await node.metadata.greet(other.peer_id)
    assert len({node.state for node in nodes}) == 1
    return nodes


class Watch:
    """What one node asks of others, and what came of it."""

    def __init__(self, node, monkeypatch):
        self.asked = []
        self.known = self.new = 0
        real, real_ask, admit = node.peers.exchange, node.peers.ask, node.metadata.ledger.admit

        def exchange(peer_id, spec, request, payload=b"", **options):
            if spec is METADATA:
                self.asked.append(request.verb())
            return real(peer_id, spec, request, payload, **options)

        async def ask(peer_id, spec, request, payload=b"", **options):
            if spec is METADATA:
                self.asked.append(request.verb())
            return await real_ask(peer_id, spec, request, payload, **options)

        async def admitted(checked, source, fetch):
            taken = await admit(checked, source, fetch)
            self.known += taken.known
            self.new += len(taken.new)
            return taken

        monkeypatch.setattr(node.peers, "exchange", exchange)
        monkeypatch.setattr(node.peers, "ask", ask)
        monkeypatch.setattr(node.metadata.ledger, "admit", admitted)


async def sync(node, other):
    await node.metadata._syncer.sync_with(other.peer_id)


# -- comparing notes --


async def test_who_is_behind_asks_once_and_gets_exactly_what_it_lacks(swarm, autojump_clock, monkeypatch):
    one, other = await lonely(swarm, 2)
    await write(other, 300)
    watch = Watch(one, monkeypatch)
    await sync(one, other)
    assert one.state == other.state
    assert (watch.asked, watch.new, watch.known) == (["sync"], 300, 0)
    await sync(one, other)
    assert watch.asked == ["sync", "sync"]


async def test_who_is_ahead_pushes_without_comparing_leaves(swarm, autojump_clock, monkeypatch):
    one, other = await lonely(swarm, 2)
    await write(one, 300)
    watch, told = Watch(one, monkeypatch), Watch(other, monkeypatch)
    await sync(one, other)
    assert one.state == other.state
    assert watch.asked == ["sync", "push", "push"]
    assert (told.new, told.known) == (300, 0)


async def test_two_that_went_their_own_ways_meet_in_three_round_trips(swarm, autojump_clock, monkeypatch):
    one, other, third = await lonely(swarm, 3)
    await write(one, 40)
    await write(third, 10)
    await sync(other, third)
    await write(other, 50)
    watch, told = Watch(one, monkeypatch), Watch(other, monkeypatch)
    await sync(one, other)
    assert one.state == other.state
    assert watch.asked == ["sync", "compare", "push"]
    assert (watch.new, watch.known, told.new, told.known) == (60, 0, 40, 0)


async def test_more_heads_than_a_sync_names_are_compared_leaf_by_leaf(swarm, autojump_clock, monkeypatch):
    nodes = await lonely(swarm, 4)
    monkeypatch.setattr(words, "HEADS_MAX", 2)
    for node in nodes:
        await write(node, 3)
    for node in nodes[1:]:
        await sync(nodes[0], node)
    for node in nodes[1:]:
        await sync(node, nodes[0])
    assert len(nodes[0].metadata.clock.heads()) == 4
    assert len({node.state for node in nodes}) == 1


@pytest.mark.parametrize("seed", range(6))
async def test_any_two_replicas_are_equal_after_one_sync_and_nothing_moves_twice(
    swarm, autojump_clock, monkeypatch, seed
):
    """Random histories, with authors whose key writes on several nodes at once."""
    rng = random.Random(seed)
    nodes = await lonely(swarm, 4)
    session = mint_session(bytes(16))
    for _ in range(30):
        node = rng.choice(nodes)
        if rng.random() < 0.3:
            await sync(node, rng.choice([other for other in nodes if other is not node]))
        elif rng.random() < 0.5:
            await write(node, rng.randint(1, 5))
        else:
            traitor = rng.choice(nodes[2:])
            clock = node.metadata.clock
            said = compose(
                namespace=clock.genesis,
                author=traitor.peer_id,
                session=session,
                position=clock.next_position(traitor.peer_id, session),
                time=0,
                kind="note",
                object_id="",
                body={"said": rng.random()},
                sign=traitor.identity.sign,
            )
            await node.metadata.ledger.take([said.wire], "test", None)
    one, other = rng.sample(nodes, 2)
    watch, told = Watch(one, monkeypatch), Watch(other, monkeypatch)
    await sync(one, other)
    assert one.state == other.state
    assert one.metadata.clock.forks() == other.metadata.clock.forks()
    assert watch.known == told.known == 0


async def test_whoever_is_far_behind_is_not_pushed_all_of_history(swarm, autojump_clock, monkeypatch):
    one, other = await lonely(swarm, 2)
    monkeypatch.setattr(syncing, "PUSHED_BACK_MAX", 20)
    await write(one, 21)
    await sync(one, other)
    assert len(other.metadata.clock) < len(one.metadata.clock)
    await sync(other, one)
    assert one.state == other.state


async def test_a_fingerprint_that_was_made_to_fit_deceives_nobody(swarm, autojump_clock, monkeypatch):
    """It is a sum, and whoever mints events can make two sets agree in it; their heads are still others."""
    one, other = await lonely(swarm, 2)
    await write(one, 1)
    await write(other, 1)
    for node in (one, other):
        monkeypatch.setattr(type(node.metadata.clock), "fingerprint", b"the same")
    assert len(one.metadata.clock) == len(other.metadata.clock)
    await sync(one, other)
    assert one.metadata.clock.heads() == other.metadata.clock.heads()
    assert len(one.metadata.clock) == len(other.metadata.clock)


# -- rumours --


async def test_news_goes_round_in_a_few_hops_without_anybody_comparing_notes(swarm, autojump_clock, monkeypatch):
    monkeypatch.setattr("p2pnode.services.metadata.ANTI_ENTROPY_S", 1e9)
    nodes = await swarm.founded(8)
    (event,) = await write(nodes[0], 1)
    await sync(nodes[1], nodes[0])
    await trio.sleep(1)
    # Whom chance leaves out (one in twenty) is told by comparing notes.
    assert sum(event.id in node.metadata.clock for node in nodes) >= 7


async def test_much_news_is_compared_and_moves_once(swarm, autojump_clock, monkeypatch):
    monkeypatch.setattr("p2pnode.services.metadata.ANTI_ENTROPY_S", 1e9)
    nodes = await swarm.founded(6)
    await write(nodes[0], 200)
    watches = [Watch(node, monkeypatch) for node in nodes[1:]]
    await sync(nodes[1], nodes[0])
    await trio.sleep(1)
    assert sum(watch.new == 200 for watch in watches) >= 4
    assert all(watch.new in (0, 200) for watch in watches)


# -- far behind --


@pytest.fixture
def small_bands(monkeypatch):
    monkeypatch.setattr(bands, "BAND_EVENTS", 20)
    monkeypatch.setattr(syncing, "FAR_EVENTS", 50)
    monkeypatch.setattr(syncing, "SERVED_EVENTS", 8)


async def far_behind(swarm, count=3, events=300):
    """Members with a history, and a newcomer that is connected to all of them."""
    nodes = await lonely(swarm, count)
    await write(nodes[0], events)
    for node in nodes[1:]:
        await sync(node, nodes[0])
    newcomer = await swarm.node(9, run=False)
    for node in nodes:
        newcomer.peers.learn(node.peer_id, node.settings.node_id, node.settings.role, [])
        await newcomer.peers.connect(node.peer_id)
    return nodes, newcomer


async def meddle(node, verb, meddled):
    """Let that node answer a verb its own way from now on, on new connections."""
    handlers = node.metadata.handlers()
    honest = handlers[verb]

    async def handler(peer_id, request, exchange):
        await meddled(peer_id, request, exchange, honest)

    node.guard.serve(METADATA, {**handlers, verb: handler})
    for other in map(node.swarm.nodes.get, node.transport.connected()):
        await node.swarm.part(node, other)
        await other.peers.connect(node.peer_id)


async def test_a_newcomer_fetches_bands_from_several_members_each_event_once(
    swarm, autojump_clock, monkeypatch, small_bands
):
    nodes, newcomer = await far_behind(swarm)
    served = {node.peer_id: 0 for node in nodes}
    for node in nodes:

        async def count(peer_id, request, exchange, honest, *, me=node.peer_id):
            served[me] += 1
            await honest(peer_id, request, exchange)

        await meddle(node, words.WantBand, count)
    watch = Watch(newcomer, monkeypatch)
    await newcomer.metadata.greet(nodes[0].peer_id)
    assert newcomer.state == nodes[0].state
    assert watch.known == 0
    assert min(served.values()) >= 3
    assert not (newcomer.settings.home / "staging.db").exists()


async def test_who_was_away_gets_what_is_below_its_height_first(swarm, autojump_clock, monkeypatch, small_bands):
    nodes = await lonely(swarm, 3)
    away = nodes[2]
    await write(nodes[0], 5)
    await write(away, 9)
    await sync(nodes[1], away)
    await sync(nodes[1], nodes[0])
    await write(nodes[1], 200)
    watch = Watch(away, monkeypatch)
    await sync(away, nodes[1])
    assert away.state == nodes[1].state
    assert "want_band" in watch.asked
    assert (watch.known, watch.new) == (0, 205)


async def test_what_comes_early_waits_on_disk_and_not_without_bound(swarm, autojump_clock, monkeypatch, small_bands):
    nodes, newcomer = await far_behind(swarm)
    monkeypatch.setattr(catching_up, "STAGED_BYTES_MAX", 30_000)

    async def slow(peer_id, request, exchange, honest):
        await trio.sleep(5 if request.low <= 1 else 0)
        await honest(peer_id, request, exchange)

    for node in nodes:
        await meddle(node, words.WantBand, slow)
    most = 0
    real = catching_up.Staging.put

    async def put(self, *args):
        nonlocal most
        await real(self, *args)
        most = max(most, self.size_bytes)

    monkeypatch.setattr(catching_up.Staging, "put", put)
    await newcomer.metadata.greet(nodes[0].peer_id)
    assert newcomer.state == nodes[0].state
    # One band of some 8 kB may be under way from each source when the bound is reached.
    assert 30_000 < most < 30_000 + 4 * 12_000


async def vanish(peer_id, request, exchange, honest):
    await exchange.reset()
    raise PeerLost("gone")


async def promise_and_stop(peer_id, request, exchange, honest):
    await exchange.send(words.Synced(count=1, fingerprint=bytes(32)))


async def garbage(peer_id, request, exchange, honest):
    await exchange.send(words.Events(sizes=[300]), b"\xff" * 300)
    await exchange.send(words.Synced(count=1, fingerprint=bytes(32)))


async def silence(peer_id, request, exchange, honest):
    await trio.sleep_forever()


class Endless:
    """The same good events again and again."""

    def __init__(self, node):
        self.node = node
        self.sent = 0

    async def __call__(self, peer_id, request, exchange, honest):
        ledger = self.node.metadata.ledger
        wires = await ledger.wires(ledger.clock.between(request.low, request.high))
        while True:
            self.sent += len(wires)
            await exchange.send(words.Events(sizes=list(map(len, wires))), b"".join(wires))


MEDDLERS = [vanish, promise_and_stop, garbage, silence, Endless]


@pytest.mark.parametrize("what", MEDDLERS, ids=lambda what: what.__name__)
@pytest.mark.parametrize("who", [0, 1])
async def test_a_source_that_fails_or_lies_delays_and_changes_nothing(swarm, autojump_clock, small_bands, what, who):
    nodes, newcomer = await far_behind(swarm)
    meddled = what(nodes[who]) if isinstance(what, type) else what
    await meddle(nodes[who], words.WantBand, meddled)
    with trio.fail_after(120):
        await newcomer.metadata.greet(nodes[0].peer_id)
    assert newcomer.state == nodes[0].state
    if isinstance(meddled, Endless):
        assert meddled.sent < 2000, "it was hung up on, not listened to"
    if what is garbage:
        assert newcomer.peers.blame.conduct.counts(nodes[who].peer_id)


async def test_a_source_that_is_behind_serves_what_it_has(swarm, autojump_clock, small_bands):
    nodes, newcomer = await far_behind(swarm)
    await write(nodes[0], 200)
    await newcomer.metadata.greet(nodes[0].peer_id)
    assert newcomer.state == nodes[0].state


async def test_the_promiser_may_die_once_it_has_promised(swarm, autojump_clock, small_bands):
    nodes, newcomer = await far_behind(swarm)
    await newcomer.metadata.ledger.adopt(nodes[0].metadata.genesis)
    answered = trio.Event()

    async def promise(peer_id, request, exchange, honest):
        await honest(peer_id, request, exchange)
        answered.set()
        await trio.sleep_forever()

    async def die():
        await answered.wait()
        await nodes[0].crash()

    await meddle(nodes[0], words.Sync, promise)
    swarm.nursery.start_soon(die)
    with pytest.raises(P2PNodeError):
        await sync(newcomer, nodes[0])
    await sync(newcomer, nodes[1])
    assert newcomer.state == nodes[1].state


@pytest.mark.parametrize(
    "promise",
    [
        [words.Band(1, 5, 100, bytes(16))],
        [words.Band(1, 5, 1 << 50, bytes(16))],
        [words.Band(3, 5, 10, bytes(16))],
        [words.Band(1, 1 << 60, 10, bytes(16)), words.Band(1, 5, 10, bytes(16))],
    ],
)
async def test_a_false_promise_costs_its_maker_and_nobody_else(swarm, autojump_clock, small_bands, promise):
    nodes, newcomer = await far_behind(swarm)
    await newcomer.metadata.ledger.adopt(nodes[0].metadata.genesis)

    async def lie(peer_id, request, exchange, honest):
        await exchange.send(words.Synced(count=1000, fingerprint=bytes(32), bands=promise))

    await meddle(nodes[0], words.Sync, lie)
    with pytest.raises(PeerLost):
        await sync(newcomer, nodes[0])
    assert newcomer.metadata.clock.waiting == 0
    await sync(newcomer, nodes[1])
    assert newcomer.state == nodes[1].state


# -- liars --


@pytest.mark.parametrize(
    ("verb", "answer", "payload"),
    [
        (words.Sync, words.Differs(count=9, fingerprint=b"", heads=[], salt=b"s", digests=bytes(7)), b""),
        (words.Sync, words.Differs(count=9, fingerprint=b"", heads=[], salt=b"s", digests=b""), b""),
        (words.Compare, words.Compared(known=b"", others=[]), b""),
        (words.Compare, words.Compared(known=b"\xff", others=[1 << 40]), b""),
        (words.Compare, words.Compared(known=b"\xff", others=[0]), bytes(33)),
        (words.Compare, words.Compared(known=b"\xff", others=[1, 1, 1]), bytes(96)),
    ],
)
async def test_an_answer_that_cannot_be_is_counted_and_harms_nobody(
    swarm, autojump_clock, monkeypatch, verb, answer, payload
):
    one, liar, honest = await lonely(swarm, 3)
    await write(one, 2)
    await write(liar, 2)
    await write(honest, 2)

    async def lie(peer_id, request, exchange, _):
        await exchange.send(answer, payload)

    await meddle(liar, verb, lie)
    with pytest.raises(PeerLost):
        await sync(one, liar)
    assert one.peers.blame.conduct.counts(liar.peer_id) == {Reason.BAD_MESSAGE: 1}
    await sync(one, honest)
    assert one.state == honest.state


@pytest.mark.parametrize(
    ("request_", "payload"),
    [
        (words.Compare(groups=[words.Group(1, 5)]), bytes(32)),
        (words.Compare(groups=[words.Group(1, 0), words.Group(0, 0)], bits=2), b""),
        (words.Compare(), bytes(31)),
        (words.WantEvents(wanted=1), bytes(33)),
    ],
)
async def test_a_question_that_cannot_be_is_refused_and_counted(swarm, autojump_clock, request_, payload):
    one, liar = await lonely(swarm, 2)
    with pytest.raises(P2PNodeError, match="cannot be compared"):
        await liar.peers.ask(one.peer_id, METADATA, request_, payload)
    assert one.peers.blame.conduct.counts(liar.peer_id)[Reason.BAD_MESSAGE] == 1


async def test_forged_flags_make_a_node_push_what_is_its_own_and_no_more(swarm, autojump_clock, monkeypatch):
    one, liar = await lonely(swarm, 2)
    await write(one, 30)
    await write(liar, 2)

    async def lie(peer_id, request, exchange, _):
        groups = len(request.groups)
        ids = await exchange.payload_all(words.IDS_BYTES_MAX)
        made_up = bytes(range(32)) * groups
        await exchange.send(words.Compared(known=bytes(-(-len(ids) // 256)), others=[1] * groups), made_up)

    await meddle(liar, words.Compare, lie)
    before = one.metadata.clock.fingerprint
    with trio.fail_after(30):
        await sync(one, liar)
    assert one.metadata.clock.fingerprint == before
    assert set(one.metadata.clock.heads()) <= {event.id for event in liar.log.events()}


async def test_unknown_ids_are_skipped_and_foreign_heads_lead_to_a_comparison(swarm, autojump_clock):
    one, other = await lonely(swarm, 2)
    clock = one.metadata.clock
    strange = record_cid(b"strange")
    answer, _ = await other.peers.ask(
        one.peer_id,
        METADATA,
        words.Sync(genesis=clock.genesis, count=3, fingerprint=b"", heads=[strange]),
    )
    assert isinstance(answer, words.Differs)
    answer, _ = await other.peers.ask(
        one.peer_id, METADATA, words.WantEvents(wanted=1), reconcile.pack([strange, clock.genesis])
    )
    assert answer == words.Synced(count=len(clock), fingerprint=clock.fingerprint)


async def test_known_kinds_still_need_their_blocks(swarm, autojump_clock, small_bands):
    """Blocks that bands name come from whoever gave the band."""
    nodes = await lonely(swarm, 2)
    first = nodes[0]
    define = Draft(records.DEFINE, "ds-1", records.define_body(records.Definition("flights")))
    await first.metadata.ledger.write_many([define])
    for number in range(30):
        block = records.encode_manifest(Manifest("ds-1", "parquet", b"", (), (), policy={"note": str(number)}))
        over = first.metadata.catalog.tips("ds-1")
        body = records.version_body(records.Version(record_cid(block), None, False, over))
        await first.metadata.ledger.write(records.VERSION, "ds-1", body, (block,))
        await write(first, 3)
    await sync(nodes[1], first)
    newcomer = await swarm.node(9, run=False)
    for node in nodes:
        newcomer.peers.learn(node.peer_id, node.settings.node_id, node.settings.role, [])
        await newcomer.peers.connect(node.peer_id)
    await newcomer.metadata.greet(first.peer_id)
    assert newcomer.state == first.state
    assert len(newcomer.log.block_ids()) == 30


async def test_what_one_disk_lost_comes_back_with_the_next_sync(swarm, monkeypatch, autojump_clock):
    first, second = await lonely(swarm, 2)
    notes = await write(first, 12)
    await second.metadata.catch_up(first.peer_id)
    ledger = second.metadata.ledger
    with sqlite3.connect(second.settings.home / "events.db") as db:
        for n in (3, 4, 9):
            db.execute("UPDATE events SET wire = ? WHERE id = ?", (b"rubbish", notes[n].id))
    ids = [note.id for note in notes]
    served = [note.wire for note in notes if note not in (notes[3], notes[4], notes[9])]
    assert await ledger.wires(ids) == served
    assert ledger.lost == [notes[3].id, notes[4].id, notes[9].id]
    assert second.state == first.state, "no comparison shows it"
    await second.metadata.catch_up(first.peer_id)
    assert (ledger.lost, ledger.incomplete) == ([], 0)
    assert await ledger.wires(ids) == [note.wire for note in notes]


@pytest.mark.parametrize("asked", ["opening", "serving"])
async def test_a_manifest_that_one_disk_lost_comes_back_with_the_next_sync(swarm, asked, autojump_clock):
    first, second = await lonely(swarm, 2)
    block = records.encode_manifest(Manifest("ds-1", "parquet", b"", (), ()))
    cid, ledger = record_cid(block), first.metadata.ledger
    await ledger.write(records.DEFINE, "ds-1", records.define_body(records.Definition("flights")))
    await ledger.write(records.VERSION, "ds-1", records.version_body(records.Version(cid)), [block])
    await write(first, 3)
    await second.metadata.catch_up(first.peer_id)
    if asked == "opening":
        await second.log.close()
    with sqlite3.connect(second.settings.home / "events.db") as db:
        db.execute("UPDATE blocks SET data = ?", (b"rubbish",))
    if asked == "opening":
        await second.open()
        ledger = second.metadata.ledger
        assert ledger.catalog.dataset("flights").version is None, "as if the version had not come yet"
        assert ledger.incomplete == 4
    else:
        ledger = second.metadata.ledger
        with pytest.raises(IntegrityError):
            await ledger.block(cid)
        assert (ledger.lost_blocks, ledger.incomplete) == ([cid], 1)
    await second.metadata.greet(first.peer_id)
    assert (ledger.lost_blocks, ledger.incomplete) == ([], 0)
    assert ledger.catalog.dataset("flights").version == cid
    assert await ledger.block(cid) == block
    assert second.state == first.state


# -- patience --


async def test_an_answerer_that_drips_is_given_up_as_soon_as_one_that_is_silent(swarm, autojump_clock):
    one, liar = await lonely(swarm, 2)
    events = await write(liar, 40)

    async def drip(peer_id, request, exchange, _):
        for event in events:
            await trio.sleep(3)
            await exchange.send(words.Events(sizes=[len(event.wire)]), event.wire)

    await meddle(liar, words.Sync, drip)
    started = trio.current_time()
    with pytest.raises(Timeout):
        await sync(one, liar)
    assert trio.current_time() - started < event_stream.PATIENCE_S + 1
    assert events[2].id in one.metadata.clock, "what came until then counts"


async def test_who_sends_what_everybody_knows_is_not_listened_to_for_long(swarm, autojump_clock, monkeypatch):
    monkeypatch.setattr(event_stream, "KNOWN_MAX", 100)
    one, liar = await lonely(swarm, 2)
    meddled = Endless(liar)
    await write(liar, 30)

    async def endless(peer_id, request, exchange, honest):
        await meddled(peer_id, words.WantBand(low=0, high=1 << 40), exchange, honest)

    await meddle(liar, words.Sync, endless)
    with trio.fail_after(30), pytest.raises(PeerLost, match="known here"):
        await sync(one, liar)
    assert meddled.sent < 2000


async def test_a_node_that_is_far_ahead_is_asked_rather_than_left_to_push(swarm, autojump_clock, monkeypatch):
    monkeypatch.setattr("p2pnode.services.metadata.ANTI_ENTROPY_S", 1e9)
    monkeypatch.setattr(syncing, "PUSHED_BACK_MAX", 20)
    one, other = await swarm.founded(2)
    await write(one, 21)
    await sync(one, other)
    await trio.sleep(1)
    assert one.state == other.state


async def test_one_cut_of_the_history_serves_a_crowd_of_newcomers(swarm, autojump_clock, monkeypatch, small_bands):
    nodes, newcomer = await far_behind(swarm)
    cuts = 0
    real = bands.cut

    def cut(*args):
        nonlocal cuts
        cuts += 1
        return real(*args)

    monkeypatch.setattr(bands, "cut", cut)
    crowd = [newcomer, *[await swarm.node(number, run=False) for number in (10, 11, 12)]]
    async with trio.open_nursery() as nursery:
        for one in crowd:
            nursery.start_soon(one.metadata.greet, nodes[0].peer_id)
    assert {one.state for one in crowd} == {nodes[0].state}
    assert cuts == 1


async def test_a_block_that_is_under_way_is_not_asked_for_again(swarm, autojump_clock):
    """Unless whoever was asked does not give it."""
    nodes = await lonely(swarm, 4)
    asked = []
    block = records.encode_manifest(Manifest("ds-1", "parquet", b"", (), ()))
    cid = record_cid(block)
    ledger = nodes[0].metadata.ledger
    define = await ledger.write(records.DEFINE, "ds-1", records.define_body(records.Definition("flights")))
    version = await ledger.write(records.VERSION, "ds-1", records.version_body(records.Version(cid)), [block])

    async def slow(peer_id, request, exchange, honest, *, me):
        asked.append(me)
        await trio.sleep(1)
        if me == 0:
            await exchange.send(words.Block(cid=cid, found=False))
        else:
            await exchange.send(words.Block(cid=cid), block)

    for number, node in enumerate(nodes[:3]):
        await meddle(node, words.WantBlock, functools.partial(slow, me=number))
    push = words.Push(sizes=[len(define.wire), len(version.wire)], wide=True)

    async def tell(node):
        await node.peers.ask(nodes[3].peer_id, METADATA, push, define.wire + version.wire)

    async with trio.open_nursery() as nursery:
        for node in nodes[:3]:
            nursery.start_soon(tell, node)
            await trio.sleep(0.1)
    assert asked in ([0, 1], [0, 2]), "of those who wait, whoever wakes first asks"
    assert version.id in nodes[3].metadata.clock


async def test_who_keeps_a_block_to_himself_delays_nobody_else_for_long(swarm, autojump_clock):
    liar, honest, hearer = await lonely(swarm, 3)
    block = records.encode_manifest(Manifest("ds-1", "parquet", b"", (), ()))
    ledger = honest.metadata.ledger
    define = await ledger.write(records.DEFINE, "ds-1", records.define_body(records.Definition("flights")))
    body = records.version_body(records.Version(record_cid(block)))
    version = await ledger.write(records.VERSION, "ds-1", body, [block])

    async def never(peer_id, request, exchange, _):
        await trio.sleep_forever()

    await meddle(liar, words.WantBlock, never)
    push = words.Push(sizes=[len(define.wire), len(version.wire)], wide=True)

    async def tell(node):
        return await node.peers.ask(hearer.peer_id, METADATA, push, define.wire + version.wire, timeout_s=60.0)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(tell, liar)
        await trio.sleep(0.1)
        told_at = trio.current_time()
        stored, _ = await tell(honest)
        assert stored.durable == [define.id, version.id]
        assert trio.current_time() - told_at < 5, "in time for its author"
        nursery.cancel_scope.cancel()


async def test_what_an_honest_peer_pushes_back_is_held_against_nobody_who_came_second():
    conduct = Conduct()
    for _ in range(syncing.PUSHED_BACK_MAX // syncing.SERVED_EVENTS):
        assert conduct.pushed("second", syncing.SERVED_EVENTS, here=20_000, now=0) == 0
