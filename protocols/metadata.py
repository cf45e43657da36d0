"""The metadata protocol: who is here, and what everybody knows.

Hello opens every relation (genesis, version, role, addresses). Peers spread by exchange of records; facts spread as
signed events by version-vector sync and by pushed batches. A client, which authors nothing, proposes. This file
refuses bulk bytes: shards travel by `shard_transfer`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from protocols.message import (
    CIDS_MAX,
    Address,
    ContentId,
    Count,
    Message,
    NodeId,
    PeerId,
    ProtocolSpec,
    Text,
    Verb,
)

PROTOCOL_ID = "/p2pnode/metadata/1.0.0"

#: Peer records in one answer: a swarm of a thousand fits, a forged flood does not.
PEERS_MAX = 1024
#: Addresses of one peer: interfaces × transports, generously.
ADDRESSES_MAX = 16
#: Events in one batch. An event is ≤ 64 KiB; senders also keep a batch's payload under EVENTS_BYTES_MAX.
EVENTS_MAX = 1024
#: Bytes of events in one message's payload.
EVENTS_BYTES_MAX = 4 << 20
#: Blocks (manifests) beside them: a manifest of 100,000 shards with statistics is about 20 MiB.
BLOCK_BYTES_MAX = 32 << 20
#: (author, session) pairs in a version vector.
AUTHORS_MAX = 16384

Role = Annotated[str, msgspec.Meta(max_length=16)]


class PeerRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a peer can be met. Hearsay: whoever dials proves the id by the handshake."""

    peer_id: PeerId
    node_id: NodeId
    role: Role
    addresses: Annotated[list[Address], msgspec.Meta(max_length=ADDRESSES_MAX)] = []


class Hello(Message, tag="hello"):
    """First word on a new relation. `genesis` is empty from a newcomer, who will take the other's."""

    node_id: NodeId
    role: Role
    agent: Text = ""
    genesis: Annotated[bytes, msgspec.Meta(max_length=64)] = b""
    addresses: Annotated[list[Address], msgspec.Meta(max_length=ADDRESSES_MAX)] = []


class Welcome(Message, tag="welcome"):
    """The answer to Hello, in the same words, with every peer the answerer knows."""

    node_id: NodeId
    role: Role
    agent: Text = ""
    genesis: Annotated[bytes, msgspec.Meta(max_length=64)] = b""
    addresses: Annotated[list[Address], msgspec.Meta(max_length=ADDRESSES_MAX)] = []
    peers: Annotated[list[PeerRecord], msgspec.Meta(max_length=PEERS_MAX)] = []


class AskPeers(Message, tag="ask_peers"):
    """Who else is there?"""


class Peers(Message, tag="peers"):
    peers: Annotated[list[PeerRecord], msgspec.Meta(max_length=PEERS_MAX)] = []


class AuthorMark(msgspec.Struct, frozen=True, array_like=True):
    """How far one author's session is known: events 0..next-1."""

    author: PeerId
    session: Annotated[bytes, msgspec.Meta(max_length=16)]
    next: Count


class Sync(Message, tag="sync"):
    """What I have. Equal count and fingerprint end it in one answer; else the answer streams what I lack."""

    genesis: Annotated[bytes, msgspec.Meta(max_length=64)]
    count: Count
    fingerprint: Annotated[bytes, msgspec.Meta(max_length=32)]
    marks: Annotated[list[AuthorMark], msgspec.Meta(max_length=AUTHORS_MAX)] = []


class Events(Message, tag="events"):
    """A batch of signed events in (height, id) order; the payload is the wire events one after another, cut by `sizes`."""

    sizes: Annotated[list[Count], msgspec.Meta(max_length=EVENTS_MAX)]


class Synced(Message, tag="synced"):
    """The end of a sync: what the answerer has, so that the asker can push back what the answerer lacks."""

    count: Count
    fingerprint: Annotated[bytes, msgspec.Meta(max_length=32)]
    marks: Annotated[list[AuthorMark], msgspec.Meta(max_length=AUTHORS_MAX)] = []


class Push(Message, tag="push"):
    """New events, payload as in Events. The answer comes when they are on the receiver's disk."""

    sizes: Annotated[list[Count], msgspec.Meta(max_length=EVENTS_MAX)]


class Stored(Message, tag="stored"):
    """`durable` of the pushed events are on disk here; `waiting` for parents or blocks; `refused` are invalid."""

    durable: Annotated[list[ContentId], msgspec.Meta(max_length=EVENTS_MAX)] = []
    waiting: Annotated[list[ContentId], msgspec.Meta(max_length=EVENTS_MAX)] = []
    refused: Annotated[list[ContentId], msgspec.Meta(max_length=EVENTS_MAX)] = []


class WantBlock(Message, tag="want_block"):
    """One small content-addressed record (a manifest)."""

    cid: ContentId


class Block(Message, tag="block"):
    """The record's bytes are the payload; absent (`found` false) means that this peer does not have it."""

    cid: ContentId
    found: bool = True


class Propose(Message, tag="propose"):
    """A client's signed wish, for a coordinator to wrap in its own event.

    `kind` is define, publish or delete; the payload is the DAG-CBOR body and `signature` is the client's over it.
    """

    kind: Annotated[str, msgspec.Meta(max_length=16)]
    signature: Annotated[bytes, msgspec.Meta(max_length=64)]


class Accepted(Message, tag="accepted"):
    """The proposal stands as this event, durable as promised; the payload is the DAG-CBOR answer."""

    event: ContentId = b"\x00\x00\x00\x00"


class AskTicket(Message, tag="ask_ticket"):
    """A client asks a coordinator for leave to push these shards to their holders."""

    dataset_id: Text
    cids: Annotated[list[ContentId], msgspec.Meta(max_length=CIDS_MAX)]
    bytes: Count


class Ticket(Message, tag="ticket"):
    """Signed leave to push (dataset, ids, bytes, expiry), shown to each holder with the push."""

    ticket: Annotated[bytes, msgspec.Meta(max_length=512 << 10)]


METADATA = ProtocolSpec(
    PROTOCOL_ID,
    (
        Verb(Hello, final=(Welcome,)),
        Verb(AskPeers, final=(Peers,)),
        Verb(Sync, replies=(Events,), final=(Synced,), payload_max=((Events, EVENTS_BYTES_MAX),)),
        Verb(Push, final=(Stored,), payload_max=((Push, EVENTS_BYTES_MAX),)),
        Verb(WantBlock, final=(Block,), payload_max=((Block, BLOCK_BYTES_MAX),)),
        Verb(
            Propose, final=(Accepted,), payload_max=((Propose, BLOCK_BYTES_MAX), (Accepted, BLOCK_BYTES_MAX))
        ),
        Verb(AskTicket, final=(Ticket,)),
    ),
)
