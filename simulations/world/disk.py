"""A disk in memory that forgets, as disks do, whatever was not synced when the power went.

A `SimDisk` is the platter and outlives every node; what one life sees of it is a `mount.Mount`. Of a file's unsynced
writes a crash keeps a random part: the first few, the last of them torn, or any of them (a drive reorders). A new,
renamed or removed name is certain once its directory was synced; of the others a crash keeps the first few, as a
journal would. Directories themselves are there at once. sqlite's files are `database`'s affair, by the same rules.

Faults are set on `faults` while the world runs. Bit rot happens to what lies there while nobody has it open.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from p2pnode.env import Rng
from simulations.world.database import SimDatabase
from simulations.world.inode import Inode
from simulations.world.trace import Trace

#: Bytes of a disk unless a world says otherwise: enough that only a fault fills it.
CAPACITY_BYTES = 1 << 40


@dataclass(slots=True)
class DiskFaults:
    """What is wrong with a disk. Chances are per operation, 0–1; times in virtual seconds."""

    #: What each operation takes, and each sync or commit beyond that.
    op_s: float = 0.00005
    fsync_s: float = 0.002
    #: EIO.
    read_error: float = 0.0
    write_error: float = 0.0
    sync_error: float = 0.0
    #: ENOSPC: no byte fits any more, whatever the capacity.
    full: bool = False
    capacity_bytes: int = CAPACITY_BYTES


@dataclass(frozen=True, slots=True)
class Named:
    """A change of names that is not certain yet: `target` becomes `entry`, `source` goes."""

    source: PurePath | None
    target: PurePath | None
    entry: Inode | SimDatabase | None

    def touches(self, folder: PurePath) -> bool:
        return any(path is not None and path.parent == folder for path in (self.source, self.target))

    def shares(self, other: Named) -> bool:
        mine = [path for path in (self.source, self.target) if path is not None]
        return other.source in mine or other.target in mine

    def done_to(self, names: dict[PurePath, Inode | SimDatabase]) -> None:
        if self.source is not None:
            names.pop(self.source, None)
        if self.target is not None and self.entry is not None:
            names[self.target] = self.entry


@dataclass(frozen=True, slots=True)
class Backup:
    """What a disk held, certain bytes only. Opaque; for `SimDisk.restore`."""

    files: dict[PurePath, bytes]
    modes: dict[PurePath, int]
    databases: dict[PurePath, bytes]
    folders: tuple[PurePath, ...]


class SimDisk:
    """One machine's disk. See the module."""

    def __init__(self, name: str, rng: Rng, trace: Trace) -> None:
        self.name = name
        self.faults = DiskFaults()
        #: Changes made so far: writes, syncs, commits, names.
        self.operations = 0
        self.rng = rng
        self.trace = trace
        self.names: dict[PurePath, Inode | SimDatabase] = {}
        self.durable: dict[PurePath, Inode | SimDatabase] = {}
        self.journal: list[Named] = []
        self.folders: dict[PurePath, int] = {PurePath("/"): 0o755}

    # -- from outside ------------------------------------------------------------------------------------------

    @property
    def used_bytes(self) -> int:
        """Bytes of all files, about, for databases."""
        return sum(len(e.data) if isinstance(e, Inode) else e.size_bytes for e in self.names.values())

    @property
    def unsynced_bytes(self) -> int:
        """Bytes that a power cut may take now."""
        return sum(entry.unsynced_bytes for entry in self.names.values())

    def peek(self, path: PurePath) -> bytes | None:
        """A file's bytes as programs see them, past all faults; None if there is none."""
        entry = self.names.get(path)
        return bytes(entry.data) if isinstance(entry, Inode) else None

    def certain_size(self, path: PurePath) -> int | None:
        """Bytes of that file that a power cut now would leave for certain; None if its name is not certain."""
        entry = self.durable.get(path)
        return len(entry.durable) if isinstance(entry, Inode) else None

    def after_power_cut(self, path: PurePath, query: str, params: tuple[object, ...] = ()) -> list[tuple]:
        """What a query would find in a database if the power went now and nothing uncertain stayed."""
        entry = self.durable.get(path)
        return entry.certain(query, params) if isinstance(entry, SimDatabase) else []

    def crash(self) -> int:
        """The power went. Bytes that are gone for good."""
        kept = self.rng.randint(0, len(self.journal)) if self.journal else 0
        for change in self.journal[:kept]:
            change.done_to(self.durable)
        self.journal.clear()
        gone = sum(entry.unsynced_bytes for path, entry in self.names.items() if self.durable.get(path) is not entry)
        self.names = dict(self.durable)
        seen: dict[int, None] = {}
        for entry in self.names.values():
            if id(entry) not in seen:
                seen[id(entry)] = None
                gone += entry.crash(self.rng)
        self.trace.note("power cut", self.name, gone)
        return gone

    def backup(self) -> Backup:
        """A copy of what is certain now."""
        files = {path: entry for path, entry in self.durable.items() if isinstance(entry, Inode)}
        return Backup(
            {path: bytes(entry.durable) for path, entry in files.items()},
            {path: entry.mode for path, entry in files.items()},
            {path: entry.image() for path, entry in self.durable.items() if isinstance(entry, SimDatabase)},
            tuple(self.folders),
        )

    def restore(self, backup: Backup) -> None:
        """Hold what was held then and nothing else. Only while nobody has the disk mounted."""
        self.wipe()
        self.folders.update(dict.fromkeys(backup.folders, 0o755))
        for path, content in backup.files.items():
            inode = self.names[path] = Inode()
            inode.data, inode.durable, inode.mode = bytearray(content), bytearray(content), backup.modes[path]
        for path, image in backup.databases.items():
            self.names[path] = SimDatabase(f"{self.name}{path}", self.rng, image)
        self.durable = dict(self.names)
        self.trace.note("restored", self.name, len(self.names))

    def wipe(self) -> None:
        """Forget everything. Only while nobody has the disk mounted."""
        for entry in self.names.values():
            if isinstance(entry, SimDatabase):
                entry.close()
        self.names, self.durable, self.journal = {}, {}, []
        self.folders = {PurePath("/"): 0o755}

    def flip_bits(self, count: int = 1, under: str = "") -> list[str]:
        """Flip so many bits of what lies here in files whose path contains `under`; their paths. Only while nobody
        has the disk mounted.
        """
        there = [(str(path), entry) for path, entry in self.durable.items() if under in str(path)]
        there = [(path, entry) for path, entry in sorted(there, key=lambda named: named[0]) if entry.rots()]
        hit: list[str] = []
        for _ in range(count if there else 0):
            path, entry = self.rng.choice(there)
            entry.flip_bit(self.rng)
            hit.append(path)
        self.trace.note("bits flipped", self.name, *hit)
        return hit

    # -- for a mount -------------------------------------------------------------------------------------------

    def rename(self, change: Named) -> None:
        """A name changes, not yet for certain."""
        change.done_to(self.names)
        self.journal.append(change)

    def sync_names(self, folder: PurePath) -> None:
        """Make certain what was done to names in that folder, and whatever that stands on."""
        certain: list[Named] = []
        for change in reversed(self.journal):
            if change.touches(folder) or any(change.shares(later) for later in certain):
                certain.append(change)
        for change in reversed(certain):
            change.done_to(self.durable)
        self.journal = [change for change in self.journal if not any(change is one for one in certain)]
