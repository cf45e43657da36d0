"""Receipts: what a holder found in a shard, signed; and the draft of a version that stands on them.

A receipt is made after the bytes were verified, read back and synced, so it is at once a proof of storage and the
source of the statistics that later decide pruning. A version draft names every shard with its receipts; whoever signs
the version (a coordinator for itself or for a client) checks the receipts and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import libipld

from p2pnode.core.model import EVERYWHERE, FORMATS, ColumnStats, ShardEntry
from p2pnode.core.records import PUBLISH_CHARS_MAX, plain_stats, read_stats
from p2pnode.errors import IntegrityError, NotDurable, Unauthorized, UsageError

_DOMAIN = b"p2pnode-receipt-1\0"


@dataclass(frozen=True, slots=True)
class Receipt:
    """`holder` (a peer id) has `cid` on its disk, verified, and found this in it."""

    holder: str
    cid: bytes
    rows: int
    bytes: int
    stats: Mapping[str, ColumnStats]
    signature: bytes

    @property
    def body(self) -> bytes:
        return receipt_body(self.cid, self.rows, self.bytes, self.stats)


def receipt_body(cid: bytes, rows: int, size: int, stats: Mapping[str, ColumnStats]) -> bytes:
    """The canonical DAG-CBOR that travels as a receipt's payload; equal for every honest holder."""
    return libipld.encode_dag_cbor({"c": cid, "r": rows, "b": size, "s": plain_stats(stats)})


def sign_receipt(body: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """The 64-byte Ed25519 signature that goes with `body`."""
    return sign(_DOMAIN + body)


def read_receipt(holder: str, body: bytes, signature: bytes, verify: Callable[[str, bytes, bytes], bool]) -> Receipt:
    """The receipt in `body`, proved to be `holder`'s.

    Raises:
        IntegrityError: it cannot be read, or the signature is not that holder's.
    """
    if not verify(holder, _DOMAIN + body, signature):
        raise IntegrityError("A receipt's signature is not its holder's.", holder=holder)
    try:
        plain = libipld.decode_dag_cbor(body)
        cid, rows, size, stats = plain["c"], plain["r"], plain["b"], read_stats(plain["s"])
        receipt = Receipt(holder, cid, rows, size, stats, signature)
        if not isinstance(cid, bytes) or type(rows) is not int or type(size) is not int or receipt.body != body:
            raise ValueError("not canonical")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise IntegrityError("A receipt cannot be read.", holder=holder) from error
    return receipt


def agreed(receipts: Sequence[Receipt]) -> ShardEntry:
    """The one shard that all its receipts describe.

    Raises:
        IntegrityError: holders of the same bytes found different things in them.
    """
    first = receipts[0]
    for other in receipts[1:]:
        if other.body != first.body:
            raise IntegrityError(
                "Two holders disagree about what is in a shard; one of them runs other software or lies.",
                holders=sorted({first.holder, other.holder}),
            )
    return ShardEntry(cid=first.cid, rows=first.rows, bytes=first.bytes, stats=dict(first.stats))


@dataclass(frozen=True, slots=True)
class VersionDraft:
    """Everything a `version` event needs: the shards in order with their receipts, and how to read and keep them."""

    dataset_id: str
    format: str
    #: Arrow schema as an IPC message.
    schema: bytes
    replicas: int
    policy: dict[str, Any]
    append: bool
    #: Content ids in the order of the rows; one may occur twice.
    order: tuple[bytes, ...]
    receipts: Mapping[bytes, tuple[Receipt, ...]] = field(default_factory=dict)
    #: A random name for this one publish, under which it counts once however often it is asked for; "" for none.
    publish: str = ""

    def encode(self) -> bytes:
        """The DAG-CBOR in which a client shows it to a coordinator."""
        proofs = [
            [receipts[0].body, [[receipt.holder, receipt.signature] for receipt in receipts]]
            for _, receipts in sorted(self.receipts.items())
        ]
        return libipld.encode_dag_cbor(
            {
                "dataset": self.dataset_id,
                "format": self.format,
                "schema": self.schema,
                "replicas": self.replicas,
                "policy": self.policy,
                "append": self.append,
                "order": list(self.order),
                "receipts": proofs,
                "publish": self.publish,
            }
        )


def decode_draft(data: bytes, verify: Callable[[str, bytes, bytes], bool]) -> VersionDraft:
    """The draft in `data`, every receipt's signature checked.

    Raises:
        UsageError: it cannot be read.
        IntegrityError: a receipt is not its holder's.
    """
    try:
        plain = libipld.decode_dag_cbor(data)
        receipts: dict[bytes, tuple[Receipt, ...]] = {}
        for body, signed in plain["receipts"]:
            proofs = tuple(read_receipt(holder, body, signature, verify) for holder, signature in signed)
            if proofs:
                receipts[proofs[0].cid] = proofs
        draft = VersionDraft(
            dataset_id=plain["dataset"],
            format=plain["format"],
            schema=plain["schema"],
            replicas=plain["replicas"],
            policy=plain["policy"],
            append=plain["append"],
            order=tuple(plain["order"]),
            receipts=receipts,
            publish=plain.get("publish", ""),
        )
        _check(draft)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UsageError(f"The proposed version cannot be read: {error}") from error
    return draft


def _check(draft: VersionDraft) -> None:
    """Raise ValueError for a field that is not what it should be."""
    kinds = {"dataset_id": str, "format": str, "schema": bytes, "replicas": int, "policy": dict, "append": bool}
    for name, kind in kinds.items():
        if type(getattr(draft, name)) is not kind:
            raise ValueError(f"{name} is no {kind.__name__}")
    if draft.replicas < EVERYWHERE or draft.format not in FORMATS:
        raise ValueError(f"{draft.replicas} replicas of format {draft.format!r}")
    if type(draft.publish) is not str or len(draft.publish) > PUBLISH_CHARS_MAX:
        raise ValueError("publish is no short text")
    if not all(type(cid) is bytes for cid in draft.order):
        raise ValueError("order holds what is no content id")


def quorum(replicas: int) -> int:
    """Receipts that a shard needs before its version may be signed: ⌊R/2⌋+1."""
    return replicas // 2 + 1


def settle(draft: VersionDraft, need: int, stores: Callable[[str], bool]) -> tuple[ShardEntry, ...]:
    """The manifest's shard entries, if every shard stands on enough receipts of storage members.

    Args:
        need: distinct holders that every shard must have (`quorum`).
        stores: whether a peer is a storage member of this swarm.

    Raises:
        Unauthorized: a receipt comes from a peer that holds no shards here.
        NotDurable: a shard has too few.
        IntegrityError: holders disagree.
    """
    entries: dict[bytes, ShardEntry] = {}
    for cid in draft.order:
        if cid in entries:
            continue
        receipts = draft.receipts.get(cid, ())
        strangers = sorted({receipt.holder for receipt in receipts if not stores(receipt.holder)})
        if strangers:
            raise Unauthorized("A receipt comes from a peer that holds no shards in this swarm.", peers=strangers)
        if len({receipt.holder for receipt in receipts}) < need:
            raise NotDurable(f"A shard has {len(receipts)} of the {need} receipts that it needs.")
        entries[cid] = agreed(receipts)
    return tuple(entries[cid] for cid in draft.order)
