"""A gathered answer: bounded in memory, nameless on disk, gone when closed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import pytest

from p2pnode.env import Env, LocalDisk
from p2pnode.errors import QueryError, StorageFailed
from p2pnode.query import spool as spool_module
from p2pnode.query.spool import SPOOL_MEMORY_BYTES, Spool

pytestmark = pytest.mark.trio


async def test_small_answers_never_touch_the_disk(tmp_path: Path) -> None:
    spool = Spool(Env(), tmp_path / "does not exist")
    await spool.write(b"a" * 1000)
    await spool.write(memoryview(b"b" * 1000))
    assert await spool.in_file() is None
    assert spool.in_memory() == b"a" * 1000 + b"b" * 1000
    assert spool.bytes == 2000


async def test_large_ones_lie_in_a_file_without_a_name(tmp_path: Path) -> None:
    spool = Spool(Env(), tmp_path)
    for number in range(40):
        await spool.write(bytes([number]) * 100_000)
        assert len(spool.in_memory()) <= SPOOL_MEMORY_BYTES
    file = await spool.in_file()
    assert file is not None
    assert os.pread(file, 5_000_000, 0) == b"".join(bytes([number]) * 100_000 for number in range(40))
    assert os.listdir(tmp_path) == []
    with pytest.raises(OSError):
        os.write(file, b"a worker may only read")
    spool.close()
    spool.close()
    with pytest.raises(OSError):
        os.fstat(file)


async def test_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "SPOOL_BYTES_MAX", 1000)
    spool = Spool(Env(), tmp_path)
    await spool.write(b"x" * 1000)
    with pytest.raises(QueryError, match="exceeds"):
        await spool.write(b"x")


async def test_a_full_disk_is_a_typed_error(tmp_path: Path) -> None:
    class Full(LocalDisk):
        def open(self, path: Path, mode: str) -> BinaryIO:
            raise OSError(28, "No space left on device")

    spool = Spool(Env(disk=Full()), tmp_path)
    with pytest.raises(StorageFailed, match="No space"):
        await spool.write(b"x" * (SPOOL_MEMORY_BYTES + 1))
    spool.close()
