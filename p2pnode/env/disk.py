"""Files, as the node sees them. All calls block; callers go through the `Executor`.

The promises that matter are spelled as verbs: `sync` (the bytes are on the platter), `rename` (atomic),
`sync_dir` (the name is on the platter). The simulator's disk forgets whatever was not synced when it crashes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
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

    def make_dir(self, path: Path, mode: int = 0o777) -> None:
        """Make a directory and those above it that lack, for good; `mode` (less the umask) is that of a new one."""
        ...

    def remove_tree(self, path: Path) -> None:
        """Remove a directory with all that is in it, as far as the disk lets it; none there is fine. Never raises."""
        ...

    def mode(self, path: Path) -> int:
        """Permission bits of a file."""
        ...

    def set_mode(self, path: Path, mode: int) -> None:
        """Change a file's permission bits."""
        ...

    def hold(self, path: Path) -> AbstractContextManager[None]:
        """An advisory lock on that file (made if new), let go on leaving or when the holder dies, however it dies.

        Raises BlockingIOError if another holds it.
        """
        ...

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

    def make_dir(self, path: Path, mode: int = 0o777) -> None:
        # Whoever syncs what it puts into a new directory relies on the directory itself.
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True, mode=mode)
        for folder in made:
            self.sync_dir(folder.parent)

    def remove_tree(self, path: Path) -> None:
        shutil.rmtree(path, ignore_errors=True)

    def mode(self, path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    def set_mode(self, path: Path, mode: int) -> None:
        path.chmod(mode)

    @contextmanager
    def hold(self, path: Path) -> Iterator[None]:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(handle)

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
