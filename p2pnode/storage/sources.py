"""Anything that people call data, as one stream of Arrow batches with one schema.

pandas, polars, Arrow tables, readers and datasets, lists of dicts, files and globs all become a `Source`: its
plain schema, and batches small enough to hold a few of. Nothing is read into memory that can be streamed, and
pandas and polars are never imported here: who has such an object has the library. Everything blocks; callers
go through the executor. This file refuses data without a column or that fits no schema, and names the column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from p2pnode.core.schema import check_names, conform, missing_columns, plain_schema
from p2pnode.errors import EmptyData, SchemaMismatch, UsageError
from p2pnode.storage.tabular_files import Part, open_files

#: Rows and bytes of one batch: enough to amortise a call, little enough that a few of them are nothing.
BATCH_ROWS = 65_536
BATCH_BYTES = 16 << 20

_ACCEPTED = (
    "Give a pandas or polars frame, an Arrow table, reader or dataset, a list of dicts, "
    "or paths to Parquet, CSV, Arrow, Feather or JSONL files."
)


@dataclass(frozen=True, slots=True)
class Source:
    """Data that is ready to be read once. `rows` is None when only reading will tell."""

    schema: pa.Schema
    rows: int | None
    #: Declared columns that the data lacks; they read as NULL.
    missing: tuple[str, ...]
    _parts: tuple[Part, ...]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, in order, in batches of at most BATCH_ROWS and about BATCH_BYTES, each of exactly
        `schema`.
        """
        for part in self._parts:
            for batch in part.batches():
                for piece in _sliced(batch):
                    yield conform(piece, self.schema)


def open_source(data: Any, declared: pa.Schema | None = None) -> Source:
    """Look at `data` (not read it, as far as its kind allows) and fit it to `declared`, if a schema was
    declared.

    Raises UsageError for what is no data or no readable file, SchemaMismatch naming the column that does not
    fit, EmptyData for no rows or columns where that can be seen without reading.
    """
    parts = _parts_of(data)
    rows = None if any(part.rows is None for part in parts) else sum(part.rows or 0 for part in parts)
    if not parts or rows == 0:
        raise EmptyData("the data has no rows")
    if not any(part.schema.names for part in parts):
        raise EmptyData("the data has no columns")
    for part in parts:
        check_names(part.schema.names)
    if declared is None:
        return Source(_union([part.schema for part in parts]), rows, (), parts)
    missing = {name for part in parts for name in missing_columns(part.schema, declared)}
    return Source(declared, rows, tuple(name for name in declared.names if name in missing), parts)


def _parts_of(data: Any) -> tuple[Part, ...]:
    library = type(data).__module__.split(".")[0]
    if isinstance(data, pa.RecordBatchReader):
        return (Part(data.schema, None, lambda: data),)
    if library == "pyarrow" and hasattr(data, "count_rows"):  # a dataset; its module loads pandas
        return (Part(data.schema, data.count_rows(), lambda: data.to_batches(batch_size=BATCH_ROWS)),)
    if isinstance(data, pa.RecordBatch):
        return (Part(data.schema, data.num_rows, lambda: [data]),)
    if isinstance(data, (str, Path)):
        return open_files([data])
    if library == "polars" and hasattr(data, "collect"):
        data = data.collect()
    if library == "pandas" and hasattr(data, "columns"):
        data = _from_pandas(data)
    elif not isinstance(data, pa.Table) and hasattr(data, "__arrow_c_stream__"):
        data = pa.table(data)
    if isinstance(data, pa.Table):
        return (Part(data.schema, data.num_rows, data.to_batches),)
    if isinstance(data, Sequence) and not isinstance(data, (bytes, bytearray, memoryview)):
        if not data:
            raise EmptyData("the data has no rows")
        if all(isinstance(item, (str, Path)) for item in data):
            return open_files(data)
        if all(isinstance(item, Mapping) for item in data):
            table = _from_rows(data)
            return (Part(table.schema, table.num_rows, table.to_batches),)
    raise UsageError(f"{type(data).__module__}.{type(data).__qualname__} is no data", advice=_ACCEPTED)


def _from_pandas(frame: Any) -> pa.Table:
    """A named index is data; an unnamed one only numbers the rows."""
    named = all(name is not None for name in frame.index.names)
    try:
        return pa.Table.from_pandas(frame, preserve_index=named).replace_schema_metadata(None)
    except (pa.ArrowException, ValueError, TypeError) as wrong:
        raise SchemaMismatch(f"the frame does not become Arrow columns: {_first_line(wrong)}") from None


def _from_rows(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Columns in the order in which they first appear; a row that lacks one has NULL there."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = []
    for name in names:
        if not isinstance(name, str):
            raise UsageError(f"column name {name!r} is no text")
        try:
            columns.append(pa.array([row.get(name) for row in rows]))
        except (pa.ArrowException, OverflowError, ValueError, TypeError) as wrong:
            raise SchemaMismatch(f"column {name!r} mixes types: {_first_line(wrong)}") from None
    if not names:
        raise EmptyData("the data has no columns")
    return pa.Table.from_arrays(columns, names=names)


def _union(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """One schema for several files: columns by name, numbers widened, every column may be NULL."""
    try:
        whole = pa.unify_schemas(list(schemas), promote_options="permissive")
    except pa.ArrowException:
        # Files of different libraries: text is stored in one way first, then they are joined again.
        try:
            plain = [_plain_but_null(schema) for schema in schemas]
            whole = pa.unify_schemas(plain, promote_options="permissive")
        except pa.ArrowException as wrong:
            raise SchemaMismatch(f"the files do not share a schema: {_first_line(wrong)}") from None
    return pa.schema([column.with_nullable(True) for column in plain_schema(whole)])


def _plain_but_null(schema: pa.Schema) -> pa.Schema:
    """Columns of nothing but NULL keep that type here, so that any other file decides."""
    return pa.schema(
        [column if pa.types.is_null(column.type) else plain_schema(pa.schema([column]))[0] for column in schema]
    )


def _sliced(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    if not batch.num_rows:
        return
    bytes_a_row = max(1, batch.nbytes // batch.num_rows)
    step = max(1, min(BATCH_ROWS, BATCH_BYTES // bytes_a_row))
    for start in range(0, batch.num_rows, step):
        yield batch.slice(start, step)


def _first_line(wrong: BaseException) -> str:
    lines = [str(argument) for argument in wrong.args if argument]
    return "; ".join(lines).splitlines()[0] if lines else type(wrong).__name__
