"""A running hash over the rows of an event log, in their order, kept with every commit.

Rows are sealed one by one; only a hash over all of them shows that none was removed, inserted or moved, the newest
included. Whoever can write the file can write the tally too, so it finds accidents and careless edits. What somebody
removes with care, the node's next sync brings back.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass

_NUMBERS = struct.Struct(">QQ")
_CHAIN_BYTES = 32


@dataclass(frozen=True, slots=True)
class Tally:
    """What a log holds up to and including `place`."""

    place: int = 0
    count: int = 0
    chain: bytes = bytes(_CHAIN_BYTES)

    def after(self, rows: Iterable[tuple[int, bytes]]) -> Tally:
        """When further rows (place, event id) have come, by place."""
        last, count, chain = self.place, self.count, self.chain
        for place, event_id in rows:
            chain = hashlib.blake2b(chain + event_id, digest_size=_CHAIN_BYTES).digest()
            last, count = place, count + 1
        return Tally(last, count, chain)

    def encode(self) -> bytes:
        return _NUMBERS.pack(self.place, self.count) + self.chain

    @classmethod
    def decode(cls, data: bytes) -> Tally | None:
        """What `encode` wrote, or None for anything else."""
        if len(data) != _NUMBERS.size + _CHAIN_BYTES:
            return None
        place, count = _NUMBERS.unpack_from(data)
        return cls(place, count, data[_NUMBERS.size :])
