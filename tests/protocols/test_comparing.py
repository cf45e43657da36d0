"""How leaves are told apart when two peers compare notes: vectors, computed here from the SPEC's sentences alone.

Recorded by running this file; `tests/p2pnode/core/test_reconcile.py` holds the node to them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import protocols
from bootstrap.identity import Identity

VECTORS = Path(protocols.__file__).parent / "vectors" / "comparing.json"
SALT = bytes(range(8))


def digest_of(name: str) -> bytes:
    """The digest of some event's id."""
    return hashlib.sha256(name.encode()).digest()


def swarm(authors: int) -> dict[str, list[bytes]]:
    """Peer ids and their leaves; every third author has two."""
    peers = [Identity.from_seed(bytes([number]) * 32).peer_id for number in range(1, authors + 1)]
    return {
        peer: sorted(digest_of(f"{number}-{leaf}") for leaf in range(2 if number % 3 == 0 else 1))
        for number, peer in enumerate(peers)
    }


def keyed(data: bytes) -> bytes:
    return hashlib.blake2b(data, key=SALT, digest_size=8).digest()


def bucket_of(peer: str, bits: int) -> int:
    return int.from_bytes(keyed(peer.encode()), "big") >> (64 - bits)


def comparing(authors: int, bits: int) -> dict[str, Any]:
    leaves = swarm(authors)
    buckets: list[list[bytes]] = [[] for _ in range(1 << bits)]
    for peer, own in leaves.items():
        buckets[bucket_of(peer, bits)] += own
    return {
        "authors": [{"peer_id": peer, "leaves": [leaf.hex() for leaf in own]} for peer, own in leaves.items()],
        "salt": SALT.hex(),
        "bits": bits,
        "buckets": {peer: bucket_of(peer, bits) for peer in leaves},
        "digests": b"".join(keyed(b"".join(sorted(bucket))) for bucket in buckets).hex(),
    }


def document() -> dict[str, Any]:
    band = [digest_of(f"event {number}") for number in range(5)]
    flags = [True, False, False, True, True, False, False, False, False, True]
    return {
        "differs": [comparing(1, 0), comparing(5, 3), comparing(16, 4)],
        "known": {"flags": flags, "bytes": bytes((0b00011001, 0b00000010)).hex()},
        "band": {
            "ids": [digest.hex() for digest in band],
            "digest": hashlib.blake2b(b"".join(band), digest_size=16).hexdigest(),
        },
    }


def test_the_vectors_are_what_the_spec_says() -> None:
    assert json.loads(VECTORS.read_text(encoding="utf-8")) == document()


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(document(), indent=1) + "\n", encoding="utf-8")
