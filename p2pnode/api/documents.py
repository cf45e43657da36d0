"""The JSON documents that commands print and HTTP calls answer: one function per document, nothing decided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from p2pnode import __version__
from p2pnode.api.json import columns, rows
from p2pnode.core.cid import cid_text
from p2pnode.core.model import DatasetRecord

if TYPE_CHECKING:
    from p2pnode.node import Node, Readmitted
    from p2pnode.services.ask import Answer
    from p2pnode.services.publish import Progress, Published


def identity(node: Node, api: str) -> dict[str, Any]:
    """Who this node is and how to reach it."""
    return {
        "node_id": node.node_id,
        "peer_id": node.peer_id,
        "role": str(node.role),
        "addresses": list(node.addresses),
        "api": api,
        "home": str(node.home),
        "version": __version__,
    }


def ready(node: Node, api: str) -> dict[str, Any]:
    """The first line of `up`."""
    return {"event": "ready", **{key: value for key, value in identity(node, api).items() if key != "version"}}


def peers(node: Node) -> list[dict[str, Any]]:
    """Members and connected clients, this node among them."""
    return [
        {
            "node_id": peer.node_id,
            "peer_id": peer.peer_id,
            "role": str(peer.role),
            "state": peer.state,
            "addresses": list(peer.addresses),
            "region": peer.region,
            "rtt_ms": peer.rtt_ms,
        }
        for peer in node.peers()
    ]


def readmission(found: Readmitted) -> dict[str, Any]:
    """A member that was forgiven: the event that says so, and of how many branches it was forgiven."""
    return {
        "node_id": found.node_id,
        "peer_id": found.peer_id,
        "event": cid_text(found.event),
        "forgiven": len(found.forgiven),
    }


def dataset(record: DatasetRecord) -> dict[str, Any]:
    """A dataset in a list."""
    manifest = record.manifest
    return {
        "dataset_id": record.dataset_id,
        "name": record.name,
        "description": record.description,
        "version": None if record.version is None else cid_text(record.version),
        "rows": manifest.rows if manifest else 0,
        "bytes": manifest.bytes if manifest else 0,
        "shards": len(manifest.shards) if manifest else 0,
    }


def published(found: Published) -> dict[str, Any]:
    """A dataset with its shards and their verified holders; `short` replicas are still to come."""
    return {
        "dataset_id": found.dataset.dataset_id,
        "name": found.dataset.name,
        "version": None if found.dataset.version is None else cid_text(found.dataset.version),
        "rows": sum(shard.rows for shard in found.shards),
        "bytes": sum(shard.bytes for shard in found.shards),
        "short": sum(shard.short for shard in found.shards),
        "shards": [
            {
                "shard_id": shard.shard_id,
                "cid": cid_text(shard.cid),
                "rows": shard.rows,
                "bytes": shard.bytes,
                "holders": list(shard.holders),
            }
            for shard in found.shards
        ],
    }


def explained(found: Published, named: Sequence[Sequence[str]]) -> dict[str, Any]:
    """`published`, with each holder's reason and who is named by placement but does not hold it (yet)."""
    document = published(found)
    for shard, holders in zip(document["shards"], named, strict=True):
        shard["why"] = {
            holder: f"placement names it, {holders.index(holder) + 1} of {len(holders)}"
            if holder in holders
            else "a copy from an earlier version or membership"
            for holder in shard["holders"]
        }
        shard["lacking"] = [holder for holder in holders if holder not in shard["holders"]]
    return document


def progress(step: Progress) -> dict[str, Any]:
    return {
        "event": "progress",
        "stage": step.stage,
        "rows": step.rows,
        "rows_total": step.rows_total,
        "shards": step.shards,
        "bytes": step.bytes,
    }


def answer(found: Answer) -> dict[str, Any]:
    """Columns, rows and what it took. Takes long for a large answer: not for the loop."""
    return {
        "columns": columns(found.table),
        "rows": rows(found.table),
        "stats": {**found.stats, "coverage": found.coverage},
    }
