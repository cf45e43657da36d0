"""An audit passes a whole log and finds every record that was deleted, altered or moved, whichever it is."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
import trio

from p2pnode.core import checkpoint, records
from p2pnode.core.catalog import Catalog
from p2pnode.core.clock import MerkleClock
from p2pnode.core.event import parse
from p2pnode.env import Env
from p2pnode.services import audit, replay
from p2pnode.services.audit import Audit, Known
from p2pnode.storage.event_log import EventLog, checkpoint_path
from p2pnode.storage.log_reader import LogReader

#: Events of the book; each of them is damaged in turn.
EVENTS = 9


@pytest.fixture(scope="module")
def log(book, tmp_path_factory):
    """bob's log, whole, of a node that has stopped; and what he knew. Not to be changed: `tamper` copies it."""
    home = tmp_path_factory.mktemp("log")

    async def write():
        found = await book(home)
        await found.write()
        await found.close()
        return found.bob.clock, found.bob.catalog.digest()

    clock, digest = trio.run(write)
    assert len(clock) == EVENTS
    return home / "bob" / "catalog.db", Known(EVENTS, len(clock), clock.fingerprint, digest), clock


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
    for left in copy.parent.glob("tampered.*"):
        left.unlink()
    shutil.copy(path, copy)
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(*statement)
    return copy


def test_a_whole_log_passes_and_tells_its_state(log):
    path, known, clock = log
    for report in (examined(path), examined(path, known)):
        assert report.ok, failed(report)
        assert (report.genesis, report.events, report.blocks) == (clock.genesis, EVENTS, 2)
        assert (list(report.heads), report.height) == (clock.heads(), clock.height)
        assert (report.fingerprint, report.digest) == (known.fingerprint, known.digest)
        assert (report.forks, report.damaged) == ([], [])
    assert not examined(path).running


@pytest.mark.parametrize("place", range(1, EVENTS + 1))
def test_a_deleted_record_is_found(log, place):
    assert not examined(tamper(log[0], ("DELETE FROM events WHERE place = ?", [place]))).ok


@pytest.mark.parametrize("place", range(1, EVENTS + 1))
def test_an_altered_byte_is_found_wherever_it_is(log, place):
    path, _, _ = log
    (wire,) = sqlite3.connect(path).execute("SELECT wire FROM events WHERE place = ?", [place]).fetchone()
    for at in (0, 1, len(wire) // 2, len(wire) - 65, len(wire) - 64, len(wire) - 1):
        changed = bytearray(wire)
        changed[at] ^= 1
        report = examined(tamper(path, ("UPDATE events SET wire = ? WHERE place = ?", [bytes(changed), place])))
        assert set(failed(report)) & {audit.RECORDS}, at
        assert [one.place for one in report.damaged if one.check == audit.RECORDS] == [place]


@pytest.mark.parametrize("column", ["id", "seal"])
def test_a_changed_id_or_seal_is_found(log, column):
    for place in range(1, EVENTS + 1):
        changed = tamper(log[0], (f"UPDATE events SET {column} = zeroblob(length({column})) WHERE place = {place}",))
        assert audit.RECORDS in failed(examined(changed))


@pytest.mark.parametrize("value", ["7", "'text'", "CAST(wire AS TEXT)"])
def test_what_is_no_bytes_is_found(log, value):
    assert not examined(tamper(log[0], (f"UPDATE events SET wire = {value} WHERE place = 4",))).ok
    assert not examined(tamper(log[0], (f"UPDATE blocks SET data = {value.replace('wire', 'data')}",))).ok


@pytest.mark.parametrize("first", range(1, EVENTS))
def test_records_that_changed_places_are_found(log, first):
    for second in range(first + 1, EVENTS + 1):
        swapped = tamper(
            log[0],
            ("UPDATE events SET place = 0 WHERE place = ?", [first]),
            ("UPDATE events SET place = ? WHERE place = ?", [first, second]),
            ("UPDATE events SET place = ? WHERE place = 0", [second]),
        )
        assert audit.TALLY in failed(examined(swapped)), second


def test_a_lost_tally_is_found(log):
    assert failed(examined(tamper(log[0], ("DELETE FROM meta WHERE name = 'tally'",)))) == [audit.TALLY]


@pytest.mark.trio
async def test_a_foreign_record_is_found_though_it_is_a_good_one(log, book, tmp_path):
    other = await book(tmp_path / "other")
    await other.write()
    await other.close()
    row = sqlite3.connect(tmp_path / "other" / "bob" / "catalog.db").execute(
        "SELECT id, wire, seal FROM events WHERE place = 3"
    )
    report = examined(tamper(log[0], ("INSERT INTO events (id, wire, seal) VALUES (?, ?, ?)", row.fetchone())))
    assert audit.VALIDITY in failed(report)


def test_a_deleted_or_altered_block_is_found(log):
    for statement in ("DELETE FROM blocks WHERE rowid = 1", "UPDATE blocks SET data = data || x'00' WHERE rowid = 2"):
        report = examined(tamper(log[0], (statement,)))
        assert {audit.BLOCKS, audit.LINKS} <= set(failed(report))


def test_a_log_that_forgot_its_swarm_is_found(log):
    assert failed(examined(tamper(log[0], ("DELETE FROM meta WHERE name = 'genesis'",)))) == [audit.FILE]


def test_a_file_that_sqlite_cannot_read_is_told_and_not_raised(log):
    path, _, _ = log
    copy = tamper(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    copy.write_bytes(data)
    assert audit.FILE in failed(examined(copy))


def test_a_node_that_knows_something_else_is_found(log):
    path, known, _ = log
    for other in (
        replace(known, fingerprint=bytes(32)),
        replace(known, digest=bytes(32)),
        replace(known, events=known.events + 1),
        replace(known, place=EVENTS - 1),
    ):
        assert failed(examined(path, other)) == [audit.FOLD]


def test_what_a_node_appends_meanwhile_is_none_of_its_business(log):
    path, _, clock = log
    earlier = MerkleClock(clock.genesis)
    with LogReader.of_home(path) as reader:
        for cid in reader.block_ids():
            earlier.add_block(cid)
        for row in reader.rows(0, EVENTS - 1):
            earlier.add(parse(row.wire))
        catalog = Catalog.fold(earlier.events(), lambda cid: records.decode_manifest(reader.block(cid) or b""))
        known = Known(EVENTS - 1, len(earlier), earlier.fingerprint, catalog.digest())
    assert examined(path, known).ok


@pytest.mark.trio
async def test_a_damaged_record_that_came_again_is_none_that_is_lost(log, book, tmp_path):
    shutil.copytree(log[0].parents[1], tmp_path, dirs_exist_ok=True)
    path, known = tmp_path / "bob" / "catalog.db", log[1]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE events SET wire = CAST(wire || x'00' AS BLOB) WHERE place = 5")
    assert audit.RECORDS in failed(examined(path))
    again = await book(tmp_path)
    report = examined(path)  # the node has set it aside, with nobody at hand to ask
    assert {audit.RECORDS, audit.LINKS} <= set(failed(report))
    assert "has not come again" in str(report.damaged)
    await again.tell(again.ada, again.bob)
    await again.close()
    report = examined(path, known=replace(known, place=EVENTS + 1))
    assert report.ok, failed(report)
    assert report.fingerprint == known.fingerprint


@pytest.fixture
def checkpointed(log):
    """A copy of the log with a checkpoint of its first five records."""
    path, known, clock = log

    async def keep():
        short = tamper(path, ("DELETE FROM events WHERE place > 5",))
        opened = await EventLog.open(Env(), short)
        blocks = {cid: records.decode_manifest(opened.read_block(cid) or b"") for cid in opened.block_ids()}
        found = replay.replay(opened, clock.genesis, opened.read, blocks.get)
        assert (found.place, len(found.clock)) == (5, 5)
        replay.keep(opened, found)
        await opened.close()
        return checkpoint_path(short).read_bytes()

    data = trio.run(keep)
    copy = tamper(path)
    checkpoint_path(copy).write_bytes(data)
    return copy, known


def test_a_checkpoint_that_leads_to_the_same_state_passes(checkpointed):
    path, known = checkpointed
    for report in (examined(path), examined(path, known)):
        assert report.ok, failed(report)
        assert "from record 5 on" in next(check.detail for check in report.checks if check.name == audit.CHECKPOINT)


def test_a_checkpoint_that_leads_elsewhere_is_found(checkpointed):
    path, _ = checkpointed
    kept = checkpoint.decode(checkpoint_path(path).read_bytes(), replay.MAKER)
    kept.catalog["datasets"] = []
    checkpoint_path(path).write_bytes(b"".join(checkpoint.encode(kept, replay.MAKER)))
    assert failed(examined(path)) == [audit.CHECKPOINT]


def test_a_damaged_or_foreign_checkpoint_is_told(checkpointed):
    path, _ = checkpointed
    whole = checkpoint_path(path).read_bytes()
    kept = checkpoint.decode(whole, replay.MAKER)
    for data in (whole[:-1], b"", whole[:60] + bytes([whole[60] ^ 1]) + whole[61:]):
        checkpoint_path(path).write_bytes(data)
        assert failed(examined(path)) == [audit.CHECKPOINT]
    checkpoint_path(path).write_bytes(
        b"".join(checkpoint.encode(replace(kept, genesis=kept.genesis[::-1]), replay.MAKER))
    )
    assert failed(examined(path)) == [audit.CHECKPOINT]
    checkpoint_path(path).write_bytes(b"".join(checkpoint.encode(kept, "p2pnode of tomorrow")))
    report = examined(path)
    assert report.ok
    assert "tomorrow" in str(report.checks)


def test_what_is_named_is_bounded_and_what_is_counted_is_not(log, monkeypatch):
    monkeypatch.setattr(audit, "NAMED_MAX", 3)
    report = examined(tamper(log[0], ("UPDATE events SET seal = x'00'",)))
    assert len(report.damaged) == 3
    assert next(check.detail for check in report.checks if check.name == audit.RECORDS).startswith(
        f"{EVENTS} wrong, first "
    )


@pytest.mark.trio
async def test_a_home_that_belongs_to_no_swarm_yet_is_whole(book, tmp_path):
    await (await book(tmp_path)).close()
    report = examined(tmp_path / "ada" / "catalog.db")
    assert (report.ok, report.events, report.genesis) == (True, 0, None)
