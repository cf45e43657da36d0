"""What one life sees of its machine's disk, `p2pnode.env.Disk`: every operation counted, charged and liable to fail.

When the life is dead nothing here has any effect any more. A crash may be set to fall within a certain change, which
is then done in part or not at all.
"""

from __future__ import annotations

import errno
import io
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, BinaryIO, NoReturn, TypeVar, cast

from p2pnode.env.disk import Stamp
from simulations.world.database import Gate, SimConnection, SimDatabase
from simulations.world.disk import CAPACITY_BYTES, Named, SimDisk
from simulations.world.inode import Inode
from simulations.world.life import Dead, Life

T = TypeVar("T")


class Mount:
    """One life's disk."""

    def __init__(self, disk: SimDisk, life: Life) -> None:
        self._disk = disk
        self._life = life
        self.rng = disk.rng
        self._elapsed_s = 0.0
        self._fatal_in: int | None = None
        self._held: list[PurePath] = []
        self._connections: list[SimConnection] = []
        life.on_death(self._let_go)

    def elapsed(self) -> float:
        """Virtual seconds that operations took since this was asked last, for the executor to let pass."""
        taken, self._elapsed_s = self._elapsed_s, 0.0
        return taken

    def crash_in(self, changes: int) -> None:
        """The machine dies within so many changes from now; 1 is the next."""
        self._fatal_in = changes

    def _let_go(self) -> None:
        for connection in self._connections:
            sqlite3.Connection.close(connection)

    # -- every operation passes here -----------------------------------------------------------------------------

    def look(self) -> None:
        """Before reading. Raises Dead, or OSError as the faults have it."""
        self._life.check()
        faults = self._disk.faults
        self._elapsed_s += faults.op_s
        if faults.read_error and self.rng.random() < faults.read_error:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def change(self, kind: str, path: PurePath, *, syncs: bool = False, grows: int = 0) -> bool:
        """Before changing anything. Raises as `look` does; True if the machine is to die in the midst of this one."""
        self._life.check()
        disk, faults = self._disk, self._disk.faults
        disk.operations += 1
        disk.trace.note(kind, disk.name, str(path), grows)
        self._elapsed_s += faults.op_s + (faults.fsync_s if syncs else 0.0)
        if self._fatal_in is not None:
            self._fatal_in -= 1
            if self._fatal_in <= 0:
                return True
        chance = faults.sync_error if syncs else faults.write_error
        if chance and self.rng.random() < chance:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if grows and (faults.full or (faults.capacity_bytes < CAPACITY_BYTES and self._lacks(grows))):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return False

    def _lacks(self, bytes_: int) -> bool:
        return self._disk.used_bytes + bytes_ > self._disk.faults.capacity_bytes

    def die(self) -> NoReturn:
        """The power goes. Raises Dead."""
        self._life.die()
        raise Dead

    # -- p2pnode.env.Disk ----------------------------------------------------------------------------------------

    def open(self, path: Path, mode: str) -> BinaryIO:
        entry = self._disk.names.get(path)
        if mode == "rb":
            self.look()
            if entry is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            if isinstance(entry, SimDatabase):
                image, entry = entry.image(), Inode()
                entry.data = bytearray(image)
            return cast("BinaryIO", SimFile(self, path, entry, writable=False))
        inode = self._opened_to_write(path, mode, entry)
        file = SimFile(self, path, inode, writable=True)
        if mode == "ab":
            file.seek(0, io.SEEK_END)
        return cast("BinaryIO", file)

    def _opened_to_write(self, path: Path, mode: str, entry: Inode | SimDatabase | None) -> Inode:
        if path.parent not in self._disk.folders or (entry is None and mode == "r+b"):
            self._life.check()
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        if isinstance(entry, SimDatabase):
            raise PermissionError(errno.EPERM, "a simulated database is written by sqlite alone", str(path))
        if entry is not None and mode == "xb":
            self._life.check()
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        if entry is None:
            if self.change("create", path, grows=1):
                self.die()
            entry = Inode()
            self._disk.rename(Named(None, path, entry))
        elif mode == "wb":
            if self.change("truncate", path):
                self.die()
            entry.truncate(0)
        else:
            self.look()
        entry.written = self.tick()
        return entry

    def tick(self) -> int:
        """The time of a write in nanoseconds; no two are the same."""
        return int(self._life.clock.current_time() * 1e9) * 1000 + self._disk.operations % 1000

    def sync(self, file: BinaryIO) -> None:
        cast("SimFile", file).sync()

    def sync_dir(self, path: Path) -> None:
        dying = self.change("sync names", path, syncs=True)
        if not dying or self.rng.random() < 0.5:
            self._disk.sync_names(path)
        if dying:
            self.die()

    def rename(self, source: Path, target: Path) -> None:
        entry = self._disk.names.get(source)
        dying = self.change("rename", target)
        if entry is None or target.parent not in self._disk.folders:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
        self._disk.rename(Named(source, target, entry))
        if dying:
            self.die()

    def unlink(self, path: Path) -> None:
        self._life.check()
        if path not in self._disk.names:
            return
        dying = self.change("unlink", path)
        self._disk.rename(Named(path, None, None))
        if dying:
            self.die()

    def make_dir(self, path: Path, mode: int = 0o777) -> None:
        lacking = [folder for folder in (path, *path.parents) if folder not in self._disk.folders]
        if not lacking:
            self.look()
            return
        if self.change("make folder", path, grows=1):
            self.die()
        self._disk.folders.update(dict.fromkeys(reversed(lacking), mode))

    def remove_tree(self, path: Path) -> None:
        if self._life.dead:
            return
        below = sorted(other for other in self._disk.names if path in other.parents)
        try:
            for file in below:
                self.unlink(cast("Path", file))
        except OSError:
            return  # as far as the disk lets it
        for folder in [other for other in self._disk.folders if other == path or path in other.parents]:
            del self._disk.folders[folder]

    def scan(self, path: Path) -> Iterator[Path]:
        self.look()
        yield from sorted(cast("Path", other) for other in self._disk.names if other.parent == path)

    def size(self, path: Path) -> int | None:
        self._life.check()
        entry = self._disk.names.get(path)
        if entry is None:
            return None
        return len(entry.data) if isinstance(entry, Inode) else entry.size_bytes

    def stamp(self, path: Path) -> Stamp | None:
        self._life.check()
        entry = self._disk.names.get(path)
        return (len(entry.data), entry.written) if isinstance(entry, Inode) else None

    def free_bytes(self, path: Path) -> int:
        self._life.check()
        faults = self._disk.faults
        return 0 if faults.full else max(0, faults.capacity_bytes - self._disk.used_bytes)

    def mode(self, path: Path) -> int:
        self.look()
        entry = self._disk.names.get(path)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return entry.mode if isinstance(entry, Inode) else 0o644

    def set_mode(self, path: Path, mode: int) -> None:
        entry = self._disk.names.get(path)
        if self.change("mode", path):
            self.die()
        if isinstance(entry, Inode):
            entry.mode = mode

    @contextmanager
    def hold(self, path: Path) -> Iterator[None]:
        self.look()
        if path.parent not in self._disk.folders:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        if path in self._held:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
        self._held.append(path)
        try:
            yield
        finally:
            self._held.remove(path)

    def database(self, path: Path) -> sqlite3.Connection:
        def look() -> None:
            _as_sqlite(self.look)

        def change(syncs: bool) -> bool:
            return _as_sqlite(lambda: self.change("commit" if syncs else "statement", path, syncs=syncs, grows=1))

        look()
        entry = self._disk.names.get(path)
        if entry is None:
            if path.parent not in self._disk.folders:
                raise _sqlite_error(sqlite3.SQLITE_CANTOPEN, "unable to open database file")
            entry = SimDatabase(f"{self._disk.name}{path}", self._disk.rng)
            self._disk.names[path] = self._disk.durable[path] = entry  # sqlite syncs the name itself
        if isinstance(entry, Inode):
            raise _sqlite_error(sqlite3.SQLITE_NOTADB, "file is not a database")
        made = entry.connect(Gate(look, change, lambda: _as_sqlite(self.die)))
        self._connections.append(made)
        return made


def _as_sqlite(work: Callable[[], T]) -> T:
    """What the disk says, as sqlite says it."""
    try:
        return work()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _sqlite_error(sqlite3.SQLITE_FULL, "database or disk is full") from error
        raise _sqlite_error(sqlite3.SQLITE_IOERR, "disk I/O error") from error


def _sqlite_error(code: int, text: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


class SimFile(io.RawIOBase):
    """An open file. What is written is seen by everybody at once, and certain after `sync`."""

    def __init__(self, mount: Mount, path: Path, inode: Inode, *, writable: bool) -> None:
        self._mount = mount
        self._path = path
        self._inode = inode
        self._writable = writable
        self._at = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return self._writable

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._inode.data)}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        self._mount.look()
        end = len(self._inode.data) if size is None or size < 0 else self._at + size
        piece = bytes(self._inode.data[self._at : end])
        self._at += len(piece)
        return piece

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        piece = self.read(len(view))
        view[: len(piece)] = piece
        return len(piece)

    def write(self, data: Any, /) -> int:
        piece = bytes(data)
        dying = self._mount.change("write", self._path, grows=len(piece))
        if dying:
            piece = piece[: self._mount.rng.randint(0, len(piece))]
        self._inode.write(self._at, piece)
        self._inode.written = self._mount.tick()
        if dying:
            self._mount.die()
        self._at += len(piece)
        return len(piece)

    def truncate(self, size: int | None = None, /) -> int:
        length = self._at if size is None else size
        if length != len(self._inode.data):
            if self._mount.change("truncate", self._path):
                self._mount.die()
            self._inode.truncate(length)
        return length

    def sync(self) -> None:
        """fdatasync. A failure is final: what was written may or may not be there, and is never synced again."""
        try:
            dying = self._mount.change("sync", self._path, syncs=True)
        except Dead:
            raise
        except OSError:
            self._inode.fail_sync(self._mount.rng)
            raise
        if not dying or self._mount.rng.random() < 0.5:
            self._inode.sync()
        if dying:
            self._mount.die()
