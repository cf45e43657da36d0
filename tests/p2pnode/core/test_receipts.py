"""A version stands on receipts: enough of them, of storage members, that agree."""

from dataclasses import replace

import pytest
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey

from p2pnode.core.cid import record_cid
from p2pnode.core.model import ColumnStats
from p2pnode.core.receipts import (
    Receipt,
    VersionDraft,
    decode_draft,
    quorum,
    read_receipt,
    receipt_body,
    settle,
    sign_receipt,
)
from p2pnode.errors import IntegrityError, NotDurable, Unauthorized, UsageError

KEYS = {name: SigningKey(bytes([place]) * 32) for place, name in enumerate(("h1", "h2", "h3"), 1)}
CID = record_cid(b"shard")
STATS = {"a": ColumnStats(0, 1, 9), "b": ColumnStats(2, None, None), "t": ColumnStats(0, "x", "y")}


def verify(peer: str, message: bytes, signature: bytes) -> bool:
    try:
        KEYS[peer].verify_key.verify(message, signature)
    except (KeyError, BadSignatureError):
        return False
    return True


def receipt(holder: str, *, rows: int = 10, cid: bytes = CID) -> Receipt:
    body = receipt_body(cid, rows, 100, STATS)
    signature = sign_receipt(body, lambda message: KEYS[holder].sign(message).signature)
    return read_receipt(holder, body, signature, verify)


def draft(*receipts: Receipt, order: tuple[bytes, ...] = (CID,)) -> VersionDraft:
    return VersionDraft("ds-x", "parquet", b"schema", 3, {"strategy": "consistent_hash"}, False, order, {CID: receipts})


def test_a_draft_survives_the_wire_with_its_proofs() -> None:
    sent = draft(receipt("h1"), receipt("h2"), order=(CID, CID))
    assert decode_draft(sent.encode(), verify) == sent


@pytest.mark.parametrize(
    "wrong", [{"replicas": -1}, {"replicas": True}, {"format": "csv"}, {"order": (1,)}, {"publish": "x" * 65}]
)
def test_a_draft_that_would_make_no_readable_manifest_is_refused(wrong: dict) -> None:
    with pytest.raises(UsageError):
        decode_draft(replace(draft(receipt("h1")), **wrong).encode(), verify)


def test_two_of_three_settle_and_content_that_stands_twice_counts_twice() -> None:
    entries = settle(draft(receipt("h1"), receipt("h2"), order=(CID, CID)), quorum(3), lambda peer: True)
    assert [entry.rows for entry in entries] == [10, 10]
    assert entries[0].stats == STATS


@pytest.mark.parametrize(("replicas", "need"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_a_quorum_is_a_majority(replicas: int, need: int) -> None:
    assert quorum(replicas) == need


def test_the_same_holder_twice_is_one_receipt() -> None:
    with pytest.raises(NotDurable):
        settle(draft(receipt("h1"), receipt("h1")), 2, lambda peer: True)


def test_a_shard_without_receipts_settles_nothing() -> None:
    with pytest.raises(NotDurable):
        settle(draft(), 1, lambda peer: True)


def test_a_stranger_vouches_for_nothing() -> None:
    with pytest.raises(Unauthorized):
        settle(draft(receipt("h1"), receipt("h3")), 2, lambda peer: peer != "h3")


def test_holders_that_disagree_are_an_integrity_error() -> None:
    with pytest.raises(IntegrityError, match="disagree"):
        settle(draft(receipt("h1"), receipt("h2", rows=11)), 2, lambda peer: True)


def test_a_forged_receipt_does_not_decode() -> None:
    honest = receipt("h1")
    forged = draft(replace(honest, holder="h2"), receipt("h3"))
    with pytest.raises(IntegrityError, match="signature"):
        decode_draft(forged.encode(), verify)


@pytest.mark.parametrize("junk", [b"", b"\xa0", b"\xff", b"\x80"])
def test_junk_is_a_usage_error(junk: bytes) -> None:
    with pytest.raises(UsageError):
        decode_draft(junk, verify)
