"""Payloads of events and the manifest block, to DAG-CBOR and back, checked field by field.

    genesis {name, open}          up {node_id, role, addresses, region, weight, capabilities, readmit?}      leave {}
    define {name, description, schema}      version {manifest, base, append, over, publish?}      delete {versions}
    down {up}                     readmit {forks, keep}                     merge {}

`over` names the version events that a version replaces, `versions` the define and version events that a
delete takes away, `up` the life that a witness saw end, `forks` the branches that a readmission forgives: each
exactly what its author had seen, so that whatever happened meanwhile survives. A reader ignores fields that it
does not know (a newer peer may add some) and refuses a missing or wrong one with BadEvent, so a known kind in
the clock always reads. What the records do to each other stands in `catalog`, what they do to their authors'
standing in `clock`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import libipld

from p2pnode.core.cid import BadContentId, check_cid
from p2pnode.core.conduct import Reason
from p2pnode.core.event import BadEvent, Event, check_values, is_link
from p2pnode.core.model import Column, ColumnStats, Manifest, Member, NodeRole, Scalar, ShardEntry
from p2pnode.errors import IntegrityError, UsageError

T = TypeVar("T")

GENESIS = "genesis"
UP = "up"
LEAVE = "leave"
DEFINE = "define"
VERSION = "version"
DELETE = "delete"
DOWN = "down"
MERGE = "merge"
READMIT = "readmit"

#: Format of the manifest block; a reader refuses a higher one.
MANIFEST_FORMAT = 1
#: Text bounds, in characters. Names are SQL identifiers, descriptions a paragraph.
NAME_CHARS_MAX = 128
DESCRIPTION_CHARS_MAX = 4096
ADDRESS_CHARS_MAX = 512
ADDRESSES_MAX = 16
CAPABILITIES_MAX = 64
#: The name of one publish: 16 random bytes in hex, and room for other ways.
PUBLISH_CHARS_MAX = 64
#: Event ids in one `over` or `versions`: 1,024 × 41 bytes fit a payload.
OBSERVED_MAX = 1024
#: Weights in thousandths: a member may count for a thousand others, not for everybody.
WEIGHT_MAX = 1_000_000
_COUNT_MAX = (1 << 63) - 1


class BadPayload(BadEvent):
    """A known kind's payload that does not read. Its sender may only be newer than this node: no lie is proved."""

    def __init__(self, message: str) -> None:
        super().__init__(message, Reason.BAD_PAYLOAD)


@dataclass(frozen=True, slots=True)
class Definition:
    """What a define event says. `schema` is an Arrow IPC schema message, empty if none was declared."""

    name: str
    description: str = ""
    schema: bytes = b""


@dataclass(frozen=True, slots=True)
class Version:
    """What a version event says: its manifest block, and the version events whose place it takes."""

    manifest: bytes
    base: bytes | None = None
    #: It adds shards to what it stands on, so concurrent ones fold to their union.
    append: bool = False
    over: tuple[bytes, ...] = ()
    #: The publish that it carries out: asked of two coordinators it may stand in two events and counts once.
    publish: str = ""


@dataclass(frozen=True, slots=True)
class Readmission:
    """What a readmit event says: which branches of its object's forks are forgiven, and how far back to go."""

    #: The events that proved the forks: every branch of each, sorted.
    forks: tuple[bytes, ...]
    #: The chain up to and including this event of the readmitted author counts; None: only what lies before the fork.
    keep: bytes | None = None


def genesis_body(name: str, *, open_swarm: bool) -> dict[str, Any]:
    return {"name": name, "open": open_swarm}


def up_body(member: Member, readmit: bytes | None = None) -> dict[str, Any]:
    """The `up` payload of a member record (its peer id is the event's object, its other fields follow from the
    events). `readmit` is the readmission that this `up` takes up.
    """
    return {
        "node_id": member.node_id,
        "role": member.role.value,
        "addresses": list(member.addresses),
        "region": member.region,
        "weight": member.weight,
        "capabilities": list(member.capabilities),
        **({} if readmit is None else {"readmit": readmit}),
    }


def define_body(definition: Definition) -> dict[str, Any]:
    return {"name": definition.name, "description": definition.description, "schema": definition.schema}


def version_body(version: Version) -> dict[str, Any]:
    return {
        "manifest": version.manifest,
        "base": version.base,
        "append": version.append,
        "over": sorted(version.over),
        **({"publish": version.publish} if version.publish else {}),
    }


def delete_body(observed: Iterable[bytes]) -> dict[str, Any]:
    return {"versions": sorted(observed)}


def down_body(up: bytes) -> dict[str, Any]:
    return {"up": up}


def readmit_body(said: Readmission) -> dict[str, Any]:
    return {"forks": sorted(said.forks), "keep": said.keep}


def read_up(event: Event) -> Member:
    """The member record that this `up` event signs. Raises BadEvent."""
    body = event.body
    readmission_of(event)
    try:
        role = NodeRole(_field(body, "role", str))
    except ValueError as error:
        raise BadPayload(f"up: {error}") from error
    if not role.is_member:
        raise BadPayload("up: a client has no member record")
    weight = _field(body, "weight", int)
    if not 1 <= weight <= WEIGHT_MAX:
        raise BadPayload(f"up: weight {weight} is not 1…{WEIGHT_MAX} thousandths")
    return Member(
        peer_id=event.author,
        node_id=_text(body, "node_id", NAME_CHARS_MAX, least=1),
        role=role,
        addresses=_texts(body, "addresses", ADDRESSES_MAX, ADDRESS_CHARS_MAX),
        region=_text(body, "region", NAME_CHARS_MAX),
        weight=weight,
        capabilities=_texts(body, "capabilities", CAPABILITIES_MAX, NAME_CHARS_MAX),
        up=event.id,
    )


def read_define(event: Event) -> Definition:
    """Raises BadEvent."""
    body = event.body
    return Definition(
        name=_text(body, "name", NAME_CHARS_MAX, least=1),
        description=_text(body, "description", DESCRIPTION_CHARS_MAX),
        schema=_field(body, "schema", bytes),
    )


def read_version(event: Event) -> Version:
    """Raises BadEvent."""
    body = event.body
    manifest, base = _field(body, "manifest", bytes), body.get("base")
    if not is_link(manifest) or not (base is None or is_link(base)):
        raise BadPayload("version: manifest and base must be ids of records")
    publish = _text(body, "publish", PUBLISH_CHARS_MAX) if "publish" in body else ""
    return Version(manifest, base, _field(body, "append", bool), _observed(body, "over"), publish)


def read_delete(event: Event) -> tuple[bytes, ...]:
    """The event ids that it takes away. Raises BadEvent."""
    return _observed(event.body, "versions")


def read_down(event: Event) -> bytes:
    """The `up` event that it calls ended. Raises BadEvent."""
    if event.object_id == event.author:
        raise BadPayload("down: nobody witnesses its own end")
    up = _field(event.body, "up", bytes)
    if not is_link(up):
        raise BadPayload("down: up must be the id of an event")
    return up


def read_readmit(event: Event) -> Readmission:
    """Raises BadEvent."""
    forks, keep = _observed(event.body, "forks"), event.body.get("keep")
    if len(forks) < 2:
        raise BadPayload("readmit: a fork has two events at least")
    if not (keep is None or is_link(keep)):
        raise BadPayload("readmit: keep must be the id of an event, or null")
    if event.object_id == event.author:
        raise BadPayload("readmit: nobody readmits itself")
    return Readmission(forks, keep)


def readmission_of(event: Event) -> bytes | None:
    """The readmit event that this `up` takes up, which must be here before it counts. Raises BadEvent."""
    if event.kind != UP or "readmit" not in event.body:
        return None
    readmit = event.body["readmit"]
    if not is_link(readmit):
        raise BadPayload("up: readmit must be the id of an event")
    return readmit


def blocks_of(event: Event) -> tuple[bytes, ...]:
    """Ids of the blocks that must be here before this event counts. Raises BadEvent."""
    return (read_version(event).manifest,) if event.kind == VERSION else ()


def check(event: Event) -> None:
    """Raise BadEvent if a known kind's payload does not read. Unknown kinds pass: a newer peer may mint them."""
    if event.kind == GENESIS:
        _text(event.body, "name", NAME_CHARS_MAX)
        _field(event.body, "open", bool)
    elif event.kind in _READERS:
        _READERS[event.kind](event)


_READERS = {
    UP: read_up,
    DEFINE: read_define,
    VERSION: read_version,
    DELETE: read_delete,
    DOWN: read_down,
    READMIT: read_readmit,
}


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest block. A bound that DAG-CBOR cannot hold (an infinity, an integer beyond 64 bits)
    becomes None, which only means that nothing is pruned by it. Raises UsageError if the policy is no plain
    data.
    """
    fields = {
        "v": MANIFEST_FORMAT,
        "dataset": manifest.dataset_id,
        "format": manifest.format,
        "schema": manifest.schema,
        "columns": [[column.name, column.type] for column in manifest.columns],
        "shards": [
            [
                shard.cid,
                shard.rows,
                shard.bytes,
                plain_stats(shard.stats),
            ]
            for shard in manifest.shards
        ],
        "replicas": manifest.replicas,
        "policy": manifest.policy,
        "base": manifest.base,
    }
    try:
        return libipld.encode_dag_cbor(fields)
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"The manifest cannot be encoded: {error}") from error


def decode_manifest(data: bytes) -> Manifest:
    """The manifest of a block whose content id was checked already.

    Raises IntegrityError. Whether a block reads decides what a dataset amounts to, so one spelling reads and no other,
    at every reader alike.
    """
    try:
        fields = libipld.decode_dag_cbor(data)
        if type(fields) is not dict or _count(fields.get("v")) != MANIFEST_FORMAT:
            raise BadPayload("not a manifest of a known format")
        check_values({name: value for name, value in fields.items() if name != "shards"})
        if libipld.encode_dag_cbor(fields) != data:
            raise BadPayload("not in its canonical form")
        base = fields["base"]
        return Manifest(
            dataset_id=_text(fields, "dataset", NAME_CHARS_MAX, least=1),
            format=_text(fields, "format", 16, least=1),
            schema=_field(fields, "schema", bytes),
            columns=tuple(_column(entry) for entry in _field(fields, "columns", list)),
            shards=tuple(_shard(entry) for entry in _field(fields, "shards", list)),
            replicas=_count(fields["replicas"]),
            policy=_field(fields, "policy", dict),
            base=None if base is None else check_cid(_is(base, bytes)),
        )
    except (ValueError, TypeError, KeyError, RecursionError, BadContentId, BadEvent) as error:
        raise IntegrityError(f"A block is no manifest: {error}") from error


def _column(entry: Any) -> Column:
    name, kind = _is(entry, list)
    return Column(_is(name, str), _is(kind, str))


def _shard(entry: Any) -> ShardEntry:
    cid, rows, size, stats = _is(entry, list)
    return ShardEntry(
        cid=check_cid(_is(cid, bytes)),
        rows=_count(rows),
        bytes=_count(size),
        stats=read_stats(stats),
    )


def plain_stats(stats: Mapping[str, ColumnStats]) -> dict[str, list[Scalar]]:
    """Statistics by column as plain data, in manifests and receipts alike."""
    return {name: [found.nulls, _bound(found.low), _bound(found.high)] for name, found in stats.items()}


def read_stats(plain: Any) -> dict[str, ColumnStats]:
    """What `plain_stats` wrote. Raises BadEvent or ValueError for anything else."""
    return {name: _column_stats(values) for name, values in _is(plain, dict).items()}


def _column_stats(values: Any) -> ColumnStats:
    nulls, low, high = _is(values, list)
    return ColumnStats(_count(nulls), _scalar(low), _scalar(high))


def _scalar(value: Any) -> Scalar:
    if value is not None and type(value) not in (int, float, str, bool):
        raise BadPayload(f"a bound of type {type(value).__name__}")
    return value


def _bound(value: Scalar) -> Scalar:
    if type(value) is float and not math.isfinite(value):
        return None
    if type(value) is int and not -(1 << 63) <= value < 1 << 64:
        return None
    return value


def _is(value: Any, kind: type[T]) -> T:
    if type(value) is not kind:
        raise BadPayload(f"{type(value).__name__} where {kind.__name__} belongs")
    return value


def _count(value: Any) -> int:
    if not 0 <= _is(value, int) <= _COUNT_MAX:
        raise BadPayload(f"{value} is no count")
    return value


def _field(body: dict[str, Any], name: str, kind: type[T]) -> T:
    value = body.get(name)
    if type(value) is not kind:
        raise BadPayload(f"field {name!r} is missing or no {kind.__name__}")
    return value


def _text(body: dict[str, Any], name: str, most: int, *, least: int = 0) -> str:
    value = _field(body, name, str)
    if not least <= len(value) <= most:
        raise BadPayload(f"field {name!r} has {len(value)} characters, not {least}…{most}")
    return value


def _texts(body: dict[str, Any], name: str, count_max: int, chars_max: int) -> tuple[str, ...]:
    values = _field(body, name, list)
    if len(values) > count_max or any(type(v) is not str or len(v) > chars_max for v in values):
        raise BadPayload(f"field {name!r} is no list of at most {count_max} texts of {chars_max} characters")
    return tuple(values)


def _observed(body: dict[str, Any], name: str) -> tuple[bytes, ...]:
    ids = _field(body, name, list)
    if len(ids) > OBSERVED_MAX or not all(map(is_link, ids)):
        raise BadPayload(f"field {name!r} is no list of at most {OBSERVED_MAX} event ids")
    if any(low >= high for low, high in pairwise(ids)):
        raise BadPayload(f"field {name!r} is not sorted and unique")
    return tuple(ids)
