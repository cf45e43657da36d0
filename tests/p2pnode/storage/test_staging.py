from __future__ import annotations

import sqlite3

import pytest

from p2pnode.env import Env
from p2pnode.errors import StorageFailed
from p2pnode.storage import staging as module
from p2pnode.storage.staging import clear, staging

pytestmark = pytest.mark.trio


async def read(staged, band):
    return [wire async for wires in staged.read(band) for wire in wires]


async def test_each_band_comes_back_in_its_order_and_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "READ_EVENTS", 3)
    async with staging(Env(), tmp_path / "staging.db") as staged:
        assert staged.size_bytes == 0
        await staged.put(2, [b"aa", b"b"])
        await staged.put(1, [b"x"])
        await staged.put(2, [bytes([n]) for n in range(9)])
        assert staged.size_bytes == 13
        assert await read(staged, 2) == [b"aa", b"b", *(bytes([n]) for n in range(9))]
        assert await read(staged, 1) == [b"x"]
        assert await read(staged, 7) == []
        await staged.drop(2)
        await staged.drop(2)
        assert staged.size_bytes == 1
        assert await read(staged, 2) == []
        await staged.put(2, [b"anew"])
        assert await read(staged, 2) == [b"anew"]


async def test_nothing_is_left_behind_and_nothing_old_is_found(tmp_path):
    path = tmp_path / "staging.db"
    path.write_bytes(b"torn by a crash")
    (tmp_path / "staging.db-wal").write_bytes(b"too")
    (tmp_path / "catalog.db").write_bytes(b"not ours")
    async with staging(Env(), path) as staged:
        await staged.put(0, [b"event"])
        assert path.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["catalog.db"]
    path.write_bytes(b"torn again")
    await clear(Env(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["catalog.db"]


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE staged SET wire = x'00' WHERE place = 1",
        "UPDATE staged SET wire = 'text' WHERE place = 1",
        "UPDATE staged SET (wire, seal) = (SELECT wire, seal FROM staged WHERE place = 0) WHERE place = 1",
        "DELETE FROM staged WHERE place = 2",
    ],
)
async def test_what_changed_on_disk_does_not_come_back(tmp_path, harm):
    async with staging(Env(), tmp_path / "staging.db") as staged:
        await staged.put(0, [b"a", b"b", b"c"])
        with sqlite3.connect(tmp_path / "staging.db") as db:
            db.execute(harm)
        with pytest.raises(StorageFailed, match="has changed"):
            await read(staged, 0)
