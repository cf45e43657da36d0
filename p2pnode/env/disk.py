"""Files, as the node sees them. All calls block; callers go through the `Executor`.

The promises that matter are spelled as verbs: `sync` (the bytes are on the platter), `rename` (atomic),
`sync_dir` (the name is on the platter). The simulator's disk forgets whatever was not synced when it crashes.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

#: A file's size in bytes and the time of its last write in nanoseconds.
Stamp = tuple[int, int]


class Disk(Protocol):
    def open(self, path: Path, mode: str) -> BinaryIO:
        """Open a file: `rb`, `r+b`, `wb` (truncate), `xb` (must be new), `ab`."""
        ...

    def sync(self, file: BinaryIO) -> None:
        """Flush and fdatasync. A failure is final for that file: close it and do not trust it (never retried)."""
        ...

    def sync_dir(self, path: Path) -> None: ...

    def rename(self, source: Path, target: Path) -> None: ...

    def unlink(self, path: Path) -> None:
        """Remove a file; one that is already gone is fine."""
        ...

    def make_dir(self, path: Path) -> None: ...

    def scan(self, path: Path) -> Iterator[Path]:
        """Files directly in a directory, sorted by name; none if there is no such directory."""
        ...

    def size(self, path: Path) -> int | None:
        """Bytes, or None if there is no such file."""
        ...

    def stamp(self, path: Path) -> Stamp | None:
        """Another stamp than last time means that the file was written since. None if there is no such file."""
        ...

    def free_bytes(self, path: Path) -> int: ...

    def database(self, path: Path) -> sqlite3.Connection:
        """A sqlite database whose commits are durable (WAL, synchronous=FULL)."""
        ...


class LocalDisk:
    """This machine's filesystem."""

    def open(self, path: Path, mode: str) -> BinaryIO:
        return open(path, mode)  # type: ignore[return-value]  # binary modes only

    def sync(self, file: BinaryIO) -> None:
        file.flush()
        os.fdatasync(file.fileno())

    def sync_dir(self, path: Path) -> None:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def rename(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def make_dir(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def scan(self, path: Path) -> Iterator[Path]:
        try:
            names = sorted(entry.name for entry in os.scandir(path) if entry.is_file())
        except FileNotFoundError:
            return
        for name in names:
            yield path / name

    def size(self, path: Path) -> int | None:
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return None

    def stamp(self, path: Path) -> Stamp | None:
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
        return found.st_size, found.st_mtime_ns

    def free_bytes(self, path: Path) -> int:
        return shutil.disk_usage(path).free

    def database(self, path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA busy_timeout=5000")
        return connection
