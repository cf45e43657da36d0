"""Nothing unverified is ever written, and every attempt begins where the last one was right."""

from __future__ import annotations

import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnode.core.unixfs import CHUNK_BYTES, ShardHasher
from p2pnode.errors import IntegrityError
from p2pnode.storage.incoming import Incoming

DATA = random.Random(3).randbytes(3 * CHUNK_BYTES + 777)


class Kept(io.BytesIO):
    """A file whose bytes outlive its closing."""

    left = b""

    def close(self) -> None:
        self.left = self.getvalue()
        super().close()


def named(data: bytes) -> tuple[bytes, bytes, int]:
    hasher = ShardHasher()
    hasher.update(data)
    return hasher.cid(), hasher.outline(), len(data)


def incoming(data: bytes = DATA, file: io.BytesIO | None = None) -> tuple[Incoming, io.BytesIO]:
    file = file if file is not None else Kept()
    return Incoming(*named(data), lambda: file), file


@given(st.lists(st.integers(1, 2 * CHUNK_BYTES), max_size=12), st.integers(1, 4))
@settings(max_examples=25)
def test_pieces_of_any_size_make_the_file(sizes: list[int], together: int) -> None:
    receiving, file = incoming()
    pieces, at = [], 0
    for size in [*sizes, len(DATA)]:
        pieces.append(memoryview(DATA)[at : at + size])
        at += size
    for start in range(0, len(pieces), together):
        receiving.take(pieces[start : start + together])
        assert file.getvalue() == DATA[: receiving.offset]
    assert receiving.complete
    assert file.getvalue() == DATA


def test_a_wrong_outline_is_refused_before_any_byte() -> None:
    cid, outline, size = named(DATA)
    for wrong, length in ((outline[:-1] + b"\0", size), (outline, size - 1), (outline[32:], size)):
        with pytest.raises(IntegrityError):
            Incoming(cid, wrong, length, io.BytesIO)


@pytest.mark.parametrize("at", [0, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 5, len(DATA) - 1])
def test_a_wrong_byte_is_never_written(at: int) -> None:
    wrong = bytearray(DATA)
    wrong[at] ^= 1
    receiving, file = incoming()
    with pytest.raises(IntegrityError, match="are not those of"):
        receiving.take([bytes(wrong)])
    assert receiving.offset == at - at % CHUNK_BYTES
    assert file.getvalue() == DATA[: receiving.offset]
    receiving.take([DATA[receiving.offset :]])
    assert receiving.complete


def test_bytes_beyond_the_end_are_refused() -> None:
    receiving, file = incoming()
    with pytest.raises(IntegrityError, match=f"bytes from {len(DATA)} on"):
        receiving.take([DATA, b"x"])
    assert file.getvalue() == DATA


@pytest.mark.parametrize("left", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 9, len(DATA) - 1, len(DATA)])
def test_resuming_stands_after_the_last_good_chunk(left: int) -> None:
    receiving, file = incoming(file=io.BytesIO(DATA[:left]))
    whole = left if left == len(DATA) else left - left % CHUNK_BYTES
    assert receiving.resume() == whole
    receiving.take([DATA[whole:]])
    assert receiving.complete
    assert file.getvalue() == DATA


def test_resuming_believes_no_byte_of_what_was_left() -> None:
    wrong = bytearray(DATA)
    wrong[CHUNK_BYTES + 3] ^= 1
    receiving, file = incoming(file=io.BytesIO(bytes(wrong) + b"more than the file ever had"))
    assert receiving.resume() == CHUNK_BYTES
    assert file.getvalue() == DATA[:CHUNK_BYTES]


def test_the_beginning_of_a_chunk_can_be_dropped() -> None:
    receiving, _ = incoming()
    receiving.take([DATA[: CHUNK_BYTES + 10]])
    receiving.drop_partial()
    receiving.take([DATA[CHUNK_BYTES:]])
    assert receiving.complete


def test_the_empty_file() -> None:
    receiving, _ = incoming(b"")
    assert receiving.complete
    with pytest.raises(IntegrityError):
        receiving.take([b"x"])
