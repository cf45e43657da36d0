"""Every parser that reads what others wrote, what it is fed with, and what it may say to it.

A target makes a case from a generator and reads it. Nothing but the parser's own named exceptions may leave it, and
what it accepts must come back as the same bytes, or where one value has several spellings, as the same value.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import libipld

from bootstrap.address import parse_endpoint, parse_listen, parse_peer_address
from bootstrap.errors import AddressError as MalformedAddress
from bootstrap.errors import IdentityError
from bootstrap.identity import base58_decode, base58_encode, decode_seed, encode_seed, peer_id_of, public_key_of
from p2pnode.api.config import DistributedConfig
from p2pnode.api.home import API_FILE, read_api_file, running_node
from p2pnode.core import reconcile, records, tickets
from p2pnode.core.catalog import Catalog
from p2pnode.core.cid import BadContentId, cid_text, parse_cid, record_cid
from p2pnode.core.clock import MerkleClock, Verdict
from p2pnode.core.event import BadEvent, check_signature, compose, parse, split_wires
from p2pnode.core.holdings import Holdings, pack_holdings, unpack_holdings
from p2pnode.core.receipts import decode_draft, read_receipt
from p2pnode.core.schema import columns_of, plain_schema, schema_bytes, schema_of_bytes
from p2pnode.core.unixfs import cid_of_outline
from p2pnode.env import LocalDisk
from p2pnode.errors import (
    AddressError,
    ConfigError,
    IntegrityError,
    SchemaMismatch,
    StorageFailed,
    Unauthorized,
    UsageError,
)
from p2pnode.query import frames as worker
from p2pnode.storage.listen_port import keep_ports, kept_listen
from protocols.codec import decode_body, decode_envelope, encode
from protocols.errors import RemoteProtocolError
from protocols.frame import FrameReader, frame, uvarint
from protocols.machine import Closed, Link, NeedData, Payload, PayloadEnd, Received, Side, UnknownVerb
from protocols.message import Error
from tests.fuzz import logs, samples
from tests.fuzz.logs import home
from tests.fuzz.mutate import CBOR, EDGES, MSGPACK, WORDS, Format, mutate


@dataclass(frozen=True, slots=True)
class Target:
    """`make` a case, `read` it; `read` raises one of `refusals` or nothing. `share`: how many of a run's cases."""

    name: str
    share: float
    make: Callable[[Random], bytes]
    read: Callable[[bytes], None]
    refusals: tuple[type[Exception], ...]


def same(left: object, right: object) -> None:
    """The oracle: what was accepted is what is written again."""
    if left != right:
        raise AssertionError(f"accepted, and not the same again: {str(left)[:300]} != {str(right)[:300]}")


def _from(form: Format | None, *honest: bytes) -> Callable[[Random], bytes]:
    def make(rng: Random) -> bytes:
        return mutate(rng, rng.choice(honest), rng.choice(honest), form)

    return make


# -- the wire: frame, codec, machine

#: A link's bytes are preceded by one that says which exchange, side and cuts a case means.
_PREFIX_BYTES = 4


def _make_stream(rng: Random) -> bytes:
    number = rng.randrange(len(samples.talks()) * 2)
    return number.to_bytes(2, "big") + rng.randbytes(2) + make_words(rng, number)


def make_words(rng: Random, number: int) -> bytes:
    """One side of an exchange as bytes, with an accident in it: in a header, in the framing, or in their order."""
    talk = samples.talks()[number // 2]
    words = list(talk.answered if number % 2 else talk.asked)
    other = rng.choice(samples.talks())
    strangers = [*other.answered, *other.asked]
    parts = [[word.header, word.payload] for word in words]
    match rng.randrange(4):
        case 0:
            at = rng.randrange(len(parts))
            change = rng.randrange(4)
            if change == 0:
                parts.pop(at)
            elif change == 1:
                parts.insert(at, parts[at])
            else:
                stranger = rng.choice(strangers)
                parts.insert(at + change - 2, [stranger.header, stranger.payload])
        case 1 | 2:
            part = rng.choice(parts)
            part[0] = mutate(rng, part[0], rng.choice(strangers).header, MSGPACK)
        case _:
            whole = b"".join(uvarint(len(head)) + head + payload for head, payload in parts)
            if rng.random() < 0.3:
                length = rng.choice((uvarint(rng.choice(EDGES)), b"\x80" * rng.randint(1, 6) + b"\0", b"\xff" * 6))
                return length + whole[1:]
            return mutate(rng, whole, b"".join(word.header for word in strangers), None)
    return b"".join(uvarint(len(head)) + head + payload for head, payload in parts)


def _read_stream(data: bytes) -> None:
    if len(data) < _PREFIX_BYTES:
        return
    number = int.from_bytes(data[:2], "big") % (2 * len(samples.talks()))
    wire = data[_PREFIX_BYTES:]
    whole = _walk(number, [wire])
    rng = Random(zlib.crc32(data))
    cuts = sorted(rng.randrange(len(wire) + 1) for _ in range(rng.randint(1, 6)))
    pieces = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    # How the bytes were cut up must not be seen.
    same(_walk(number, pieces), whole)


def _walk(number: int, pieces: Sequence[bytes]) -> list[Any]:
    """Everything that a link makes of these bytes, as plain data; payload as one."""
    talk = samples.talks()[number // 2]
    asks = number % 2 == 1
    link = Link(talk.spec, Side.ASKER if asks else Side.ANSWERER)
    if asks:
        link.send(talk.asked[0].message, len(talk.asked[0].payload))
        link.send_payload(talk.asked[0].payload)
    told: list[Any] = []
    chunks = [piece for piece in pieces if piece]
    fed = iter([*chunks, b""])
    for _ in range(4 * sum(map(len, pieces)) + 64):
        try:
            event = link.next_event()
        except RemoteProtocolError as error:
            for _ in range(2):
                try:
                    link.next_event()
                except RemoteProtocolError as again:
                    same(again.code, error.code)
            return [*told, error.code]
        match event:
            case NeedData():
                link.receive_data(next(fed))
            case Closed():
                return [*told, "closed"]
            case Payload(data=piece):
                if told and isinstance(told[-1], bytes):
                    told[-1] += bytes(piece)
                else:
                    told.append(bytes(piece))
            case PayloadEnd():
                told.append("end")
            case UnknownVerb(verb=verb):
                told.append(("unknown", verb))
                link.send(Error(code="unknown_verb"))
            case Received(message=message, payload_bytes=size):
                again = encode(message, size)
                envelope = decode_envelope(again)
                same(encode(decode_body(type(message), envelope.body), envelope.payload_bytes), again)
                told.append((again, size))
                if not asks and zlib.crc32(again) % 3 == 0:
                    link.send(Error(code="busy"))
                    told.append("error")
    raise AssertionError("a link that goes on for ever")


def _read_frames(data: bytes) -> None:
    """The reader alone, byte by byte: what it gives back is what came."""
    reader = FrameReader(4096)
    taken = b""
    for at in range(len(data)):
        reader.feed(data[at : at + 1])
        header = reader.header()
        if header is not None:
            taken += frame(bytes(header))
    same(data.startswith(taken), True)


# -- events and what they say


def _read_event(data: bytes) -> None:
    event = parse(data)
    same(event.wire, data)
    same(libipld.encode_dag_cbor(libipld.decode_dag_cbor(event.encoded)), event.encoded)
    records.check(event)
    records.blocks_of(event)
    if event not in samples.EVENTS:
        check_signature(event)
        raise AssertionError("an event that nobody signed")


def _make_saying(rng: Random) -> bytes:
    number = rng.randrange(len(samples.SAYINGS))
    return bytes((number,)) + mutate(rng, samples.BODIES[number], rng.choice(samples.BODIES), CBOR)


def _read_saying(data: bytes) -> None:
    """A member signs nonsense: what the clock takes, the fold must stand, in any order of asking."""
    if not data:
        return
    kind, object_id, _ = samples.SAYINGS[data[0] % len(samples.SAYINGS)]
    try:
        body = libipld.decode_dag_cbor(data[1:])
    except (ValueError, RecursionError):
        return
    clock = MerkleClock(samples.GENESIS.id)
    clock.add_block(record_cid(samples.BLOCK))
    for event in (samples.GENESIS, samples.UP):
        clock.add(event)
    event = compose(
        namespace=samples.GENESIS.id,
        author=samples.ANN.peer_id,
        session=samples.SESSION,
        position=clock.next_position(samples.ANN.peer_id, samples.SESSION),
        time=0,
        kind=kind,
        object_id=object_id,
        body=body,
        sign=samples.ANN.sign,
    )
    outcome = clock.add(event)
    if outcome.verdict is Verdict.REFUSED:
        raise BadEvent(outcome.refused[0].reason)
    if outcome.verdict is Verdict.ADDED:
        catalog = Catalog.fold([samples.GENESIS, samples.UP, event], lambda cid: samples.MANIFEST)
        catalog.digest()
        catalog.members()
        catalog.datasets()


def _make_batch(rng: Random) -> bytes:
    """A pushed batch: two bytes for each size, four of them, before the payload."""
    wires = [rng.choice(samples.EVENTS).wire for _ in range(4)]
    sizes = [len(wire) if rng.random() < 0.7 else rng.choice(EDGES) for wire in wires]
    return b"".join((size % 65536).to_bytes(2, "big") for size in sizes) + b"".join(wires)


def _read_batch(data: bytes) -> None:
    sizes = [int.from_bytes(data[at : at + 2], "big") for at in (0, 2, 4, 6)]
    pieces = split_wires(data[8:], sizes)
    same(b"".join(pieces), data[8:])
    for piece in pieces:
        same(parse(piece).wire, piece)


def _read_manifest(data: bytes) -> None:
    again = records.encode_manifest(records.decode_manifest(data))
    same(records.encode_manifest(records.decode_manifest(again)), again)


def _read_schema(data: bytes) -> None:
    schema = schema_of_bytes(data)
    same(schema_of_bytes(schema_bytes(schema)), schema)
    columns_of(plain_schema(schema))


# -- proofs


def _anybody(peer_id: str, message: bytes, signature: bytes) -> bool:
    """Every signature is good: what lies behind it must stand alone."""
    return True


def _read_ticket(data: bytes) -> None:
    ticket = tickets.check(
        data,
        client=samples.BOB.peer_id,
        cid=samples.SHARD,
        wall=samples.WALL,
        verify=_anybody,
        may_define=lambda _: True,
    )
    same(ticket.body(), data[:-64])


def _read_receipt(data: bytes) -> None:
    same(read_receipt(samples.ANN.peer_id, data, b"", _anybody).body, data)


def _read_draft(data: bytes) -> None:
    draft = decode_draft(data, _anybody)
    again = draft.encode()
    same(decode_draft(again, _anybody).encode(), again)


# -- comparing


@cache
def _clock() -> MerkleClock:
    """A small one, with several authors' leaves."""
    clock = MerkleClock(samples.GENESIS.id)
    clock.add_block(record_cid(samples.BLOCK))
    for event in samples.EVENTS:
        clock.add(event)
    return clock


def _make_comparison(rng: Random) -> bytes:
    """A length of digests, the digests, and ids and flags in answer."""
    digests = reconcile.digests(_clock(), b"salt")
    ids = reconcile.pack(rng.sample([event.id for event in samples.EVENTS], 5)) + rng.randbytes(32 * rng.randint(0, 2))
    digests = rng.choice((digests, rng.randbytes(len(digests)), rng.randbytes(8 << rng.randint(0, 4))))
    digests = mutate(rng, digests, ids, None) if rng.random() < 0.3 else digests
    ids = mutate(rng, ids, digests, None) if rng.random() < 0.3 else ids
    return min(len(digests), 65535).to_bytes(2, "big") + digests + bytes((rng.randrange(256),)) + ids


def _read_comparison(data: bytes) -> None:
    length = int.from_bytes(data[:2], "big")
    digests, flags, ids = data[2 : 2 + length], data[2 + length : 3 + length], data[3 + length :]
    clock = _clock()
    others = reconcile.unpack(ids)
    same(reconcile.pack(others), ids)
    bits = reconcile.unpack_flags(flags, 8)
    same(reconcile.pack_flags(bits), flags)
    inquiry = reconcile.Inquiry(clock, b"salt", digests)
    named = sum(len(leaves) for _, leaves in inquiry.groups)
    inquiry.hear((bits * named)[:named], [others for _ in inquiry.groups])
    for _ in range(reconcile.ROUNDS_MAX + 2):
        probes = inquiry.probes()
        if not probes:
            break
        inquiry.learn((bits * len(probes))[: len(probes)])
    else:
        raise AssertionError("an inquiry that goes on for ever")
    mine = reconcile.leaves_by_bucket(clock, b"salt", inquiry.bits)
    answer = reconcile.compare(clock, [(number, others) for number, _ in inquiry.groups], mine, others)
    same([event_id in clock for event_id in [*inquiry.lacking, *answer.lacking]].count(False), 0)
    reconcile.beyond(clock, [one for one in others if one in clock], [one for one in inquiry.common if one in clock])


# -- content ids and holdings


def _read_holdings(data: bytes) -> None:
    cids = unpack_holdings(data)
    same(unpack_holdings(pack_holdings(cids)), cids)
    table = Holdings()
    table.update("p", cids, now=0)
    same(table.held_by("p"), cids)
    table.forget("p")
    same([table.holders_of(cid) for cid in sorted(cids)], [[]] * len(cids))


def _read_cid(data: bytes) -> None:
    text = data.decode("latin-1")
    same(cid_text(parse_cid(text)), text)


@cache
def _outline() -> tuple[bytes, int]:
    return samples.outline()


def _make_outline(rng: Random) -> bytes:
    outline, size = _outline()
    size = size if rng.random() < 0.5 else rng.choice(EDGES)
    return size.to_bytes(8, "big", signed=False) + mutate(rng, outline, outline, None)


def _read_outline(data: bytes) -> None:
    size = int.from_bytes(data[:8], "big", signed=True)
    same(len(cid_of_outline(data[8:], size)), 36)


# -- names and files


def _read_seed(data: bytes) -> None:
    seed = decode_seed(data)
    same(decode_seed(encode_seed(seed)), seed)


def _read_peer_id(data: bytes) -> None:
    text = data.decode("latin-1")
    same(base58_encode(base58_decode(text)), text)
    same(peer_id_of(public_key_of(text)), text)


def _read_address(data: bytes) -> None:
    text = data.decode("latin-1")
    endpoint = parse_endpoint(text)
    same(parse_endpoint(str(endpoint)), endpoint)
    str(endpoint.is_loopback)
    for parser in (parse_listen, parse_peer_address):
        try:
            found = parser(text)
        except MalformedAddress:
            continue  # an address may be good for one end only
        same(parser(str(found)), found)


_LISTEN = ("/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0", "/ip4/127.0.0.1/tcp/4001")


def _read_ports(data: bytes) -> None:
    (home() / "ports.json").write_bytes(data)
    for text in kept_listen(LocalDisk(), home(), _LISTEN):
        parse_listen(text)
    (home() / "ports.json").write_bytes(data)
    keep_ports(LocalDisk(), home(), _LISTEN[:1], ["/ip4/127.0.0.1/tcp/4001"])


def _read_api_file(data: bytes) -> None:
    (home() / API_FILE).write_bytes(data)
    read_api_file(home())
    running_node(home())


def _read_config(data: bytes) -> None:
    file = home() / "config.toml"
    file.write_bytes(data)
    config = DistributedConfig.load(file=file)
    config.values()
    config.to_settings(home())


# -- the SQL worker's frames


def _read_worker(data: bytes) -> None:
    prefix = worker.Prefix.parse(data[:8].ljust(8, b"\0"), body_bytes_max=worker.PIECE_BYTES_MAX)
    head = worker.decode(data[8 : 8 + prefix.head_bytes])
    again = worker.encode(head)
    same(worker.encode(worker.decode(again[8:])), again)


_WORKER = worker.encode({"kind": "done", "rows": 5, "bytes_scanned": 1 << 40, "elapsed_ms": 1.5, "names": ["a", "b"]})
_WORKER_HEADS = Format(
    lambda data: [head for head in MSGPACK.heads(b"\xc7\x05\x00" + data[3:]) if head.start > 7],
    MSGPACK.head,
    MSGPACK.strange,
)
_EVENT_WIRES = tuple(event.wire for event in samples.EVENTS)
_CIDS = tuple(cid_text(cid).encode() for cid in (samples.SHARD, samples.OTHER_SHARD, samples.IDS[0]))

TARGETS: tuple[Target, ...] = (
    Target("stream", 30, _make_stream, _read_stream, ()),
    Target(
        "frame",
        3,
        _from(None, *(uvarint(5) + b"hello", uvarint(300) + bytes(300))),
        _read_frames,
        (RemoteProtocolError,),
    ),
    Target("event", 20, _from(CBOR, *_EVENT_WIRES), _read_event, (BadEvent,)),
    Target("batch", 2, _make_batch, _read_batch, (BadEvent,)),
    Target("saying", 10, _make_saying, _read_saying, (BadEvent, UsageError)),
    Target("manifest", 8, _from(CBOR, samples.BLOCK), _read_manifest, (IntegrityError,)),
    Target("schema", 3, _from(None, samples.MANIFEST.schema), _read_schema, (SchemaMismatch, UsageError)),
    Target("ticket", 4, _from(CBOR, samples.TICKET), _read_ticket, (Unauthorized,)),
    Target("receipt", 4, _from(CBOR, samples.RECEIPT), _read_receipt, (IntegrityError,)),
    Target("draft", 5, _from(CBOR, samples.DRAFT), _read_draft, (UsageError, IntegrityError)),
    Target("holdings", 2, _from(None, samples.SHARD + samples.OTHER_SHARD), _read_holdings, (BadContentId,)),
    Target("cid", 2, _from(None, *_CIDS), _read_cid, (BadContentId,)),
    Target("outline", 1, _make_outline, _read_outline, (IntegrityError,)),
    Target("seed", 1, _from(None, samples.SEED_FILE), _read_seed, (IdentityError,)),
    Target("peer id", 2, _from(None, samples.ANN.peer_id.encode()), _read_peer_id, (IdentityError,)),
    Target("address", 2, _from(None, samples.ADDRESS.encode(), b"/ip6/::1/tcp/0"), _read_address, (MalformedAddress,)),
    Target("ports file", 1, _from(WORDS, samples.PORTS_FILE), _read_ports, ()),
    Target("api file", 1, _from(WORDS, samples.API_FILE), _read_api_file, ()),
    Target("config file", 1, _from(WORDS, samples.CONFIG_FILE), _read_config, (ConfigError, AddressError)),
    Target("comparison", 4, _make_comparison, _read_comparison, (reconcile.BadAnswer,)),
    Target("log file", 0.2, logs.make, logs.read, (IntegrityError, StorageFailed)),
    Target("sql worker", 3, _from(_WORKER_HEADS, _WORKER), _read_worker, (worker.Nonsense,)),
)
