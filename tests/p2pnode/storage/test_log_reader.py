"""Reading a log without believing or touching it; what records are worth stands in the tests of audit and history."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from p2pnode.env import LocalDisk
from p2pnode.errors import IntegrityError, NotFound, StorageFailed
from p2pnode.storage.log_reader import START, LogReader

TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB);
CREATE TABLE events (place INTEGER PRIMARY KEY, id BLOB, wire BLOB, seal BLOB);
CREATE TABLE blocks (id BLOB PRIMARY KEY, data BLOB);
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "catalog.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(TABLES)
        for place in range(1, 8):
            connection.execute("INSERT INTO events VALUES (?, ?, ?, ?)", (place, b"%d" % place, b"w%d" % place, b"s"))
    return path


def test_rows_come_by_place_and_no_more_than_asked(path):
    with LogReader.of_home(path) as reader:
        assert [row.place for row in reader.rows(2, 3)] == [3, 4, 5]
        assert [row.wire for row in reader.rows(5, 9)] == [b"w6", b"w7"]
        assert reader.rows(7, 9) == []
        assert (reader.last_place(), reader.row(4), reader.row(9)) == (7, reader.rows(3, 1)[0], None)


def test_arranged_events_come_in_their_order_after_any_of_them(path):
    with LogReader.of_home(path) as reader:
        # (height, id, kind, place): rows 1…7 have heights 7…1, even ones are of kind b.
        reader.arrange((8 - n, b"%d" % n, "ab"[n % 2 == 0], n) for n in range(1, 8))
        assert reader.ordered(START, (), 10) == [b"w%d" % n for n in (7, 6, 5, 4, 3, 2, 1)]
        assert reader.ordered((3, b"5"), (), 2) == [b"w4", b"w3"]
        assert reader.ordered(START, ("b",), 10) == [b"w6", b"w4", b"w2"]
        assert reader.before_last(2, ()) == (5, b"3")
        assert reader.ordered(reader.before_last(1, ("b",)), ("b",), 10) == [b"w2"]
        assert reader.before_last(9, ()) == START


def test_the_file_stays_as_it_is(path):
    before = path.read_bytes()
    with LogReader.of_home(path) as reader:
        reader.arrange([(1, b"1", "a", 1)])
        with pytest.raises(StorageFailed):
            reader._all("DELETE FROM events")
    assert path.read_bytes() == before


def test_what_is_not_there_or_no_database_has_a_typed_error(path, tmp_path):
    with pytest.raises(NotFound):
        LogReader.of_home(tmp_path / "nothing.db")
    (tmp_path / "noise.db").write_bytes(b"no database" * 1000)
    with LogReader.of_home(tmp_path / "noise.db") as reader, pytest.raises(IntegrityError):
        reader.rows(0, 1)
    with pytest.raises(StorageFailed):
        LogReader.of_running(LocalDisk(), tmp_path / "noise.db")


def test_sqlites_own_findings_are_told(path):
    with LogReader.of_home(path) as reader:
        assert reader.flaws() == []
    data = bytearray(path.read_bytes())
    data[4096 * 2 : 4096 * 2 + 64] = b"\xff" * 64
    path.write_bytes(data)
    with LogReader.of_home(path) as reader:
        try:
            assert reader.flaws()
        except IntegrityError:
            pass  # it could not even look
