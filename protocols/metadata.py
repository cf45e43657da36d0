"""The metadata protocol: who is here, and what everybody knows.

Hello opens every relation (genesis, version, role, addresses). Peers spread by exchange of records; facts
spread as signed events, by comparing what both sides have and by pushed batches. A client, which authors
nothing, proposes. This file refuses bulk bytes: shards travel by `shard_transfer`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from protocols.message import (
    Address,
    ContentId,
    ContentIds,
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
#: Heads in a sync. A node with more names none, and its leaves are compared.
HEADS_MAX = 32
#: Bytes of one event's id in a payload: its digest alone, for the rest of all ids is the same.
ID_BYTES = 32
#: Bytes of event ids in one payload: 8,192 of them.
IDS_BYTES_MAX = 256 << 10
#: Bands of heights that a long history is cut into; they grow with it.
BANDS_MAX = 4096
#: Buckets that authors are sorted into, a power of two: a digest of 8 bytes each.
BUCKETS_MAX = 1024

Role = Annotated[str, msgspec.Meta(max_length=16)]
Addresses = Annotated[list[Address], msgspec.Meta(max_length=ADDRESSES_MAX)]
#: Content id of the swarm's first event, or empty.
Genesis = Annotated[bytes, msgspec.Meta(max_length=64)]
Fingerprint = Annotated[bytes, msgspec.Meta(max_length=32)]
Sizes = Annotated[list[Count], msgspec.Meta(max_length=EVENTS_MAX)]
EventIds = Annotated[list[ContentId], msgspec.Meta(max_length=EVENTS_MAX)]
#: Fresh random bytes, so that nobody can choose who shares a bucket with him.
Salt = Annotated[bytes, msgspec.Meta(max_length=16)]


class PeerRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a peer can be met. Hearsay: whoever dials proves the id by the handshake."""

    peer_id: PeerId
    node_id: NodeId
    role: Role
    addresses: Addresses = msgspec.field(default_factory=list)


PeerRecords = Annotated[list[PeerRecord], msgspec.Meta(max_length=PEERS_MAX)]


class Hello(Message, frozen=True, tag="hello"):
    """First word on a new relation. `genesis` is empty from a newcomer, who will take the other's."""

    node_id: NodeId
    role: Role
    agent: Text = ""
    genesis: Genesis = b""
    addresses: Addresses = msgspec.field(default_factory=list)


class Welcome(Message, frozen=True, tag="welcome"):
    """The answer to Hello, in the same words, with every peer the answerer knows."""

    node_id: NodeId
    role: Role
    agent: Text = ""
    genesis: Genesis = b""
    addresses: Addresses = msgspec.field(default_factory=list)
    peers: PeerRecords = msgspec.field(default_factory=list)


class Sync(Message, frozen=True, tag="sync"):
    """What I have. One answer if that is the same; what lies beyond my heads if they are known; else `differs`.

    `heads` is empty from a newcomer, and from a node with more than HEADS_MAX.
    """

    genesis: Genesis
    count: Count
    fingerprint: Fingerprint
    heads: Annotated[list[ContentId], msgspec.Meta(max_length=HEADS_MAX)] = msgspec.field(default_factory=list)


class Events(Message, frozen=True, tag="events"):
    """Signed events in (height, id) order: the payload is the wire events, cut by `sizes` (bytes)."""

    sizes: Sizes


class Band(msgspec.Struct, frozen=True, array_like=True):
    """All events of heights low ≤ h < high: so many of them, with that digest."""

    low: Count
    high: Count
    count: Count
    digest: Annotated[bytes, msgspec.Meta(max_length=16)]


class Synced(Message, frozen=True, tag="synced"):
    """The end of the events asked for, and what the answerer has; `bands` are still to be fetched, from anybody."""

    count: Count
    fingerprint: Fingerprint
    bands: Annotated[list[Band], msgspec.Meta(max_length=BANDS_MAX)] = msgspec.field(default_factory=list)


class Differs(Message, frozen=True, tag="differs"):
    """Some of your heads are unknown here. My heads, and a digest of the leaves in each bucket of authors."""

    count: Count
    fingerprint: Fingerprint
    heads: Annotated[list[ContentId], msgspec.Meta(max_length=HEADS_MAX)]
    salt: Salt
    digests: Annotated[bytes, msgspec.Meta(max_length=8 * BUCKETS_MAX)]


class Group(msgspec.Struct, frozen=True, array_like=True):
    """One bucket, and how many of the ids in the payload are leaves in it."""

    bucket: Annotated[int, msgspec.Meta(ge=0, le=BUCKETS_MAX - 1)]
    leaves: Count


class Compare(Message, frozen=True, tag="compare"):
    """My leaves in the buckets that differ, group by group, and after them events of mine that you may know."""

    salt: Salt = b""
    #: log₂ of the number of buckets.
    bits: Annotated[int, msgspec.Meta(ge=0, le=10)] = 0
    groups: Annotated[list[Group], msgspec.Meta(max_length=BUCKETS_MAX)] = msgspec.field(default_factory=list)


class Compared(Message, frozen=True, tag="compared"):
    """A bit for each id asked after, set if it is known; `others` cuts the payload, my other leaves, by group."""

    known: Annotated[bytes, msgspec.Meta(max_length=IDS_BYTES_MAX // ID_BYTES // 8)]
    others: Annotated[list[Count], msgspec.Meta(max_length=BUCKETS_MAX)] = msgspec.field(default_factory=list)


class WantEvents(Message, frozen=True, tag="want_events"):
    """The chains that end in the first `wanted` ids of the payload, without those that end in the other ids."""

    wanted: Count


class WantBand(Message, frozen=True, tag="want_band"):
    """All events of heights low ≤ h < high."""

    low: Count
    high: Count


class Push(Message, frozen=True, tag="push"):
    """New events, payload as in Events. The answer comes when they are on the receiver's disk.

    `wide`: the sender pushes them to every member that it is connected to, so they need not be passed on.
    """

    sizes: Sizes
    wide: bool = False


class Stored(Message, frozen=True, tag="stored"):
    """Of the pushed events: `durable` on disk here, `waiting` for parents or blocks, `refused` as invalid."""

    durable: EventIds = msgspec.field(default_factory=list)
    waiting: EventIds = msgspec.field(default_factory=list)
    refused: EventIds = msgspec.field(default_factory=list)


class WantBlock(Message, frozen=True, tag="want_block"):
    """One small content-addressed record (a manifest)."""

    cid: ContentId


class Block(Message, frozen=True, tag="block"):
    """The record's bytes are the payload; absent (`found` false) means that this peer does not have it."""

    cid: ContentId
    found: bool = True


class Propose(Message, frozen=True, tag="propose"):
    """A client's signed wish, for a coordinator to wrap in its own event.

    `kind` is define, publish or delete; the payload is the DAG-CBOR body and `signature` is the client's over
    it.
    """

    kind: Annotated[str, msgspec.Meta(max_length=16)]
    signature: Annotated[bytes, msgspec.Meta(max_length=64)]


class Accepted(Message, frozen=True, tag="accepted"):
    """The proposal is carried out, durable as promised; the payload is the DAG-CBOR answer."""


class AskTicket(Message, frozen=True, tag="ask_ticket"):
    """A client asks a coordinator for leave to push these shards to their holders."""

    dataset_id: Text
    cids: ContentIds
    bytes: Count


class Ticket(Message, frozen=True, tag="ticket"):
    """Signed leave to push (dataset, ids, bytes, expiry), shown to each holder with the push."""

    ticket: Annotated[bytes, msgspec.Meta(max_length=512 << 10)]


METADATA = ProtocolSpec(
    PROTOCOL_ID,
    (
        Verb(Hello, final=(Welcome,)),
        Verb(Sync, replies=(Events,), final=(Synced, Differs), payload_max=((Events, EVENTS_BYTES_MAX),)),
        Verb(
            Compare,
            replies=(Events,),
            final=(Compared,),
            payload_max=((Compare, IDS_BYTES_MAX), (Events, EVENTS_BYTES_MAX), (Compared, IDS_BYTES_MAX)),
        ),
        Verb(
            WantEvents,
            replies=(Events,),
            final=(Synced,),
            payload_max=((WantEvents, 2 * IDS_BYTES_MAX), (Events, EVENTS_BYTES_MAX)),
        ),
        Verb(WantBand, replies=(Events,), final=(Synced,), payload_max=((Events, EVENTS_BYTES_MAX),)),
        Verb(Push, final=(Stored,), payload_max=((Push, EVENTS_BYTES_MAX),)),
        Verb(WantBlock, final=(Block,), payload_max=((Block, BLOCK_BYTES_MAX),)),
        Verb(Propose, final=(Accepted,), payload_max=((Propose, BLOCK_BYTES_MAX), (Accepted, BLOCK_BYTES_MAX))),
        Verb(AskTicket, final=(Ticket,)),
    ),
)
