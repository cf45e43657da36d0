"""What a statement reads and what a run tells: the values that travel between the node and its SQL workers.

Plain data, known on both sides of the process boundary; neither trio nor DuckDB may be imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from p2pnode.core.model import Column
from p2pnode.errors import P2PNodeError

if TYPE_CHECKING:
    from p2pnode.query.spool import Spool


@dataclass(frozen=True, slots=True)
class LocalTable:
    """A table as the statement names it: the rows of these shard files, one after the other.

    `files` lie under the runner's shard directory; a file that is named twice counts twice. `columns` are those the
    statement may see: a file that lacks one shows NULL of its type, other columns of the file do not exist. Without
    columns only the rows can be counted. `format` is "parquet" or "arrow".
    """

    name: str
    files: tuple[Path, ...]
    columns: tuple[Column, ...]
    format: str = "parquet"


@dataclass(frozen=True, slots=True)
class Relation:
    """A table that was gathered: each piece holds one whole Arrow IPC stream, and all have the same columns.

    `columns` are only needed where there may be no piece at all: then the relation is empty and has these.
    """

    name: str
    pieces: Sequence[Spool]
    columns: tuple[Column, ...] = ()


@dataclass(frozen=True, slots=True)
class RunStats:
    """What a finished run counted.

    `bytes_scanned` is the compressed size of the column chunks that the tables' columns occupy in their Parquet
    files, footers included (whole files for Arrow): an upper bound, as row groups that statistics skipped are in it.
    """

    rows: int
    bytes_scanned: int
    elapsed_ms: float


class WorkerDied(P2PNodeError):
    """The process that ran the statement ended before its answer: killed by the system, or by a fault in it."""

    code: ClassVar[str] = "worker_died"
    retryable: ClassVar[bool] = True
    http_status: ClassVar[int] = 503
    default_advice: ClassVar[str] = "Try again; a statement that does this again needs more memory than a worker has."


def table_document(table: LocalTable) -> dict[str, Any]:
    """The form in which a table crosses to the worker."""
    return {
        "name": table.name,
        "files": [str(file) for file in table.files],
        "columns": [[column.name, column.type] for column in table.columns],
        "format": table.format,
    }


def table_from(document: dict[str, Any]) -> LocalTable:
    """The inverse of `table_document`."""
    return LocalTable(
        document["name"],
        tuple(Path(file) for file in document["files"]),
        columns_from(document["columns"]),
        document["format"],
    )


def columns_from(pairs: list[list[str]]) -> tuple[Column, ...]:
    """Columns from their (name, type) pairs."""
    return tuple(Column(name, kind) for name, kind in pairs)
