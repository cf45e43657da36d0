"""A file on its way in: its outline, the chunks that are verified so far, and not one byte that is not.

Bytes are hashed chunk by chunk before they are written, so what stands in the file is always a verified prefix: after
a lost peer, a lying one or a crash the next attempt begins behind it. A file that was left over is hashed again when it
is opened (10 GB/s), so nothing has to be remembered beside it. Everything here blocks and belongs in a thread. This
file refuses to know where the bytes come from and where the whole file goes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import BinaryIO

from p2pnode.core.cid import DIGEST_BYTES, cid_text
from p2pnode.core.unixfs import CHUNK_BYTES, chunk_count, chunk_digest, cid_of_outline
from p2pnode.errors import IntegrityError


class Incoming:
    """One file being received. `open` is called at the first byte; it gives a file that may hold an earlier attempt."""

    def __init__(self, cid: bytes, outline: bytes, size: int, open: Callable[[], BinaryIO]) -> None:
        """Raises IntegrityError when outline and size are not those of `cid`: a lie is found before any byte."""
        if cid_of_outline(outline, size) != cid:
            raise IntegrityError(f"the outline is not that of {cid_text(cid)}")
        self.cid = cid
        self.outline = outline
        self.size = size
        #: Bytes that are in the file and verified: where the next attempt begins.
        self.offset = 0
        self._open = open
        self._file: BinaryIO | None = None
        self._partial = bytearray()

    @property
    def complete(self) -> bool:
        """Every byte is in the file and verified."""
        return self.offset == self.size

    def resume(self) -> int:
        """Verify what an earlier attempt left behind and stand after it; returns the offset."""
        file = self._opened()
        self._partial.clear()
        self.offset = 0
        file.seek(0)
        while self.offset < self.size:
            chunk = file.read(min(CHUNK_BYTES, self.size - self.offset))
            if not self._fits(self.offset // CHUNK_BYTES, chunk):
                break
            self.offset += len(chunk)
        file.seek(self.offset)
        file.truncate()
        return self.offset

    def take(self, pieces: Sequence[bytes | memoryview]) -> None:
        """The next bytes, in pieces of any size. Whole chunks are verified, then written.

        Raises IntegrityError at the first chunk that is not as the outline says, or for bytes beyond the end; what
        came before stays.
        """
        file = self._opened()
        data = memoryview(b"".join((self._partial, *pieces)))
        self._partial.clear()
        verified = 0
        while verified < len(data):
            at = self.offset + verified
            chunk = data[verified : verified + min(CHUNK_BYTES, self.size - at)]
            if len(chunk) < min(CHUNK_BYTES, self.size - at):
                break
            if at == self.size or not self._fits(at // CHUNK_BYTES, chunk):
                self._write(file, data[:verified])
                raise IntegrityError(f"bytes from {at} on are not those of {cid_text(self.cid)}")
            verified += len(chunk)
        self._write(file, data[:verified])
        self._partial += data[verified:]

    def drop_partial(self) -> None:
        """Forget the beginning of a chunk that will not be continued (the next attempt begins at `offset`)."""
        self._partial.clear()

    def sync(self, sync: Callable[[BinaryIO], None]) -> None:
        """Put what was written so far on the platter."""
        sync(self._opened())

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self._file = self._open()
        return self._file

    def _fits(self, index: int, chunk: bytes | memoryview) -> bool:
        expected = self.outline[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]
        return index < chunk_count(self.size) and chunk_digest(chunk) == expected

    def _write(self, file: BinaryIO, data: memoryview) -> None:
        if data:
            file.write(data)
            self.offset += len(data)
