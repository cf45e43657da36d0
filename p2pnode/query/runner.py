"""What the services call: run one SELECT over local shard files and gathered answers.

    async with SqlRunner(env, shard_dir, spill_dir, memory_bytes=512 << 20, workers=2, timeout_s=60.0) as runner:
        async with runner.run("SELECT count(*) FROM flights", tables=[LocalTable("flights", files, columns)]) as run:
            async for piece in run.batches():  # one Arrow IPC stream
                ...
        run.stats

A statement runs in another process, behind `fence`; what it does there, however badly, ends at its deadline and costs
that process at most. The runner decides nothing about SQL: the planner wrote the statement, `admit` checks it again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trio

from p2pnode.env import Env
from p2pnode.errors import P2PNodeError, SqlRefused, Timeout, from_wire
from p2pnode.query.fence import Limits, fence_available
from p2pnode.query.frames import IN_FILE
from p2pnode.query.launcher import Worker
from p2pnode.query.pool import Pool
from p2pnode.query.spool import SPOOL_PREFIX, Spool
from p2pnode.query.tables import LocalTable, Relation, RunStats, WorkerDied, table_document

#: From the deadline, when DuckDB stops by itself if it can, to the kill that needs nobody's consent.
KILL_GRACE_S = 0.5
#: Disk that one worker's statements may spill to, in multiples of its memory.
SPILL_PER_MEMORY = 16


class Run:
    """One statement under way. `stats` is set once `batches` has ended."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.stats: RunStats | None = None

    async def batches(self) -> AsyncIterator[bytes]:
        """The answer as one Arrow IPC stream, in pieces of 1 byte to PIECE_BYTES_MAX.

        Raises QueryError, SqlRefused, IntegrityError (a shard or a gathered answer is damaged), Timeout, WorkerDied.
        """
        while self.stats is None:
            head, body = await self._worker.receive()
            if head["kind"] == "data":
                yield body
                continue
            if head["kind"] != "done":
                raise _failure(self._worker, head)
            self._worker.idle = True
            self.stats = RunStats(head["rows"], head["bytes_scanned"], head["elapsed_ms"])


class SqlRunner:
    """See the module. Sizes in bytes and per worker, times in seconds; one statement runs in a worker at a time."""

    def __init__(
        self,
        env: Env,
        shard_dir: Path,
        spill_dir: Path,
        *,
        memory_bytes: int,
        workers: int,
        timeout_s: float,
        allow_unfenced: bool = False,
    ) -> None:
        self._env = env
        self._spill_dir = spill_dir.absolute()
        self._timeout_s = timeout_s
        self._allow_unfenced = allow_unfenced
        self.fence = fence_available()
        limits = Limits(shard_dir.absolute(), self._spill_dir, memory_bytes, memory_bytes * SPILL_PER_MEMORY)
        self._pool = Pool(env, limits, workers)

    async def __aenter__(self) -> Self:
        await self._env.executor.run(self._prepare_directories)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._pool.close()

    def spool(self) -> Spool:
        """Where one holder's answer is gathered before it becomes a piece of a `Relation`; the caller closes it."""
        return Spool(self._env, self._spill_dir)

    async def warm(self) -> None:
        """Start the first worker now rather than with the first statement."""
        async with self._pool.worker():
            pass

    @asynccontextmanager
    async def run(
        self,
        sql: str,
        tables: Sequence[LocalTable] = (),
        relations: Sequence[Relation] = (),
        *,
        timeout_s: float | None = None,
        exact_types: bool = False,
        own: bool = False,
    ) -> AsyncIterator[Run]:
        """Run one SELECT. Whoever leaves the context before the answer's end stops it.

        The deadline holds for the whole context, waiting for a worker and for the reader included. `exact_types` is
        for answers that DuckDB will read again: types that Arrow lacks (HUGEINT, UUID, BIT, TIMETZ) travel as extension
        types. `own` says that this node's user asks, not another peer: only then may a statement run without a fence.
        Raises Busy, Timeout, SqlRefused, WorkerDied, and what `Run.batches` raises.
        """
        if not (self.fence.ok or own or self._allow_unfenced):
            raise SqlRefused(
                f"This node cannot fence SQL from other peers: {self.fence.detail}.",
                advice="Use a Linux kernel with Landlock, or set allow_unfenced_sql if every peer is trusted.",
            )
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        deadline = self._env.clock.now() + limit_s
        with trio.move_on_after(limit_s + KILL_GRACE_S) as scope:
            async with self._pool.worker() as worker:
                worker.idle = False
                left_ms = int((deadline - self._env.clock.now()) * 1000)
                await _ask(worker, sql, tables, relations, left_ms, exact_types)
                yield Run(worker)
        if scope.cancelled_caught:
            raise Timeout(f"The statement did not end within {limit_s:g} s.")

    def _prepare_directories(self) -> None:
        disk = self._env.disk
        disk.make_dir(self._spill_dir)
        for file in disk.scan(self._spill_dir):
            if file.name.startswith(SPOOL_PREFIX):
                disk.unlink(file)  # the node died between making it and unlinking it


async def _ask(
    worker: Worker,
    sql: str,
    tables: Sequence[LocalTable],
    relations: Sequence[Relation],
    timeout_ms: int,
    exact_types: bool,
) -> None:
    documents: list[dict[str, Any]] = []
    body: list[bytearray] = []
    for relation in relations:
        sizes: list[int] = []
        for spool in relation.pieces:
            file = await spool.in_file()
            if file is None:
                body.append(spool.in_memory())
                sizes.append(spool.bytes)
            else:
                await worker.send_descriptor(file)
                sizes.append(IN_FILE)
        columns = [[column.name, column.type] for column in relation.columns]
        documents.append({"name": relation.name, "pieces": sizes, "columns": columns})
    head = {
        "kind": "run",
        "sql": sql,
        "tables": [table_document(table) for table in tables],
        "relations": documents,
        "timeout_ms": timeout_ms,
        "exact_types": exact_types,
    }
    await worker.send(head, body)


def _failure(worker: Worker, head: dict[str, Any]) -> P2PNodeError:
    """What a worker's last frame says went wrong."""
    if head["kind"] != "error":
        return WorkerDied(f"The SQL worker answered {head['kind']!r}.")
    worker.idle = head.get("sound", True)
    return from_wire(str(head["code"]), str(head["message"]), {"advice": str(head["advice"])})
