"""Shard ids against a second builder of the layout, itself pinned to the ids that kubo gives."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from hypothesis import given
from hypothesis import strategies as st

from p2pnode.core import unixfs
from p2pnode.core.cid import cid_text
from p2pnode.core.unixfs import CHUNK_BYTES, ShardHasher, chunk_count, cid_of_outline
from p2pnode.errors import IntegrityError

MIB = 1 << 20
Digest = Callable[[bytes], bytes]


def sha2(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def b3(data: bytes) -> bytes:
    return blake3(data).digest()


class Reference:
    """The balanced layout as its authors build it: grow a tree to the right, one level at a time, leaf by
    leaf.

    Written from the DAG-PB and UnixFS protobuf definitions, with its own encoder and the hash as a parameter:
    with sha2-256 it must give kubo's ids, with BLAKE3 ours.
    """

    def __init__(self, leaves: list[tuple[bytes, int]], code: int, digest: Digest, width: int = 1024) -> None:
        self.code, self.digest, self.width = code, digest, width
        self.todo = list(reversed(leaves))
        root = self.leaf()
        depth = 1
        while self.todo:
            root = self.grow([root], depth)
            depth += 1
        self.cid = root[0]

    def leaf(self) -> tuple[bytes, int, int]:
        digest, size = self.todo.pop()
        return b"\x01\x55" + bytes([self.code, 32]) + digest, size, size

    def grow(self, children: list[tuple[bytes, int, int]], depth: int) -> tuple[bytes, int, int]:
        while self.todo and len(children) < self.width:
            children.append(self.leaf() if depth == 1 else self.grow([], depth - 1))
        inner = [(1, 2), (3, sum(c[1] for c in children)), *((4, c[1]) for c in children)]
        fields: list[tuple[int, int | bytes]] = [
            *((2, protobuf([(1, cid), (2, b""), (3, tree)])) for cid, _, tree in children),
            (1, protobuf(inner)),
        ]
        block = protobuf(fields)
        cid = b"\x01\x70" + bytes([self.code, 32]) + self.digest(block)
        return cid, sum(c[1] for c in children), len(block) + sum(c[2] for c in children)


def protobuf(fields: list[tuple[int, int | bytes]] | list[tuple[int, int]]) -> bytes:
    def varint(n: int) -> bytes:
        return bytes([n]) if n < 128 else bytes([n % 128 + 128]) + varint(n // 128)

    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number * 8) + varint(value)
        else:
            out += varint(number * 8 + 2) + varint(len(value)) + value
    return out


def seeded(size: int, seed: str) -> Iterator[bytes]:
    """The keystream that kubo's and js-ipfs's own tests of the profile hash (ChaCha20, key sha2-256 of the
    seed).
    """
    stream = Cipher(ChaCha20(sha2(seed.encode()), bytes(16)), mode=None).encryptor()
    while size > 0:
        yield stream.update(bytes(min(size, MIB)))
        size -= MIB


def reference_cid(chunks: Iterator[bytes], code: int, digest: Digest) -> str:
    return cid_text(Reference([(digest(chunk), len(chunk)) for chunk in chunks], code, digest).cid)


@pytest.mark.parametrize(
    ("size", "seed", "cid"),
    [
        (MIB, "chunk-v1-seed", "bafkreiacndfy443ter6qr2tmbbdhadvxxheowwf75s6zehscklu6ezxmta"),
        (MIB + 1, "chunk-v1-seed", "bafybeigmix7t42i6jacydtquhet7srwvgpizfg7gjbq7627d35mjomtu64"),
        (1024 * MIB, "v1-2025-seed", "bafybeihmf37wcuvtx4hpu7he5zl5qaf2ineo2lqlfrapokkm5zzw7zyhvm"),
        (1024 * MIB + 1, "v1-2025-seed", "bafybeibdsi225ugbkmpbdohnxioyab6jsqrmkts3twhpvfnzp77xtzpyhe"),
    ],
)
def test_the_reference_gives_the_ids_that_kubo_gives(size: int, seed: str, cid: str) -> None:
    assert reference_cid(seeded(size, seed), 0x12, sha2) == cid


#: Ids of `bytes(size)`, computed by the reference above and pinned: a shard published today is found
#: tomorrow.
GOLDEN = {
    0: "bafkr4ifpcne3t5pzugtkaqcn5i3nzskjtpfslsnnyejlpte2spfoihzsmi",
    1: "bafkr4ibnhlpn74i3mhyuzcdogwx2anttnxgypj2ne624cuicexiplexccm",
    MIB: "bafkr4icirxraf5z33f3n4ttqjd2od442o5wynvmcw42i75j36qzltb74va",
    MIB + 1: "bafyb4igly5qv5xtvx6r5k22nrmjb5h4qvnukdmooguamshfnxjripw2nxq",
    3 * MIB - 1: "bafyb4ibphc37ey6s3a2qsqseq5d6iv6xfo7k4bjh4i5ac3jjpiy4eh7vpu",
}


@pytest.mark.parametrize("size", GOLDEN)
def test_golden_ids(size: int) -> None:
    hasher = ShardHasher()
    hasher.update(bytes(size))
    assert cid_text(hasher.cid()) == GOLDEN[size]
    chunks = (bytes(min(MIB, size - at)) for at in range(0, max(size, 1), MIB))
    assert reference_cid(chunks, 0x1E, b3) == GOLDEN[size]


def digests(count: int) -> list[bytes]:
    return [b3(index.to_bytes(4, "big")) for index in range(count)]


@pytest.mark.parametrize(
    ("chunks", "last"),
    [(1, MIB), (2, 1), (1023, MIB), (1024, MIB), (1024, 17), (1025, 1), (1025, MIB), (2048, 5), (2049, MIB)],
)
def test_wide_and_deep_trees_agree_with_the_reference(chunks: int, last: int) -> None:
    made = digests(chunks)
    size = (chunks - 1) * MIB + last
    leaves = [(digest, MIB) for digest in made[:-1]] + [(made[-1], last)]
    assert cid_of_outline(b"".join(made), size) == Reference(leaves, 0x1E, b3).cid


@pytest.mark.parametrize("chunks", [3, 4, 9, 10, 11, 27, 28, 40])
def test_many_levels(chunks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three levels come past 1 TiB, beyond the wire's limit: the same rule is tried with narrow nodes."""
    monkeypatch.setattr(unixfs, "LINKS_MAX", 3)
    made = digests(chunks)
    leaves = [(digest, MIB) for digest in made]
    assert cid_of_outline(b"".join(made), chunks * MIB) == Reference(leaves, 0x1E, b3, width=3).cid


@given(st.lists(st.integers(0, 3 * CHUNK_BYTES), max_size=5), st.integers(0, 255))
def test_pieces_do_not_matter(cuts: list[int], fill: int) -> None:
    data = bytes([fill]) * (2 * CHUNK_BYTES + 77)
    whole = ShardHasher()
    whole.update(data)
    pieced = ShardHasher()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, end in itertools.pairwise(edges):
        pieced.update(memoryview(data)[start:end])
    assert (pieced.outline(), pieced.cid(), pieced.size) == (whole.outline(), whole.cid(), len(data))


def test_every_bit_of_the_outline_and_the_size_count() -> None:
    outline = b"".join(digests(3))
    right = cid_of_outline(outline, 2 * MIB + 9)
    assert cid_of_outline(outline, 2 * MIB + 10) != right
    for at in (0, 40, 95):
        wrong = bytearray(outline)
        wrong[at] ^= 1
        assert cid_of_outline(bytes(wrong), 2 * MIB + 9) != right


@pytest.mark.parametrize(("digests_given", "size"), [(0, 0), (2, 1), (1, MIB + 1), (1, -1), (3, 2 * MIB)])
def test_an_outline_that_cannot_be_is_refused(digests_given: int, size: int) -> None:
    with pytest.raises(IntegrityError, match="is none of a file"):
        cid_of_outline(b"x" * 32 * digests_given, size)


@pytest.mark.parametrize(("size", "count"), [(0, 1), (1, 1), (MIB, 1), (MIB + 1, 2), (5 * MIB, 5)])
def test_chunk_count(size: int, count: int) -> None:
    assert chunk_count(size) == count
