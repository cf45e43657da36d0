"""A fixed number of SQL workers, used again and again, with a bounded queue before them.

A worker comes back clean or not at all: whoever leaves a run before its end leaves a worker that is killed, and the
next one in its slot is forked when it is needed (a few ten milliseconds). No background task watches anything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from p2pnode.env import Env
from p2pnode.env.shield import shielded
from p2pnode.errors import Busy
from p2pnode.query.fence import Limits
from p2pnode.query.launcher import FORK_TIMEOUT_S, Worker, Zygote
from p2pnode.query.tables import WorkerDied

#: Runs that one worker serves: bounds whatever a library leaks, and costs a quarter of a millisecond each.
RUNS_MAX = 200
#: Runs that wait for a worker; more would only time out in the queue.
WAITING_MAX = 64
#: What a run is told to wait when the queue is full: a typical statement's time times the queue.
RETRY_AFTER_S = 1.0


@dataclass(slots=True)
class _Slot:
    """A place for one worker, with its own spill directory."""

    spill_dir: Path
    worker: Worker | None = None


class Pool:
    """See the module. `limits.spill_dir` is the parent of the slots' own directories."""

    def __init__(self, env: Env, limits: Limits, workers: int) -> None:
        self._env = env
        self._limits = limits
        self._zygote = Zygote()
        self._slots = tuple(_Slot(limits.spill_dir / f"worker-{number}") for number in range(workers))
        self._free = list(self._slots)
        self._turns = trio.Semaphore(workers)

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[Worker]:
        """A worker for one run, kept afterwards if it is idle again. Raises Busy, WorkerDied."""
        if self._turns.statistics().tasks_waiting >= WAITING_MAX:
            raise Busy(f"{WAITING_MAX} statements wait for a SQL worker.", retry_after_s=RETRY_AFTER_S)
        async with self._turns:
            slot = self._free.pop()
            try:
                worker = await self._ready(slot)
                worker.runs += 1
                yield worker
            finally:
                if slot.worker is not None and not slot.worker.idle:
                    slot.worker.kill()
                self._free.append(slot)

    async def close(self) -> None:
        """Kill every worker, end the zygote, and leave when the last process has gone."""
        with shielded():
            for slot in self._slots:
                if slot.worker is not None:
                    slot.worker.kill()
            for slot in self._slots:
                await self._bury(slot)
            await self._zygote.close()

    async def _ready(self, slot: _Slot) -> Worker:
        worker = slot.worker
        if worker is not None and worker.idle and worker.runs < RUNS_MAX and not worker.ended():
            return worker
        await self._bury(slot)
        await self._env.executor.run(self._empty, slot.spill_dir)
        worker = slot.worker = await self._zygote.fork()
        with trio.move_on_after(FORK_TIMEOUT_S) as scope:
            await worker.send(
                {
                    "kind": "setup",
                    "shard_dir": str(self._limits.shard_dir),
                    "spill_dir": str(slot.spill_dir),
                    "memory_bytes": self._limits.memory_bytes,
                    "spill_bytes": self._limits.spill_bytes,
                }
            )
            head, _body = await worker.receive()
            if head["kind"] != "ready":
                raise WorkerDied(f"The SQL worker could not shut itself in: {head.get('message')}.")
        if scope.cancelled_caught:
            raise WorkerDied("The SQL worker did not become ready.")
        worker.idle = True
        return worker

    async def _bury(self, slot: _Slot) -> None:
        """End the slot's worker, if there is one, and wait until it has let go of its spill directory."""
        worker, slot.worker = slot.worker, None
        if worker is not None:
            worker.kill()
            await worker.gone()

    def _empty(self, spill_dir: Path) -> None:
        """A killed worker leaves its temporary files behind."""
        disk = self._env.disk
        disk.make_dir(spill_dir)
        for file in disk.scan(spill_dir):
            disk.unlink(file)
