"""Keys, peer ids, signatures: against libp2p's own and against nonsense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

from bootstrap.errors import IdentityError
from bootstrap.identity import (
    Identity,
    base58_decode,
    base58_encode,
    decode_seed,
    encode_seed,
    peer_id_of,
    public_key_of,
    verify,
)

SEEDS = st.binary(min_size=32, max_size=32)


def test_the_peer_id_of_a_known_key():
    # RFC 8032, section 7.1, test 1.
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    identity = Identity.from_seed(seed)
    assert identity.public_key.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert identity.peer_id == "12D3KooWQK1wnefoLrcVHbbnf5tLzbopUd3K3bFAoJpA7YJgL5pV"
    assert identity.sign(b"").hex().startswith("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974")


@given(SEEDS)
def test_libp2p_agrees_on_every_peer_id(seed):
    identity = Identity.from_seed(seed)
    assert identity.peer_id == ID.from_pubkey(create_new_key_pair(seed).public_key).to_base58()
    assert public_key_of(identity.peer_id) == identity.public_key
    assert seed.hex() not in repr(identity)


@given(SEEDS, st.binary(max_size=100), st.binary(max_size=100))
def test_a_signature_binds_key_and_data(seed, data, other):
    identity = Identity.from_seed(seed)
    signature = identity.sign(data)
    assert verify(identity.peer_id, data, signature)
    assert verify(identity.peer_id, other, signature) == (other == data)
    assert not verify(identity.peer_id, data, signature[:-1])
    assert not verify(identity.peer_id, data, bytes((signature[0] ^ 1,)) + signature[1:])
    assert not verify(Identity.from_seed(bytes(32)).peer_id, data, signature) or seed == bytes(32)
    assert not verify("QmaCpDMGvV2BGHeYERUEnRQAwe3N8SzbUtfsmvsqQLuvuJ", data, signature)


@given(st.binary(max_size=60))
def test_base58_both_ways(raw):
    text = base58_encode(raw)
    if raw:
        assert base58_decode(text) == raw


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "0 characters"),
        ("Q" * 200, "200 characters"),
        ("12D3KooW0", "not base58"),
        ("QmaCp...", r"hashed \(Qm…\)"),
        ("12D3KooW", "not an Ed25519 id"),
        ("12D3KooWQK1wnefoLrcVHbbnf5tLzbopUd3K3bFAoJpA7YJgL5p", "not an Ed25519 id"),
    ],
)
def test_what_is_wrong_with_a_peer_id_is_said(text, said):
    with pytest.raises(IdentityError, match=said):
        public_key_of(text)


@given(SEEDS)
def test_the_file_form_both_ways(seed):
    assert decode_seed(encode_seed(seed)) == seed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "begin with"),
        (b"\xff\x00garbage", "begin with"),
        (b"p2pnode-ed25519 " + b"00" * 31, "31 bytes"),
        (b"p2pnode-ed25519 " + b"zz" * 32, "hexadecimal"),
    ],
)
def test_a_malformed_file_is_told_and_never_quoted(text, said):
    with pytest.raises(IdentityError, match=said):
        decode_seed(text)


@pytest.mark.parametrize("make", [Identity.from_seed, peer_id_of])
def test_wrong_lengths(make):
    with pytest.raises(IdentityError, match="32 bytes, not 31"):
        make(bytes(31))
