"""The swarm's end of a client's wishes: a coordinator carries them out, a holder checks the leave it gave.

What a proposal asks is checked as strictly as if a stranger had sent it, because one may have: its signature, its
sender's role, every receipt in it. The event is the coordinator's own. This file refuses to define anything itself:
`datasets` does.
"""

from __future__ import annotations

from collections.abc import Sequence

import libipld

from bootstrap.identity import Identity, verify
from p2pnode.core import tickets
from p2pnode.core.model import NodeRole
from p2pnode.core.receipts import decode_draft
from p2pnode.core.schema import schema_of_bytes
from p2pnode.env import Env
from p2pnode.errors import RoleError, Unauthorized, UsageError
from p2pnode.services.datasets import Datasets
from p2pnode.services.metadata import MetadataService
from p2pnode.services.wishes import signed_over


class Proposals:
    """One member's end."""

    def __init__(
        self, env: Env, identity: Identity, role: NodeRole, metadata: MetadataService, datasets: Datasets
    ) -> None:
        self._env = env
        self._identity = identity
        self._role = role
        self._metadata = metadata
        self._datasets = datasets

    async def answer(self, peer_id: str, kind: str, body: bytes, signature: bytes) -> bytes:
        """Carry out a wish; the DAG-CBOR answer. Raises Unauthorized, RoleError, UsageError, and as the deed does."""
        if not self._role.defines:
            raise RoleError("This node defines no datasets; ask a coordinator.")
        if not verify(peer_id, signed_over(kind, body), signature):
            raise Unauthorized("The proposal's signature is not its sender's.")
        member = self._metadata.catalog.member(peer_id)
        if member is not None and not member.left and not member.role.defines:
            raise RoleError(f"A {member.role} does not define or publish datasets.")
        if kind == "publish":
            draft = await self._env.executor.run(decode_draft, body, verify)
            await self._datasets.sign_version(draft)
            return libipld.encode_dag_cbor({"dataset": draft.dataset_id})
        return await self._answer_small(kind, body)

    async def _answer_small(self, kind: str, body: bytes) -> bytes:
        try:
            wish = libipld.decode_dag_cbor(body)
            if kind == "define":
                schema = schema_of_bytes(wish["schema"]) if wish["schema"] else None
                record = self._datasets.define_locally(wish["name"], wish["description"], schema, wish["dataset"])
                await self._datasets.settle_definition(record.dataset_id)
                return libipld.encode_dag_cbor({"dataset": record.dataset_id})
            if kind == "delete":
                await self._datasets.delete_here(wish["dataset"])
                return libipld.encode_dag_cbor({"dataset": wish["dataset"]})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UsageError(f"The proposal cannot be read: {error}") from error
        raise UsageError(f"There is no proposal of kind {kind!r}.")

    async def issue_ticket(self, peer_id: str, dataset_id: str, cids: Sequence[bytes], size: int) -> bytes:
        """Leave to push these shards. Raises RoleError, NotFound."""
        if not self._role.defines:
            raise RoleError("This node gives no leave to push shards; ask a coordinator.")
        await self._datasets.find(dataset_id)
        return tickets.issue(
            dataset_id=dataset_id,
            client=peer_id,
            coordinator=self._identity.peer_id,
            cids=cids,
            size=size,
            wall=self._env.clock.wall(),
            sign=self._identity.sign,
        )

    async def check_ticket(self, peer_id: str, ticket: bytes, cid: bytes, size: int) -> None:
        """A holder's end of `put`: members need no ticket, anyone else a good one. Raises Unauthorized.

        Whoever joined a moment ago may not be known here yet: a refusal comes only after one round of sync.
        """
        try:
            self._check_ticket_now(peer_id, ticket, cid, size)
        except Unauthorized:
            await self._metadata.catch_up(peer_id)
            self._check_ticket_now(peer_id, ticket, cid, size)

    def _check_ticket_now(self, peer_id: str, ticket: bytes, cid: bytes, size: int) -> None:
        member = self._metadata.catalog.member(peer_id)
        if member is not None and not member.left:
            return
        if not ticket:
            raise Unauthorized("Only members may push shards without a ticket.")
        tickets.check(
            ticket,
            client=peer_id,
            cid=cid,
            wall=self._env.clock.wall(),
            verify=verify,
            may_define=lambda peer: (found := self._metadata.catalog.member(peer)) is not None and found.role.defines,
        )
