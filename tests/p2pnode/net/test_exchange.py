"""Asking and answering: Exchange, Peers and Guard together, over real connections."""

from __future__ import annotations

import hashlib
import os
import random
from contextlib import asynccontextmanager

import pytest
import trio

from p2pnode import errors
from p2pnode.core.conduct import Reason
from p2pnode.core.model import NodeRole
from p2pnode.env import Env
from p2pnode.env.net import StreamBroken
from p2pnode.net import exchange as exchange_module
from p2pnode.net import guard as guard_module
from p2pnode.net import peers as peers_module
from p2pnode.net.blame import Blame
from p2pnode.net.guard import Guard
from p2pnode.net.peers import Peers
from protocols.errors import LocalProtocolError
from protocols.message import Message, ProtocolSpec, Verb

MIB = 1 << 20


class Say(Message, tag="say"):
    text: str = ""


class Said(Message, tag="said"):
    text: str = ""


class Fetch(Message, tag="fetch"):
    size: int


class Bytes(Message, tag="bytes"):
    pass


class Store(Message, tag="store"):
    pass


class Part(Message, tag="part"):
    pass


class Stored(Message, tag="stored"):
    digest: str


class Fail(Message, tag="fail"):
    how: str = ""


class Hang(Message, tag="hang"):
    pass


SPEC = ProtocolSpec(
    "/test/words/1.0.0",
    (
        Verb(Say, final=(Said,), payload_max=((Say, MIB), (Said, MIB))),
        Verb(Fetch, final=(Bytes,), payload_max=((Bytes, 1 << 30),)),
        Verb(Store, uploads=(Part,), final=(Stored,), payload_max=((Part, 1 << 30),)),
        Verb(Fail, final=(Said,)),
        Verb(Hang, final=(Said,)),
    ),
)
#: The same words with one more, as a newer peer would speak them.
NEWER = ProtocolSpec(SPEC.protocol_id, (*SPEC.verbs, Verb(type("Sing", (Message,), {}, tag="sing"), final=(Said,))))
BLOCK = random.Random(5).randbytes(MIB)


def _handlers(hanging: trio.Event):
    async def say(peer, request, exchange):
        payload = await exchange.payload_all(MIB)
        await exchange.send(Said(text=f"{request.text} from {peer}"), payload[::-1])

    async def fetch(peer, request, exchange):
        async def pieces():
            for start in range(0, request.size, MIB):
                yield BLOCK[: request.size - start]

        await exchange.send_stream(Bytes(), request.size, pieces())

    async def store(peer, request, exchange):
        digest = hashlib.sha256()
        await exchange.receive()
        async for piece in exchange.payload():
            digest.update(piece)
        await exchange.send(Stored(digest=digest.hexdigest()))

    async def fail(peer, request, exchange):
        if request.how == "busy":
            raise errors.Busy("full", retry_after_s=7.0)
        if request.how == "missing":
            raise errors.ShardUnavailable("gone", coverage=0.5, missing=("a", "b"))
        if request.how == "silent":
            return
        raise RuntimeError("a bug with a secret in it")

    async def hang(peer, request, exchange):
        hanging.set()
        await trio.sleep_forever()

    return {Say: say, Fetch: fetch, Store: store, Fail: fail, Hang: hang}


class Pair:
    """An asker and an answerer."""

    def __init__(self, asker, answerer, authorise):
        self.hanging = trio.Event()
        self.asker, self.answerer = asker, answerer
        self.blame = Blame(answerer, Env())
        self.guard = Guard(answerer, authorise, self.blame)
        self.guard.serve(SPEC, _handlers(self.hanging))
        self.peers = Peers(asker, Env())
        self.peers.learn(answerer.peer_id, "answerer", NodeRole.HYBRID, answerer.addresses())
        self.id = answerer.peer_id

    @property
    def blamed(self):
        """What the answerer holds against the asker."""
        return self.blame.conduct.counts(self.asker.peer_id)

    async def hang(self):
        try:
            await self.peers.ask(self.id, SPEC, Hang())
        except errors.PeerLost:
            pass  # a test that cuts the connection says so

    async def say(self, text="hello", **more):
        return await self.peers.ask(self.id, SPEC, Say(text=text), **more)


def everything(peer_id: str, protocol: str, verb: str) -> None:
    """Anybody may ask anything."""


@pytest.fixture
def pair(open_node):
    @asynccontextmanager
    async def opened(authorise=everything):
        async with open_node() as asker, open_node() as answerer:
            yield Pair(asker, answerer, authorise)

    return opened


@pytest.mark.trio
async def test_question_answer_and_payload_both_ways(pair):
    async with pair() as p:
        reply, payload = await p.peers.ask(p.id, SPEC, Say(text="hi"), b"abc")
        assert reply == Said(text=f"hi from {p.asker.peer_id}")
        assert payload == b"cba"
        big = os.urandom(MIB)
        assert (await p.peers.ask(p.id, SPEC, Say(), big))[1] == big[::-1]
        assert p.peers.connected() == [p.id]
        assert p.peers.role_of(p.id) is NodeRole.HYBRID
        assert [record.addresses for record in p.peers.known()] == [p.answerer.addresses()]


@pytest.mark.trio
async def test_streams_are_kept_and_bounded(pair, monkeypatch):
    opened = 0
    async with pair() as p:
        real = p.asker.open_stream

        async def counted(*args):
            nonlocal opened
            opened += 1
            return await real(*args)

        monkeypatch.setattr(p.asker, "open_stream", counted)
        for _ in range(20):
            await p.say()
        assert opened == 1
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(p.say)
        assert opened <= peers_module.STREAMS_MAX
        assert p.blamed == {}


@pytest.mark.trio
async def test_64_mib_down_and_up_arrive_whole(pair):
    size = 64 * MIB + 12_345
    expected = hashlib.sha256(BLOCK * 64 + BLOCK[:12_345]).hexdigest()
    async with pair() as p:
        digest = hashlib.sha256()
        async with p.peers.exchange(p.id, SPEC, Fetch(size=size), timeout_s=None) as exchange:
            assert isinstance(await exchange.receive(), Bytes)
            assert exchange.payload_bytes == size
            async for piece in exchange.payload():
                digest.update(piece)
        assert digest.hexdigest() == expected

        async def pieces():
            for start in range(0, size, 100_000):
                whole = BLOCK * 2
                yield whole[start % MIB :][: min(100_000, size - start)]

        sent = hashlib.sha256()
        async for piece in pieces():
            sent.update(piece)
        async with p.peers.exchange(p.id, SPEC, Store(), timeout_s=None) as exchange:
            await exchange.send_stream(Part(), size, pieces())
            assert await exchange.receive() == Stored(digest=sent.hexdigest())
        assert sent.hexdigest() == expected


@pytest.mark.trio
async def test_errors_arrive_as_what_they_were(pair):
    async with pair() as p:
        with pytest.raises(errors.Busy) as busy:
            await p.peers.ask(p.id, SPEC, Fail(how="busy"))
        assert busy.value.retry_after_s == 7.0
        with pytest.raises(errors.ShardUnavailable) as missing:
            await p.peers.ask(p.id, SPEC, Fail(how="missing"))
        assert (missing.value.coverage, missing.value.missing) == (0.5, ("a", "b"))


@pytest.mark.trio
@pytest.mark.parametrize("how", ["bug", "silent"])
async def test_a_failing_handler_costs_its_request_and_nothing_else(pair, how):
    async with pair() as p:
        for _ in range(3):
            with pytest.raises(errors.P2PNodeError) as failed:
                await p.peers.ask(p.id, SPEC, Fail(how=how))
            assert failed.value.code == "internal"
            assert "secret" not in str(failed.value)
        assert p.blamed == {Reason.FAILED: 3}
        await p.say()


@pytest.mark.trio
async def test_only_what_is_authorised_is_handled(pair):
    asked = []

    def only_say(peer_id, protocol, verb):
        asked.append((peer_id, protocol, verb))
        if verb != "say":
            raise errors.Unauthorized(f"{verb} is not for you")

    async with pair(only_say) as p:
        await p.say()
        with pytest.raises(errors.Unauthorized, match="hang is not for you"):
            await p.peers.ask(p.id, SPEC, Hang())
        assert not p.hanging.is_set()
        assert asked == [(p.asker.peer_id, "words", "say"), (p.asker.peer_id, "words", "hang")]
        assert p.blamed == {Reason.UNAUTHORIZED: 1}


@pytest.mark.trio
async def test_an_unknown_verb_is_answered_and_the_stream_goes_on(pair):
    sing = NEWER.verbs[-1].request
    async with pair() as p:
        with pytest.raises(errors.P2PNodeError, match="sing"):
            await p.peers.ask(p.id, NEWER, sing())
        await p.say()
        assert p.blamed == {Reason.UNKNOWN_VERB: 1}


@pytest.mark.trio
async def test_who_asked_and_left_has_the_work_stopped(pair):
    async with pair() as p:
        for leave in ("deadline", "loss"):
            p.hanging = trio.Event()
            p.guard.serve(SPEC, _handlers(p.hanging))
            with trio.fail_after(2):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(p.hang)
                    await p.hanging.wait()
                    assert p.guard._handlers == 1
                    if leave == "loss":
                        await p.asker.disconnect(p.id)
                    nursery.cancel_scope.cancel()
                while p.guard._streams:  # noqa: ASYNC110  # the reset arrives in its own time
                    await trio.sleep(0.005)
            assert p.guard._handlers == 0


@pytest.mark.trio
async def test_a_deadline_resets_the_stream_and_spares_the_connection(pair):
    async with pair() as p:
        await p.say()
        with pytest.raises(errors.Timeout, match="hang"):
            await p.peers.ask(p.id, SPEC, Hang(), timeout_s=0.1)
        for _ in range(5):
            with trio.move_on_after(0.02):
                async with p.peers.exchange(p.id, SPEC, Fetch(size=1 << 30), timeout_s=None) as exchange:
                    await exchange.receive()
                    async for _piece in exchange.payload():
                        pass
            await p.say()
        assert p.asker.connected() == [p.id]


@pytest.mark.trio
async def test_an_exchange_that_is_left_is_not_reused(pair):
    async with pair() as p:
        async with p.peers.exchange(p.id, SPEC, Fetch(size=10 * MIB)) as exchange:
            await exchange.receive()
        reply, _ = await p.say("next")
        assert reply.text.startswith("next")


@pytest.mark.trio
async def test_own_misuse_is_told_apart(pair):
    async with pair() as p:
        with pytest.raises(LocalProtocolError):
            await p.peers.ask(p.id, SPEC, Said())
        with pytest.raises(LocalProtocolError):
            async with p.peers.exchange(p.id, SPEC, Store()) as exchange:

                async def short():
                    yield b"x"

                await exchange.send_stream(Part(), 100, short())
        with pytest.raises(LocalProtocolError, match="unread"):
            async with p.peers.exchange(p.id, SPEC, Fetch(size=100)) as exchange:
                await exchange.receive()
                await exchange.receive()
        await p.say()


@pytest.mark.trio
async def test_a_lost_connection_ends_the_exchange_at_once_and_the_next_one_dials(pair):
    async with pair() as p:
        async with trio.open_nursery() as nursery:

            async def cut():
                await p.hanging.wait()
                await p.answerer.disconnect(p.asker.peer_id)

            nursery.start_soon(cut)
            started = trio.current_time()
            with pytest.raises(errors.PeerLost):
                await p.peers.ask(p.id, SPEC, Hang())
            assert trio.current_time() - started < 1
        await p.say()


@pytest.mark.trio
async def test_a_dial_that_failed_is_tried_again_when_the_peer_is_heard_of(open_node):
    seed = os.urandom(32)
    async with open_node(seed) as first:
        address, peer_id = first.addresses()[0].partition("/p2p/")[0], first.peer_id
    async with open_node() as asker:
        peers = Peers(asker, Env())
        peers.learn(peer_id, "late", NodeRole.WORKER, [address])
        async with trio.open_nursery() as nursery:
            for _ in range(10):  # they share one dial, and what came of it

                async def ask():
                    with pytest.raises(errors.PeerLost, match="refused"):
                        await peers.ask(peer_id, SPEC, Say())

                nursery.start_soon(ask)
        async with open_node(seed, listen=address) as late:
            Guard(late, everything, Blame(late, Env())).serve(SPEC, _handlers(trio.Event()))
            await peers.connect(peer_id)
            await peers.ask(peer_id, SPEC, Say())
            peers.forget(peer_id)
            assert peers.known() == []


@pytest.mark.trio
async def test_a_peer_with_too_many_streams_is_told_to_come_back(pair, monkeypatch):
    monkeypatch.setattr(guard_module, "STREAMS_MAX", 2)
    async with pair() as p:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(p.peers.ask, p.id, SPEC, Hang())
            await p.hanging.wait()
            await trio.testing.wait_all_tasks_blocked(0.05)
            with pytest.raises(errors.Busy):
                await p.say()
            nursery.cancel_scope.cancel()
        with trio.fail_after(2):
            while p.guard._handlers:  # noqa: ASYNC110  # the resets arrive in their own time
                await trio.sleep(0.01)
        await p.say()


@pytest.mark.trio
async def test_a_stream_that_its_peer_let_go_is_not_asked_on(pair, monkeypatch):
    monkeypatch.setattr(guard_module, "IDLE_S", 0.1)
    monkeypatch.setattr(peers_module, "FRESH_S", 0.05)
    async with pair() as p:
        await p.say()
        await trio.sleep(0.3)
        assert not p.guard._streams
        await p.say()
        await trio.sleep(0.07)
        await p.say()


@pytest.mark.trio
async def test_nonsense_silence_and_vanishing_cost_the_stream_only(pair, monkeypatch):
    monkeypatch.setattr(guard_module, "FIRST_REQUEST_S", 0.2)
    async with pair() as p:
        await p.say()
        # Nonsense: an absurd length, a header that is none, a body that does not fit.
        for garbage in (b"\xff" * 64, b"\x05hello", b"\x01\xc0" * 10, os.urandom(500)):
            stream = await p.asker.open_stream(p.id, SPEC.protocol_id)
            await stream.write(garbage)
            with trio.fail_after(2), pytest.raises(StreamBroken, match="reset"):
                while await stream.read(1000):
                    pass
        # Silence.
        quiet = await p.asker.open_stream(p.id, SPEC.protocol_id)
        with trio.fail_after(2), pytest.raises(StreamBroken, match="reset"):
            await quiet.read(1)
        # Vanishing in the middle of an answer.
        for _ in range(3):
            stream = await p.asker.open_stream(p.id, SPEC.protocol_id)
            header = b"\x93\xa5fetch\x00\x81\xa4size\xce\x04\x00\x00\x00"
            await stream.write(bytes((len(header),)) + header)
            await stream.read(1000)
            await stream.reset()
        await p.say()
        assert p.blamed[Reason.SILENT] >= 1
        assert p.blamed[Reason.HEADER_TOO_LARGE] >= 1
        assert p.blamed[Reason.BAD_HEADER] >= 1
        assert Reason.FAILED not in p.blamed


@pytest.mark.trio
async def test_a_handler_is_not_held_by_an_upload_that_never_comes(pair, monkeypatch):
    monkeypatch.setattr(exchange_module, "UPLOAD_WAIT_S", 0.1)
    monkeypatch.setattr(exchange_module, "PAYLOAD_STALL_S", 0.1)
    async with pair() as p:
        for half in (False, True):
            with pytest.raises(errors.P2PNodeError):
                async with p.peers.exchange(p.id, SPEC, Store(), timeout_s=2) as exchange:
                    if half:

                        async def stalls():
                            yield b"x"
                            await trio.sleep(1)
                            yield b"x"

                        await exchange.send_stream(Part(), 2, stalls())
                    await exchange.receive()
            assert p.guard._handlers == 0
        await p.say()


@pytest.mark.trio
async def test_the_round_trip_is_measured_on_the_health_protocol(open_node):
    from protocols.health import HEALTH, Ping, Pong

    async def pong(peer, request, exchange):
        await exchange.send(Pong(incarnation=request.incarnation))

    async with open_node() as a, open_node() as b:
        Guard(b, everything, Blame(b, Env())).serve(HEALTH, {Ping: pong})
        peers = Peers(a, Env())
        assert peers.rtt_s(b.peer_id) is None
        peers.learn(b.peer_id, "b", NodeRole.WORKER, b.addresses())
        await peers.ask(b.peer_id, HEALTH, Ping(incarnation=1))
        rtt = peers.rtt_s(b.peer_id)
        assert rtt is not None
        assert 0 < rtt < 0.1
