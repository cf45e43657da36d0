"""The shard-transfer protocol: whole files by content id, verified chunk by chunk, resumable from any byte.

A shard is named by the root of its chunk tree (1 MiB chunks, BLAKE3), so a receiver that has the outline can
check each chunk as it comes and ask for any range from anybody. This file refuses trust: a receipt is what
the receiver found for itself.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from protocols.message import CIDS_MAX, ContentId, ContentIds, Count, Message, ProtocolSpec, Verb

PROTOCOL_ID = "/p2pnode/shard-transfer/1.0.0"

#: One chunk of the content tree; fixed by the content-id layout (unixfs-v1-2025).
CHUNK_BYTES = 1 << 20
#: The largest shard: 1024 × 1024 chunks would be two levels of links; 64 GiB is far past a sensible Parquet
#: file.
SHARD_BYTES_MAX = 64 << 30
#: The outline of the largest shard: 32 bytes a chunk.
OUTLINE_BYTES_MAX = SHARD_BYTES_MAX // CHUNK_BYTES * 32


class Have(Message, frozen=True, tag="have"):
    """Which of these do you hold, verified?"""

    cids: ContentIds


class Holding(Message, frozen=True, tag="holding"):
    """`present[i]` answers `cids[i]`."""

    present: Annotated[list[bool], msgspec.Meta(max_length=CIDS_MAX)]


class AskOutline(Message, frozen=True, tag="ask_outline"):
    """The chunk hashes of a shard."""

    cid: ContentId


class Outline(Message, frozen=True, tag="outline"):
    """The payload is the chunks' BLAKE3 digests in order, 32 bytes each; they fold to the content id."""

    size: Count


class Get(Message, frozen=True, tag="get"):
    """Bytes `offset` .. `offset+length` of a shard (to its end when `length` is 0)."""

    cid: ContentId
    offset: Count = 0
    length: Count = 0


class Bytes(Message, frozen=True, tag="bytes"):
    """The answer to Get: the payload is the range; `size` is the whole shard's."""

    size: Count
    offset: Count = 0


class Put(Message, frozen=True, tag="put"):
    """I shall send you this shard. The payload is its outline; `ticket` is a client's leave, else empty."""

    cid: ContentId
    size: Count
    format: Annotated[str, msgspec.Meta(max_length=16)] = "parquet"
    ticket: Annotated[bytes, msgspec.Meta(max_length=512 << 10)] = b""


class Ready(Message, frozen=True, tag="ready"):
    """Send from this byte on (what lies before it is here and verified); `size` when nothing is lacking."""

    offset: Count


class Piece(Message, frozen=True, tag="piece"):
    """The payload is the shard from `offset` to its end."""

    offset: Count


class Receipt(Message, frozen=True, tag="receipt"):
    """It is on my disk, verified and synced, and this is what I found in it.

    The payload is the DAG-CBOR of (cid, rows, bytes, statistics); `signature` is the holder's over it.
    """

    signature: Annotated[bytes, msgspec.Meta(max_length=64)] = b""


SHARD_TRANSFER = ProtocolSpec(
    PROTOCOL_ID,
    (
        Verb(Have, final=(Holding,)),
        Verb(AskOutline, final=(Outline,), payload_max=((Outline, OUTLINE_BYTES_MAX),)),
        Verb(Get, final=(Bytes,), payload_max=((Bytes, SHARD_BYTES_MAX),)),
        Verb(
            Put,
            replies=(Ready,),
            uploads=(Piece,),
            final=(Receipt,),
            payload_max=((Put, OUTLINE_BYTES_MAX), (Piece, SHARD_BYTES_MAX), (Receipt, 1 << 20)),
        ),
    ),
)
