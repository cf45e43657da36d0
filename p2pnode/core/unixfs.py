"""A file's content id: the root of its UnixFS tree over BLAKE3.

A file is cut into chunks of 1 MiB, each a raw leaf; 1,024 links make a node, 1,024 nodes the next one, until
one root is left (a file of one chunk is its own leaf). That is the layout which IPFS calls `unixfs-v1-2025`
(IPIP-499: CIDv1, raw leaves, balanced), so any IPFS peer that knows BLAKE3 can fetch a shard; only the hash
differs from the profile, because BLAKE3 runs at 8–10 GB/s on a core and sha2-256 at 1.9.

The list of chunk digests is the file's *outline*. Outline and size fold to the content id, so a receiver that
was given a wrong outline knows before it asks for the first byte, and after that checks each chunk as it
comes. This file refuses to read files: it hashes what it is given.

Sources: the UnixFS and DAG-PB specifications (links before data, names empty, no data in the inner nodes).
"""

from __future__ import annotations

from blake3 import blake3

from p2pnode.core.cid import BLAKE3, DAG_PB, DIGEST_BYTES, RAW, make_cid
from p2pnode.errors import IntegrityError
from protocols.shard_transfer import CHUNK_BYTES

#: Links of one node, fixed by the layout.
LINKS_MAX = 1024

#: UnixFS type of a node that stands for a file, as the protobuf field `Type = 2`.
_TYPE_FILE = b"\x08\x02"


def chunk_count(size: int) -> int:
    """Chunks of a file of `size` bytes; the empty file has one, empty."""
    return max(1, -(-size // CHUNK_BYTES))


def chunk_digest(chunk: bytes | bytearray | memoryview) -> bytes:
    """The BLAKE3 digest of one chunk, as it stands in the outline."""
    return blake3(chunk).digest()


def cid_of_outline(outline: bytes, size: int) -> bytes:
    """The content id of the file of `size` bytes whose chunks have these digests (32 bytes each, in order).

    Raises IntegrityError when the outline has not one digest for each chunk.
    """
    chunks = chunk_count(size)
    if size < 0 or len(outline) != chunks * DIGEST_BYTES:
        raise IntegrityError(f"an outline of {len(outline)} bytes is none of a file of {size} bytes")
    level: list[_Link] = []
    for index in range(chunks):
        digest = outline[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]
        length = min(CHUNK_BYTES, size - index * CHUNK_BYTES)
        level.append((make_cid(RAW, BLAKE3, digest), length, length))
    while len(level) > 1:
        level = [_node(level[start : start + LINKS_MAX]) for start in range(0, len(level), LINKS_MAX)]
    return level[0][0]


class ShardHasher:
    """Takes a file's bytes in pieces of any size and tells its outline and content id at any moment."""

    def __init__(self) -> None:
        self._outline = bytearray()
        self._chunk = blake3()
        self._filled = 0
        self.size = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """The next bytes of the file."""
        view = memoryview(data).cast("B")
        self.size += len(view)
        while view:
            piece = view[: CHUNK_BYTES - self._filled]
            self._chunk.update(piece)
            self._filled += len(piece)
            view = view[len(piece) :]
            if self._filled == CHUNK_BYTES:
                self._outline += self._chunk.digest()
                self._chunk = blake3()
                self._filled = 0

    def outline(self) -> bytes:
        """The digests of all chunks so far; the last one may still be filling."""
        if self._filled or not self._outline:
            return bytes(self._outline) + self._chunk.digest()
        return bytes(self._outline)

    def cid(self) -> bytes:
        """The content id of all bytes so far."""
        return cid_of_outline(self.outline(), self.size)


#: A child as its parent links it: its id, the bytes of file below it, the bytes of its whole tree.
_Link = tuple[bytes, int, int]


def _node(children: list[_Link]) -> _Link:
    """The DAG-PB node over these children."""
    links = bytearray()
    data = bytearray(_TYPE_FILE)
    data += b"\x18" + _uvarint(sum(length for _, length, _ in children))
    for cid, length, tree_bytes in children:
        link = b"\x0a" + _uvarint(len(cid)) + cid + b"\x12\x00" + b"\x18" + _uvarint(tree_bytes)
        links += b"\x12" + _uvarint(len(link)) + link
        data += b"\x20" + _uvarint(length)
    block = bytes(links) + b"\x0a" + _uvarint(len(data)) + bytes(data)
    file_bytes = sum(length for _, length, _ in children)
    tree = len(block) + sum(tree_bytes for _, _, tree_bytes in children)
    return make_cid(DAG_PB, BLAKE3, blake3(block).digest()), file_bytes, tree


def _uvarint(value: int) -> bytes:
    """A protobuf varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
