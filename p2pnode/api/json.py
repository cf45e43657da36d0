"""Values as JSON that loses nothing: what `-o json` and the HTTP API print.

NULL is null; NaN and the infinities are "NaN", "Infinity", "-Infinity"; decimals and integers beyond 2^53
(where a double begins to skip) are text; dates, times and timestamps are ISO 8601; bytes are base64. Python
objects in, plain JSON values out; an Arrow table goes column by column: a plain one costs no call per value.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import math
import uuid
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from p2pnode.core.schema import duckdb_type
from p2pnode.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

#: Integers beyond this do not survive a double, which is what most JSON readers make of a number.
EXACT_INTEGER_MAX = 1 << 53


def encode(document: Any) -> bytes:
    """A document as JSON text, one line."""
    return msgspec.json.encode(jsonable(document))


def jsonable(value: Any) -> Any:
    """`value` as plain JSON values."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, Mapping):
        return {str(key): jsonable(inner) for key, inner in value.items()}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, (datetime.date, datetime.time)):  # datetime is a date
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return duration(value)
    if isinstance(value, (decimal.Decimal, uuid.UUID)):
        return str(value)
    if isinstance(value, Iterable):
        return [jsonable(inner) for inner in value]
    raise TypeError(f"{type(value).__name__} has no JSON form")


def columns(table: pa.Table) -> list[dict[str, str]]:
    """Names of a table's columns, and their types in DuckDB's words."""
    return [{"name": field.name, "type": _type_name(field.type)} for field in table.schema]


def rows(table: pa.Table) -> list[list[Any]]:
    """A table's rows as lists of plain JSON values."""
    if table.num_columns == 0:
        return [[] for _ in range(table.num_rows)]
    return [list(row) for row in zip(*(_column(column) for column in table.columns), strict=True)]


def duration(value: datetime.timedelta) -> str:
    """An ISO 8601 duration in seconds."""
    seconds = value // datetime.timedelta(seconds=1)
    micros = value.microseconds
    if seconds < 0 and micros:
        seconds, micros = seconds + 1, 1_000_000 - micros
    sign = "-" if value < datetime.timedelta(0) else ""
    return f"{sign}PT{abs(seconds)}{f'.{micros:06d}'.rstrip('0') if micros else ''}S"


def _type_name(kind: pa.DataType) -> str:
    """An answer may have types that no shard can hold, such as intervals: those keep Arrow's name."""
    try:
        return duckdb_type(kind)
    except UsageError:
        return str(kind)


def _column(column: pa.ChunkedArray) -> list[Any]:
    import pyarrow.types as kinds

    kind = column.type
    if kinds.is_timestamp(kind) and kind.unit == "ns":
        return _nanoseconds(column)
    try:
        values = column.to_pylist()
    except (OverflowError, ValueError):
        return [_beyond(value) for value in column]
    if kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_boolean(kind):
        return values
    if kinds.is_integer(kind) and kind.bit_width <= 32:
        return values
    return [jsonable(value) for value in values]


def _beyond(value: pa.Scalar) -> Any:
    """A value in which some date or time may lie beyond the years of Python's own (1 to 9999)."""
    import pyarrow as pa

    try:
        return jsonable(value.as_py())
    except (OverflowError, ValueError):
        pass
    if isinstance(value, pa.StructScalar):
        return {name: _beyond(inner) for name, inner in value.items()}
    if isinstance(value, pa.MapScalar):
        return [[_beyond(inner) for inner in entry.values()] for entry in value.values]
    if isinstance(value, pa.ListScalar):
        return [_beyond(inner) for inner in value.values]
    text = value.cast(pa.string()).as_py()
    if text.startswith("<"):  # no calendar has it: what DuckDB calls infinity
        return "infinity" if value.value > 0 else "-infinity"
    return text.replace(" ", "T")


def _nanoseconds(column: pa.ChunkedArray) -> list[Any]:
    """Nanosecond timestamps, which Python's datetime cannot hold: split off what is below a microsecond."""
    import pyarrow as pa

    nanos = column.cast(pa.int64()).to_pylist()
    micros = [None if value is None else value // 1000 for value in nanos]
    stamps = pa.array(micros, pa.timestamp("us", tz=column.type.tz)).to_pylist()
    below = [None if value is None else value % 1000 for value in nanos]
    return [_with_nanoseconds(stamp, extra) for stamp, extra in zip(stamps, below, strict=True)]


def _with_nanoseconds(stamp: datetime.datetime | None, extra: int | None) -> str | None:
    if stamp is None or not extra:
        return None if stamp is None else stamp.isoformat()
    text = stamp.isoformat(timespec="microseconds")
    return f"{text[:26]}{extra:03d}{text[26:]}"


def _integer(value: int) -> int | str:
    return value if -EXACT_INTEGER_MAX <= value <= EXACT_INTEGER_MAX else str(value)


def _float(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
