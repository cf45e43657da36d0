"""Publishing: from a user's data to a signed version of a dataset.

    open the source → cut (reading once, hashing as it writes) → push to R holders at once → one `version` event

Each holder verifies the content id, recomputes the statistics, syncs, and signs a receipt for what it found. The
version is signed on receipts alone, never on the publisher's word, so a member and a client go the same way: a member
commits by itself, a client shows the receipts to a coordinator (`core.tickets` got it past the holders).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from p2pnode.core.model import EVERYWHERE, DatasetRecord, NodeRole
from p2pnode.core.placement import check_preferences
from p2pnode.core.policy import BALANCED_LOAD, CONSISTENT_HASH, Policy
from p2pnode.core.receipts import Receipt, VersionDraft
from p2pnode.core.schema import schema_bytes, schema_of_bytes
from p2pnode.core.settings import Settings
from p2pnode.env import Env
from p2pnode.errors import NotFound, RoleError, UsageError
from p2pnode.services.datasets import Datasets, Published
from p2pnode.services.push import Destination, Progress, Pusher
from p2pnode.services.wishes import Wishes
from p2pnode.storage.sources import Source, open_source
from p2pnode.storage.splitter import CutShard, cut_shards, make_folder

log = structlog.get_logger(__name__)

STRATEGIES = (CONSISTENT_HASH, BALANCED_LOAD)


class Publisher:
    """Publishes through one node.

    Args:
        cutting: a folder of this node's home for shards that are cut and not yet held by anybody.
        alive: whether a peer is worth sending to now.
    """

    def __init__(
        self,
        env: Env,
        settings: Settings,
        datasets: Datasets,
        wishes: Wishes,
        destination: Destination,
        cutting: Path,
        *,
        alive: Callable[[str], bool],
    ) -> None:
        self._env = env
        self._settings = settings
        self._datasets = datasets
        self._wishes = wishes
        self._destination = destination
        self._cutting = cutting
        self._alive = alive

    async def clear(self) -> None:
        """Remove what publishes left behind that ended with the process. Only before the first publish."""
        await self._env.executor.run(self._env.disk.remove_tree, self._cutting)

    async def publish(
        self,
        dataset: str,
        data: Any,
        *,
        create: bool = False,
        format: str = "parquet",
        shard_rows: int | None = None,
        replicas: int | None = None,
        strategy: str | None = None,
        preferences: Sequence[Mapping[str, Any]] | None = None,
        min_regions: int | None = None,
        append: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> Published:
        """A new version of `dataset` (id or name; with `create` a new name is defined first) made of `data`.

        Args:
            data: anything that `storage.sources.open_source` takes.
            replicas: holders of each shard; EVERYWHERE (0) for all storage members; None for the configured default.
            strategy: one of STRATEGIES; None for the configured one.
            append: add to the newest version rather than replace it.

        Raises:
            RoleError: this node's role neither defines nor asks.
            NotFound: no such dataset, and `create` is not set.
            EmptyData, SchemaMismatch, UsageError: the data is at fault.
            Infeasible: too few storage members.
            NotDurable: a shard reached too few disks; nothing was published, repeating is safe.
            StorageFailed: this disk refuses what is cut on it.
        """
        if self._settings.role is NodeRole.WORKER:
            raise RoleError("A worker holds shards; it does not publish them.")
        policy = self._policy(replicas, strategy, preferences, min_regions)
        await self._meet_enough(policy.replicas)
        policy.refuse_the_impossible(self._datasets.members(), self._alive)
        source, record, created = await self._open(dataset, data, create, append)
        try:
            committed, receipts = await self._cut_and_push(
                source, record, policy, format, shard_rows or self._settings.shard_rows, append, progress or _silent
            )
        except BaseException:
            if created:
                self._datasets.give_up(record.dataset_id)
            raise
        for cid, proofs in receipts.items():
            self._datasets.note_holders(cid, [receipt.holder for receipt in proofs])
        return self._datasets.placed(committed)

    async def _cut_and_push(
        self,
        source: Source,
        record: DatasetRecord,
        policy: Policy,
        format: str,
        shard_rows: int,
        append: bool,
        progress: Callable[[Progress], None],
    ) -> tuple[DatasetRecord, Mapping[bytes, Sequence[Receipt]]]:
        """The dataset with its new version in force, and the receipts that the version stands on."""
        folder = self._cutting / self._env.rng.token(8).hex()
        await self._env.executor.run(make_folder, self._env.disk, folder)
        try:
            pusher = Pusher(
                self._destination,
                self._datasets.members(),
                policy,
                alive=self._alive,
                ask_ticket=self._ticket_asker(record),
                discard=self._discard,
                transfers_max=self._settings.transfers_max,
                progress=progress,
            )
            cuts = cut_shards(source, self._env, folder, format=format, shard_rows=shard_rows)
            order, receipts = await pusher.push_all(cuts, source.rows)
        finally:
            self._env.disk.remove_tree(folder)
        draft = VersionDraft(
            dataset_id=record.dataset_id,
            format=format,
            schema=schema_bytes(source.schema),
            replicas=policy.replicas,
            policy=policy.as_document(),
            append=append,
            order=order,
            receipts=receipts,
            publish=self._env.rng.token(16).hex(),
        )
        return await self._datasets.commit(draft), receipts

    async def _meet_enough(self, replicas: int) -> None:
        """Storage members that joined a moment ago may not be known here yet: one round of sync before too few."""
        live = sum(member.role.stores and self._alive(member.peer_id) for member in self._datasets.members())
        if live < replicas or replicas == EVERYWHERE:
            await self._datasets.refresh()

    async def _open(self, dataset: str, data: Any, create: bool, append: bool) -> tuple[Source, DatasetRecord, bool]:
        """The source, the dataset it goes to, and whether that is new and unknown to the swarm so far. Each is checked
        before the other costs anything; what is appended is fitted to what is there, as to a declared schema.
        """
        created = False
        try:
            record = await self._datasets.find(dataset)
        except NotFound:
            if not create:
                raise
            await self._env.executor.run(open_source, data, None)  # data that cannot be published defines no dataset
            created = self._settings.role.defines
            # A member's definition travels with its first version; a client's ticket needs one that is known.
            record = (
                self._datasets.define_locally(dataset, "", None, None)
                if created
                else await self._datasets.define(dataset)
            )
        wanted = record.manifest.schema if append and record.manifest else record.schema
        declared = schema_of_bytes(wanted) if wanted else None
        source = await self._env.executor.run(open_source, data, declared)
        if source.missing:
            log.warning("columns_missing", dataset=record.name, columns=list(source.missing), read_as="NULL")
        return source, record, created

    def _policy(
        self,
        replicas: int | None,
        strategy: str | None,
        preferences: Sequence[Mapping[str, Any]] | None,
        min_regions: int | None,
    ) -> Policy:
        if strategy is None:
            strategy = CONSISTENT_HASH if self._settings.use_consistent_hashing else BALANCED_LOAD
        if strategy not in STRATEGIES:
            raise UsageError(f"{strategy!r} is no placement strategy; there are {' and '.join(STRATEGIES)}.")
        chosen = self._settings.replicas if replicas is None else replicas
        if chosen != EVERYWHERE and chosen < 1:
            raise UsageError(f"{chosen} replicas cannot be; give 1 or more, or all.")
        try:
            wishes = {str(wish["node_id"]): float(wish["preference"]) for wish in preferences or ()}
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError('A preference looks like {"node_id": "worker-1", "preference": 0.8}.') from error
        check_preferences(wishes, self._datasets.members())
        return Policy(chosen, strategy == BALANCED_LOAD, wishes, min_regions)

    def _ticket_asker(self, record: DatasetRecord) -> Callable[[Sequence[CutShard]], Awaitable[bytes]] | None:
        if self._settings.role.is_member:
            return None

        async def ask(cuts: Sequence[CutShard]) -> bytes:
            return await self._wishes.ask_ticket(record.dataset_id, cuts)

        return ask

    async def _discard(self, cut: CutShard) -> None:
        try:
            await self._env.executor.run(self._env.disk.unlink, cut.path)
        except OSError as error:  # its holders have it; the folder's end is another chance
            log.warning("cut_not_removed", path=str(cut.path), why=error.strerror)


def _silent(progress: Progress) -> None:
    """Nobody watches this publish."""
