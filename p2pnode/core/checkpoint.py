"""A log opened once, kept as bytes, so that opening it again costs what was written since.

It holds the clock's index and the catalog's fold as of one place in the log. It is a cache and never a source: the
log stays whole beside it, and whatever is wrong with it (damaged, another swarm's, another version's, another
machine's byte order, not of this log) it is left aside and the log replayed. Whether the log really holds what the
checkpoint says, whoever opens both compares by `count` and `fingerprint`.

    MAGIC ‖ 32-byte BLAKE3 of the rest ‖ msgpack [maker, byte order, genesis, place, count, fingerprint, clock, catalog]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import blake3
import msgspec

#: Its number rises with whatever a clock or a catalog keeps, or makes of the same events: older ones are left aside.
MAGIC = b"p2pnode checkpoint 2\n"
_DIGEST_BYTES = 32


class BadCheckpoint(Exception):
    """Bytes that are no checkpoint for this node; `str` says why. The log is replayed instead."""


class ForeignCheckpoint(BadCheckpoint):
    """A whole one, which another version or another kind of machine made."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of everything in the log up to `place`."""

    genesis: bytes
    #: The last row of the log that it covers.
    place: int
    #: How many events those rows are, and the sum of their ids.
    count: int
    fingerprint: bytes
    #: What `MerkleClock.dump` and `Catalog.dump` gave.
    clock: dict[str, Any]
    catalog: dict[str, Any]


def encode(checkpoint: Checkpoint, maker: str) -> bytes:
    """`maker` names the version of the program: another one may fold otherwise."""
    fields = (
        maker,
        sys.byteorder,
        checkpoint.genesis,
        checkpoint.place,
        checkpoint.count,
        checkpoint.fingerprint,
        checkpoint.clock,
        checkpoint.catalog,
    )
    body = msgspec.msgpack.encode(fields)
    return MAGIC + blake3.blake3(body).digest() + body


def decode(data: bytes, maker: str) -> Checkpoint:
    """What `encode` wrote for the same maker. Raises BadCheckpoint."""
    start = len(MAGIC) + _DIGEST_BYTES
    if not data.startswith(MAGIC):
        raise BadCheckpoint("it is no checkpoint of this format")
    body = memoryview(data)[start:]
    if blake3.blake3(body).digest() != data[len(MAGIC) : start]:
        raise BadCheckpoint("its bytes have changed")
    made_by, byte_order, *rest = msgspec.msgpack.decode(body)
    if made_by != maker:
        raise ForeignCheckpoint(f"{made_by} made it, this is {maker}")
    if byte_order != sys.byteorder:
        raise ForeignCheckpoint("a machine of another byte order made it")
    return Checkpoint(*rest)
