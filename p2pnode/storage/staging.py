"""Events that came before their turn, on disk until it is theirs.

A cache and nothing else: it begins empty, is never synced, and is removed when its owner is done; after a crash it is
cleared at the next start. What comes back is what was put here, or an error: signatures were checked before, and each
event lies under a seal whose key was never on the disk. How much may lie here its owner decides, by `size_bytes`.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import trio

from p2pnode.env import Env
from p2pnode.env.shield import shielded
from p2pnode.errors import StorageFailed

T = TypeVar("T")

#: Events read back at once: at most 17 MB, mostly some 100 kB.
READ_EVENTS = 256
_KEY_BYTES = _SEAL_BYTES = 16

_TABLE = (
    "CREATE TABLE staged"
    " (band INTEGER, place INTEGER, wire BLOB NOT NULL, seal BLOB NOT NULL, PRIMARY KEY (band, place)) WITHOUT ROWID"
)


class Staging:
    """Wire events by band, in the order in which they were put there. Made by `staging`."""

    def __init__(self, env: Env, path: Path) -> None:
        self._env = env
        self._path = path
        self._key = env.rng.token(_KEY_BYTES)
        self._lock = trio.Lock()
        self._database: sqlite3.Connection | None = None
        #: Band -> (events, bytes).
        self._held: dict[int, tuple[int, int]] = {}

    @property
    def size_bytes(self) -> int:
        """Bytes of all events here."""
        return sum(size for _, size in self._held.values())

    async def put(self, band: int, wires: Sequence[bytes]) -> None:
        """Keep these behind what is here of that band. Raises StorageFailed."""
        count, size = self._held.get(band, (0, 0))
        await self._run(self._put, band, count, wires)
        self._held[band] = (count + len(wires), size + sum(map(len, wires)))

    async def drop(self, band: int) -> None:
        """Forget that band."""
        if self._held.pop(band, None) is not None:
            await self._run(self._drop, band)

    async def read(self, band: int) -> AsyncIterator[list[bytes]]:
        """That band's events, some at a time. Raises StorageFailed, also if they have changed."""
        count, _ = self._held.get(band, (0, 0))
        for start in range(0, count, READ_EVENTS):
            wires = await self._run(self._read, band, start)
            if len(wires) != min(READ_EVENTS, count - start):
                raise StorageFailed(f"What was put into {self._path} has changed.")
            yield wires

    async def _run(self, work: Callable[..., T], *args: object) -> T:
        async with self._lock:
            try:
                return await self._env.executor.run(work, *args)
            except sqlite3.DatabaseError as error:
                raise StorageFailed(f"{self._path} cannot be used: {error}.") from error

    def _open(self) -> None:
        _remove(self._env, self._path)
        self._database = self._env.disk.database(self._path)
        self._database.execute("PRAGMA synchronous=OFF")
        self._database.execute(_TABLE)

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
        _remove(self._env, self._path)

    def _put(self, band: int, count: int, wires: Sequence[bytes]) -> None:
        database = self._opened()
        database.execute("BEGIN")
        rows = [(band, place, wire, self._seal(band, place, wire)) for place, wire in enumerate(wires, start=count)]
        database.executemany("INSERT OR REPLACE INTO staged VALUES (?, ?, ?, ?)", rows)
        database.execute("COMMIT")

    def _drop(self, band: int) -> None:
        self._opened().execute("DELETE FROM staged WHERE band = ?", (band,))

    def _read(self, band: int, start: int) -> list[bytes]:
        rows = self._opened().execute(
            "SELECT wire, seal FROM staged WHERE band = ? AND place >= ? ORDER BY place LIMIT ?",
            (band, start, READ_EVENTS),
        )
        return [
            wire
            for place, (wire, seal) in enumerate(rows, start)
            if type(wire) is bytes and seal == self._seal(band, place, wire)
        ]

    def _seal(self, band: int, place: int, wire: bytes) -> bytes:
        return hashlib.blake2b(b"%d %d " % (band, place) + wire, digest_size=_SEAL_BYTES, key=self._key).digest()

    def _opened(self) -> sqlite3.Connection:
        assert self._database is not None  # `staging` opened it
        return self._database


@asynccontextmanager
async def staging(env: Env, path: Path) -> AsyncIterator[Staging]:
    """An empty staging in that file, which is removed in the end. One at a time. Raises StorageFailed."""
    staged = Staging(env, path)
    await staged._run(staged._open)
    try:
        yield staged
    finally:
        with shielded():
            await staged._run(staged._close)


async def clear(env: Env, path: Path) -> None:
    """Remove what a crash left behind."""
    await env.executor.run(_remove, env, path)


def _remove(env: Env, path: Path) -> None:
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        env.disk.unlink(path.with_name(name))
