"""Who a node is: an Ed25519 key and the peer id that follows from it.

A peer id is the identity multihash of libp2p's protobuf public key in base58 (libp2p specs, `peer-ids`), so
the public key can be read back from the id and a signature needs no certificate beside it. Only Ed25519 is
spoken here: hashed ids (`Qm…`, RSA) hide their key and are refused. Files are refused too:
`p2pnode.storage.identity_file` reads and writes the text that `encode_seed` makes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from bootstrap.errors import IdentityError

SEED_BYTES = 32
SIGNATURE_BYTES = 64
#: Keys at hand: a swarm of a thousand members fits.
KEYS_KEPT = 4096

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS = {letter: value for value, letter in enumerate(_ALPHABET)}
# Identity multihash (code 0) of 36 bytes: protobuf field 1 = key type 1 (Ed25519), field 2 = 32 bytes of key.
_PREFIX = bytes((0x00, 0x24, 0x08, 0x01, 0x12, 0x20))
#: An Ed25519 peer id has 52 characters; anything much longer is not worth the quadratic base58 arithmetic.
_BASE58_MAX = 128
_FILE_TAG = "p2pnode-ed25519"


@dataclass(frozen=True, slots=True)
class Identity:
    """A node's key pair and the names that follow from it."""

    seed: bytes = field(repr=False)
    public_key: bytes
    peer_id: str

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """The identity of a 32-byte secret. Raises IdentityError on any other length."""
        if len(seed) != SEED_BYTES:
            raise IdentityError(f"an Ed25519 seed has {SEED_BYTES} bytes, not {len(seed)}")
        public_key = bytes(SigningKey(seed).verify_key)
        return cls(seed=seed, public_key=public_key, peer_id=peer_id_of(public_key))

    def sign(self, data: bytes) -> bytes:
        """The 64-byte Ed25519 signature (RFC 8032) over `data`."""
        return _signing_key(self.seed).sign(data).signature


@lru_cache(maxsize=KEYS_KEPT)
def _signing_key(seed: bytes) -> SigningKey:
    """Deriving it anew costs as much as signing."""
    return SigningKey(seed)


def peer_id_of(public_key: bytes) -> str:
    """The peer id text (`12D3Koo…`) of a 32-byte Ed25519 public key."""
    if len(public_key) != SEED_BYTES:
        raise IdentityError(f"an Ed25519 public key has {SEED_BYTES} bytes, not {len(public_key)}")
    return base58_encode(_PREFIX + public_key)


@lru_cache(maxsize=KEYS_KEPT)
def public_key_of(peer_id: str) -> bytes:
    """The public key inside a peer id. Raises IdentityError, saying what is wrong, for anything but an
    Ed25519 id.
    """
    if peer_id.startswith("Qm"):
        raise IdentityError(
            f"peer id {_shown(peer_id)} is a hashed (Qm…) id; only Ed25519 ids (12D3Koo…) are used here"
        )
    raw = base58_decode(peer_id)
    if len(raw) != len(_PREFIX) + SEED_BYTES or not raw.startswith(_PREFIX):
        raise IdentityError(f"peer id {_shown(peer_id)} is not an Ed25519 id (12D3Koo…, 52 characters)")
    return raw[len(_PREFIX) :]


def verify(peer_id: str, data: bytes, signature: bytes) -> bool:
    """Whether `signature` over `data` was made with the key of `peer_id`. A malformed id or signature is a
    no.
    """
    try:
        VerifyKey(public_key_of(peer_id)).verify(data, signature)
    except (IdentityError, BadSignatureError, ValueError):
        return False
    return True


def encode_seed(seed: bytes) -> bytes:
    """What an identity file holds: one line of text, so that a person who opens it sees what it is."""
    return f"{_FILE_TAG} {seed.hex()}\n".encode()


def decode_seed(text: bytes) -> bytes:
    """The seed of an identity file. Raises IdentityError; the message never quotes the secret."""
    tag, _, digits = text.decode("ascii", errors="replace").strip().partition(" ")
    if tag != _FILE_TAG:
        raise IdentityError(f"it does not begin with `{_FILE_TAG}`")
    try:
        seed = bytes.fromhex(digits)
    except ValueError:
        raise IdentityError("what follows the tag is not hexadecimal") from None
    if len(seed) != SEED_BYTES:
        raise IdentityError(f"the key has {len(seed)} bytes instead of {SEED_BYTES}")
    return seed


def base58_encode(raw: bytes) -> str:
    """Base58 with Bitcoin's alphabet: leading zero bytes become leading ones."""
    number = int.from_bytes(raw, "big")
    letters: list[str] = []
    while number:
        number, digit = divmod(number, 58)
        letters.append(_ALPHABET[digit])
    zeros = len(raw) - len(raw.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(letters))


def base58_decode(text: str) -> bytes:
    """The inverse of `base58_encode`. Raises IdentityError naming the first character that is not base58."""
    if not text or len(text) > _BASE58_MAX:
        raise IdentityError(f"peer id {_shown(text)} has {len(text)} characters; an Ed25519 id has 52")
    number = 0
    for letter in text:
        digit = _DIGITS.get(letter)
        if digit is None:
            raise IdentityError(f"peer id {_shown(text)} contains {letter!r}, which is not base58")
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 64 else f"{text[:61]}…")
