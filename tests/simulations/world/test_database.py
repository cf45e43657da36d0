"""sqlite under power cuts: what FULL promises, what NORMAL and OFF do not, and what a failed commit may leave."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import trio

from p2pnode.env import Env
from p2pnode.errors import StorageFailed
from p2pnode.storage.event_log import EventLog
from simulations.world.chance import stream
from simulations.world.executor import SimExecutor
from simulations.world.loop import CLOCK, run_virtual
from tests.simulations.world.test_disk import HOME, SEEDS, Machine

PATH = HOME / "d.db"


def table(machine: Machine, level: str = "FULL") -> sqlite3.Connection:
    database = machine.mount.database(PATH)
    database.execute(f"PRAGMA synchronous={level}")
    database.execute("CREATE TABLE IF NOT EXISTS t (x INTEGER PRIMARY KEY, y BLOB)")
    return database


def rows(machine: Machine) -> list[int]:
    return [x for (x,) in machine.mount.database(PATH).execute("SELECT x FROM t ORDER BY x")]


def add(database: sqlite3.Connection, x: int) -> None:
    database.execute("BEGIN IMMEDIATE")
    database.executemany("INSERT INTO t VALUES (?, ?)", ((x, bytes(10)) for _ in range(1)))
    database.execute("COMMIT")


def after_cuts(level: str, commits: int = 4) -> set[tuple[int, ...]]:
    found = set()
    for seed in SEEDS:
        machine = Machine(seed)
        database = table(machine)
        database.execute(f"PRAGMA synchronous={level}")
        for x in range(commits):
            add(database, x)
        machine.power_cut()
        try:
            found.add(tuple(rows(machine)))
        except sqlite3.DatabaseError as error:
            found.add((-error.sqlite_errorcode,))
    return found


def test_what_was_committed_under_full_survives_every_cut() -> None:
    assert after_cuts("FULL") == {(0, 1, 2, 3)}
    assert after_cuts("EXTRA") == {(0, 1, 2, 3)}
    assert after_cuts("2") == {(0, 1, 2, 3)}


def test_under_normal_the_last_commits_may_be_gone_in_order() -> None:
    assert after_cuts("NORMAL") == {tuple(range(n)) for n in range(5)}


def test_under_off_the_file_itself_may_be_gone() -> None:
    found = after_cuts("OFF")
    assert (-sqlite3.SQLITE_NOTADB,) in found
    assert () in found


def test_a_full_commit_makes_the_normal_ones_before_it_certain() -> None:
    for seed in SEEDS:
        machine = Machine(seed)
        database = table(machine, "NORMAL")
        add(database, 1)
        database.execute("PRAGMA synchronous=FULL")
        add(database, 2)
        machine.power_cut()
        assert rows(machine) == [1, 2]


def test_what_was_not_committed_or_rolled_back_is_gone() -> None:
    machine = Machine(1)
    database = table(machine)
    add(database, 1)
    database.execute("BEGIN")
    database.execute("INSERT INTO t VALUES (2, NULL)")
    database.execute("ROLLBACK")
    database.execute("BEGIN")
    database.execute("INSERT INTO t VALUES (3, NULL)")
    assert database.in_transaction
    machine.power_cut()
    assert rows(machine) == [1]


def test_a_commit_that_the_machine_dies_in_is_there_or_not() -> None:
    found = set()
    for seed in SEEDS:
        machine = Machine(seed)
        database = table(machine)
        add(database, 1)
        machine.mount.crash_in(2)
        with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
            add(database, 2)
        machine.power_cut()
        found.add(tuple(rows(machine)))
    assert found == {(1,), (1, 2)}


def test_a_commit_that_failed_is_gone_now_and_may_be_there_after_a_cut() -> None:
    found = set()
    for seed in SEEDS:
        machine = Machine(seed)
        database = table(machine)
        machine.disk.faults.sync_error = 1.0
        with pytest.raises(sqlite3.OperationalError) as failed:
            add(database, 1)
        assert failed.value.sqlite_errorcode == sqlite3.SQLITE_IOERR
        assert not database.in_transaction
        machine.disk.faults.sync_error = 0.0
        assert rows(machine) == []
        machine.power_cut()
        found.add(tuple(rows(machine)))
    assert found == {(), (1,)}


def test_a_full_disk_rolls_back_and_is_no_lasting_harm() -> None:
    machine = Machine(1)
    database = table(machine)
    machine.disk.faults.full = True
    with pytest.raises(sqlite3.OperationalError) as refused:
        add(database, 1)
    assert refused.value.sqlite_errorcode == sqlite3.SQLITE_FULL
    if database.in_transaction:
        database.execute("ROLLBACK")
    machine.disk.faults.full = False
    add(database, 2)
    assert rows(machine) == [2]


def test_an_unread_reader_does_not_lock_the_writer_out() -> None:
    machine = Machine(1)
    database = table(machine)
    for x in range(5):
        add(database, x)
    cursor = machine.mount.database(PATH).execute("SELECT x FROM t")
    assert cursor.fetchone() == (0,)
    add(database, 9)
    assert rows(machine)[-1] == 9


def test_what_would_be_there_after_a_cut_can_be_asked_before_it() -> None:
    machine = Machine(1)
    database = table(machine)
    add(database, 1)
    database.execute("PRAGMA synchronous=NORMAL")
    add(database, 2)
    assert machine.disk.after_power_cut(PATH, "SELECT x FROM t") == [(1,)]
    assert machine.disk.unsynced_bytes > 0
    assert machine.disk.after_power_cut(Path("/nowhere"), "SELECT 1") == []


def test_a_rotten_database_is_refused_or_reads_otherwise() -> None:
    seen = set()
    for seed in SEEDS:
        machine = Machine(seed)
        add(table(machine), 1)
        machine.power_cut()
        machine.disk.flip_bits(2000)
        try:
            seen.add(tuple(rows(machine)) == (1,))
        except sqlite3.DatabaseError:
            seen.add(False)
    assert False in seen


def test_the_event_log_knows_a_failed_disk_by_these_errors() -> None:
    async def story() -> None:
        machine = Machine(1)
        machine.clock = CLOCK.get()
        machine.boot()
        env = Env(disk=machine.mount, executor=SimExecutor(machine.life, machine.mount, stream(1, "executor")))
        log = await EventLog.open(env, HOME / "catalog.db")
        machine.disk.faults.sync_error = 1.0
        before = trio.current_time()
        with pytest.raises(StorageFailed):
            await log.append((), {b"\x00" * 36: b"block"})
        assert trio.current_time() > before, "a disk takes its time"
        machine.disk.faults.sync_error = 0.0
        with pytest.raises(StorageFailed):
            await log.append((), {b"\x00" * 36: b"block"})

    run_virtual(story, seed=1)
