"""What a shard holds, recomputed from its values: rows, NULLs, and the bounds that let queries skip it.

A holder does this before it acknowledges a shard. The file's own footer says the same more cheaply, but it
was written by somebody else, and a wrong bound would silently drop rows from answers. Batches stream, so
memory does not grow with the shard. This file refuses files that do not read to their end.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from p2pnode.core.model import FORMATS, ColumnStats, Scalar
from p2pnode.errors import IntegrityError

#: Rows decoded at once.
BATCH_ROWS = 65_536
#: Undecoded bytes of a column held while reading.
BUFFER_BYTES = 1 << 20
#: Bounds on text longer than this would weigh more in a manifest than they save in a query.
TEXT_BOUND_CHARACTERS = 64

PARQUET, ARROW = FORMATS


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """What is in one shard file."""

    rows: int
    stats: dict[str, ColumnStats]


def shard_facts(file: BinaryIO, format: str) -> ShardFacts:
    """Read the whole shard and say what is in it (bounds as `ColumnStats` words them). Blocks.

    Raises IntegrityError for a file that is no readable `format`.
    """
    rows = 0
    columns: dict[str, _Bounds] = {}
    with _opened(file, format) as (schema, batches):
        for field in schema:
            columns[field.name] = _Bounds(field.type)
        for batch in batches:
            rows += batch.num_rows
            for column, values in zip(columns.values(), batch.columns, strict=True):
                column.take(values)
        # Still inside: text that is not UTF-8 shows only when a bound is looked at.
        return ShardFacts(rows, {name: column.stats() for name, column in columns.items()})


@contextmanager
def _opened(file: BinaryIO, format: str) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    source = pa.PythonFile(file, mode="r")
    try:
        if format == PARQUET:
            parquet = pq.ParquetFile(source, buffer_size=BUFFER_BYTES, pre_buffer=False)
            yield parquet.schema_arrow, parquet.iter_batches(BATCH_ROWS, use_threads=False)
        elif format == ARROW:
            reader = pa.ipc.open_file(source)
            yield reader.schema, (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            raise IntegrityError(f"{format!r} is no shard format")
    except (pa.ArrowException, OSError, UnicodeDecodeError, ValueError) as wrong:
        raise IntegrityError(f"not a readable {format} file: {str(wrong).splitlines()[0]}") from None


class _Bounds:
    """NULLs and bounds of one column, batch by batch."""

    def __init__(self, kind: pa.DataType) -> None:
        self._nulls = 0
        self._floats = pa.types.is_floating(kind)
        self._word = next((word for matches, word in _WORDS if matches(kind)), None)
        self._low: Any = None
        self._high: Any = None

    def take(self, values: pa.Array) -> None:
        self._nulls += values.null_count
        if self._word is None or values.null_count == len(values):
            return
        if self._floats and pc.any(pc.is_nan(values)).as_py():
            self._word = None
            return
        found = pc.min_max(values)
        low, high = found["min"], found["max"]
        if self._low is None or pc.less(low, self._low).as_py():
            self._low = low
        if self._high is None or pc.greater(high, self._high).as_py():
            self._high = high

    def stats(self) -> ColumnStats:
        if self._word is None or self._low is None:
            return ColumnStats(self._nulls)
        low, high = self._word(self._low, False), self._word(self._high, True)
        if isinstance(low, str) and self._word is _text and len(low) > TEXT_BOUND_CHARACTERS:
            return ColumnStats(self._nulls, low[:TEXT_BOUND_CHARACTERS], None)
        if isinstance(high, str) and self._word is _text and len(high) > TEXT_BOUND_CHARACTERS:
            high = None
        return ColumnStats(self._nulls, low, high)


def _text(bound: pa.Scalar, _upper: bool) -> Scalar:
    return bound.as_py()


def _float(bound: pa.Scalar, _upper: bool) -> Scalar:
    """DAG-CBOR has no infinities, and a bound of infinity prunes nothing."""
    value = float(bound.as_py())
    return value if math.isfinite(value) else None


def _exact(bound: pa.Scalar, _upper: bool) -> Scalar:
    return bound.as_py()


def _date(bound: pa.Scalar, _upper: bool) -> Scalar:
    try:
        return bound.as_py().isoformat()
    except (ValueError, OverflowError):  # beyond the years 1 to 9999
        return None


def _timestamp(bound: pa.Scalar, upper: bool) -> Scalar:
    """Nanoseconds are rounded outwards to the microseconds that the text can say."""
    per_microsecond, factor = {"ms": (1, 1000), "us": (1, 1), "ns": (1000, 1)}.get(bound.type.unit, (1, 1_000_000))
    count = bound.value
    micros = (-(-count // per_microsecond) if upper else count // per_microsecond) * factor
    try:
        moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=micros)
    except OverflowError:
        return None
    return moment.isoformat(timespec="microseconds")


_WORDS: tuple[tuple[Callable[[Any], bool], Callable[[Any, bool], Scalar]], ...] = (
    (pa.types.is_integer, _exact),
    (pa.types.is_boolean, _exact),
    (pa.types.is_floating, _float),
    (pa.types.is_string, _text),
    (pa.types.is_date, _date),
    (lambda kind: pa.types.is_timestamp(kind) and kind.tz is None, _timestamp),
)
