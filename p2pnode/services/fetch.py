"""Fetching a whole shard for the user, from whoever has it, verified on the way.

The sources are tried as `locate` ranks them; the transfer goes on with the next one where the last one stopped. A
shard id that is no content id, and one that no dataset names, are told apart from one whose holders are gone.
"""

from __future__ import annotations

from pathlib import Path

from p2pnode.core.cid import BadContentId, parse_cid
from p2pnode.env import Env
from p2pnode.errors import NotFound, ShardUnavailable
from p2pnode.services.locate import Locator
from p2pnode.services.shard_transfer import ShardTransferService


class Fetcher:
    """Reads shards through one node."""

    def __init__(self, env: Env, transfer: ShardTransferService, locator: Locator) -> None:
        self._env = env
        self._transfer = transfer
        self._locator = locator

    async def fetch(self, shard_id: str, only_from: str | None = None) -> bytes:
        """The shard in memory. Raises NotFound, ShardUnavailable, IntegrityError."""
        cid = _parsed(shard_id)
        return await self._transfer.fetch_bytes(cid, await self._sources(shard_id, cid, only_from))

    async def fetch_to(self, shard_id: str, path: Path) -> int:
        """The shard in a new file at `path`; the bytes written. Raises NotFound, ShardUnavailable, IntegrityError."""
        cid = _parsed(shard_id)
        return await self._transfer.fetch_to(cid, await self._sources(shard_id, cid, None), path)

    async def _sources(self, shard_id: str, cid: bytes, only_from: str | None) -> list[str]:
        if only_from is not None:
            return [only_from]
        sources = (await self._locator.holders([cid]))[cid]
        if not sources:
            raise ShardUnavailable(f"No live node holds the shard {shard_id}.", missing=(shard_id,))
        return sources


def _parsed(shard_id: str) -> bytes:
    try:
        return parse_cid(shard_id)
    except BadContentId as error:
        raise NotFound(f"{shard_id!r} is no shard id: {error}") from error
