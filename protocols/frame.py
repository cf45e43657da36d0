"""Where a header begins and ends: `uvarint(len(header)) header [payload]`.

A reader is fed chunks as they come off the wire and gives back whole headers and pieces of payload. Payload
is never copied: a piece is a view of the chunk that was fed. A header is copied only when it straddles two
chunks, and then by the bytes that really came, so an announced length alone reserves nothing. This file
refuses to look inside a header, and does not know how long the payload is.
"""

from __future__ import annotations

from protocols.errors import BAD_HEADER, HEADER_TOO_LARGE, LocalProtocolError, RemoteProtocolError

#: The longest header. The largest honest ones (8,192 author marks, a thousand peer records, a 512 KiB ticket)
#: stay below 0.7 MiB; anything bigger is bulk and belongs in a payload.
HEADER_BYTES_MAX = 1 << 20
#: Bytes of a length prefix: 35 bits are plenty for any limit a link may set.
PREFIX_BYTES_MAX = 5

_NOTHING = memoryview(b"")


def uvarint(number: int) -> bytes:
    """The multiformats unsigned varint: seven bits a byte, least significant first, shortest form."""
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def frame(header: bytes, header_bytes_max: int = HEADER_BYTES_MAX) -> bytes:
    """The header with its length before it. Raises LocalProtocolError if it is longer than any peer reads."""
    if len(header) > header_bytes_max:
        raise LocalProtocolError(f"a header of {len(header)} bytes; at most {header_bytes_max} are allowed")
    return uvarint(len(header)) + header


class FrameReader:
    """Cuts what comes off the wire. Ask for a header or for payload as is due; None means feed more."""

    __slots__ = ("_chunk", "_length", "_partial", "_prefix", "_prefix_bytes", "ended", "header_bytes_max")

    def __init__(self, header_bytes_max: int = HEADER_BYTES_MAX) -> None:
        self.header_bytes_max = header_bytes_max
        #: The peer will send no more (what was fed before may still be unread).
        self.ended = False
        self._chunk = _NOTHING
        self._prefix = 0
        self._prefix_bytes = 0
        self._length = -1
        self._partial = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take a chunk (kept by reference until read: do not change it afterwards), or b"" for the end.

        Feeding before the last chunk was read through joins the two, at the price of a copy.
        """
        if self.ended:
            raise LocalProtocolError("fed after the end")
        if not len(data):
            self.ended = True
        elif self._chunk:
            self._chunk = memoryview(b"".join((self._chunk, data)))
        else:
            self._chunk = memoryview(data).cast("B")

    @property
    def pending(self) -> bool:
        """Bytes lie here unread, or a header is half read."""
        return bool(self._chunk) or self._prefix_bytes > 0 or self._length >= 0

    def header(self) -> bytes | bytearray | memoryview | None:
        """The next whole header, or None. Raises RemoteProtocolError if its length is bad or too large."""
        if self._length < 0 and not self._read_prefix():
            return None
        missing = self._length - len(self._partial)
        piece = self.take(missing)
        if piece is None:
            return None
        if len(piece) < missing:
            self._partial += piece
            return None
        self._length = -1
        if not self._partial:
            return piece
        whole, self._partial = self._partial, bytearray()
        whole += piece
        return whole

    def take(self, bytes_max: int) -> memoryview | None:
        """Up to `bytes_max` of the bytes that are here, without a copy; None if there are none."""
        chunk = self._chunk
        if not chunk:
            return None
        if len(chunk) <= bytes_max:
            self._chunk = _NOTHING
            return chunk
        self._chunk = chunk[bytes_max:]
        return chunk[:bytes_max]

    def _read_prefix(self) -> bool:
        for position, byte in enumerate(self._chunk[:PREFIX_BYTES_MAX], start=1):
            self._prefix |= (byte & 0x7F) << 7 * self._prefix_bytes
            self._prefix_bytes += 1
            if self._prefix > self.header_bytes_max or (byte >= 0x80 and self._prefix_bytes == PREFIX_BYTES_MAX):
                raise RemoteProtocolError(HEADER_TOO_LARGE, f"a header beyond {self.header_bytes_max} bytes")
            if byte < 0x80:
                if byte == 0:
                    # Either an empty header or a number padded with zeros: one length has one spelling.
                    raise RemoteProtocolError(BAD_HEADER, "a header length that is zero or not in its shortest form")
                self._length, self._prefix, self._prefix_bytes = self._prefix, 0, 0
                self._chunk = self._chunk[position:]
                return True
        self._chunk = _NOTHING
        return False
