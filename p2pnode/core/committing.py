"""From a draft to the manifest block that a version event may name.

Whoever signs a version runs this on the draft, its own or a client's, and trusts nothing in it but the receipts. What
it gives is what every peer will read, so it is read back here first: a block that some peer refused, or could not
carry, would stand in the place of the data it was meant to add to. Takes time for many shards and belongs in a thread.
"""

from __future__ import annotations

from collections.abc import Set

from p2pnode.core.model import EVERYWHERE, DatasetRecord, Manifest
from p2pnode.core.receipts import VersionDraft, quorum, settle
from p2pnode.core.records import decode_manifest, encode_manifest
from p2pnode.core.schema import columns_of, schema_of_bytes
from p2pnode.errors import SchemaMismatch, UsageError
from protocols.metadata import BLOCK_BYTES_MAX


def manifest_block(draft: VersionDraft, record: DatasetRecord, stores: Set[str], everywhere: int) -> bytes:
    """The encoded manifest of the version that `draft` makes of the dataset as `record` has it.

    Args:
        stores: peer ids of the storage members, whose receipts count.
        everywhere: how many of them there are to count on, which is what EVERYWHERE means.

    Raises:
        NotDurable, Unauthorized, IntegrityError: the receipts do not carry it.
        SchemaMismatch: appended data that does not fit what is there.
        UsageError: it has too many shards, for their columns, to be one version.
    """
    replicas = draft.replicas if draft.replicas != EVERYWHERE else everywhere
    entries = settle(draft, quorum(replicas), stores.__contains__)
    base = record.manifest if draft.append else None
    columns = columns_of(schema_of_bytes(draft.schema))
    if base is not None and (base.columns != columns or base.format != draft.format):
        raise SchemaMismatch(f"The appended data has other columns or another format than {record.name!r} has.")
    manifest = Manifest(
        dataset_id=draft.dataset_id,
        format=draft.format,
        schema=draft.schema,
        columns=columns,
        shards=(*(base.shards if base else ()), *entries),
        replicas=draft.replicas,
        policy=draft.policy,
        base=record.version,
    )
    block = encode_manifest(manifest)
    if len(block) > BLOCK_BYTES_MAX:
        raise UsageError(
            f"{len(manifest.shards)} shards of {len(columns)} columns need a manifest of {len(block) >> 20} MiB; "
            f"peers take {BLOCK_BYTES_MAX >> 20} MiB.",
            advice="Publish with more rows a shard (shard_size, --shard-rows).",
        )
    decode_manifest(block)
    return block
