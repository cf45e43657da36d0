"""Frames between node and worker: whole, bounded, and never trusted."""

from __future__ import annotations

import os
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnode.query.frames import (
    BUFFERS_MAX,
    HEAD_BYTES_MAX,
    PIECE_BYTES_MAX,
    PREFIX,
    Nonsense,
    Prefix,
    WorkerChannel,
    decode,
    encode,
    with_descriptor,
)
from protocols.query import BATCH_BYTES_MAX

heads = st.dictionaries(
    st.text(max_size=8), st.integers(-(2**31), 2**31) | st.text() | st.lists(st.binary()), max_size=4
)


@given(heads, st.integers(0, PIECE_BYTES_MAX))
def test_a_head_comes_back_as_it_was(head: dict[str, object], body_bytes: int) -> None:
    frame = encode({**head, "kind": "x"}, body_bytes)
    prefix = Prefix.parse(frame[: PREFIX.size], body_bytes_max=PIECE_BYTES_MAX)
    assert prefix == Prefix(len(frame) - PREFIX.size, body_bytes)
    assert decode(frame[PREFIX.size :]) == {**head, "kind": "x"}


@given(st.binary(max_size=64))
def test_garbage_is_nonsense_and_nothing_else(data: bytes) -> None:
    try:
        assert isinstance(decode(data)["kind"], str)
    except Nonsense:
        pass


@pytest.mark.parametrize("sizes", [(HEAD_BYTES_MAX + 1, 0), (0, PIECE_BYTES_MAX + 1), (2**32 - 1, 2**32 - 1)])
def test_sizes_are_bounded_before_anything_is_read(sizes: tuple[int, int]) -> None:
    with pytest.raises(Nonsense):
        Prefix.parse(PREFIX.pack(*sizes), body_bytes_max=PIECE_BYTES_MAX)


def test_a_piece_fits_a_message_of_the_query_protocol() -> None:
    assert PIECE_BYTES_MAX <= BATCH_BYTES_MAX


def test_many_buffers_and_large_bodies_cross_whole() -> None:
    ours, theirs = socket.socketpair()
    left, right = WorkerChannel(ours), WorkerChannel(theirs)
    body = [memoryview(bytes([number % 251]) * 997) for number in range(3 * BUFFERS_MAX)]
    sender = threading.Thread(target=left.send, args=({"kind": "data"}, body))
    sender.start()
    received = right.receive()
    sender.join()
    assert received is not None
    assert received[0] == {"kind": "data"}
    assert bytes(received[1]) == b"".join(body)
    ours.close()
    assert right.receive() is None


def test_a_file_crosses_with_its_frame_and_a_cut_frame_is_nonsense() -> None:
    ours, theirs = socket.socketpair()
    file = os.memfd_create("x")
    os.write(file, b"inside")
    ours.sendmsg([encode({"kind": "spool"})], with_descriptor(file))
    channel = WorkerChannel(theirs)
    received = channel.receive()
    assert received is not None
    (handed,) = received[2]
    assert os.pread(handed, 10, 0) == b"inside"
    ours.send(encode({"kind": "run"}, 100) + b"only a part")
    ours.close()
    with pytest.raises(Nonsense):
        channel.receive()
    os.close(file)
    os.close(handed)


def test_a_head_that_no_node_would_read_is_not_sent() -> None:
    with pytest.raises(Nonsense, match="a head of"):
        encode({"kind": "x", "text": "y" * HEAD_BYTES_MAX})


def test_a_worker_whose_node_has_gone_hears_nothing_more() -> None:
    here, there = socket.socketpair()
    there.close()
    with here:
        assert WorkerChannel(here).receive() is None
