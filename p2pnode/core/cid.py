"""Content ids as the 36 bytes they are: version, codec, hash, length, digest.

Every id of this swarm is a CIDv1 with a 32-byte digest, so an id is always 36 bytes and its text 59
characters. Bytes are what is kept, compared and sent; text is for people and file names. This file refuses
every other shape (CIDv0, other hashes, other bases): what we never mint we never accept.

Sources: the multiformats CID specification (v1) and its table of codes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from p2pnode.errors import UsageError

#: Codecs of the multicodec table that we mint.
RAW = 0x55
DAG_PB = 0x70
DAG_CBOR = 0x71
#: Hashes of the multicodec table that we mint.
SHA2_256 = 0x12
BLAKE3 = 0x1E

DIGEST_BYTES = 32
CID_BYTES = 4 + DIGEST_BYTES
#: "b" and 36 bytes in base32 without padding.
CID_CHARACTERS = 1 + (CID_BYTES * 8 + 4) // 5

_VERSION = 1
_CODECS = frozenset((RAW, DAG_PB, DAG_CBOR))
_HASHES = frozenset((SHA2_256, BLAKE3))
_RECORD_PREFIX = bytes((_VERSION, DAG_CBOR, SHA2_256, DIGEST_BYTES))


class BadContentId(UsageError, ValueError):
    """Text or bytes that are no content id of this swarm."""

    code = "content_id"
    default_advice = (
        "A content id has 59 characters and begins with b: `p2pnode dataset show NAME` lists those of shards, "
        "`p2pnode -o json log` those of events."
    )


def make_cid(codec: int, hash_code: int, digest: bytes) -> bytes:
    """The id of content whose `digest` (32 bytes, of the hash `hash_code`) is known."""
    if len(digest) != DIGEST_BYTES:
        raise BadContentId(f"a digest has {DIGEST_BYTES} bytes, not {len(digest)}")
    return bytes((_VERSION, codec, hash_code, DIGEST_BYTES)) + digest


def record_cid(data: bytes) -> bytes:
    """The id of a small record (an event, a manifest) from its DAG-CBOR bytes: CIDv1, dag-cbor, sha2-256."""
    return _RECORD_PREFIX + hashlib.sha256(data).digest()


def check_cid(cid: bytes) -> bytes:
    """`cid` itself if it has the shape of an id of this swarm; raises BadContentId if not."""
    if len(cid) != CID_BYTES:
        raise BadContentId(f"a content id has {CID_BYTES} bytes, not {len(cid)}")
    version, codec, hash_code, length = cid[:4]
    if version != _VERSION or codec not in _CODECS or hash_code not in _HASHES or length != DIGEST_BYTES:
        raise BadContentId(f"not a content id that this swarm uses (prefix {cid[:4].hex()})")
    return cid


def cid_text(cid: bytes) -> str:
    """The id as people and file names write it: multibase base32, lower case, "b…"."""
    return "b" + base64.b32encode(cid).decode("ascii").rstrip("=").lower()


def parse_cid(text: str) -> bytes:
    """The bytes of an id written by `cid_text`. Raises BadContentId that says what is wrong with the text."""
    if not text.startswith("b") or text != text.lower():
        raise BadContentId(f"{text[:80]!r} is no content id: it must begin with b and be lower case (base32)")
    if len(text) != CID_CHARACTERS:
        raise BadContentId(f"{text[:80]!r} is no content id: {len(text)} characters instead of {CID_CHARACTERS}")
    body = text[1:].upper()
    try:
        cid = base64.b32decode(body + "=" * (-len(body) % 8))
    except (binascii.Error, ValueError):
        raise BadContentId(f"{text!r} is no content id: not base32") from None
    if cid_text(cid) != text:
        raise BadContentId(f"{text!r} is no content id: its last character has stray bits")
    return check_cid(cid)
