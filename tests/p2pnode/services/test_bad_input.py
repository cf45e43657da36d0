"""A member that floods its swarm with what is no event, or no frame, while the others write."""

from __future__ import annotations

from dataclasses import replace

import libipld
import pytest
import trio

from bootstrap.identity import Identity
from p2pnode.core import records
from p2pnode.core.cid import record_cid
from p2pnode.core.conduct import DROP_S, Reason
from p2pnode.core.event import Position, compose, mint_session
from p2pnode.core.model import NodeRole
from p2pnode.env.net import StreamBroken
from p2pnode.errors import Busy, PeerLost, Unauthorized
from protocols import metadata as words
from protocols.frame import frame
from protocols.metadata import METADATA

pytestmark = pytest.mark.trio

#: Pushes a second of the flood: more than any honest member makes, less than a machine can.
RATE = 200
#: Times that each push says the same.
COPIES = 20
#: Virtual seconds of it at most.
FLOOD_S = 10


def an_event(node, position=None, *, namespace=None, kind="note", object_id="", body=None, session=b"", author=None):
    """Signed by the node, whatever it says."""
    clock = node.metadata.clock
    session = session or mint_session(bytes(16))
    position = position or clock.next_position(node.peer_id, session)
    return compose(
        namespace=namespace or clock.genesis,
        author=author or node.peer_id,
        session=session,
        position=position,
        time=0,
        kind=kind,
        object_id=object_id,
        body=body or {},
        sign=node.identity.sign,
    )


def with_field(event, node, name, value):
    """The event with another value in that field, signed again."""
    fields = {**libipld.decode_dag_cbor(event.encoded), name: value}
    encoded = libipld.encode_dag_cbor(fields)
    return encoded + node.identity.sign(b"p2pnode/event/1\0" + encoded)


def lies_of(node, other):
    """One bad event of each kind, and the reason for which it must be refused."""
    good = an_event(node)
    place = node.metadata.clock.next_position(node.peer_id, mint_session(bytes(16)))
    stranger = Identity.from_seed(b"x" * 32)
    outsider = compose(
        namespace=node.metadata.genesis,
        author=stranger.peer_id,
        session=mint_session(bytes(16)),
        position=Position(0, None, place.parents, place.height),
        time=0,
        kind="note",
        object_id="",
        body={},
        sign=stranger.sign,
    )
    return {
        "garbage": (b"\xff" * 300, Reason.MALFORMED),
        "empty": (b"", Reason.MALFORMED),
        "cut off": (good.wire[:-70], Reason.MALFORMED),
        "not canonical": (good.encoded + b"\x00" + good.signature, Reason.MALFORMED),
        "mis-signed": (good.encoded + bytes(64), Reason.BAD_SIGNATURE),
        "in another's name": (an_event(node, author=other.peer_id).wire, Reason.BAD_SIGNATURE),
        "oversized": (good.encoded + bytes(100_000), Reason.OVERSIZED),
        "of another swarm": (an_event(node, namespace=record_cid(b"other")).wire, Reason.FOREIGN),
        "forged height": (an_event(node, replace(place, height=place.height + 5)).wire, Reason.FORGED_HEIGHT),
        "forged sequence": (an_event(node, replace(place, sequence=7)).wire, Reason.FORGED_SEQUENCE),
        "not entitled": (outsider.wire, Reason.NOT_ENTITLED),
        "another's leave": (
            an_event(node, kind=records.LEAVE, object_id=other.peer_id).wire,
            Reason.NOT_ENTITLED,
        ),
        "bad payload": (
            an_event(node, kind=records.DEFINE, object_id="ds-1", body={"name": 5}).wire,
            Reason.BAD_PAYLOAD,
        ),
        "newer format": (with_field(good, node, "v", 2), Reason.NEWER),
        "out of order": (
            an_event(node, Position(1, record_cid(b"never"), (record_cid(b"never"),), 9)).wire,
            Reason.ORPHAN,
        ),
    }


KINDS = (
    "garbage", "empty", "cut off", "not canonical", "mis-signed", "in another's name", "oversized", "of another swarm",
    "forged height", "forged sequence", "not entitled", "another's leave", "bad payload", "newer format",
    "out of order",
)  # fmt: skip


async def flood(node, victim, wire, until):
    """Push it again and again until told to wait (Busy) or shut out (PeerLost); fails if that takes too long."""
    push = words.Push(sizes=[len(wire)] * COPIES)
    with trio.fail_after(FLOOD_S):
        while True:
            try:
                await node.peers.ask(victim.peer_id, METADATA, push, wire * COPIES)
            except (Busy, PeerLost) as refusal:
                if isinstance(refusal, until):
                    return
            except Unauthorized:
                pass  # a client's push
            await trio.sleep(1 / RATE)


def blamed(node, other):
    """What one holds against the other."""
    return node.peers.blame.conduct.counts(other.peer_id)


async def writes(node, seconds, every=0.25):
    """Acknowledged writes, one after the other: on three disks each, or this raises."""
    until = trio.current_time() + seconds
    count = 0
    while trio.current_time() < until:
        await node.metadata.author("note", f"n{count}", {}, timeout_s=5)
        count += 1
        await trio.sleep(every)
    return count


@pytest.mark.parametrize("kind", KINDS)
async def test_who_floods_bad_events_is_throttled_and_the_others_write_on(swarm, autojump_clock, kind):
    first, second, third, hostile = await swarm.founded(4)
    wire, reason = lies_of(hostile, first)[kind]
    honest = (first, second, third)
    before = {(node, other): blamed(node, other) for node in honest for other in (*honest, hostile)}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood, hostile, first, wire, Busy)
        for node in (first, second):
            nursery.start_soon(writes, node, 3)
    assert blamed(first, hostile)[reason] >= 17
    assert first.peers.blame.pause_s(hostile.peer_id) > 20
    assert not first.peers.blame.is_dropped(hostile.peer_id)
    before[first, hostile] |= {reason: blamed(first, hostile)[reason], Reason.IMPATIENT: 1}
    for (node, other), blame in before.items():
        assert blamed(node, other) == blame, "nobody else is to blame, and for nothing else"


@pytest.mark.parametrize("kind", ["mis-signed", "bad payload", "out of order"])
async def test_who_goes_on_is_dropped_and_the_others_write_on(swarm, autojump_clock, kind):
    first, second, _, hostile = await swarm.founded(4)
    wire, _ = lies_of(hostile, first)[kind]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood, hostile, first, wire, PeerLost)
        for node in (first, second):
            nursery.start_soon(writes, node, FLOOD_S)
    assert first.peers.blame.is_dropped(hostile.peer_id)
    assert hostile.peer_id not in first.peers.connected()
    worst = first.peers.blame.offenders()[0]
    assert (worst.peer_id, worst.dropped_s > 0) == (hostile.peer_id, True)


async def test_who_repeats_what_is_known_for_ever_is_throttled(swarm, autojump_clock):
    first, second, hostile = await swarm.founded(3)
    kept = [await second.metadata.author("note", f"n{number}", {}, timeout_s=5) for number in range(3)]
    wire = kept[0].wire
    push = words.Push(sizes=[len(wire)] * 500)
    for _ in range(2):
        await hostile.peers.ask(first.peer_id, METADATA, push, wire * 500)
    assert Reason.REPLAYED not in blamed(first, hostile), "an honest retry, even of a thousand"
    with pytest.raises(Busy):
        for _ in range(60):
            await hostile.peers.ask(first.peer_id, METADATA, push, wire * 500)
    assert blamed(first, hostile)[Reason.REPLAYED] > 5000


async def test_who_was_dropped_is_heard_again_and_sooner_dropped_the_next_time(swarm, autojump_clock):
    first, second, hostile = await swarm.founded(3)
    wire, _ = lies_of(hostile, first)["mis-signed"]
    conduct = first.peers.blame.conduct
    await flood(hostile, first, wire, PeerLost)
    assert hostile.peer_id not in first.peers.connected()
    with pytest.raises(PeerLost, match="dropped"):
        await first.metadata.greet(hostile.peer_id)
    await second.metadata.author("note", "", {}, timeout_s=5)
    await trio.sleep(DROP_S + 1)
    event = await hostile.metadata.author("note", "", {}, timeout_s=20)
    assert event.id in first.metadata.clock
    await flood(hostile, first, wire, PeerLost)
    assert conduct.drop_s(hostile.peer_id, trio.current_time()) > 1.9 * DROP_S


NONSENSE = {
    "an endless header": (b"\xff" * 64, Reason.HEADER_TOO_LARGE),
    "no header": (b"\x05hello", Reason.BAD_HEADER),
    "a body that does not fit": (frame(b"\x93\xa4push\x00\x81\xa5sizes\x05"), Reason.BAD_MESSAGE),
    "more payload than may be": (frame(b"\x93\xa4push\xce\x7f\xff\xff\xff\x81\xa5sizes\x90"), Reason.PAYLOAD_TOO_LARGE),
    "an answer where a request belongs": (frame(b"\x93\xa6stored\x00\x80"), Reason.UNEXPECTED_MESSAGE),
}


@pytest.mark.parametrize("kind", NONSENSE)
async def test_who_floods_bad_frames_is_dropped_and_finds_no_door(swarm, autojump_clock, kind):
    first, second, _, hostile = await swarm.founded(4)
    wire, reason = NONSENSE[kind]
    opened = 0
    for _ in range(85):
        await hostile.transport.dial(first.peer_id, ())
        stream = await hostile.transport.open_stream(first.peer_id, METADATA.protocol_id)
        try:
            await stream.write(wire)
            opened += bool(await stream.read(1000))
        except StreamBroken:
            pass  # thrown out
        await stream.reset()
        await trio.sleep(1 / RATE)
    assert opened < 100
    account = blamed(first, hostile)
    assert 17 <= account[reason] < 100
    assert account[Reason.IMPATIENT] > 10
    assert first.peers.blame.is_dropped(hostile.peer_id)
    assert await writes(second, 2) > 5
    assert hostile.peer_id not in first.peers.connected()


async def test_an_answerer_that_lies_is_blamed_like_an_asker(swarm, autojump_clock):
    first, _, hostile = await swarm.founded(3, run=False)
    wire, reason = lies_of(hostile, first)["mis-signed"]

    async def lie(peer_id, request, exchange):
        await exchange.send(words.Events(sizes=[len(wire)]), wire)
        await exchange.send(words.Synced(count=9, fingerprint=bytes(32)))

    await swarm.part(first, hostile)
    hostile.guard.serve(METADATA, {**hostile.metadata.handlers(), words.Sync: lie})
    for _ in range(30):
        await first.metadata.catch_up(hostile.peer_id)
    assert blamed(first, hostile)[reason] >= 17
    assert first.peers.blame.pause_s(hostile.peer_id) > 0


async def test_honest_mistakes_cost_nobody_its_place(swarm, autojump_clock):
    """A newer version's words, repeated pushes, and events that overtook their parents, for ten minutes."""
    first, second, _ = await swarm.founded(3)
    kept = await second.metadata.author("note", "kept", {}, timeout_s=5)
    newer = with_field(an_event(second), second, "v", 2)
    strange = an_event(second, kind=records.UP, object_id=second.peer_id, body={"role": "archiver"}).wire
    orphan = an_event(second, Position(1, record_cid(b"late"), (record_cid(b"late"),), 9)).wire
    payload = [newer] * 50 + [strange] * 50 + [orphan] + [kept.wire] * 3
    push = words.Push(sizes=[len(wire) for wire in payload])
    for _ in range(120):
        answer, _ = await second.peers.ask(first.peer_id, METADATA, push, b"".join(payload))
        assert kept.id in answer.durable
        stream = await second.transport.open_stream(first.peer_id, METADATA.protocol_id)
        for _ in range(5):
            await stream.write(frame(b"\x93\xa7quantum\x00\x80"))
            await stream.read(1000)
        await stream.reset()
        await trio.sleep(5)
    assert first.peers.blame.pause_s(second.peer_id) == 0
    account = blamed(first, second)
    assert min(account[Reason.NEWER], account[Reason.BAD_PAYLOAD]) >= 120
    assert account[Reason.UNKNOWN_VERB] == 600
    assert (await second.metadata.author("note", "", {}, timeout_s=5)).id in first.metadata.clock


async def test_a_stranger_that_asks_what_it_may_not_is_refused_and_then_shut_out(swarm, autojump_clock):
    first, second = await swarm.founded(2)
    client = await swarm.node(6, NodeRole.CLIENT)
    await client.join(first)
    wire = an_event(second).wire
    await flood(client, first, wire, PeerLost)
    assert blamed(first, client)[Reason.UNAUTHORIZED] > 200
