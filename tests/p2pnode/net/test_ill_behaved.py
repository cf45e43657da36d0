"""Guard and exchange with a peer that is a script: what it says, byte by byte, and when it goes."""

from __future__ import annotations

import pytest
import trio

from p2pnode import errors
from p2pnode.core.conduct import DROP_S, Reason
from p2pnode.env import Env
from p2pnode.env.net import StreamBroken
from p2pnode.net import guard as guard_module
from p2pnode.net.blame import Blame
from p2pnode.net.exchange import BULK_WRITE_BYTES, PAYLOAD_STALL_S, Exchange, expect
from p2pnode.net.guard import DISCONNECT_S, STREAMS_MAX, Guard
from protocols.codec import encode
from protocols.errors import LocalProtocolError
from protocols.frame import frame
from protocols.health import HEALTH, Ping, Pong, Probe
from protocols.machine import Side
from protocols.message import Error
from protocols.metadata import METADATA, Events, Push, Stored, Sync, Synced

pytestmark = pytest.mark.trio

PEER = "12D3KooWScript"
PING = frame(encode(Ping(incarnation=1)))
STAYS = None


class Script:
    """A stream whose peer says these pieces, one a read. STAYS as the last: it says nothing more and does not go."""

    def __init__(self, *pieces: bytes | None, deaf: bool = False) -> None:
        self.peer_id = PEER
        self.heard = b""
        self.ended = ""
        self._pieces = list(pieces)
        self._deaf = deaf

    def is_quiet(self) -> bool:
        return not self._pieces

    async def read(self, max_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        piece = self._pieces.pop(0) if self._pieces else b""
        if piece is STAYS:
            await trio.sleep_forever()
        return piece

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if self._deaf:
            raise StreamBroken("it does not listen")
        self.heard += bytes(data)

    async def close(self) -> None:
        self.ended = "closed"

    async def reset(self) -> None:
        self.ended = "reset"


class Door:
    """As much of a transport as a guard needs."""

    def __init__(self) -> None:
        self.handlers = {}
        self.shut_out: list[str] = []

    def serve(self, protocol_id, handler) -> None:
        self.handlers[protocol_id] = handler

    async def disconnect(self, peer_id: str) -> None:
        self.shut_out.append(peer_id)


class Node:
    def __init__(self, **handlers) -> None:
        self.door = Door()
        self.blame = Blame(self.door, Env())
        self.guard = Guard(self.door, lambda *_: None, self.blame)
        self.guard.serve(HEALTH, {Ping: handlers.get("ping", self.pong), Probe: handlers.get("probe", self.pong)})
        self.guard.serve(METADATA, {Push: self.stored})

    async def pong(self, peer_id, request, exchange) -> None:
        await exchange.send(Pong(incarnation=request.incarnation))

    async def stored(self, peer_id, request, exchange) -> None:
        await exchange.payload_all(1000)
        await exchange.send(Stored())

    async def hear(self, stream, spec=HEALTH):
        await self.door.handlers[spec.protocol_id](stream)
        return stream

    @property
    def account(self):
        return self.blame.conduct.counts(PEER)


async def test_an_asker_that_ends_between_requests_ends_well():
    stream = await Node().hear(Script(PING, PING))
    assert stream.heard == 2 * frame(encode(Pong(incarnation=1)))
    assert stream.ended == "closed"


async def test_one_that_asks_nothing_is_let_go_and_noted(autojump_clock):
    node = Node()
    assert (await node.hear(Script(STAYS))).ended == "reset"
    assert node.account == {Reason.SILENT: 1}
    assert (await node.hear(Script(PING, STAYS))).ended == "closed"
    assert node.account == {Reason.SILENT: 1}, "to rest after an answer is no fault"


async def test_a_third_peer_that_is_lost_is_told_and_nobody_blamed():
    async def asks_another(peer_id, request, exchange):
        raise errors.PeerLost("a third one")

    node = Node(probe=asks_another)
    stream = await node.hear(Script(frame(encode(Probe(peer_id=PEER)))))
    assert b"peer_lost" in stream.heard
    assert node.account == {}


async def test_a_handler_that_says_nothing_is_this_nodes_fault():
    async def silent(peer_id, request, exchange):
        pass

    node = Node(ping=silent)
    assert b"internal" in (await node.hear(Script(PING))).heard
    assert node.account == {Reason.FAILED: 1}


async def test_details_that_no_message_carries_are_left_out_of_the_answer():
    async def refuses(peer_id, request, exchange):
        raise errors.Unauthorized("no", peers=["a"], places=[1, 2], why={"deep": 1})

    node = Node(ping=refuses)
    stream = await node.hear(Script(PING))
    assert b"unauthorized" in stream.heard
    assert b"peers" in stream.heard
    assert b"places" not in stream.heard
    assert node.account == {Reason.UNAUTHORIZED: 1}


async def test_nonsense_to_one_that_does_not_listen_costs_the_stream_only():
    node = Node()
    assert (await node.hear(Script(b"\x05hello", deaf=True))).ended == "reset"
    assert node.account == {Reason.BAD_HEADER: 1}


async def test_a_bug_of_the_shell_itself_ends_nothing(monkeypatch):
    async def broken(*_, **__):
        raise ZeroDivisionError("planted")

    node = Node()
    monkeypatch.setattr(Guard, "_answer_one", broken)
    assert (await node.hear(Script(PING))).ended == "reset"
    assert node.account == {Reason.FAILED: 1}


def drop(node: Node) -> None:
    while not node.blame.is_dropped(PEER):
        node.blame.note(PEER, Reason.BAD_SIGNATURE, 20)


async def test_a_dropped_peer_waits_at_the_door_unread_and_is_shown_out(autojump_clock):
    node = Node()
    drop(node)
    began = trio.current_time()
    stream = await node.hear(Script(PING))
    assert trio.current_time() - began == pytest.approx(DISCONNECT_S)
    assert (stream.heard, stream.ended) == (b"", "reset")
    assert node.door.shut_out == [PEER]
    async with trio.open_nursery() as nursery:
        for _ in range(STREAMS_MAX + 1):
            nursery.start_soon(node.hear, Script(PING))
        await trio.sleep(DISCONNECT_S / 2)
        assert node.door.shut_out == [PEER, PEER], "a crowd at the door is shown out at once"
    await trio.sleep(DROP_S)
    assert (await node.hear(Script(PING))).heard == frame(encode(Pong(incarnation=1)))


async def test_a_paused_peer_is_answered_busy_but_may_say_that_it_lives(autojump_clock):
    node = Node()
    node.blame.note(PEER, Reason.BAD_SIGNATURE, 20)
    assert not node.blame.is_dropped(PEER)
    push = await node.hear(Script(frame(encode(Push(sizes=[5]), 5)) + b"wires"), METADATA)
    assert b"busy" in push.heard
    assert b"retry_after_s" in push.heard
    assert (await node.hear(Script(PING))).heard == frame(encode(Pong(incarnation=1)))
    assert node.account == {Reason.BAD_SIGNATURE: 20, Reason.IMPATIENT: 1}


async def test_more_handlers_than_the_node_bears_are_told_to_come_back(monkeypatch):
    monkeypatch.setattr(guard_module, "HANDLERS_MAX", 0)
    node = Node()
    assert b"busy" in (await node.hear(Script(PING))).heard
    assert node.account == {Reason.CROWDED: 1}


async def test_a_verb_that_this_node_does_not_answer_is_unknown_here():
    node = Node()
    stream = await node.hear(Script(frame(encode(Sync(genesis=b"", count=0, fingerprint=b"")))), METADATA)
    assert b"unknown_verb" in stream.heard
    assert node.account == {Reason.UNKNOWN_VERB: 1}


async def test_a_request_is_not_taken_before_the_payload_of_the_last():
    exchange = Exchange(Script(frame(encode(Push(sizes=[5]), 5)) + b"wires"), METADATA, Side.ANSWERER)
    assert await exchange.next_request() is not None
    with pytest.raises(LocalProtocolError, match="unread"):
        await exchange.next_request()


# -- the asker's exchange


async def asked(*pieces: bytes | None) -> Exchange:
    exchange = Exchange(Script(*pieces), METADATA, Side.ASKER)
    await exchange.send(Sync(genesis=b"", count=0, fingerprint=b""))
    return exchange


EVENTS = frame(encode(Events(sizes=[8]), 8))


async def test_a_payload_that_stalls_or_ends_early_loses_the_peer(autojump_clock):
    exchange = await asked(EVENTS + b"half", STAYS)
    await exchange.receive()
    began = trio.current_time()
    with pytest.raises(errors.PeerLost, match="sent nothing"):
        await exchange.payload_all(100)
    assert trio.current_time() - began == pytest.approx(PAYLOAD_STALL_S)
    exchange = await asked(EVENTS + b"half")
    await exchange.receive()
    with pytest.raises(errors.PeerLost, match="ended"):
        await exchange.payload_all(100)
    assert exchange.nonsense == "", "who dies in the middle has not lied"


async def test_a_payload_larger_than_its_reader_takes_loses_the_peer():
    exchange = await asked(EVENTS + b"12345678")
    await exchange.receive()
    with pytest.raises(errors.PeerLost, match="8 bytes where 7"):
        await exchange.payload_all(7)


async def test_a_message_is_not_taken_before_the_payload_of_the_last():
    exchange = await asked(EVENTS + b"12345678")
    await exchange.receive()
    with pytest.raises(LocalProtocolError, match="unread"):
        await exchange.receive()


async def test_after_the_last_answer_there_is_no_more():
    exchange = await asked(frame(encode(Synced(count=0, fingerprint=b""))))
    await exchange.receive()
    with pytest.raises(errors.PeerLost, match="ended the stream"):
        await exchange.receive()


async def test_pieces_of_one_write_each_are_written_as_they_come():
    stream = Script()
    exchange = Exchange(stream, METADATA, Side.ASKER)

    async def pieces():
        yield bytes(BULK_WRITE_BYTES)
        yield bytes(BULK_WRITE_BYTES)

    await exchange.send_stream(Push(sizes=[]), 2 * BULK_WRITE_BYTES, pieces())
    assert len(stream.heard) == len(frame(encode(Push(sizes=[]), 2 * BULK_WRITE_BYTES))) + 2 * BULK_WRITE_BYTES
    assert not exchange.owes_payload


async def test_an_error_whose_details_do_not_fit_is_that_error_all_the_same():
    answer = Error(code="shard_unavailable", message="gone", details={"coverage": "much"})
    with pytest.raises(errors.ShardUnavailable, match="gone"):
        await (await asked(frame(encode(answer)))).receive()
    strange = Error(code="no such code", message="what?")
    with pytest.raises(errors.P2PNodeError, match=r"what\?"):
        await (await asked(frame(encode(strange)))).receive()


async def test_another_message_than_the_expected_loses_the_peer():
    with pytest.raises(errors.PeerLost, match="events came where stored belongs"):
        expect(Events(sizes=[]), Stored)
    assert expect(Stored(), Stored) == Stored()


async def test_an_answerer_that_breaks_the_protocol_is_known_for_it():
    exchange = await asked(b"\x05hello")
    with pytest.raises(errors.PeerLost):
        await exchange.receive()
    assert exchange.nonsense == "bad_header"
