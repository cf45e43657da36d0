"""An audit passes a whole log and finds every record that was deleted, altered or moved, whichever it is."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import pytest

from p2pnode.services import audit
from p2pnode.services.audit import Audit, Known
from p2pnode.storage.log_reader import LogReader

pytestmark = pytest.mark.trio

#: Events of the book; each of them is damaged in turn.
EVENTS = 9


@pytest.fixture
async def log(book, tmp_path):
    """bob's log, whole, of a node that has stopped; and what he knew."""
    found = await book(tmp_path)
    await found.write()
    path = tmp_path / "bob" / "catalog.db"
    clock = found.bob.clock
    assert len(clock) == EVENTS
    known = Known(len(clock), clock.fingerprint, found.bob.catalog.digest())
    await found.close()
    return path, known, clock


def examined(path, known=None):
    with LogReader.of_home(path) as reader:
        looking = Audit(reader, known)
        for _ in looking.steps():
            pass
        return looking.report()


def failed(report):
    return [check.name for check in report.checks if not check.ok]


def tamper(path, *statements):
    """A copy of the log, changed."""
    copy = path.with_name("tampered.db")
    for left in copy.parent.glob("tampered.db*"):
        left.unlink()
    shutil.copy(path, copy)
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(*statement)
    return copy


async def test_a_whole_log_passes_and_tells_its_state(log):
    path, known, clock = log
    for report in (examined(path), examined(path, known)):
        assert report.ok, failed(report)
        assert (report.genesis, report.events, report.blocks) == (clock.genesis, EVENTS, 2)
        assert (list(report.heads), report.height) == (clock.heads(), clock.height)
        assert (report.fingerprint, report.digest) == (known.fingerprint, known.digest)
        assert (report.forks, report.damaged) == ([], [])
    assert not examined(path).running


@pytest.mark.parametrize("place", range(1, EVENTS))
async def test_a_deleted_record_is_found(log, place):
    assert not examined(tamper(log[0], ("DELETE FROM events WHERE place = ?", [place]))).ok


@pytest.mark.parametrize("place", range(1, EVENTS + 1))
async def test_an_altered_byte_is_found_wherever_it_is(log, place):
    path, _, _ = log
    (wire,) = sqlite3.connect(path).execute("SELECT wire FROM events WHERE place = ?", [place]).fetchone()
    for at in (0, 1, len(wire) // 2, len(wire) - 65, len(wire) - 64, len(wire) - 1):
        changed = bytearray(wire)
        changed[at] ^= 1
        report = examined(tamper(path, ("UPDATE events SET wire = ? WHERE place = ?", [bytes(changed), place])))
        assert set(failed(report)) & {audit.RECORDS}, at
        assert [one.place for one in report.damaged if one.check == audit.RECORDS] == [place]


@pytest.mark.parametrize("column", ["id", "seal"])
async def test_a_changed_id_or_seal_is_found(log, column):
    for place in range(1, EVENTS + 1):
        changed = tamper(log[0], (f"UPDATE events SET {column} = zeroblob(length({column})) WHERE place = {place}",))
        assert audit.RECORDS in failed(examined(changed))


@pytest.mark.parametrize("value", ["7", "'text'", "CAST(wire AS TEXT)"])
async def test_what_is_no_bytes_is_found(log, value):
    assert not examined(tamper(log[0], (f"UPDATE events SET wire = {value} WHERE place = 4",))).ok
    assert not examined(tamper(log[0], (f"UPDATE blocks SET data = {value.replace('wire', 'data')}",))).ok


async def test_a_foreign_record_is_found_though_it_is_a_good_one(log, book, tmp_path):
    other = await book(tmp_path / "other")
    await other.write()
    await other.close()
    row = sqlite3.connect(tmp_path / "other" / "bob" / "catalog.db").execute(
        "SELECT id, wire, seal FROM events WHERE place = 3"
    )
    report = examined(tamper(log[0], ("INSERT INTO events (id, wire, seal) VALUES (?, ?, ?)", row.fetchone())))
    assert audit.VALIDITY in failed(report)


async def test_a_deleted_or_altered_block_is_found(log):
    for statement in ("DELETE FROM blocks WHERE rowid = 1", "UPDATE blocks SET data = data || x'00' WHERE rowid = 2"):
        report = examined(tamper(log[0], (statement,)))
        assert {audit.BLOCKS, audit.LINKS} <= set(failed(report))


async def test_a_log_that_forgot_its_swarm_is_found(log):
    assert failed(examined(tamper(log[0], ("DELETE FROM meta WHERE name = 'genesis'",)))) == [audit.FILE]


async def test_a_file_that_sqlite_cannot_read_is_told_and_not_raised(log):
    path, _, _ = log
    copy = path.with_name("tampered.db")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    copy.write_bytes(data)
    assert audit.FILE in failed(examined(copy))


async def test_a_node_that_knows_something_else_is_found(log):
    path, known, _ = log
    for other in (
        Known(known.events, bytes(32), known.digest),
        Known(known.events, known.fingerprint, bytes(32)),
        Known(known.events + 1, known.fingerprint, known.digest),
        Known(known.events - 1, known.fingerprint, known.digest),
    ):
        assert failed(examined(path, other)) == [audit.FOLD]


async def test_what_is_named_is_bounded_and_what_is_counted_is_not(log, monkeypatch):
    monkeypatch.setattr(audit, "NAMED_MAX", 3)
    report = examined(tamper(log[0], ("UPDATE events SET seal = x'00'",)))
    assert len(report.damaged) == 3
    assert next(check.detail for check in report.checks if check.name == audit.RECORDS).startswith(f"{EVENTS}: ")


async def test_a_home_that_belongs_to_no_swarm_yet_is_whole(book, tmp_path):
    await (await book(tmp_path)).close()
    report = examined(tmp_path / "ada" / "catalog.db")
    assert (report.ok, report.events, report.genesis) == (True, 0, None)
