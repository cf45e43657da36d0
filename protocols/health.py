"""The health protocol: am I alive, how am I doing, what do I hold.

Pings carry a little gossip about members and the digest of the holdings, so that failure and change spread
without a message of their own. All of it is soft state: what peers say of others is hearsay, nothing of it
enters the log.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from protocols.message import Count, Message, NodeId, PeerId, ProtocolSpec, Verb

PROTOCOL_ID = "/p2pnode/health/1.0.0"

#: Gossip that rides on one ping; the oldest news has been told most often and goes first.
CLAIMS_MAX = 32
#: Content ids of holdings in one payload: 36 bytes each.
HOLDINGS_BYTES_MAX = 36 * 1_000_000


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """What the sender itself found of a member: alive, suspect, dead or left, at that member's incarnation."""

    peer_id: PeerId
    state: Annotated[str, msgspec.Meta(max_length=8)]
    incarnation: Count


Claims = Annotated[list[Claim], msgspec.Meta(max_length=CLAIMS_MAX)]
#: BLAKE3 of the sorted content ids; empty before the first was computed.
Digest = Annotated[bytes, msgspec.Meta(max_length=32)]


class Ping(Message, frozen=True, tag="ping"):
    """Are you there? Carries my own standing and news of others."""

    incarnation: Count
    claims: Claims = msgspec.field(default_factory=list)
    holdings: Digest = b""


class Pong(Message, frozen=True, tag="pong"):
    """I am. The same in return."""

    incarnation: Count
    claims: Claims = msgspec.field(default_factory=list)
    holdings: Digest = b""


class Probe(Message, frozen=True, tag="probe"):
    """Ping that peer for me (SWIM's indirect probe)."""

    peer_id: PeerId
    timeout_ms: Count = 1000


class Probed(Message, frozen=True, tag="probed"):
    """Whether it answered me."""

    answered: bool


class AskStatus(Message, frozen=True, tag="ask_status"):
    """How are you?"""


class Status(Message, frozen=True, tag="status"):
    """Measured by psutil on this machine. Percentages 0–100, network in KB/s, lag in milliseconds."""

    node_id: NodeId
    status: Annotated[str, msgspec.Meta(max_length=16)]
    cpu_usage: float
    memory_usage: float
    disk_usage: float
    network_usage: float
    loop_lag_ms: float
    uptime_s: float = 0.0
    shards: Count = 0
    shard_bytes: Count = 0
    process_rss_bytes: Count = 0


class AskHoldings(Message, frozen=True, tag="ask_holdings"):
    """Which shards do you hold? `digest` is what I last knew: equal means no list."""

    digest: Digest = b""


class Holdings(Message, frozen=True, tag="holdings"):
    """The digest of what I hold. The payload is the content ids in order, 36 bytes each; none if you knew."""

    digest: Digest
    count: Count = 0


HEALTH = ProtocolSpec(
    PROTOCOL_ID,
    (
        Verb(Ping, final=(Pong,)),
        Verb(Probe, final=(Probed,)),
        Verb(AskStatus, final=(Status,)),
        Verb(AskHoldings, final=(Holdings,), payload_max=((Holdings, HOLDINGS_BYTES_MAX),)),
    ),
)
