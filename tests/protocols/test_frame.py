"""Framing alone: length prefixes, chunk borders, views instead of copies."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import BAD_HEADER, HEADER_TOO_LARGE, LocalProtocolError, RemoteProtocolError
from protocols.frame import HEADER_BYTES_MAX, FrameReader, frame, uvarint


@pytest.mark.parametrize(
    ("number", "wire"),
    [(0, "00"), (1, "01"), (127, "7f"), (128, "8001"), (255, "ff01"), (300, "ac02"), (16384, "808001")],
)
def test_uvarint_is_the_multiformats_one(number: int, wire: str) -> None:
    assert uvarint(number).hex() == wire


def cut(data: bytes, points: list[int]) -> list[bytes]:
    edges = [0, *sorted(point % (len(data) + 1) for point in points), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.binary(max_size=300)), max_size=5),
    st.lists(st.integers(0, 1 << 16), max_size=12),
)
def test_any_cut_of_the_stream_reads_alike(frames: list[tuple[bytes, bytes]], points: list[int]) -> None:
    wire = b"".join(frame(header) + payload for header, payload in frames)
    chunks = cut(wire, points)
    reader = FrameReader()
    chunks.reverse()
    for header, payload in frames:
        while (found := reader.header()) is None:
            reader.feed(chunks.pop())
        assert bytes(found) == header
        got = b""
        while len(got) < len(payload):
            piece = reader.take(len(payload) - len(got))
            if piece is None:
                reader.feed(chunks.pop())
            else:
                got += piece
        assert got == payload
    assert not reader.pending


def test_payload_and_whole_headers_are_views_of_the_chunk() -> None:
    chunk = frame(b"head") + bytes(100)
    reader = FrameReader()
    reader.feed(chunk)
    header = reader.header()
    piece = reader.take(60)
    rest = reader.take(1000)
    assert isinstance(header, memoryview)
    assert isinstance(piece, memoryview)
    assert isinstance(rest, memoryview)
    assert header.obj is piece.obj is rest.obj is chunk
    assert (len(piece), len(rest)) == (60, 40)
    assert reader.take(1) is None


def test_items_of_a_wide_view_are_counted_as_bytes() -> None:
    reader = FrameReader()
    reader.feed(memoryview(bytes(16)).cast("Q"))
    assert len(reader.take(100) or b"") == 16


def test_feeding_early_loses_nothing() -> None:
    reader = FrameReader()
    reader.feed(frame(b"one")[:2])
    reader.feed(frame(b"one")[2:] + frame(b"two"))
    first = bytes(reader.header() or b"")
    reader.feed(frame(b"three"))
    assert [first, bytes(reader.header() or b""), bytes(reader.header() or b"")] == [b"one", b"two", b"three"]


def test_pending_is_true_inside_a_prefix_a_header_and_an_unread_chunk() -> None:
    reader = FrameReader()
    assert not reader.pending
    wire = frame(bytes(200))
    for byte in wire[:-1]:
        reader.feed(bytes((byte,)))
        assert reader.pending
        assert reader.header() is None
        assert reader.pending
    reader.feed(wire[-1:])
    assert reader.header() == bytes(200)
    assert not reader.pending


@pytest.mark.parametrize("wire", [b"\x00", b"\x80\x00", b"\x81\x80\x00"])
def test_a_length_of_zero_or_not_in_shortest_form_is_refused(wire: bytes) -> None:
    reader = FrameReader()
    reader.feed(wire)
    with pytest.raises(RemoteProtocolError) as caught:
        reader.header()
    assert caught.value.code == BAD_HEADER


@pytest.mark.parametrize(
    ("limit", "wire"),
    [
        (HEADER_BYTES_MAX, uvarint(HEADER_BYTES_MAX + 1)),
        (HEADER_BYTES_MAX, b"\xff" * 4),
        (HEADER_BYTES_MAX, b"\x80" * 5),
        (100, uvarint(101)),
        (1 << 62, b"\xff" * 5),
    ],
)
def test_a_header_too_long_is_refused_at_its_prefix(limit: int, wire: bytes) -> None:
    for chunks in ([wire], [bytes((byte,)) for byte in wire]):
        reader = FrameReader(limit)
        with pytest.raises(RemoteProtocolError) as caught:
            for chunk in chunks:
                reader.feed(chunk)
                assert reader.header() is None
        assert caught.value.code == HEADER_TOO_LARGE


def test_the_longest_header_passes_and_one_more_byte_is_not_sent() -> None:
    reader = FrameReader()
    reader.feed(frame(bytes(HEADER_BYTES_MAX)))
    assert len(reader.header() or b"") == HEADER_BYTES_MAX
    with pytest.raises(LocalProtocolError):
        frame(bytes(HEADER_BYTES_MAX + 1))


def test_nothing_may_be_fed_after_the_end() -> None:
    reader = FrameReader()
    reader.feed(b"")
    assert reader.ended
    with pytest.raises(LocalProtocolError):
        reader.feed(b"more")
