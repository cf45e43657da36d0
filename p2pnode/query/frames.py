"""How the node and a SQL worker talk: frames over a Unix stream socket.

    frame := head_bytes: u32 · body_bytes: u32 · head (msgpack map, "kind" names it) · body (raw bytes)

    node   -> worker   setup · spool (carries one file descriptor) · run
    worker -> node     ready · data (body: a piece of the Arrow IPC stream) · done · error

Every limit below is the node's: what comes from a worker may come from whoever took it over.
"""

from __future__ import annotations

import array
import mmap
import socket
import struct
from dataclasses import dataclass
from typing import Any

import msgpack

PREFIX = struct.Struct("!II")

#: What is said to the zygote, and its answer where all went well (with a pidfd); any other answer says what did not.
FORK, FORKED = b"fork", b"forked"
ZYGOTE_ANSWER_BYTES_MAX = 1024

#: A head holds the statement, the file names and the column types; a manifest's worth of both fits in this.
HEAD_BYTES_MAX = 16 << 20
#: One piece of an answer: what one message of the query protocol may carry.
PIECE_BYTES_MAX = 8 << 20
#: What a request may carry beside its head: gathered answers that are still in memory (see `spool`).
BODY_BYTES_MAX = (1 << 32) - 1
#: What a worker gathers before it sends: fewer, larger writes without holding back the first rows for long.
PIECE_BYTES_GOOD = 1 << 20
#: In a request's list of pieces: this one lies in the next file that came along, not in the body.
IN_FILE = -1
#: sendmsg takes at most this many buffers (IOV_MAX on Linux).
BUFFERS_MAX = 1024


class Nonsense(Exception):
    """The other side does not speak this format; there is nothing more to say to it."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """The announced sizes of a frame, within the limits."""

    head_bytes: int
    body_bytes: int

    @classmethod
    def parse(cls, data: bytes, *, body_bytes_max: int) -> Prefix:
        """Raises Nonsense beyond the limits."""
        head_bytes, body_bytes = PREFIX.unpack(data)
        if head_bytes > HEAD_BYTES_MAX or body_bytes > body_bytes_max:
            raise Nonsense(f"a frame of {head_bytes} + {body_bytes} bytes")
        return cls(head_bytes, body_bytes)


def encode(head: dict[str, Any], body_bytes: int = 0) -> bytes:
    """Everything of a frame but its body."""
    packed = bytes(msgpack.packb(head) or b"")
    if len(packed) > HEAD_BYTES_MAX:
        raise Nonsense(f"a head of {len(packed)} bytes")
    return PREFIX.pack(len(packed), body_bytes) + packed


def decode(head: bytes | memoryview) -> dict[str, Any]:
    """The head of a frame. Raises Nonsense."""
    try:
        document = msgpack.unpackb(head, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise Nonsense(f"a head that does not unpack: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
        raise Nonsense("a head without a kind")
    return document


class WorkerChannel:
    """The worker's end: blocking, and trusting the node."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def receive(self) -> tuple[dict[str, Any], memoryview, list[int]] | None:
        """The next frame with the file descriptors that came along; None when the node has gone."""
        first, descriptors, _flags, _address = socket.recv_fds(self._socket, PREFIX.size, 1)
        if not first:
            return None
        rest = bytes(self._read(PREFIX.size - len(first)))
        prefix = Prefix.parse(first + rest, body_bytes_max=BODY_BYTES_MAX)
        head = decode(self._read(prefix.head_bytes))
        return head, self._read(prefix.body_bytes), list(descriptors)

    def send(self, head: dict[str, Any], body: list[memoryview] | None = None) -> None:
        """One frame. The buffers of the body leave as they are, uncopied."""
        buffers = body or []
        pending = [memoryview(encode(head, sum(len(buffer) for buffer in buffers))), *buffers]
        while pending:
            sent = self._socket.sendmsg(pending[:BUFFERS_MAX])
            while pending and sent >= len(pending[0]):
                sent -= len(pending.pop(0))
            if sent:
                pending[0] = pending[0][sent:]

    def _read(self, size: int) -> memoryview:
        if not size:
            return memoryview(b"")
        # An anonymous mapping rather than a bytearray: pages come zeroed from the kernel and go back to it at once.
        whole = memoryview(mmap.mmap(-1, size)) if size > PIECE_BYTES_GOOD else memoryview(bytearray(size))
        position = 0
        while position < size:
            got = self._socket.recv_into(whole[position:])
            if not got:
                raise Nonsense("the stream ended inside a frame")
            position += got
        return whole


def with_descriptor(descriptor: int) -> list[tuple[int, int, bytes]]:
    """Ancillary data that hands a file descriptor to the other side of a Unix socket."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]).tobytes())]
