"""Sweeping: shards that no standing version names leave the disk when `core.collection` says so."""

from __future__ import annotations

import structlog
import trio

from p2pnode.core.cid import cid_text
from p2pnode.core.collection import Collection
from p2pnode.env import Env
from p2pnode.services.datasets import Datasets
from p2pnode.storage.shard_store import ShardStore

log = structlog.get_logger(__name__)

#: Seconds between two looks; the times it serves are an hour and a day.
SWEEP_S = 300.0


async def keep_sweeping(env: Env, store: ShardStore, datasets: Datasets, collection: Collection) -> None:
    """Look every SWEEP_S seconds, until cancelled."""
    while True:
        await trio.sleep(SWEEP_S)
        for cid in collection.due(store.cids(), datasets.named_shards(), env.clock.now()):
            if collection.is_due(cid):  # the ones before it took their time
                await store.delete(cid)
                log.info("shard_swept", shard=cid_text(cid))
