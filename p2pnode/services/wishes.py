"""A client's wishes: what it may not do itself, put to a coordinator that may.

A client authors no events. It signs what it wants (define, publish, delete) and asks one coordinator after the other
until one has carried it out; carrying it out twice is harmless, since the wish names what it makes. For the shards of a
publish it asks leave first (`core.tickets`). The other end stands in `proposals`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import libipld

from bootstrap.identity import Identity
from p2pnode.core.model import NodeRole
from p2pnode.errors import P2PNodeError, RoleError, SwarmUnreachable, UsageError
from p2pnode.net.peers import Peers
from p2pnode.services.metadata import MetadataService
from p2pnode.storage.splitter import CutShard
from protocols.metadata import BLOCK_BYTES_MAX, METADATA, AskTicket, Propose, Ticket

T = TypeVar("T")

#: Seconds that a coordinator may take over a proposal: it waits for three disks.
PROPOSAL_TIMEOUT_S = 30.0
_DOMAIN = b"p2pnode-proposal-1\0"


def signed_over(kind: str, body: bytes) -> bytes:
    """The bytes that a proposal's signature covers."""
    return _DOMAIN + kind.encode() + b"\0" + body


class Wishes:
    """One client's end.

    Args:
        alive: whether a peer is worth asking before the others.
    """

    def __init__(
        self,
        identity: Identity,
        role: NodeRole,
        metadata: MetadataService,
        peers: Peers,
        *,
        alive: Callable[[str], bool],
    ) -> None:
        self._identity = identity
        self._role = role
        self._metadata = metadata
        self._peers = peers
        self._alive = alive

    async def put(self, kind: str, body: dict[str, Any] | bytes) -> dict[str, Any]:
        """Put a wish to the coordinators, one after the other, until one has carried it out; then know it here too."""
        if self._role is not NodeRole.CLIENT:
            raise RoleError(f"A {self._role} does not define or publish datasets.")
        plain = body if isinstance(body, bytes) else libipld.encode_dag_cbor(body)
        if len(plain) > BLOCK_BYTES_MAX:
            raise UsageError(
                f"A proposal of {len(plain) >> 20} MiB is more than a coordinator takes.",
                advice="Publish with more rows a shard (shard_size, --shard-rows).",
            )
        signature = self._identity.sign(signed_over(kind, plain))

        async def ask(peer_id: str) -> dict[str, Any]:
            _, answer = await self._peers.ask(
                peer_id,
                METADATA,
                Propose(kind=kind, signature=signature),
                plain,
                timeout_s=PROPOSAL_TIMEOUT_S,
            )
            await self._metadata.catch_up(peer_id)  # whoever else is asked may not have heard of it yet
            return libipld.decode_dag_cbor(answer)

        return await self._first_coordinator(ask)

    async def ask_ticket(self, dataset_id: str, cuts: Sequence[CutShard]) -> bytes:
        """A coordinator's leave for these shards."""

        async def ask(peer_id: str) -> bytes:
            answer, _ = await self._peers.ask(
                peer_id,
                METADATA,
                AskTicket(
                    dataset_id=dataset_id,
                    cids=[cut.cid for cut in cuts],
                    bytes=sum(cut.bytes for cut in cuts),
                ),
            )
            assert isinstance(answer, Ticket)
            return answer.ticket

        return await self._first_coordinator(ask)

    async def _first_coordinator(self, ask: Callable[[str], Awaitable[T]]) -> T:
        """The first live coordinator's answer; a refusal counts for all of them."""
        defining = [member for member in self._metadata.catalog.members() if member.role.defines]
        failure: P2PNodeError | None = None
        for member in sorted(defining, key=lambda member: (not self._alive(member.peer_id), member.peer_id)):
            try:
                await self._peers.connect(member.peer_id)  # the user's wish is worth a dial, whatever failed just now
                return await ask(member.peer_id)
            except P2PNodeError as error:
                if not error.retryable:
                    raise
                failure = error
        raise SwarmUnreachable(
            "No coordinator answers, and only a coordinator can define and publish."
            + (f" ({failure})" if failure else ""),
            advice="Start a coordinator or hybrid; queries go on without one.",
        )
