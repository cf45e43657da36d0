"""A log opened once, kept as bytes, so that opening it again costs what was written since.

It holds the clock's index and the catalog's fold as of one place in the log. It is a cache and never a source: the
log stays whole beside it, and whatever is wrong with it (damaged, another swarm's, another version's, another
machine's byte order, not of this log) it is left aside and the log replayed. Whether the log really holds what the
checkpoint says, whoever opens both compares by `count` and `fingerprint`.

    MAGIC ‖ 32-byte BLAKE3 of the rest ‖ pieces, each a length of 4 bytes and so many bytes

The last piece is msgpack [maker, byte order, genesis, place, count, fingerprint, clock, catalog]. Whatever in it is
long lies in the pieces before, and an extension stands in its place (first piece, number of pieces): one call for all
of a million events would hold up the loop of the node that goes on working meanwhile.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import blake3
import msgspec

#: Its number rises with whatever a clock or a catalog keeps, or makes of the same events: older ones are left aside.
MAGIC = b"p2pnode checkpoint 4\n"
_DIGEST_BYTES = 32
#: Bytes, and items of a list, from which on it has pieces of its own: one or two milliseconds each.
_LONG_BYTES = 64 << 10
_LONG_ITEMS = 16_384
#: Extensions: a run of bytes, a list in slices.
_BYTES, _LIST = 1, 2
_PLACES = struct.Struct(">II")
_LENGTH = struct.Struct(">I")


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


def encode(checkpoint: Checkpoint, maker: str) -> list[bytes]:
    """What to write, one after the other. `maker` names the version of the program: another one may fold otherwise."""
    fields = [
        maker,
        sys.byteorder,
        checkpoint.genesis,
        checkpoint.place,
        checkpoint.count,
        checkpoint.fingerprint,
        checkpoint.clock,
        checkpoint.catalog,
    ]
    pieces: list[bytes] = []
    pieces.append(msgspec.msgpack.encode(_cut(fields, pieces)))
    framed = [part for piece in pieces for part in (_LENGTH.pack(len(piece)), piece)]
    digest = blake3.blake3()
    for part in framed:
        digest.update(part)
    return [MAGIC, digest.digest(), *framed]


def decode(data: bytes, maker: str) -> Checkpoint:
    """What `encode` wrote for the same maker. Raises BadCheckpoint."""
    start = len(MAGIC) + _DIGEST_BYTES
    if not data.startswith(MAGIC):
        raise BadCheckpoint("it is no checkpoint of this format")
    body = memoryview(data)[start:]
    if blake3.blake3(body).digest() != data[len(MAGIC) : start]:
        raise BadCheckpoint("its bytes have changed")
    pieces = list(_pieces(body))

    def join(code: int, places: memoryview) -> Any:
        first, count = _PLACES.unpack(places)
        if code == _BYTES:
            return bytes(pieces[first])
        slices = (msgspec.msgpack.decode(piece, ext_hook=join) for piece in pieces[first : first + count])
        return [item for items in slices for item in items]

    made_by, byte_order, *rest = msgspec.msgpack.decode(pieces[-1], ext_hook=join)
    if made_by != maker:
        raise ForeignCheckpoint(f"{made_by} made it, this is {maker}")
    if byte_order != sys.byteorder:
        raise ForeignCheckpoint("a machine of another byte order made it")
    return Checkpoint(*rest)


def _pieces(body: memoryview) -> Iterator[memoryview]:
    start = 0
    while start < len(body):
        (length,) = _LENGTH.unpack_from(body, start)
        start += _LENGTH.size
        yield body[start : start + length]
        start += length


def _cut(value: Any, pieces: list[bytes]) -> Any:
    """The value without what is long in it, which is added to the pieces."""
    if isinstance(value, bytes):
        return value if len(value) <= _LONG_BYTES else _put(_BYTES, [value], pieces)
    if isinstance(value, dict):
        return {name: _cut(one, pieces) for name, one in value.items()}
    if not isinstance(value, list):
        return value
    items = [_cut(one, pieces) for one in value]
    if len(items) <= _LONG_ITEMS:
        return items
    slices = (items[start : start + _LONG_ITEMS] for start in range(0, len(items), _LONG_ITEMS))
    return _put(_LIST, [msgspec.msgpack.encode(one) for one in slices], pieces)


def _put(code: int, fresh: list[bytes], pieces: list[bytes]) -> msgspec.msgpack.Ext:
    place = _PLACES.pack(len(pieces), len(fresh))
    pieces += fresh
    return msgspec.msgpack.Ext(code, place)
