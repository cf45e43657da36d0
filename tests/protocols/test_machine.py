"""The state machine, as tables: what may be said where is tried in full, and holds on both sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from protocols.codec import encode
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.frame import frame
from protocols.health import HEALTH
from protocols.machine import (
    SKIP_BYTES_MAX,
    Closed,
    Link,
    NeedData,
    Payload,
    PayloadEnd,
    Received,
    Side,
    UnknownVerb,
)
from protocols.message import Error, Message, ProtocolSpec, Verb
from protocols.metadata import METADATA
from protocols.query import QUERY
from protocols.shard_transfer import SHARD_TRANSFER
from protocols.table import table_of


class Ask(Message, frozen=True, tag="ask"):
    pass


class More(Message, frozen=True, tag="more"):
    pass


class Reply(Message, frozen=True, tag="reply"):
    pass


class End(Message, frozen=True, tag="end"):
    pass


class Look(Message, frozen=True, tag="look"):
    pass


BULK = 64 << 20
TOY = ProtocolSpec(
    "/p2pnode/toy/1.0.0",
    (
        Verb(
            Ask,
            uploads=(More,),
            replies=(Reply,),
            final=(End,),
            payload_max=((Ask, BULK), (More, BULK), (Reply, 10), (End, 10)),
        ),
        Verb(Look, final=(End,)),
    ),
)
WORDS: dict[str, Message] = {
    "ask": Ask(),
    "more": More(),
    "reply": Reply(),
    "end": End(),
    "look": Look(),
    "error": Error(code="busy"),
}


def raw(message: Message, payload_bytes: int = 0) -> bytes:
    """A frame that no Link was asked about."""
    return frame(encode(message, payload_bytes))


@dataclass
class Pair:
    """Both ends of one stream. What either says is heard at once."""

    asker: Link = field(default_factory=lambda: Link(TOY, Side.ASKER))
    answerer: Link = field(default_factory=lambda: Link(TOY, Side.ANSWERER))

    def ask(self, message: Message, payload_bytes: int = 0) -> object:
        self.answerer.receive_data(self.asker.send(message, payload_bytes))
        return self.answerer.next_event()

    def answer(self, message: Message, payload_bytes: int = 0) -> object:
        self.asker.receive_data(self.answerer.send(message, payload_bytes))
        return self.asker.next_event()

    def say(self, story: str) -> Pair:
        """`>ask <reply >more <end`: who says what."""
        for step in story.split():
            (self.ask if step[0] == ">" else self.answer)(WORDS[step[1:]])
        return self


ANYTHING_ELSE: frozenset[str] = frozenset()
#: The story so far: (what the asker may say next, what the answerer may).
LEGAL = {
    "": ({"ask", "look"}, ANYTHING_ELSE),
    ">ask": ({"more"}, {"reply", "end", "error"}),
    ">ask <reply": ({"more"}, {"reply", "end", "error"}),
    ">ask >more": ({"more"}, {"reply", "end", "error"}),
    ">ask >more <reply >more <reply": ({"more"}, {"reply", "end", "error"}),
    ">look": (ANYTHING_ELSE, {"end", "error"}),
    ">ask <end": ({"ask", "look"}, ANYTHING_ELSE),
    ">look <end": ({"ask", "look"}, ANYTHING_ELSE),
    ">ask <reply <error": ({"ask", "look"}, ANYTHING_ELSE),
    ">look <error >look": (ANYTHING_ELSE, {"end", "error"}),
}
CASES = [(story, side, word) for story in LEGAL for side in Side for word in WORDS]


@pytest.mark.parametrize(("story", "side", "word"), CASES)
def test_what_may_not_be_said_is_neither_sent_nor_received(story: str, side: Side, word: str) -> None:
    pair = Pair().say(story)
    speaker, hearer = (pair.asker, pair.answerer) if side is Side.ASKER else (pair.answerer, pair.asker)
    allowed = LEGAL[story][0 if side is Side.ASKER else 1]
    hearer.receive_data(raw(WORDS[word]))
    if word in allowed:
        assert speaker.send(WORDS[word]) == raw(WORDS[word])
        assert hearer.next_event() == Received(WORDS[word])
        return
    with pytest.raises(LocalProtocolError):
        speaker.send(WORDS[word])
    late_upload = side is Side.ASKER and word == "more" and story.endswith("<error")
    if late_upload:
        assert isinstance(hearer.next_event(), NeedData)
        return
    with pytest.raises(RemoteProtocolError) as caught:
        hearer.next_event()
    assert caught.value.code == "unexpected_message"


@pytest.mark.parametrize("spec", [METADATA, SHARD_TRANSFER, QUERY, HEALTH], ids=lambda spec: spec.name)
def test_in_every_protocol_each_request_admits_its_own_exchange_only(
    spec: ProtocolSpec, sample: Callable[[type[Message]], Message]
) -> None:
    words = table_of(spec).words.values()
    for verb in spec.verbs:
        for kind in words:
            for sender, legal in (
                (Side.ASKER, kind in verb.uploads),
                (Side.ANSWERER, kind in (*verb.replies, *verb.final, Error)),
            ):
                asker, answerer = Link(spec, Side.ASKER), Link(spec, Side.ANSWERER)
                answerer.receive_data(asker.send(sample(verb.request)))
                assert answerer.next_event() == Received(sample(verb.request))
                speaker, hearer = (asker, answerer) if sender is Side.ASKER else (answerer, asker)
                hearer.receive_data(raw(sample(kind)))
                if legal:
                    assert speaker.send(sample(kind)) == raw(sample(kind))
                    assert hearer.next_event() == Received(sample(kind))
                else:
                    with pytest.raises(LocalProtocolError):
                        speaker.send(sample(kind))
                    with pytest.raises(RemoteProtocolError):
                        hearer.next_event()


def test_a_payload_is_handed_over_as_views_of_the_chunks() -> None:
    pair = Pair()
    pair.asker.send(Ask(), 6)
    chunk = raw(Ask(), 6) + b"abc"
    pair.answerer.receive_data(chunk)
    assert pair.answerer.next_event() == Received(Ask(), 6)
    first = pair.answerer.next_event()
    assert isinstance(first, Payload)
    assert first.data == b"abc"
    assert first.data.obj is chunk
    assert isinstance(pair.answerer.next_event(), NeedData)
    last = b"def"
    pair.answerer.receive_data(last)
    second = pair.answerer.next_event()
    assert isinstance(second, Payload)
    assert second.data.obj is last
    assert pair.answerer.next_event() == PayloadEnd()
    assert isinstance(pair.answerer.next_event(), NeedData)


def test_a_payload_must_be_sent_exactly_before_the_next_word() -> None:
    pair = Pair()
    pair.asker.send(Ask(), 5)
    with pytest.raises(LocalProtocolError, match="5 bytes of the last payload"):
        pair.asker.send(More())
    pair.asker.send_payload(memoryview(b"abcd").cast("H"))
    with pytest.raises(LocalProtocolError, match="1 are left"):
        pair.asker.send_payload(b"ef")
    pair.asker.send_payload(bytearray(b"e"))
    assert pair.asker.send(More()) == raw(More())


@pytest.mark.parametrize("payload_bytes", [-1, 11])
def test_a_refused_send_changes_nothing(payload_bytes: int) -> None:
    pair = Pair().say(">ask")
    with pytest.raises(LocalProtocolError):
        pair.answerer.send(End(), payload_bytes)
    assert pair.answer(End(), 10) == Received(End(), 10)


def test_a_header_longer_than_the_link_s_own_limit_is_refused_by_both_sides() -> None:
    long = Error(code="busy", message="x" * 200)
    asker = Link(TOY, Side.ASKER, header_bytes_max=100)
    answerer = Link(TOY, Side.ANSWERER, header_bytes_max=100)
    answerer.receive_data(asker.send(Look()))
    assert answerer.next_event() == Received(Look())
    with pytest.raises(LocalProtocolError):
        answerer.send(long)
    asker.receive_data(raw(long))
    with pytest.raises(RemoteProtocolError) as caught:
        asker.next_event()
    assert caught.value.code == "header_too_large"


def test_a_stream_is_idle_only_when_nothing_is_owed_either_way() -> None:
    pair = Pair()
    assert pair.asker.idle
    assert pair.answerer.idle
    pair.ask(Ask(), 4)
    assert not pair.asker.idle
    pair.asker.send_payload(b"full")
    pair.answerer.receive_data(b"full")
    assert isinstance(pair.answerer.next_event(), Payload)
    assert pair.answerer.next_event() == PayloadEnd()
    assert not pair.answerer.idle
    pair.answer(End(), 3)
    assert not pair.answerer.idle
    pair.answerer.send_payload(b"end")
    assert pair.answerer.idle
    assert not pair.asker.idle
    with pytest.raises(LocalProtocolError):
        pair.asker.send(Look())
    pair.asker.receive_data(b"end")
    assert not pair.asker.idle
    assert isinstance(pair.asker.next_event(), Payload)
    assert not pair.asker.idle
    assert pair.asker.next_event() == PayloadEnd()
    assert pair.asker.idle
    assert pair.ask(Look()) == Received(Look())


def test_words_that_nobody_asked_for_make_a_stream_unfit_for_the_next_request() -> None:
    asker = Link(TOY, Side.ASKER)
    asker.receive_data(raw(End()))
    assert not asker.idle
    with pytest.raises(LocalProtocolError):
        asker.send(Look())


def test_an_unknown_request_is_answered_and_the_stream_goes_on() -> None:
    pair = Pair()
    newer = frame(b"\x94\xa7quantum\x07\x81\xa1q\x01\xc3") + b"payload"
    for at in range(len(newer)):
        pair.answerer.receive_data(newer[at : at + 1])
        event = pair.answerer.next_event()
        assert event == UnknownVerb("quantum") if at == len(newer) - 8 else isinstance(event, NeedData)
    assert not pair.answerer.idle
    with pytest.raises(LocalProtocolError):
        pair.answerer.send(End())
    assert pair.answerer.send(Error(code="unknown_verb"))
    assert pair.answerer.idle
    assert pair.ask(Look()) == Received(Look())


def test_an_unknown_request_may_be_answered_before_its_payload_has_come() -> None:
    pair = Pair()
    pair.answerer.receive_data(frame(b"\x93\xa7quantum\x07\x80"))
    assert pair.answerer.next_event() == UnknownVerb("quantum")
    assert pair.answerer.send(Error(code="unknown_verb"))
    assert not pair.answerer.idle
    pair.answerer.receive_data(b"payload" + raw(Look()))
    assert pair.answerer.next_event() == Received(Look())


@pytest.mark.parametrize(("beyond", "survives"), [(0, True), (1, False)])
def test_an_unknown_request_with_more_than_is_worth_skipping_is_refused(beyond: int, survives: bool) -> None:
    answerer = Link(TOY, Side.ANSWERER)
    size = (SKIP_BYTES_MAX + beyond).to_bytes(4, "big")
    answerer.receive_data(frame(b"\x93\xa7quantum\xce" + size + b"\x80"))
    if survives:
        assert answerer.next_event() == UnknownVerb("quantum")
        return
    with pytest.raises(RemoteProtocolError) as caught:
        answerer.next_event()
    assert caught.value.code == "payload_too_large"


@pytest.mark.parametrize("side", Side)
def test_an_unknown_word_inside_an_exchange_is_refused(side: Side) -> None:
    pair = Pair().say(">ask")
    link = pair.asker if side is Side.ASKER else pair.answerer
    link.receive_data(frame(b"\x93\xa7quantum\x00\x80"))
    with pytest.raises(RemoteProtocolError) as caught:
        link.next_event()
    assert caught.value.code == "unexpected_message"


@pytest.mark.parametrize("last", [End(), Error(code="storage_failed")], ids=["final", "error"])
@pytest.mark.parametrize("seen", [0, 2, 5])
def test_an_answer_given_early_discards_the_rest_of_the_payload(last: Message, seen: int) -> None:
    pair = Pair()
    pair.ask(Ask(), 5)
    wire = b"abcde"
    if seen:
        pair.answerer.receive_data(wire[:seen])
        assert isinstance(pair.answerer.next_event(), Payload)
    assert pair.answer(last) == Received(last)
    assert not pair.asker.idle
    pair.asker.send_payload(wire)
    assert pair.asker.idle
    pair.answerer.receive_data(wire[seen:] + pair.asker.send(Ask(), 2) + b"xy")
    assert pair.answerer.next_event() == Received(Ask(), 2)
    piece = pair.answerer.next_event()
    assert isinstance(piece, Payload)
    assert piece.data == b"xy"


def test_uploads_on_their_way_when_the_error_came_are_discarded() -> None:
    pair = Pair().say(">ask <reply")
    late = pair.asker.send(More(), 3) + b"abc"
    pair.asker.send_payload(b"abc")
    late += pair.asker.send(More())
    assert pair.answer(Error(code="storage_failed")) == Received(Error(code="storage_failed"))
    pair.answerer.receive_data(late + pair.asker.send(Ask(), 1) + b"z")
    assert pair.answerer.next_event() == Received(Ask(), 1)
    piece = pair.answerer.next_event()
    assert isinstance(piece, Payload)
    assert piece.data == b"z"


def test_uploads_after_the_next_request_are_not_forgiven() -> None:
    pair = Pair().say(">ask <error >look <end")
    pair.answerer.receive_data(raw(More()))
    with pytest.raises(RemoteProtocolError):
        pair.answerer.next_event()


def test_a_stream_with_too_much_to_skip_is_closed() -> None:
    cut = Pair()
    cut.ask(Ask(), SKIP_BYTES_MAX + 1)
    cut.answer(Error(code="storage_failed"))
    late = Pair().say(">ask <error")
    late.answerer.receive_data(raw(More(), SKIP_BYTES_MAX + 1))
    for pair in (cut, late):
        assert pair.answerer.next_event() == Closed()
        assert pair.answerer.next_event() == Closed()
        assert not pair.answerer.idle
        with pytest.raises(LocalProtocolError):
            pair.answerer.send(End())


def test_a_stream_with_just_little_enough_to_skip_is_kept() -> None:
    cut = Pair()
    cut.ask(Ask(), SKIP_BYTES_MAX)
    cut.answer(Error(code="storage_failed"))
    late = Pair().say(">ask <error")
    late.answerer.receive_data(raw(More(), SKIP_BYTES_MAX))
    for pair in (cut, late):
        assert isinstance(pair.answerer.next_event(), NeedData)
        pair.answerer.receive_data(bytes(SKIP_BYTES_MAX) + raw(Look()))
        assert pair.answerer.next_event() == Received(Look())


@pytest.mark.parametrize("story", ["", ">ask <end", ">look <error"])
@pytest.mark.parametrize("side", Side)
def test_the_end_between_exchanges_is_a_close(story: str, side: Side) -> None:
    pair = Pair().say(story)
    link = pair.asker if side is Side.ASKER else pair.answerer
    link.receive_data(b"")
    assert link.next_event() == Closed()
    assert not link.idle


def test_the_end_before_the_answer_is_truncation_to_the_asker_and_a_close_to_the_answerer() -> None:
    pair = Pair().say(">ask <reply")
    pair.asker.receive_data(b"")
    with pytest.raises(RemoteProtocolError) as caught:
        pair.asker.next_event()
    assert caught.value.code == "truncated"
    pair.answerer.receive_data(b"")
    assert pair.answerer.next_event() == Closed()
    assert pair.answerer.send(End()) == raw(End())


def test_an_answerer_may_say_why_it_gives_up_and_then_nothing_more() -> None:
    answerer = Link(TOY, Side.ANSWERER)
    answerer.receive_data(frame(b"\xc0"))
    with pytest.raises(RemoteProtocolError):
        answerer.next_event()
    with pytest.raises(LocalProtocolError):
        answerer.send(End())
    assert answerer.send(Error(code="bad_header"))
    with pytest.raises(LocalProtocolError):
        answerer.send(Error(code="bad_header"))
    with pytest.raises(RemoteProtocolError):
        answerer.next_event()


def test_an_asker_says_nothing_more_on_a_broken_stream() -> None:
    pair = Pair().say(">ask")
    pair.asker.receive_data(frame(b"\xc0"))
    with pytest.raises(RemoteProtocolError):
        pair.asker.next_event()
    for message in WORDS.values():
        with pytest.raises(LocalProtocolError):
            pair.asker.send(message)


class Impostor(Message, frozen=True, tag="end"):
    pass


@pytest.mark.parametrize(
    "verbs",
    [
        (Verb(Ask, final=(End,)), Verb(Look, final=(Impostor,))),
        (Verb(Ask, final=(End,)), Verb(Ask, final=(Reply,))),
    ],
    ids=["two messages of one name", "two exchanges of one request"],
)
def test_a_protocol_that_contradicts_itself_is_refused(verbs: tuple[Verb, ...]) -> None:
    with pytest.raises(LocalProtocolError):
        table_of(ProtocolSpec("/p2pnode/toy/1.0.0", verbs))
