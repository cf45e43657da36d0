"""One holder's answer while it is gathered: in memory while it is small, in a file without a name beyond that.

The node's memory stays bounded however much the holders send, and a worker reads the file in place: it is handed the
open file, so nothing is copied and nothing needs to be found on disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from p2pnode.env import Env
from p2pnode.errors import QueryError, StorageFailed

#: Held in memory before the disk is used, and written at once after that. A query gathers from dozens of holders and
#: several queries run at once, so this times a hundred must still be little.
SPOOL_MEMORY_BYTES = 1 << 20
#: One holder's whole answer. Beyond it a statement moves data rather than asking about it.
SPOOL_BYTES_MAX = 8 << 30
#: Names in the spill directory that are spools; the file is unlinked before a byte is written to it.
SPOOL_PREFIX = "spool-"


class Spool:
    """A growing Arrow IPC stream. `close` lets go of the file; the bytes are gone with it."""

    def __init__(self, env: Env, directory: Path) -> None:
        self._env = env
        self._directory = directory
        self._pending = bytearray()
        self._writer: BinaryIO | None = None
        self._reader: BinaryIO | None = None
        self.bytes = 0

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append. Raises QueryError beyond SPOOL_BYTES_MAX, StorageFailed when the disk does not take it."""
        self.bytes += len(data)
        if self.bytes > SPOOL_BYTES_MAX:
            raise QueryError(
                f"A holder's answer exceeds {SPOOL_BYTES_MAX >> 30} GiB.", advice="Select fewer rows or columns."
            )
        self._pending += data
        if len(self._pending) > SPOOL_MEMORY_BYTES:
            await self._flush()

    async def in_file(self) -> int | None:
        """The descriptor of a file that holds everything written so far, or None while it is all in memory."""
        if self._reader is None:
            return None
        await self._flush()
        return self._reader.fileno()

    def in_memory(self) -> bytearray:
        """What is not in the file: everything, as long as there is none."""
        return self._pending

    def close(self) -> None:
        """Let go of memory and file. Safe to call twice."""
        for file in (self._writer, self._reader):
            if file is not None:
                file.close()
        self._writer = self._reader = None
        self._pending = bytearray()

    async def _flush(self) -> None:
        pending, self._pending = self._pending, bytearray()
        try:
            await self._env.executor.run(self._append, pending)
        except OSError as error:
            raise StorageFailed(f"An answer cannot be kept for its query: {error.strerror}.") from error

    def _append(self, data: bytearray) -> None:
        if self._writer is None:
            path = self._directory / f"{SPOOL_PREFIX}{self._env.rng.token(8).hex()}"
            disk = self._env.disk
            self._writer = disk.open(path, "xb")
            # A second, read-only opening: a worker that was taken over cannot rewrite what the node gathered.
            self._reader = disk.open(path, "rb")
            disk.unlink(path)
        self._writer.write(data)
        self._writer.flush()
