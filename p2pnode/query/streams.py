"""Arrow IPC streams in and out of a worker, without copying what can stay where it is.

What comes in was written by other peers: it is validated in full before DuckDB sees it.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa

from p2pnode.errors import IntegrityError
from p2pnode.query.frames import IN_FILE, PIECE_BYTES_GOOD, PIECE_BYTES_MAX


def pieces_of(sizes: Sequence[int], body: memoryview, files: Sequence[int]) -> list[memoryview]:
    """The streams of one request: `sizes` inline ones cut from `body`, IN_FILE ones mapped from `files` and closed."""
    pieces: list[memoryview] = []
    position, remaining = 0, iter(files)
    for size in sizes:
        if size == IN_FILE:
            file = next(remaining)
            pieces.append(memoryview(mmap.mmap(file, 0, prot=mmap.PROT_READ)))
            os.close(file)
        else:
            pieces.append(body[position : position + size])
            position += size
    return pieces


def gathered(pieces: Sequence[memoryview]) -> pa.Table:
    """Several whole streams as one table. Raises IntegrityError for bytes that are not, or for columns that differ."""
    try:
        tables = [pa.ipc.open_stream(pa.py_buffer(piece)).read_all() for piece in pieces]
        for table in tables:
            table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"A holder's answer is not an Arrow stream: {error}") from None
    first = tables[0].schema
    for table in tables[1:]:
        if table.schema.names != first.names or table.schema.types != first.types:
            raise IntegrityError(f"Two holders' answers differ in their columns: {first.names}, {table.schema.names}")
    # One schema for all: nullability and metadata may differ between holders, and neither matters here.
    same = pa.schema([pa.field(field.name, field.type, metadata=field.metadata) for field in first])
    return pa.concat_tables(pa.Table.from_arrays(table.columns, schema=same) for table in tables).unify_dictionaries()


def send_stream(parts: Iterator[pa.Schema | pa.RecordBatch], send: Callable[[list[memoryview]], None]) -> int:
    """Write a schema and its batches as one IPC stream, handed to `send` piece by piece; the number of rows."""
    schema = next(parts)
    assert isinstance(schema, pa.Schema)
    rows = 0
    sink = _Pieces(send)
    with pa.ipc.new_stream(pa.PythonFile(sink, "w"), schema) as writer:
        for batch in parts:
            assert isinstance(batch, pa.RecordBatch)
            rows += batch.num_rows
            writer.write_batch(batch)
            if sink.gathered_bytes >= PIECE_BYTES_GOOD:
                sink.flush_pieces()
    sink.flush_pieces()
    return rows


class _Pieces:
    """The file that Arrow writes to: it keeps references to Arrow's own buffers until a piece is worth sending."""

    closed = False

    def __init__(self, send: Callable[[list[memoryview]], None]) -> None:
        self._send = send
        self._buffers: list[memoryview] = []
        self.gathered_bytes = 0

    def write(self, data: bytes | pa.Buffer) -> int:
        view = memoryview(data).cast("B")
        self._buffers.append(view)
        self.gathered_bytes += len(view)
        return len(view)

    def flush(self) -> None:
        """Arrow flushes whenever it likes; pieces go when they are worth it."""

    def flush_pieces(self) -> None:
        """Send everything gathered, in pieces of at most PIECE_BYTES_MAX."""
        piece: list[memoryview] = []
        room = PIECE_BYTES_MAX
        for view in self._buffers:
            while len(view) > room:
                self._send([*piece, view[:room]])
                piece, view, room = [], view[room:], PIECE_BYTES_MAX
            if len(view):
                piece.append(view)
                room -= len(view)
        if piece:
            self._send(piece)
        self._buffers, self.gathered_bytes = [], 0
