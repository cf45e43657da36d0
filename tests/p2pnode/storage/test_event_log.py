from __future__ import annotations

import sqlite3

import pytest
import trio

from bootstrap.identity import Identity
from p2pnode.core.cid import record_cid
from p2pnode.core.event import Position, compose, mint_session
from p2pnode.env import Env, LocalDisk
from p2pnode.env.executor import Threads
from p2pnode.errors import IntegrityError, StorageFailed
from p2pnode.storage.event_log import EventLog

ME = Identity.from_seed(bytes(32))


def event(number):
    return compose(
        namespace=None,
        author=ME.peer_id,
        session=mint_session(bytes(16)),
        position=Position(sequence=number),
        time=0,
        kind="note",
        object_id="",
        body={"n": number},
        sign=ME.sign,
    )


class CountingDisk(LocalDisk):
    """Counts commits, and fails them when told."""

    def __init__(self):
        self.commits = 0

    def database(self, path):
        connection = super().database(path)

        def trace(statement):
            self.commits += statement == "COMMIT"

        connection.set_trace_callback(trace)
        return connection


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.db"


@pytest.mark.trio
async def test_what_was_appended_is_there_after_opening_again(path):
    log = await EventLog.open(Env(), path)
    assert log.genesis is None
    events = [event(n) for n in range(5)]
    block = b"a block"
    await log.adopt(record_cid(b"genesis"))
    await log.append(events[:3], {record_cid(block): block})
    await log.append(events[1:])
    await log.close()
    log = await EventLog.open(Env(), path)
    assert log.genesis == record_cid(b"genesis")
    loaded = [*log.events()]
    assert [e.wire for e in loaded] == [e.wire for e in events]
    assert log.block_ids() == [record_cid(block)]
    assert await log.block(record_cid(block)) == block
    assert await log.block(record_cid(b"other")) is None
    with pytest.raises(IntegrityError, match="another swarm"):
        await log.adopt(record_cid(b"other"))
    await log.close()


@pytest.mark.trio
async def test_a_swarm_begins_whole_or_not_at_all(path, monkeypatch):
    log = await EventLog.open(Env(), path)

    def torn(genesis):
        raise sqlite3.OperationalError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(log, "_set_genesis", torn)
        with pytest.raises(StorageFailed):
            await log.begin(event(0))
    await log.close()
    log = await EventLog.open(Env(), path)
    assert (log.genesis, [*log.events()]) == (None, [])
    await log.begin(event(0))
    await log.close()
    log = await EventLog.open(Env(), path)
    assert (log.genesis, [e.id for e in log.events()]) == (event(0).id, [event(0).id])
    with pytest.raises(IntegrityError):
        await log.begin(event(1))
    await log.close()


@pytest.mark.trio
async def test_of_two_swarms_met_at_once_one_is_adopted(path):
    log = await EventLog.open(Env(), path)
    refused = []

    async def adopt(genesis):
        try:
            await log.adopt(genesis)
        except IntegrityError:
            refused.append(genesis)

    swarms = [record_cid(b"one"), record_cid(b"two")]
    async with trio.open_nursery() as nursery:
        for genesis in swarms:
            nursery.start_soon(adopt, genesis)
    assert len(refused) == 1
    assert log.genesis in set(swarms) - set(refused)
    await log.close()
    again = await EventLog.open(Env(), path)
    assert again.genesis == log.genesis
    await again.close()


@pytest.mark.trio
async def test_appends_of_one_moment_share_a_commit(path):
    disk = CountingDisk()
    log = await EventLog.open(Env(disk=disk), path)
    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(log.append, [event(number)])
    assert disk.commits <= 3
    assert len([*log.events()]) == 50
    await log.close()


@pytest.mark.trio
async def test_who_shares_a_commit_that_could_not_be_tried_is_told_so(path):
    class Tired(Threads):
        tired = False

        async def run(self, work, *args):
            await trio.lowlevel.checkpoint()
            if self.tired:
                self.tired = False
                raise RuntimeError("can't start new thread")
            return await super().run(work, *args)

    threads = Tired()
    log = await EventLog.open(Env(executor=threads), path)
    said = []

    async def append(number):
        try:
            await log.append([event(number)])
        except StorageFailed as error:
            said.append(str(error))
        else:
            said.append("stored")

    threads.tired = True
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(append, number)
    assert said.count("stored") == len(list(log.events())) < 3
    await append(3)
    assert said[-1] == "stored"
    await log.close()


@pytest.mark.trio
async def test_forgotten_blocks_take_the_checkpoint_with_them_for_good(path):
    class Watched(LocalDisk):
        def __init__(self):
            self.done = []

        def unlink(self, path):
            super().unlink(path)
            self.done.append(("unlink", path))

        def sync_dir(self, path):
            super().sync_dir(path)
            self.done.append(("sync", path))

    disk = Watched()
    log = await EventLog.open(Env(disk=disk), path)
    await log.append([event(0)], {record_cid(b"block"): b"block"})
    assert log.keep_checkpoint([b"which knows the block"])
    disk.done.clear()
    await log.drop_blocks([record_cid(b"block")])
    assert disk.done == [("unlink", path.with_suffix(".checkpoint")), ("sync", path.parent)]
    assert (log.block_ids(), log.kept_checkpoint()) == ([], None)
    await log.close()


@pytest.mark.trio
async def test_a_cancelled_append_is_whole_or_absent_and_harms_nobody(path):
    log = await EventLog.open(Env(), path)
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            scope.cancel()
            await log.append([event(0), event(1)])
        nursery.start_soon(log.append, [event(2)])
    assert {e.sequence for e in log.events()} in ({2}, {0, 1, 2})
    await log.close()


@pytest.mark.trio
@pytest.mark.parametrize("column", ["wire", "seal", "id"])
async def test_a_changed_row_is_seen_set_aside_and_stored_again(path, column):
    log = await EventLog.open(Env(), path)
    await log.append([event(n) for n in range(3)])
    await log.close()
    change(path, column, 2)
    log = await EventLog.open(Env(), path)
    rows = list(log.rows())
    assert [row.event for row in rows] == [event(0), None, event(2)]
    assert await log.wires([rows[1].id, event(2).id]) == [None, event(2).wire]
    with pytest.raises(IntegrityError, match="has changed on disk"):
        log.read(rows[1].id)
    assert log.unsound(0) == (3, [rows[1].id])
    assert log.unsound(2) == (3, [])
    assert log.unsound(3) == (0, [])
    await log.set_aside([rows[1].id])
    assert log.damaged() == [rows[1].id]
    assert [row.event for row in log.rows()] == [event(0), event(2)]
    assert log.row(2) is None
    await log.append([event(1)])
    assert [*log.events()] == [event(0), event(2), event(1)]
    assert log.damaged() == ([] if column != "id" else [rows[1].id])
    assert await log.wires([event(1).id, event(0).id]) == [event(1).wire, event(0).wire]
    assert log.read(event(1).id) == event(1)
    await log.close()


@pytest.mark.trio
async def test_bytes_that_became_text_are_judged_by_their_seal(path):
    log = await EventLog.open(Env(), path)
    await log.append([event(n) for n in range(3)], {record_cid(b"block"): b"block"})
    await log.close()
    with sqlite3.connect(path) as db:  # what one flipped bit in a record's header does
        db.execute("UPDATE events SET wire = CAST(wire AS TEXT) WHERE place = 1")
        db.execute("UPDATE events SET wire = CAST(wire || x'ff' AS TEXT) WHERE place = 2")
        db.execute("UPDATE events SET wire = 7 WHERE place = 3")
        db.execute("UPDATE blocks SET data = 7")
    log = await EventLog.open(Env(), path)
    assert [row.event for row in log.rows()] == [event(0), None, None]
    assert log.unsound(0) == (3, [event(1).id, event(2).id])
    with pytest.raises(IntegrityError, match="has changed on disk"):
        await log.block(record_cid(b"block"))
    await log.close()


def change(path, column, place):
    with sqlite3.connect(path) as db:
        (old,) = db.execute(f"SELECT {column} FROM events WHERE place = ?", (place,)).fetchone()
        db.execute(f"UPDATE events SET {column} = ? WHERE place = ?", (old[:-1] + bytes((old[-1] ^ 1,)), place))


@pytest.mark.trio
async def test_what_it_holds_up_to_a_place_is_told_from_the_ids_alone(path):
    log = await EventLog.open(Env(), path)
    await log.append([event(n) for n in range(9)])
    clock = sum(int.from_bytes(event(n).id[-32:], "big") for n in range(4)) % (1 << 256)
    assert log.holds(4) == (4, clock.to_bytes(32, "big"))
    assert log.holds(100)[0] == 9
    await log.close()


@pytest.mark.trio
async def test_a_checkpoint_is_the_last_one_kept_and_a_disk_that_refuses_costs_only_it(path, monkeypatch):
    log = await EventLog.open(Env(), path)
    assert log.kept_checkpoint() is None
    assert log.keep_checkpoint([b"one"])
    assert log.keep_checkpoint([b"two"])
    assert log.kept_checkpoint() == b"two"

    def full(self, file):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LocalDisk, "sync", full)
        assert not log.keep_checkpoint([b"three"])
    assert log.kept_checkpoint() == b"two"
    await log.append([event(0)])
    await log.close()


@pytest.mark.trio
async def test_a_changed_block_is_not_served(path):
    log = await EventLog.open(Env(), path)
    cid = record_cid(b"block")
    await log.append([], {cid: b"block"})
    with sqlite3.connect(path) as db:
        db.execute("UPDATE blocks SET data = ?", (b"other",))
    with pytest.raises(IntegrityError):
        await log.block(cid)
    await log.close()


@pytest.mark.trio
async def test_a_file_that_is_no_database_is_damage(path):
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(IntegrityError, match="damaged"):
        await EventLog.open(Env(), path)


@pytest.mark.trio
async def test_a_file_that_sqlite_cannot_read_is_moved_aside_where_others_have_it(path):
    for number in (1, 2):
        path.write_bytes(b"not a database at all" * 100)
        log = await EventLog.open(Env(), path, anew=True)
        assert (log.genesis, [*log.events()]) == (None, [])
        assert path.with_name(f"{path.name}.damaged-{number}").read_bytes().startswith(b"not a database")
        await log.begin(event(0))
        await log.append([event(1)])
        await log.close()
        again = await EventLog.open(Env(), path, anew=True)
        assert [*again.events()] == [event(0), event(1)]
        await again.close()


@pytest.mark.trio
async def test_a_schema_with_a_flipped_bit_is_damage_like_any_other(path):
    log = await EventLog.open(Env(), path)
    await log.begin(event(0))
    await log.close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode=DELETE")
    database.execute("VACUUM")
    database.close()
    image = path.read_bytes()
    assert image.count(b"value BLOB") == 1
    path.write_bytes(image.replace(b"value BLOB", b"valuf BLOB"))
    with pytest.raises(IntegrityError, match="value"):
        await EventLog.open(Env(), path)
    log = await EventLog.open(Env(), path, anew=True)
    assert log.genesis is None
    await log.close()


@pytest.mark.trio
async def test_damage_that_only_a_write_meets_is_remembered_for_the_next_start(path):
    log = await EventLog.open(Env(), path)
    await log.append([event(n) for n in range(200)])
    await log.close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode=DELETE")
    (root,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_events_1'").fetchone()
    database.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 8)
    log = await EventLog.open(Env(), path)
    assert len([*log.events()]) == 200, "whoever only reads sees nothing of it"
    with pytest.raises((IntegrityError, StorageFailed), match="malformed"):
        await log.append([event(200)])
    await log.close()
    with pytest.raises(IntegrityError, match="found damaged"):
        await EventLog.open(Env(), path)
    log = await EventLog.open(Env(), path, anew=True)
    await log.begin(event(0))
    await log.close()
    again = await EventLog.open(Env(), path)
    assert [*again.events()] == [event(0)]
    await again.close()


@pytest.mark.trio
async def test_a_log_that_was_moved_away_as_advised_is_forgiven(path):
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(IntegrityError):
        await EventLog.open(Env(), path)
    path.rename(path.with_name("elsewhere"))
    log = await EventLog.open(Env(), path)
    assert log.genesis is None
    await log.close()
    await (await EventLog.open(Env(), path)).close()


@pytest.mark.trio
async def test_a_truncated_database_is_damage(path):
    log = await EventLog.open(Env(), path)
    await log.append([event(n) for n in range(200)])
    await log.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2 // 4096 * 4096)
    with pytest.raises(IntegrityError):
        log = await EventLog.open(Env(), path)
        [*log.events()]


@pytest.mark.trio
async def test_a_newer_layout_is_left_alone(path):
    await (await EventLog.open(Env(), path)).close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = ? WHERE name = 'format'", (b"\x00\x63",))
    with pytest.raises(StorageFailed, match="newer"):
        await EventLog.open(Env(), path)


@pytest.mark.trio
async def test_a_full_disk_refuses_and_recovers(path):
    log = await EventLog.open(Env(), path)
    await log.append([event(0)])
    pages = log._writer.execute("PRAGMA page_count").fetchone()[0]
    log._writer.execute(f"PRAGMA max_page_count = {pages}")
    big = b"x" * 100_000
    with pytest.raises(StorageFailed, match="full"):
        await log.append([event(1)], {record_cid(big): big})
    log._writer.execute("PRAGMA max_page_count = 1000000")
    await log.append([event(2)])
    assert [e.sequence for e in log.events()] == [0, 2]
    await log.close()


@pytest.mark.trio
async def test_after_a_failed_write_the_log_is_not_trusted_again(path):
    class FailingDisk(LocalDisk):
        fail = False

        def database(self, path):
            disk = self

            class Failing(sqlite3.Connection):
                def execute(self, sql, *args):
                    if disk.fail and sql == "COMMIT":
                        raise sqlite3.OperationalError("disk I/O error")
                    return super().execute(sql, *args)

            return sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Failing)

    disk = FailingDisk()
    log = await EventLog.open(Env(disk=disk), path)
    disk.fail = True
    with pytest.raises(StorageFailed, match="I/O"):
        await log.append([event(0)])
    disk.fail = False
    with pytest.raises(StorageFailed):
        await log.append([event(1)])
    await log.close()
