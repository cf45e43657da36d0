"""The log for people: every event once, in the order of every replica, in bounded pages, and news as they come."""

from __future__ import annotations

import sqlite3

import pytest

from p2pnode.core import records
from p2pnode.services import history
from p2pnode.services.history import History
from p2pnode.storage.log_reader import LogReader

pytestmark = pytest.mark.trio


@pytest.fixture
async def written(book, tmp_path):
    """bob's log: he heard of ada's events later than of his own, so rows lie in another order than heights."""
    found = await book(tmp_path)
    await found.write()
    yield found
    await found.close()


def read(path, *, kinds=(), last=None):
    with LogReader.of_home(path) as reader:
        return [entry for page in History(reader, kinds, last).pages() for entry in page]


async def test_every_event_once_in_the_order_of_every_replica(written, tmp_path):
    entries = [read(tmp_path / name / "catalog.db") for name in ("ada", "bob")]
    expected = [event.id for event in written.ada.clock.events()]
    assert [[entry.event.id for entry in found] for found in entries] == [expected, expected]
    rows = sqlite3.connect(tmp_path / "bob" / "catalog.db").execute("SELECT id FROM events ORDER BY place").fetchall()
    assert [row[0] for row in rows] != expected  # or this test would show nothing


async def test_names_are_the_ones_that_peers_and_datasets_have(written, tmp_path):
    found = {
        (entry.event.kind, entry.author_name, entry.object_name) for entry in read(tmp_path / "bob" / "catalog.db")
    }
    assert (records.UP, "bob", "bob") in found
    assert (records.VERSION, "bob", "trips") in found
    assert (records.DELETE, "bob", "zones") in found
    assert (records.GENESIS, "ada", "") in found


async def test_kinds_and_the_newest(written, tmp_path):
    path = tmp_path / "bob" / "catalog.db"
    everything = read(path)
    for kinds in ((records.UP,), (records.UP, records.VERSION), ("nothing",)):
        picked = [entry for entry in everything if entry.event.kind in kinds]
        assert read(path, kinds=kinds) == picked
        assert read(path, kinds=kinds, last=1) == picked[-1:]
    for last in (*range(len(everything) + 2), 10**30):
        assert read(path, last=last) == (everything[-last:] if last else [])


async def test_pages_are_bounded(written, tmp_path, monkeypatch):
    path = tmp_path / "bob" / "catalog.db"
    everything = read(path)
    monkeypatch.setattr(history, "PAGE_EVENTS", 2)
    with LogReader.of_home(path) as reader:
        pages = [page for page in History(reader).pages() if page]
    assert {len(page) for page in pages[:-1]} == {2}
    assert [entry for page in pages for entry in page] == everything
    monkeypatch.setattr(history, "PAGE_EVENTS", 100)
    monkeypatch.setattr(history, "PAGE_BYTES", 1)
    with LogReader.of_home(path) as reader:
        assert [len(page) for page in History(reader).pages() if page] == [1] * len(everything)


async def test_news_come_after_what_was_there_and_only_once(written, tmp_path):
    with LogReader.of_home(tmp_path / "ada" / "catalog.db") as reader:
        told = History(reader)
        before = [entry.event.id for page in told.pages() for entry in page]
        assert told.news() is None
        await written.up(written.ada, "ada-again")
        [entry] = told.news() or []
        assert (entry.author_name, entry.event.id not in before) == ("ada-again", True)
        assert told.news() is None


async def test_news_of_other_kinds_are_passed_over(written, tmp_path):
    with LogReader.of_home(tmp_path / "ada" / "catalog.db") as reader:
        told = History(reader, [records.MERGE])
        assert [entry.event.kind for page in told.pages() for entry in page] == [records.MERGE]
        await written.up(written.ada, "ada-again")
        assert told.news() == []
        assert told.news() is None


async def test_what_is_no_event_is_passed_over_and_counted(written, tmp_path):
    path = tmp_path / "bob" / "catalog.db"
    whole = read(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE events SET wire = x'00' WHERE place = 2")
    with LogReader.of_home(path) as reader:
        told = History(reader)
        left = [entry.event.id for page in told.pages() for entry in page]
    assert told.unreadable == 1
    assert len(left) == len(whole) - 1
