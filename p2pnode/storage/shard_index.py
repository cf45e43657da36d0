"""What was found in each shard file, kept so that it need not be found again: outline, rows, statistics.

Everything here follows from the files; losing it costs hashing them once more, so commits are not synced, and a damaged
table is thrown away. This file refuses to say which shards exist: the directory does.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import libipld
import structlog

from p2pnode.core.records import plain_stats, read_stats
from p2pnode.env import Disk
from p2pnode.env.disk import Stamp
from p2pnode.errors import NotFound
from p2pnode.storage.statistics import ShardFacts

log = structlog.get_logger(__name__)

#: Raised when the meaning of a row changes: the table is then filled anew from the files.
LAYOUT = 2


def open_index(disk: Disk, path: Path) -> ShardIndex:
    """The table in that file; an empty one in place of a damaged one. Raises sqlite3.Error when the disk refuses."""
    try:
        return ShardIndex(_whole(disk.database(path)))
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise
        log.error("shard_index_damaged", file=path.name, why=str(error), advice="it is made again from the shards")
    for suffix in ("-wal", "-shm", ""):
        disk.unlink(path.with_name(path.name + suffix))
    return ShardIndex(disk.database(path))


def _whole(database: sqlite3.Connection) -> sqlite3.Connection:
    """Raises DatabaseError (SQLITE_CORRUPT) if sqlite finds any page of it wrong: a few ms for thousands of shards."""
    found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        database.close()
        error = sqlite3.DatabaseError(found)
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error
    return database


class ShardIndex:
    """The table. Any thread may call: sqlite itself lets one statement in at a time, and each stands alone."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.execute("PRAGMA synchronous=NORMAL")
        if database.execute("PRAGMA user_version").fetchone()[0] != LAYOUT:
            database.execute("DROP TABLE IF EXISTS shards")
            database.execute(f"PRAGMA user_version={LAYOUT}")
        database.execute(
            "CREATE TABLE IF NOT EXISTS shards "
            "(cid BLOB PRIMARY KEY, bytes INTEGER, written INTEGER, outline BLOB, rows INTEGER, stats BLOB) "
            "WITHOUT ROWID"
        )

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def stamps(self) -> dict[bytes, Stamp]:
        """How the file of every shard that is known here looked when it was verified."""
        rows = self._database.execute("SELECT cid, bytes, written FROM shards")
        return {cid: (size, written) for cid, size, written in rows}

    def add(self, cid: bytes, stamp: Stamp, outline: bytes, facts: ShardFacts) -> None:
        """Remember what was found."""
        stats = libipld.encode_dag_cbor(plain_stats(facts.stats))
        self._database.execute(
            "INSERT OR REPLACE INTO shards VALUES (?, ?, ?, ?, ?, ?)", (cid, *stamp, outline, facts.rows, stats)
        )

    def remove(self, cid: bytes) -> None:
        """Forget a shard."""
        self._database.execute("DELETE FROM shards WHERE cid = ?", (cid,))

    def facts(self, cid: bytes) -> ShardFacts:
        """Rows and statistics. Raises NotFound."""
        rows, stats = self._row("SELECT rows, stats FROM shards WHERE cid = ?", cid)
        return ShardFacts(rows, read_stats(libipld.decode_dag_cbor(stats)))

    def outline(self, cid: bytes) -> bytes:
        """Chunk digests. Raises NotFound."""
        return self._row("SELECT outline FROM shards WHERE cid = ?", cid)[0]

    def _row(self, query: str, cid: bytes) -> tuple:
        row = self._database.execute(query, (cid,)).fetchone()
        if row is None:
            raise NotFound("the shard is not here any more")
        return row
