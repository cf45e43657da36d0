"""Content ids against libipld (another implementation), and every way a text can be wrong."""

from __future__ import annotations

import hashlib

import libipld
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnode.core import cid
from p2pnode.errors import UsageError

EMPTY_MAP = bytes([0xA0])


def test_a_record_id_is_cidv1_dag_cbor_sha2_256() -> None:
    assert cid.record_cid(EMPTY_MAP) == bytes([1, 0x71, 0x12, 0x20]) + hashlib.sha256(EMPTY_MAP).digest()
    # The id of the empty DAG-CBOR map, as every IPLD implementation prints it.
    assert cid.cid_text(cid.record_cid(EMPTY_MAP)) == "bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua"


@given(st.binary(max_size=200))
def test_text_agrees_with_another_implementation(data: bytes) -> None:
    made = cid.record_cid(data)
    assert cid.cid_text(made) == libipld.encode_cid(made)
    assert cid.parse_cid(cid.cid_text(made)) == made


@pytest.mark.parametrize("codec", [cid.RAW, cid.DAG_PB, cid.DAG_CBOR])
@pytest.mark.parametrize("hash_code", [cid.SHA2_256, cid.BLAKE3])
def test_every_id_we_mint_comes_back(codec: int, hash_code: int) -> None:
    made = cid.make_cid(codec, hash_code, bytes(range(32)))
    assert len(made) == cid.CID_BYTES
    assert len(cid.cid_text(made)) == cid.CID_CHARACTERS
    assert cid.parse_cid(cid.cid_text(made)) == made


GOOD = cid.cid_text(cid.record_cid(EMPTY_MAP))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "begin with b"),
        ("QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG", "begin with b"),
        (GOOD.upper(), "begin with b"),
        (GOOD[:-1], "58 characters"),
        (GOOD + "a", "60 characters"),
        ("b1" + GOOD[2:], "not base32"),
        ("b" + "é" * 58, "not base32"),
        (GOOD[:-1] + "b", "stray bits"),
        ("b" + "a" * 58, "prefix 00000000"),
    ],
)
def test_wrong_text_is_refused_and_told_why(text: str, said: str) -> None:
    with pytest.raises(cid.BadContentId, match=said) as caught:
        cid.parse_cid(text)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, UsageError)
    assert caught.value.advice


@given(st.text(max_size=80))
def test_any_text_is_an_id_or_a_clear_error(text: str) -> None:
    try:
        assert cid.cid_text(cid.parse_cid(text)) == text
    except cid.BadContentId:
        pass


def test_foreign_bytes_are_refused() -> None:
    with pytest.raises(cid.BadContentId, match="36 bytes, not 3"):
        cid.check_cid(b"abc")
    with pytest.raises(cid.BadContentId, match="prefix 01711120"):
        cid.check_cid(bytes([1, 0x71, 0x11, 0x20]) + bytes(32))
    with pytest.raises(cid.BadContentId, match="32 bytes, not 20"):
        cid.make_cid(cid.RAW, cid.BLAKE3, bytes(20))
