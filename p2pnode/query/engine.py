"""DuckDB inside the fence: settings locked once, then shards as views and answers as Arrow, run after run.

A connection takes 18 ms and a run 1 ms, so one connection serves them all. After `lock_configuration` views can still
be made, and with external access off they read below `allowed_directories` only; that setting would also let a
statement write there, which is why `admit` stands before it and Landlock behind it.

DuckDB scans Parquet itself (handing it Arrow costs five times as much). `read_parquet(schema = …)` gives every file the
declared columns by name, NULL where a file lacks one, without opening all files first as union_by_name does.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute
import pyarrow.dataset
import pyarrow.parquet as pq

from p2pnode.core.model import Column
from p2pnode.errors import IntegrityError, P2PNodeError, QueryError, SqlRefused, Timeout
from p2pnode.query.admit import admit
from p2pnode.query.fence import Limits
from p2pnode.query.tables import LocalTable

#: Rows that DuckDB hands over at once: enough that a batch costs nothing, few enough to start early.
BATCH_ROWS = 32_768
#: Threads of one statement: beyond four a shard-sized scan gains little and the neighbours lose.
THREADS_MAX = 4
#: (file, columns) pairs whose sizes are remembered; a shard never changes under its name.
SIZES_MAX = 4096


def connect() -> duckdb.DuckDBPyConnection:
    """An empty database without a thread beside this one, so that a fence can still close around all of it.

    Inside the fence it would be too late: DuckDB ends the process when it may not open its own control group's files,
    which it only does here.
    """
    return duckdb.connect(":memory:", config={"threads": "1", "async_threads": "0"})


class Engine:
    """One connection, its settings locked. Not for use before the fence is up."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, limits: Limits) -> None:
        self._shard_dir = str(limits.shard_dir)
        self._connection = connection
        self._views: list[str] = []
        self._registered: list[str] = []
        self._exact_types = False
        pa.set_cpu_count(1)
        pa.set_io_thread_count(1)
        for setting in _settings(limits):
            self._connection.execute(f"SET {setting}")

    def run(
        self,
        sql: str,
        tables: Sequence[LocalTable],
        relations: Mapping[str, pa.Table | tuple[Column, ...]],
        *,
        exact_types: bool,
        timeout_ms: int,
    ) -> Iterator[pa.Schema | pa.RecordBatch]:
        """The schema of the answer, then its batches as they are made.

        A relation is its rows, or the columns of one that has none. `exact_types` keeps types that Arrow lacks
        (HUGEINT, UUID, BIT, TIMETZ) as extension types that DuckDB reads back. Raises SqlRefused, QueryError,
        IntegrityError, Timeout, each without this machine's paths.
        """
        try:
            admit(self._tree(sql), [*(table.name for table in tables), *relations])
            for table in tables:
                self._bind(table)
            for name, rows in relations.items():
                if isinstance(rows, pa.Table):
                    self._register(name, rows)
                else:
                    self._view(name, self._checked(f"SELECT {_casts(rows, {})} WHERE false"))
            if exact_types != self._exact_types:
                self._connection.execute(f"SET arrow_lossless_conversion = {exact_types}")
                self._exact_types = exact_types
            self._connection.execute(f"SET max_execution_time = {max(1, timeout_ms)}")
            reader = self._connection.sql(sql).to_arrow_reader(BATCH_ROWS)
            yield reader.schema
            yield from reader
        except (duckdb.Error, pa.ArrowException, RuntimeError, OSError) as error:
            raise self._explained(error) from None

    def forget(self) -> None:
        """Let go of what the last run saw."""
        for name in self._views:
            self._connection.execute(f"DROP VIEW IF EXISTS {_identifier(name)}")
        for name in self._registered:
            self._connection.unregister(name)
        self._views, self._registered = [], []

    def bytes_scanned(self, tables: Sequence[LocalTable]) -> int:
        """See `RunStats.bytes_scanned`. Raises IntegrityError for a file that is not what it should be."""
        try:
            return sum(
                _parquet_bytes(file, table.columns) if table.format == "parquet" else os.stat(file).st_size
                for table in tables
                for file in table.files
            )
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from None

    def _tree(self, sql: str) -> dict[str, Any]:
        """The statement as DuckDB parses it."""
        rows = self._connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
        tree = json.loads(rows[0][0])
        if tree.get("error_type") == "parser":
            raise QueryError(str(tree.get("error_message")))
        return tree

    def _checked(self, source: str, *tables: str) -> str:
        """A view's SELECT into which a declared type went as text: it may read `tables` and nothing else."""
        admit(self._tree(source), tables)
        return source

    def _bind(self, table: LocalTable) -> None:
        if not table.files:
            source = self._checked(f"SELECT {_casts(table.columns, {})} WHERE false")
        elif table.format == "parquet":
            source = _parquet_source(table)
        else:
            hidden = f"rows of {table.name}"
            try:
                rows = pa.concat_tables(map(_arrow_rows, table.files), promote_options="permissive")
            except (pa.ArrowException, OSError) as error:
                raise self._unreadable(error) from None
            self._register(hidden, rows)
            present = {name.casefold(): name for name in rows.schema.names}
            source = self._checked(f"SELECT {_casts(table.columns, present)} FROM {_identifier(hidden)}", hidden)
        self._view(table.name, source)

    def _view(self, name: str, source: str) -> None:
        self._views.append(name)
        self._connection.execute(f"CREATE OR REPLACE TEMP VIEW {_identifier(name)} AS {source}")

    def _register(self, name: str, rows: pa.Table) -> None:
        self._registered.append(name)
        self._connection.register(name, rows)

    def _explained(self, error: Exception) -> P2PNodeError:
        """A failure of DuckDB's as one of ours: whose fault it is, and nothing about this machine."""
        if self._shard_dir in str(error):
            return self._unreadable(error)
        # DuckDB cites the statement that ran here, which nobody wrote so.
        text = str(error).partition("\n\nLINE ")[0]
        if isinstance(error, duckdb.InterruptException) or "INTERRUPT" in text:
            return Timeout("The statement did not end in time.")
        if isinstance(error, duckdb.OutOfMemoryException) or "Out of Memory" in text:
            text = text.partition("\n\nPossible solution")[0]  # they are about settings that nobody may change here
            return QueryError(text, advice="Ask for fewer rows or columns, or raise query_memory_bytes.")
        if isinstance(error, duckdb.PermissionException):
            return SqlRefused(text)
        return QueryError(text)

    def _unreadable(self, error: Exception) -> IntegrityError:
        text = str(error).replace(f"{self._shard_dir}{os.sep}", "").replace(self._shard_dir, "")
        return IntegrityError(f"A shard cannot be read: {text}")


def _settings(limits: Limits) -> list[str]:
    """In an order that works: what must be set while access is still on, then access off, then the lock."""
    return [
        # All holders must understand a time alike, wherever they stand.
        "TimeZone = 'UTC'",
        f"threads = {min(os.cpu_count() or 1, THREADS_MAX)}",
        f"memory_limit = '{limits.memory_bytes}B'",
        f"temp_directory = {_text(str(limits.spill_dir))}",
        f"max_temp_directory_size = '{limits.spill_bytes}B'",
        "parquet_metadata_cache = true",
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "allow_community_extensions = false",
        "allow_extension_repositories = 'forbidden'",
        "allow_persistent_secrets = false",
        "python_enable_replacements = false",
        f"allowed_directories = [{_text(str(limits.shard_dir))}]",
        # What differs from run to run; a statement cannot set it, being a SELECT.
        "allowed_configs = ['arrow_lossless_conversion', 'max_execution_time']",
        "enable_external_access = false",
        "lock_configuration = true",
    ]


def _parquet_source(table: LocalTable) -> str:
    files = ", ".join(_text(str(file)) for file in table.files)
    if not table.columns:
        return f"SELECT {_casts((), {})} FROM read_parquet([{files}])"
    schema = ", ".join(
        f"{_text(column.name)}: {{name: {_text(column.name)}, type: {_text(column.type)}, default_value: NULL}}"
        for column in table.columns
    )
    names = ", ".join(_identifier(column.name) for column in table.columns)
    return f"SELECT {names} FROM read_parquet([{files}], schema = MAP {{{schema}}})"


def _casts(columns: Sequence[Column], present: Mapping[str, str]) -> str:
    """A select list that gives `columns` their types, from the column `present` has under that name or from NULL."""
    if not columns:
        return "true AS row"
    return ", ".join(
        f"CAST({_identifier(present[name]) if (name := column.name.casefold()) in present else 'NULL'}"
        f" AS {column.type}) AS {_identifier(column.name)}"
        for column in columns
    )


def _arrow_rows(file: Path) -> pa.Table:
    """An Arrow IPC file, mapped: its pages are read when a scan touches them."""
    rows = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
    rows.validate()
    return rows


@functools.lru_cache(SIZES_MAX)
def _parquet_bytes(file: Path, columns: tuple[Column, ...]) -> int:
    """Footer and column chunks that these columns occupy."""
    footer = pq.read_metadata(file)
    total = footer.serialized_size
    for group in map(footer.row_group, range(footer.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            path = chunk.path_in_schema
            # A nested column's leaves are named after it: points.list.element.
            if any(path == column.name or path.startswith(f"{column.name}.") for column in columns):
                total += chunk.total_compressed_size
    return total


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
