"""A SQL worker: one forked process that shuts itself in and then answers one request after the other.

It ends when the node goes, when its zygote goes (the kernel sees to that), and when DuckDB reports that its state is
no longer sound. It never retries and keeps nothing between runs but a warm connection.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from p2pnode.core.model import Column
from p2pnode.errors import P2PNodeError, QueryError
from p2pnode.query.engine import Engine, connect
from p2pnode.query.fence import Limits, allow_cpu_seconds, shut_in
from p2pnode.query.frames import Nonsense, WorkerChannel
from p2pnode.query.streams import gathered, pieces_of, send_stream
from p2pnode.query.tables import columns_from, table_from

_PR_SET_PDEATHSIG = 1
#: Threads that a run's processor time is granted for, and seconds beyond its deadline (see `allow_cpu_seconds`).
_CPU_THREADS, _CPU_GRACE_S = 8, 5.0
_OUT_OF_MEMORY = {
    "code": QueryError.code,
    "message": "Out of memory.",
    "advice": "Ask for fewer rows or columns, or raise query_memory_bytes.",
}


def main(sock: socket.socket, zygote_pid: int) -> None:
    """The whole life of a freshly forked worker. Returns when there is nothing more to do."""
    _leave_the_past(sock.fileno(), zygote_pid)
    channel = WorkerChannel(sock)
    received = channel.receive()
    if received is None:
        return
    setup = received[0]
    limits = Limits(Path(setup["shard_dir"]), Path(setup["spill_dir"]), setup["memory_bytes"], setup["spill_bytes"])
    try:
        connection = connect()
        shut_in(limits)
        engine = Engine(connection, limits)
    except (OSError, duckdb.Error) as error:
        channel.send({"kind": "error", "message": str(error)})
        return
    channel.send({"kind": "ready"})
    _answer_all(channel, engine)


def _leave_the_past(keep: int, zygote_pid: int) -> None:
    """Nothing of the zygote's or the node's stays open, readable or inherited."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != zygote_pid:
        raise SystemExit  # it died before the signal was asked for
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    os.closerange(3, keep)
    os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.chdir("/")


def _answer_all(channel: WorkerChannel, engine: Engine) -> None:
    spools: list[int] = []
    while (received := channel.receive()) is not None:
        head, body, descriptors = received
        if head["kind"] == "spool":
            spools += descriptors
        elif head["kind"] == "run":
            _answer_run(channel, engine, head, body, spools)
            spools = []
            engine.forget()
            gc.collect()
        else:
            raise Nonsense(f"a frame of kind {head['kind']!r}")


def _answer_run(
    channel: WorkerChannel, engine: Engine, head: dict[str, Any], body: memoryview, spools: list[int]
) -> None:
    begun = time.monotonic()
    allow_cpu_seconds(head["timeout_ms"] / 1000 * _CPU_THREADS + _CPU_GRACE_S)
    try:
        tables = [table_from(document) for document in head["tables"]]
        parts = engine.run(
            head["sql"],
            tables,
            _relations(head["relations"], body, spools),
            exact_types=head["exact_types"],
            timeout_ms=head["timeout_ms"],
        )
        rows = send_stream(parts, lambda piece: channel.send({"kind": "data"}, piece))
        scanned = engine.bytes_scanned(tables)
    except P2PNodeError as error:
        channel.send({"kind": "error", "code": error.code, "message": error.message, "advice": error.advice})
    except MemoryError:
        # Whatever could not be allocated, something is half done: the node replaces this process.
        channel.send({"kind": "error", **_OUT_OF_MEMORY, "sound": False})
    else:
        elapsed_ms = (time.monotonic() - begun) * 1000
        channel.send({"kind": "done", "rows": rows, "bytes_scanned": scanned, "elapsed_ms": elapsed_ms})


def _relations(
    documents: list[dict[str, Any]], body: memoryview, spools: list[int]
) -> dict[str, pa.Table | tuple[Column, ...]]:
    """Each relation's rows, or the declared columns of one that has no piece at all."""
    sizes = [size for document in documents for size in document["pieces"]]
    pieces = iter(pieces_of(sizes, body, spools))
    return {
        document["name"]: gathered([next(pieces) for _ in document["pieces"]])
        if document["pieces"]
        else columns_from(document["columns"])
        for document in documents
    }
