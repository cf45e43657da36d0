"""The query protocol's deed at a holder: run one fragment of SQL over the shards that lie here.

The SQL of a fragment comes from a stranger, even when the stranger is a member: the fenced process reads it with
DuckDB's own parser and admits one SELECT over the given tables (`query.admit`). A shard that is not here refuses the
whole fragment by name, so that the asker can route it elsewhere: a fragment's answer is complete or it is an error.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import trio

from p2pnode.core.cid import cid_text
from p2pnode.core.model import Column
from p2pnode.errors import Busy, ShardUnavailable
from p2pnode.net.exchange import Exchange
from p2pnode.net.guard import Handler
from p2pnode.query.runner import Run as FragmentRun
from p2pnode.query.runner import SqlRunner
from p2pnode.query.tables import LocalTable
from p2pnode.storage.shard_store import ShardStore
from protocols.message import Message
from protocols.query import Batch, Done, FragmentTable, Run

#: Fragments that wait behind the running ones; beyond it the asker is told to go elsewhere.
FRAGMENTS_WAITING_MAX = 32
#: Seconds that a peer's fragment may run, whatever it asks for: nobody holds a SQL worker for ever.
FRAGMENT_S_MAX = 3600.0
#: Seconds that a full holder asks to be left alone.
RETRY_AFTER_S = 0.5


class FragmentService:
    """Runs fragments for peers and, without the wire between, for this node's own queries."""

    def __init__(self, store: ShardStore, runner: SqlRunner, *, queries_max: int) -> None:
        self._store = store
        self._runner = runner
        self._limit = trio.CapacityLimiter(queries_max)

    def handlers(self) -> Mapping[type[Message], Handler]:
        """For the guard to serve QUERY with."""
        return {Run: self._on_run}

    async def _on_run(self, peer_id: str, request: Message, exchange: Exchange) -> None:
        assert isinstance(request, Run)
        async with self.run(request.sql, request.tables, min(request.timeout_ms / 1000, FRAGMENT_S_MAX)) as run:
            async for piece in run.batches():
                await exchange.send(Batch(), piece)
        await exchange.send(done_of(run, request))

    @asynccontextmanager
    async def run(
        self, sql: str, tables: Sequence[FragmentTable], timeout_s: float, *, own: bool = False
    ) -> AsyncIterator[FragmentRun]:
        """The running fragment; leaving early stops it. `own`: this node's user asks, not a peer.

        Raises:
            SqlRefused: the SQL is not one SELECT inside the fence.
            ShardUnavailable: names the shards that are not here.
            Busy: too many fragments wait already.
        """
        local = await self._bind(tables)
        if self._limit.statistics().tasks_waiting >= FRAGMENTS_WAITING_MAX:
            raise Busy("This holder runs as many queries as it may.", retry_after_s=RETRY_AFTER_S)
        async with (
            self._limit,
            self._runner.run(sql, local, timeout_s=timeout_s, exact_types=True, own=own) as run,
        ):
            yield run

    async def _bind(self, tables: Sequence[FragmentTable]) -> list[LocalTable]:
        """The files behind each table; all of them or an error that names the missing ones."""
        wanted = dict.fromkeys(cid for table in tables for cid in table.cids)
        paths = await self._store.sound_paths(wanted)
        missing = [cid_text(cid) for cid in wanted if cid not in paths]
        bound: list[LocalTable] = []
        for table in tables:
            files = [paths[cid] for cid in table.cids if cid in paths]
            columns = tuple(Column(name, kind) for name, kind in table.columns)
            bound.append(LocalTable(table.name, tuple(files), columns, table.format))
        if missing:
            raise ShardUnavailable(f"{len(missing)} shards of this fragment are not here.", missing=tuple(missing))
        return bound


def done_of(run: FragmentRun, request: Run) -> Done:
    """The last word on a finished fragment."""
    assert run.stats is not None, "a fragment is done only when its batches have ended"
    return Done(
        rows=run.stats.rows,
        shards=sum(len(table.cids) for table in request.tables),
        bytes_scanned=run.stats.bytes_scanned,
        elapsed_ms=run.stats.elapsed_ms,
    )
