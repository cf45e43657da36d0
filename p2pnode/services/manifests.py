"""Manifests decoded, by content id, out of the blocks of the log.

Decoding happens in a thread when a block comes; what came last stays at hand, so that the loop reads the disk for
old versions alone. A block that has changed on disk is an error wherever it is asked for, never a dataset without
content, and is remembered here until it was fetched again. This file knows no peers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from p2pnode.core import records
from p2pnode.core.model import Manifest
from p2pnode.errors import IntegrityError

#: Encoded bytes of the manifests at hand: some ten thousand small ones, or three of 100,000 shards.
KEPT_BYTES_MAX = 64 << 20

#: The bytes of a block; None if it is not here. Raises IntegrityError if they have changed.
ReadBlock = Callable[[bytes], bytes | None]


class Manifests:
    """Those of one node. All of it may be called in a thread."""

    def __init__(self, read_block: ReadBlock) -> None:
        self._read_block = read_block
        #: Content id -> (what it says, None if it is no manifest; its encoded bytes).
        self._kept: OrderedDict[bytes, tuple[Manifest | None, int]] = OrderedDict()
        self._kept_bytes = 0
        #: Blocks that have changed on disk.
        self.lost: set[bytes] = set()

    def read(self, cid: bytes) -> Manifest | None:
        """None if it is not here or is no manifest. Reads the disk when it is not at hand. Raises IntegrityError."""
        found = self._kept.get(cid)
        if found is not None:
            return found[0]
        try:
            data = self._read_block(cid)
        except IntegrityError:
            self.lost.add(cid)
            raise
        return None if data is None else self.keep(cid, data)

    def keep(self, cid: bytes, data: bytes) -> Manifest | None:
        """Decode a block that came and have it at hand; None if it is no manifest."""
        try:
            manifest = records.decode_manifest(data)
        except IntegrityError:
            manifest = None
        if cid not in self._kept:
            self._kept[cid] = (manifest, len(data))
            self._kept_bytes += len(data)
        # The newest stays whatever its size: somebody is about to use it.
        while self._kept_bytes > KEPT_BYTES_MAX and len(self._kept) > 1:
            self._kept_bytes -= self._kept.popitem(last=False)[1][1]
        return manifest
