"""What calls give back: a dataset, its shards, an answer.

Plain values over Arrow. A `Dataset` is what the swarm knew when it was asked for; an answer is complete in
memory and hands itself to any Arrow library (`__arrow_c_stream__`), pandas or polars.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from itertools import chain, count
from typing import TYPE_CHECKING, Any

from p2pnode.api.json import rows
from p2pnode.api.output import counted, size
from p2pnode.core.cid import cid_text
from p2pnode.core.model import DatasetRecord
from p2pnode.core.schema import schema_of_bytes
from p2pnode.errors import MissingExtra

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow as pa

    from p2pnode.services.publish import Published

#: Rows that `repr` and a notebook show of an answer.
ROWS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard and the node ids that hold it, each verified."""

    shard_id: str
    cid: str
    rows: int
    bytes: int
    holders: tuple[str, ...] = ()

    def __repr__(self) -> str:
        held = ", ".join(self.holders) or "nobody"
        return f"<Shard {self.shard_id}: {counted(self.rows, 'row')}, {size(self.bytes)}, held by {held}>"


@dataclass(slots=True)
class Dataset:
    """A dataset: its definition, and its newest version as far as it is known here.

    `version` is that version's content id (None: nothing published yet). A dataset that `create_dataset`
    returned is brought up to date by `shard_dataset`.
    """

    dataset_id: str
    name: str
    description: str = ""
    schema: pa.Schema | None = None
    version: str | None = None
    shards: list[Shard] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def __repr__(self) -> str:
        state = (
            f"{counted(self.rows, 'row')} in {counted(len(self.shards), 'shard')}"
            if self.version
            else "nothing published"
        )
        return f"<Dataset {self.name!r} ({self.dataset_id}): {state}>"


def dataset_of(record: DatasetRecord) -> Dataset:
    """A catalog record as people see it. Its shards' holders are not known from the catalog."""
    manifest = record.manifest
    schema = manifest.schema if manifest else record.schema
    return Dataset(
        dataset_id=record.dataset_id,
        name=record.name,
        description=record.description,
        schema=schema_of_bytes(schema) if schema else None,
        version=None if record.version is None else cid_text(record.version),
        shards=[
            Shard(cid_text(shard.cid), cid_text(shard.cid), shard.rows, shard.bytes)
            for shard in (manifest.shards if manifest else ())
        ],
    )


def shards_of(published: Published) -> list[Shard]:
    """The shards of a publish, each with its verified holders."""
    return [
        Shard(shard.shard_id, cid_text(shard.cid), shard.rows, shard.bytes, tuple(shard.holders))
        for shard in published.shards
    ]


class QueryResult:
    """The rows of an answer, how it was found, and how much of the data it covers (1.0: all of it)."""

    __slots__ = ("_table", "coverage", "stats")

    def __init__(self, table: pa.Table, stats: dict[str, Any], coverage: float = 1.0) -> None:
        self._table = table
        self.stats = stats
        self.coverage = coverage

    @property
    def columns(self) -> list[str]:
        return self._table.column_names

    @property
    def schema(self) -> pa.Schema:
        return self._table.schema

    def to_arrow(self) -> pa.Table:
        return self._table

    def to_pandas(self) -> pandas.DataFrame:
        """Raises `MissingExtra` when pandas is not installed."""
        _need("pandas")
        return self._table.to_pandas()

    def to_polars(self) -> polars.DataFrame:
        """Raises `MissingExtra` when polars is not installed."""
        return _need("polars").from_arrow(self._distinct())

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)

    def __len__(self) -> int:
        return self._table.num_rows

    def __bool__(self) -> bool:
        """An answer is an answer, even one without rows."""
        return True

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._distinct().to_batches():
            yield from batch.to_pylist()

    def __repr__(self) -> str:
        lines = [f"<QueryResult: {self._summary()}>"]
        if self.columns:
            shown = [[str(cell) for cell in row] for row in self._head()]
            widths = [max(map(len, column)) for column in zip(self.columns, *shown, strict=True)]
            lines += [_aligned(row, widths) for row in (self.columns, *shown)]
        if len(self) > ROWS_SHOWN:
            lines.append(f"… {len(self) - ROWS_SHOWN:,} more rows")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
        body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in self._head())
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{escape(self._summary())}</p>"

    def _head(self) -> list[list[Any]]:
        return rows(self._table.slice(0, ROWS_SHOWN))

    def _distinct(self) -> pa.Table:
        """Columns of one name told apart as DuckDB does it (a, a_1): a row that is a dict holds each name once."""
        names: list[str] = []
        for name in self.columns:
            again = (f"{name}_{number}" for number in count(1))
            names.append(next(fresh for fresh in chain([name], again) if fresh not in names))
        return self._table.rename_columns(names)

    def _summary(self) -> str:
        parts = [f"{counted(len(self), 'row')} × {counted(len(self.columns), 'column')}"]
        if "shards_scanned" in self.stats:
            parts.append(f"{self.stats['shards_scanned']} of {counted(self.stats['shards_total'], 'shard')} scanned")
        if "fragments" in self.stats:
            parts.append(counted(len(self.stats["fragments"]), "fragment"))
        if "elapsed_ms" in self.stats:
            parts.append(f"{self.stats['elapsed_ms']:.0f} ms")
        if self.coverage < 1:
            parts.append(f"INCOMPLETE: {self.coverage:.0%} of the data")
        return " · ".join(parts)


def _aligned(cells: list[str], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _need(library: str) -> Any:
    from importlib import import_module
    from importlib.util import find_spec

    if find_spec(library) is None:
        raise MissingExtra(f"{library} is not installed", advice=f"pip install 'p2pnode[{library}]'")
    return import_module(library)
