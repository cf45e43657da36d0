"""Datasets, as this node deals with them: define, publish, delete, look up, and say where the shards lie.

Defining is a coordinator's or hybrid's deed, done here with an event of its own. A client puts its wish to a
coordinator (`wishes`), which does it in its stead (`proposals`). A worker does neither. What one node does not know yet
costs one round of sync before it is an error.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import pyarrow as pa
import structlog
import trio

from p2pnode.core import records
from p2pnode.core.cid import cid_text, record_cid
from p2pnode.core.committing import manifest_block
from p2pnode.core.holdings import Holdings
from p2pnode.core.model import EVERYWHERE, DatasetRecord, Manifest, Member, NodeRole
from p2pnode.core.policy import Policy
from p2pnode.core.receipts import VersionDraft
from p2pnode.core.schema import schema_bytes
from p2pnode.env import Env
from p2pnode.errors import (
    NotDurable,
    NotFound,
    RoleError,
    UsageError,
)
from p2pnode.services.metadata import MetadataService
from p2pnode.services.wishes import Wishes

log = structlog.get_logger(__name__)

#: Random bytes of a dataset id: 26 characters of base32.
_ID_BYTES = 17
_ID_CHARS = 26
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DATASET_ID = re.compile(f"ds-[a-z2-7]{{{_ID_CHARS}}}")


@dataclass(frozen=True, slots=True)
class PlacedShard:
    """A shard and the node ids that hold it, verified; `short` replicas are still to come."""

    shard_id: str
    cid: bytes
    rows: int
    bytes: int
    holders: tuple[str, ...]
    short: int = 0


@dataclass(frozen=True, slots=True)
class Published:
    """A dataset with its shards as they lie now."""

    dataset: DatasetRecord
    shards: tuple[PlacedShard, ...]

    @property
    def short(self) -> int:
        return sum(shard.short for shard in self.shards)


def new_dataset_id(token: bytes) -> str:
    """A dataset id from 17 random bytes."""
    return "ds-" + base64.b32encode(token).decode().lower()[:_ID_CHARS]


class Datasets:
    """The catalog's datasets through one node's eyes and rights.

    Args:
        alive: whether a peer is worth asking now.
    """

    def __init__(
        self,
        env: Env,
        role: NodeRole,
        metadata: MetadataService,
        wishes: Wishes,
        holdings: Holdings,
        *,
        alive: Callable[[str], bool],
    ) -> None:
        self._env = env
        self._role = role
        self._metadata = metadata
        self._wishes = wishes
        self._holdings = holdings
        self._alive = alive
        #: Defined here, the event not yet acknowledged.
        self._fresh: dict[str, DatasetRecord] = {}
        #: One version at a time: the next one stands on it.
        self._signing = trio.Lock()

    # -- looking up ------------------------------------------------------------------------------------------

    def known(self, name_or_id: str) -> DatasetRecord | None:
        """What this node knows of it now, without asking anybody."""
        found = self._metadata.catalog.dataset(name_or_id)
        if found is None:
            fresh = [record for record in self._fresh.values() if name_or_id in (record.dataset_id, record.name)]
            found = fresh[0] if fresh else None
        return found

    async def find(self, name_or_id: str) -> DatasetRecord:
        """The dataset, after one round of sync if it is not known here.

        Raises:
            NotFound: naming near misses.
        """
        found = self.known(name_or_id)
        if found is None:
            await self._metadata.refresh()
            found = self.known(name_or_id)
        if found is None:
            raise self.unknown(name_or_id)
        return found

    def unknown(self, name: str) -> NotFound:
        """The error for a name that is no dataset's, with those that it may have been meant for."""
        names = [record.name for record in self.all()]
        near = get_close_matches(name, names, n=3) or [known for known in names if name in known.split()][:3]
        meant = [known if known.isidentifier() else f'"{known}"' for known in near]  # as SQL wants it
        hint = f" Did you mean {' or '.join(meant)}?" if near else ""
        return NotFound(f"There is no dataset {name!r}.{hint}", dataset=name, near=near)

    async def manifest(self, version: bytes) -> Manifest:
        """A version of any dataset by its content id, after one round of sync if it is not here. Raises NotFound."""
        found = self._version(version)
        if found is None:
            await self._metadata.refresh()
            found = self._version(version)
        if found is None:
            raise NotFound(f"No version {cid_text(version)} of any dataset is known.")
        return found

    def _version(self, version: bytes) -> Manifest | None:
        return self._metadata.ledger.manifest(version) or self._metadata.catalog.union(version)

    async def refresh(self) -> None:
        """One round of sync with a peer, for what this node may not know yet."""
        await self._metadata.refresh()

    def all(self) -> list[DatasetRecord]:
        """Every dataset known here, by name."""
        recorded = self._metadata.catalog.datasets()
        ids = {record.dataset_id for record in recorded}
        fresh = [record for record in self._fresh.values() if record.dataset_id not in ids]
        return sorted([*recorded, *fresh], key=lambda record: (record.name, record.dataset_id))

    def named_shards(self) -> set[bytes]:
        """Every shard that a standing version names: the current ones, and those that lost to a concurrent one."""
        named: set[bytes] = set()
        for record in self._metadata.catalog.datasets():
            standing = [record.manifest, *map(self._metadata.ledger.manifest, record.siblings)]
            named.update(shard.cid for manifest in standing if manifest for shard in manifest.shards)
        return named

    def members(self) -> list[Member]:
        """Members that neither left nor are recorded as down."""
        return self._metadata.catalog.present()

    def note_holders(self, cid: bytes, peers: Iterable[str]) -> None:
        """Receipts say that these peers hold the shard; their own word follows with the next pings."""
        for peer_id in peers:
            self._holdings.add(peer_id, cid, self._env.clock.now())

    def storing(self) -> list[Member]:
        """Members that hold shards and neither left nor are recorded as down; those who merely are silent included."""
        return [member for member in self.members() if member.role.stores]

    def should_hold(self, manifest: Manifest) -> list[list[str]]:
        """Peer ids that placement names for each shard of a manifest, best first; empty lists if nobody stores."""
        members = self.storing()
        if not members:
            return [[] for _ in manifest.shards]
        policy = Policy.of_document(manifest.replicas, manifest.policy)
        return policy.place([shard.cid for shard in manifest.shards], members)

    def placed(self, record: DatasetRecord, asked: Mapping[bytes, Sequence[str]] | None = None) -> Published:
        """The dataset with the live holders of each shard, as they say themselves: when `asked`, or when last heard."""
        if record.manifest is None:
            return Published(record, ())
        manifest = record.manifest
        wanted = manifest.replicas if manifest.replicas != EVERYWHERE else len(self.storing())
        shards = []
        for shard in manifest.shards:
            told = self._holdings.holders_of(shard.cid) if asked is None else asked[shard.cid]
            holders = [peer for peer in told if self._alive(peer)]
            names = tuple(sorted(self.node_id_of(peer) for peer in holders))
            short = max(0, wanted - len(holders))
            shards.append(PlacedShard(cid_text(shard.cid), shard.cid, shard.rows, shard.bytes, names, short))
        return Published(record, tuple(shards))

    def node_id_of(self, peer_id: str) -> str:
        """A peer's human name, or its id if it never said one."""
        member = self._metadata.catalog.member(peer_id)
        return member.node_id if member else peer_id

    # -- defining and deleting -------------------------------------------------------------------------------

    def define_locally(
        self, name: str, description: str, schema: pa.Schema | None, dataset_id: str | None
    ) -> DatasetRecord:
        """A new dataset that only this node knows so far; `settle_definition` tells the swarm."""
        if not self._role.defines:
            raise RoleError(f"A {self._role} defines no datasets.")
        self._metadata.check_heard()
        if dataset_id is not None and not _DATASET_ID.fullmatch(dataset_id):
            raise UsageError(f"{dataset_id!r} is no dataset id.")
        if not name.strip() or len(name) > records.NAME_CHARS_MAX or _CONTROL.search(name):
            raise UsageError(
                f"A dataset's name has 1 to {records.NAME_CHARS_MAX} characters, none of them a control character.",
                advice="Name it in a word or two; the rest belongs in its description.",
            )
        earlier = self.known(name)
        if earlier is not None and earlier.name == name and earlier.dataset_id != dataset_id:
            log.warning("name_taken", dataset=name, by=earlier.dataset_id, advice="By name the earlier one is meant.")
        record = DatasetRecord(
            dataset_id=dataset_id or new_dataset_id(self._env.rng.token(_ID_BYTES)),
            name=name,
            description=description,
            schema=b"" if schema is None else schema_bytes(schema),
        )
        self._fresh[record.dataset_id] = record
        return record

    def give_up(self, dataset_id: str) -> None:
        """Forget a definition that the swarm was not told of yet: what was to fill it has failed."""
        self._fresh.pop(dataset_id, None)

    async def settle_definition(self, dataset_id: str) -> None:
        """Author the define event of a fresh dataset, once. Raises NotDurable."""
        record = self._fresh.get(dataset_id)
        if record is None or self._metadata.catalog.dataset(dataset_id) is not None:
            self._fresh.pop(dataset_id, None)
            return
        body = records.define_body(records.Definition(record.name, record.description, record.schema))
        await self._metadata.author(records.DEFINE, dataset_id, body)
        self._fresh.pop(dataset_id, None)

    async def define(self, name: str, description: str = "", schema: pa.Schema | None = None) -> DatasetRecord:
        """A new dataset that the swarm knows when this returns; a client asks a coordinator for it."""
        if self._role.defines:
            record = self.define_locally(name, description, schema, None)
            await self.settle_definition(record.dataset_id)
            return await self.find(record.dataset_id)
        packed = b"" if schema is None else schema_bytes(schema)
        # Named here, so that it is one dataset even if a second coordinator has to be asked.
        dataset_id = new_dataset_id(self._env.rng.token(_ID_BYTES))
        wish = {"dataset": dataset_id, "name": name, "description": description, "schema": packed}
        await self._wishes.put("define", wish)
        return await self.find(dataset_id)

    async def delete(self, name_or_id: str) -> None:
        """Take the dataset away as it is known here; what is added meanwhile survives."""
        record = await self.find(name_or_id)
        if self._role.defines:
            await self.delete_here(record.dataset_id)
        else:
            await self._wishes.put("delete", {"dataset": record.dataset_id})
        self._fresh.pop(record.dataset_id, None)

    async def delete_here(self, dataset_id: str) -> None:
        """Author the delete event of a dataset as it is known here. Raises NotFound, NotDurable, Refused."""
        self._metadata.check_heard()
        observed = self._metadata.catalog.observed(dataset_id)
        if not observed:
            raise NotFound(f"There is no dataset {dataset_id!r}.")
        await self._metadata.author(records.DELETE, dataset_id, records.delete_body(observed))

    # -- committing a version --------------------------------------------------------------------------------

    async def commit(self, draft: VersionDraft) -> DatasetRecord:
        """The dataset with the drafted version in force: signed here, or by a coordinator at our request."""
        if self._role.defines:
            await self.settle_definition(draft.dataset_id)
            await self.sign_version(draft)
        else:
            await self._wishes.put("publish", await self._env.executor.run(draft.encode))
        return await self.find(draft.dataset_id)

    async def sign_version(self, draft: VersionDraft) -> None:
        """Author the version event, if its receipts carry it, once for each publish. Raises as `commit` does."""
        async with self._signing:
            event_id = self._metadata.catalog.of_publish(draft.dataset_id, draft.publish)
            if event_id is None:
                event_id = await self._author_version(draft)
        try:
            await self._metadata.confirm(event_id)
        except NotDurable as error:
            if not draft.append:
                raise
            raise NotDurable(
                f"{error} What was appended counts as soon as members come up: look before appending it again.",
                advice="Bring more members up, and see whether the rows are there.",
            ) from error

    async def _author_version(self, draft: VersionDraft) -> bytes:
        self._metadata.check_heard()
        catalog = self._metadata.catalog
        record, over = catalog.dataset(draft.dataset_id), catalog.tips(draft.dataset_id)
        if record is None:
            raise NotFound(f"There is no dataset {draft.dataset_id!r}.")
        # The receipt of one that was called down a moment ago is as good as ever: its disk has the shard.
        stores = frozenset(member.peer_id for member in catalog.members() if member.role.stores)
        block = await self._env.executor.run(manifest_block, draft, record, stores, len(self.storing()))
        version = records.Version(
            manifest=record_cid(block), base=record.version, append=draft.append, over=over, publish=draft.publish
        )
        event = await self._metadata.author(
            records.VERSION, draft.dataset_id, records.version_body(version), blocks=(block,), wait=False
        )
        return event.id
