"""What a power cut leaves: everything that was synced, some of what was not, and of names only certain ones."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from p2pnode.errors import HomeInUse
from p2pnode.storage.home_lock import hold_home
from simulations.world.chance import stream
from simulations.world.disk import SimDisk
from simulations.world.life import Dead, Life
from simulations.world.loop import VirtualClock
from simulations.world.mount import Mount
from simulations.world.trace import Trace

HOME = Path("/home/n0")
SEEDS = range(60)


class Machine:
    """A disk, and whoever has it mounted now."""

    def __init__(self, seed: int) -> None:
        self.clock = VirtualClock()
        self.disk = SimDisk("n0", stream(seed, "disk"), Trace(self.clock.current_time))
        self.boot()
        self.mount.make_dir(HOME)

    def boot(self) -> None:
        self.life = Life("n0", 1, self.clock)
        self.mount = Mount(self.disk, self.life)

    def power_cut(self) -> int:
        self.life.die()
        lost = self.disk.crash()
        self.boot()
        return lost

    def write(self, name: str, data: bytes, *, sync: bool = False, name_too: bool = False) -> None:
        with self.mount.open(HOME / name, "wb") as file:
            file.write(data)
            if sync:
                self.mount.sync(file)
        if name_too:
            self.mount.sync_dir(HOME)

    def read(self, name: str) -> bytes | None:
        if self.mount.size(HOME / name) is None:
            return None
        with self.mount.open(HOME / name, "rb") as file:
            return file.read()


def outcomes(prepare: Callable[[Machine], None], name: str = "f") -> set[bytes | None]:
    """What is in that file after a power cut, over many seeds."""
    found = set()
    for seed in SEEDS:
        machine = Machine(seed)
        prepare(machine)
        machine.power_cut()
        found.add(machine.read(name))
    return found


def test_what_was_synced_with_its_name_is_always_there() -> None:
    assert outcomes(lambda m: m.write("f", b"whole", sync=True, name_too=True)) == {b"whole"}


def test_synced_bytes_under_an_unsynced_name_are_there_or_not_but_never_in_part() -> None:
    assert outcomes(lambda m: m.write("f", b"whole", sync=True)) == {b"whole", None}


def test_unsynced_bytes_are_lost_whole_or_torn() -> None:
    found = outcomes(lambda m: m.write("f", b"whole", name_too=True))
    assert {b"", b"whole"} <= found
    assert any(b"" != piece != b"whole" for piece in found), "some are torn"
    assert all(piece is not None and b"whole".startswith(piece) for piece in found)


def test_an_overwrite_in_place_may_mix_old_and_new() -> None:
    def prepare(machine: Machine) -> None:
        machine.write("f", b"old-old", sync=True, name_too=True)
        with machine.mount.open(HOME / "f", "r+b") as file:
            file.write(b"new")
            file.write(b"-new")

    found = outcomes(prepare)
    assert {b"old-old", b"new-new", b"new-old"} <= found
    assert b"old-new" in found, "a drive may write the later one first"


def test_a_rename_is_one_step_whichever_folder_was_synced() -> None:
    def prepare(machine: Machine) -> None:
        machine.mount.make_dir(HOME / "in")
        with machine.mount.open(HOME / "in" / "part", "xb") as file:
            file.write(b"whole")
            machine.mount.sync(file)
        machine.mount.rename(HOME / "in" / "part", HOME / "f")
        machine.mount.sync_dir(HOME)
        assert machine.read("in/part") is None

    assert outcomes(prepare) == {b"whole"}
    assert outcomes(prepare, "in/part") == {None}


def test_an_unsynced_removal_may_be_undone() -> None:
    def prepare(machine: Machine) -> None:
        machine.write("f", b"whole", sync=True, name_too=True)
        machine.mount.unlink(HOME / "f")

    assert outcomes(prepare) == {b"whole", None}


def test_after_a_failed_sync_no_later_one_makes_it_good() -> None:
    def prepare(machine: Machine) -> None:
        with machine.mount.open(HOME / "f", "wb") as file:
            machine.mount.sync_dir(HOME)
            file.write(b"whole")
            machine.disk.faults.sync_error = 1.0
            with pytest.raises(OSError, match="Input/output"):
                machine.mount.sync(file)
            machine.disk.faults.sync_error = 0.0
            machine.mount.sync(file)
            assert machine.read("f") == b"whole", "programs see what the platter lacks"

    assert outcomes(prepare) == {b"whole", b""}


def test_the_dead_change_nothing() -> None:
    machine = Machine(1)
    machine.write("f", b"whole", sync=True, name_too=True)
    file = machine.mount.open(HOME / "f", "r+b")
    database = machine.mount.database(HOME / "d.db")
    machine.life.die()
    operations = machine.disk.operations
    for attempt in (
        lambda: file.write(b"ghost"),
        lambda: file.truncate(0),
        lambda: machine.mount.sync(file),
        lambda: machine.mount.unlink(HOME / "f"),
        lambda: machine.mount.rename(HOME / "f", HOME / "g"),
        lambda: machine.mount.open(HOME / "g", "wb"),
        lambda: machine.mount.make_dir(HOME / "new"),
        lambda: machine.mount.size(HOME / "f"),
    ):
        with pytest.raises(Dead):
            attempt()
    machine.mount.remove_tree(HOME)
    with pytest.raises(sqlite3.DatabaseError):
        database.execute("CREATE TABLE t (x)")
    assert machine.disk.operations == operations
    assert machine.disk.peek(HOME / "f") == b"whole"


def test_a_full_disk_refuses_bytes_and_frees_them_by_removal() -> None:
    machine = Machine(1)
    machine.disk.faults.capacity_bytes = 1000
    machine.write("f", bytes(900))
    with pytest.raises(OSError) as refused:  # its errno is looked at
        machine.write("g", bytes(200))
    assert refused.value.errno == errno.ENOSPC
    assert machine.mount.free_bytes(HOME) <= 100
    machine.mount.unlink(HOME / "f")
    machine.write("g", bytes(200))
    machine.disk.faults.full = True
    with pytest.raises(OSError):
        machine.write("h", b"x")
    assert machine.mount.free_bytes(HOME) == 0


def test_a_crash_can_be_aimed_into_a_write() -> None:
    pieces = set()
    for seed in SEEDS:
        machine = Machine(seed)
        with machine.mount.open(HOME / "f", "wb") as file:
            machine.mount.sync_dir(HOME)
            machine.mount.crash_in(2)
            file.write(b"first-")
            with pytest.raises(Dead):
                file.write(b"second")
        machine.power_cut()
        pieces.add(machine.read("f"))
    assert b"" in pieces
    assert any(piece and piece.startswith(b"first-s") for piece in pieces)


def test_a_backup_brings_back_what_was_certain_then() -> None:
    machine = Machine(1)
    machine.write("f", b"then", sync=True, name_too=True)
    database = machine.mount.database(HOME / "d.db")
    database.execute("CREATE TABLE t (x)")
    database.execute("INSERT INTO t VALUES (1)")
    backup = machine.disk.backup()
    database.execute("INSERT INTO t VALUES (2)")
    machine.write("f", b"now", sync=True)
    machine.write("g", b"now", sync=True, name_too=True)
    machine.power_cut()
    machine.disk.restore(backup)
    assert (machine.read("f"), machine.read("g")) == (b"then", None)
    assert machine.mount.database(HOME / "d.db").execute("SELECT x FROM t").fetchall() == [(1,)]


def test_rot_changes_a_bit_of_what_lies_there() -> None:
    machine = Machine(1)
    machine.write("f", b"whole", sync=True, name_too=True)
    assert machine.disk.flip_bits(1, "/f") == ["/home/n0/f"]
    rotten = machine.read("f")
    assert rotten is not None
    assert sum((a ^ b).bit_count() for a, b in zip(rotten, b"whole", strict=True)) == 1
    assert machine.disk.flip_bits(1, "nowhere") == []


def test_a_home_is_held_by_one_life_and_let_go_by_its_death() -> None:
    machine = Machine(1)
    with hold_home(machine.mount, HOME), pytest.raises(HomeInUse), hold_home(machine.mount, HOME):
        pass
    held = hold_home(machine.mount, HOME)
    held.__enter__()
    machine.power_cut()
    with hold_home(machine.mount, HOME):
        pass
