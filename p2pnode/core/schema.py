"""What a column may be: the words that declare one, how it is stored, how SQL sees it, and how data is fitted
to it.

A dataset's schema is an Arrow schema of *plain* types: one way of storing text, one of storing lists, no
dictionaries, so that pandas, polars and Arrow data of the same meaning append to one another. This file
refuses what DuckDB could not read back as itself from a Parquet file (durations, intervals, unions, empty
structs, more than 38 digits): better no than a column that silently changes its meaning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from p2pnode.core.model import Column
from p2pnode.errors import SchemaMismatch, UsageError

#: Column names that begin so (in any case) are ours: queries use them for partial results.
RESERVED_PREFIX = "__p2p"
#: Columns of one dataset; statistics and fragments carry each name.
COLUMNS_MAX = 4096
#: DuckDB's DECIMAL ends here.
DIGITS_MAX = 38

#: The words that declare a column, in the spelling of the guide, of SQL and of Arrow.
_WORDS: dict[str, pa.DataType] = {
    **dict.fromkeys(("integer", "int", "bigint", "long", "int64"), pa.int64()),
    **dict.fromkeys(("int32", "int4"), pa.int32()),
    **dict.fromkeys(("smallint", "int16", "short"), pa.int16()),
    **dict.fromkeys(("tinyint", "int8"), pa.int8()),
    **dict.fromkeys(("ubigint", "uint64"), pa.uint64()),
    **dict.fromkeys(("uinteger", "uint32"), pa.uint32()),
    **dict.fromkeys(("usmallint", "uint16"), pa.uint16()),
    **dict.fromkeys(("utinyint", "uint8"), pa.uint8()),
    **dict.fromkeys(("float", "double", "number", "float64"), pa.float64()),
    **dict.fromkeys(("real", "float32", "float4"), pa.float32()),
    **dict.fromkeys(("string", "text", "str", "varchar", "utf8"), pa.string()),
    **dict.fromkeys(("boolean", "bool"), pa.bool_()),
    **dict.fromkeys(("binary", "bytes", "blob", "bytea"), pa.binary()),
    **dict.fromkeys(("timestamp", "datetime"), pa.timestamp("us")),
    **dict.fromkeys(("timestamptz", "timestamp with time zone"), pa.timestamp("us", "UTC")),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "uuid": pa.uuid(),
}
_DECIMAL = re.compile(r"(?:decimal|numeric)\s*\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)")
_LIST = re.compile(r"(.*\S)\s*\[\s*(\d*)\s*\]")

#: How DuckDB names what it finds in a Parquet column of this type.
_DUCKDB: dict[pa.DataType, str] = {
    pa.bool_(): "BOOLEAN",
    pa.int8(): "TINYINT",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.uint8(): "UTINYINT",
    pa.uint16(): "USMALLINT",
    pa.uint32(): "UINTEGER",
    pa.uint64(): "UBIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.date32(): "DATE",
    pa.time32("ms"): "TIME",
    pa.time64("us"): "TIME",
    pa.time64("ns"): "TIME_NS",
    pa.uuid(): "UUID",
}


# -- declaring
# --------------------------------------------------------------------------------------------------


def parse_type(word: str) -> pa.DataType:
    """The Arrow type of a word: "integer", "string", "float[]", "float[384]", "decimal(12,2)", … Raises
    UsageError.
    """
    text = word.strip().lower()
    if text in _WORDS:
        return _WORDS[text]
    if found := _LIST.fullmatch(text):
        inner, length = parse_type(found[1]), found[2]
        return pa.list_(inner, int(length)) if length else pa.list_(inner)
    if found := _DECIMAL.fullmatch(text):
        digits, scale = int(found[1]), int(found[2] or 0)
        if 1 <= digits <= DIGITS_MAX and scale <= digits:
            return pa.decimal128(digits, scale)
    raise UsageError(
        f"{word!r} is no column type",
        advice="Try integer, float, string, boolean, binary, date, time, timestamp, decimal(p,s), float[].",
    )


def declared_schema(schema: pa.Schema | Mapping[str, Any] | None) -> pa.Schema | None:
    """The plain schema that a user declared: an Arrow schema, or names with words or Arrow types. Raises
    UsageError.
    """
    if schema is None:
        return None
    if not isinstance(schema, pa.Schema):
        if not isinstance(schema, Mapping):
            raise UsageError(f"a schema is an Arrow schema or a mapping of names to types, not {type(schema).__name__}")
        schema = pa.schema(
            [
                (str(name), kind if isinstance(kind, pa.DataType) else parse_type(str(kind)))
                for name, kind in schema.items()
            ]
        )
    return plain_schema(schema)


# -- storing
# ----------------------------------------------------------------------------------------------------


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema as it is stored: plain types, no metadata. Raises UsageError for names or types that cannot
    be.
    """
    check_names(schema.names)
    fields = []
    for column in schema:
        try:
            fields.append(pa.field(column.name, plain_type(column.type), column.nullable))
        except UsageError as refused:
            raise UsageError(f"column {column.name!r}: {refused.message}", advice=refused.advice) from None
    return pa.schema(fields)


def check_names(names: Iterable[str]) -> None:
    """Raise UsageError for names that SQL could not tell apart or that are ours."""
    seen: dict[str, str] = {}
    for name in names:
        folded = name.lower()
        if not name or "\x00" in name or len(name) > 1024:
            raise UsageError(
                f"column name {name[:40]!r} is empty, too long, or has a NUL in it", advice="Rename the column."
            )
        if folded.startswith(RESERVED_PREFIX):
            raise UsageError(
                f"column name {name!r} is reserved",
                advice=f"Rename it: names that begin with {RESERVED_PREFIX} are ours.",
            )
        if folded in seen:
            raise UsageError(
                f"columns {seen[folded]!r} and {name!r} are one name to SQL",
                advice="Rename one: case does not count.",
            )
        seen[folded] = name
    if not 0 < len(seen) <= COLUMNS_MAX:
        raise UsageError(f"a dataset has 1 to {COLUMNS_MAX} columns, not {len(seen)}")


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The one way in which values of this type are stored. Raises UsageError where there is none."""
    if kind in _DUCKDB or (pa.types.is_timestamp(kind) and kind.unit != "s"):
        return kind
    for matches, plain in _PLAIN:
        if matches(kind):
            return plain(kind)
    raise UsageError(
        f"values of type {kind} cannot be stored so that SQL reads them back",
        advice="Convert the column first, for example a duration to an integer of seconds.",
    )


def _plain_decimal(kind: Any) -> pa.DataType:
    if kind.precision > DIGITS_MAX or not 0 <= kind.scale <= kind.precision:
        raise UsageError(f"{kind} is beyond {DIGITS_MAX} digits", advice="Cast it to fewer digits or to float.")
    return pa.decimal128(kind.precision, kind.scale)


def _plain_struct(kind: Any) -> pa.DataType:
    fields = [pa.field(f.name, plain_type(f.type), f.nullable) for f in kind]
    check_names(f.name for f in fields)
    return pa.struct(fields)


_is = pa.types
_PLAIN: tuple[tuple[Callable[[Any], bool], Callable[[Any], pa.DataType]], ...] = (
    # Nothing but NULL so far: text can hold whatever an append brings.
    (_is.is_null, lambda _: pa.string()),
    (_is.is_float16, lambda _: pa.float32()),
    (lambda t: _is.is_large_string(t) or _is.is_string_view(t), lambda _: pa.string()),
    (
        lambda t: _is.is_large_binary(t) or _is.is_binary_view(t) or _is.is_fixed_size_binary(t),
        lambda _: pa.binary(),
    ),
    (_is.is_date64, lambda _: pa.date32()),
    (_is.is_time32, lambda _: pa.time32("ms")),
    (_is.is_timestamp, lambda t: pa.timestamp("ms", t.tz)),
    (_is.is_decimal, _plain_decimal),
    (_is.is_dictionary, lambda t: plain_type(t.value_type)),
    (_is.is_run_end_encoded, lambda t: plain_type(t.value_type)),
    (_is.is_fixed_size_list, lambda t: pa.list_(plain_type(t.value_type), t.list_size)),
    (
        # Views of lists are refused: Arrow casts those that hold NULLs into arrays that are not valid.
        lambda t: _is.is_list(t) or _is.is_large_list(t),
        lambda t: pa.list_(plain_type(t.value_type)),
    ),
    (_is.is_map, lambda t: pa.map_(plain_type(t.key_type), plain_type(t.item_type))),
    (lambda t: _is.is_struct(t) and t.num_fields > 0, _plain_struct),
    (lambda t: isinstance(t, pa.BaseExtensionType), lambda t: plain_type(t.storage_type)),
)


# -- how SQL sees it
# --------------------------------------------------------------------------------------------


def duckdb_type(kind: pa.DataType) -> str:
    """DuckDB's name for what it reads from a shard's column of this type."""
    kind = plain_type(kind)
    if kind in _DUCKDB:
        return _DUCKDB[kind]
    if pa.types.is_timestamp(kind):
        if kind.unit == "ns":
            return "TIMESTAMPTZ_NS" if kind.tz else "TIMESTAMP_NS"
        return "TIMESTAMP WITH TIME ZONE" if kind.tz else "TIMESTAMP"
    if pa.types.is_decimal(kind):
        return f"DECIMAL({kind.precision},{kind.scale})"
    if pa.types.is_map(kind):
        return f"MAP({duckdb_type(kind.key_type)}, {duckdb_type(kind.item_type)})"
    if pa.types.is_struct(kind):
        return "STRUCT(" + ", ".join(f"{_quoted(f.name)} {duckdb_type(f.type)}" for f in kind) + ")"
    return duckdb_type(kind.value_type) + "[]"


def columns_of(schema: pa.Schema) -> tuple[Column, ...]:
    """The columns of a stored schema as SQL sees them."""
    return tuple(Column(column.name, duckdb_type(column.type)) for column in schema)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# -- bytes
# ------------------------------------------------------------------------------------------------------


def schema_bytes(schema: pa.Schema) -> bytes:
    """The schema as one Arrow IPC message, as a manifest carries it."""
    return schema.serialize().to_pybytes()


def schema_of_bytes(data: bytes) -> pa.Schema:
    """Back from `schema_bytes`. Raises SchemaMismatch for bytes that are no schema."""
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(data))
        _look_through(schema)
    except (pa.ArrowException, OSError, EOFError, ValueError, RecursionError) as wrong:
        raise SchemaMismatch(f"not an Arrow schema: {wrong}") from None
    return schema


def _look_through(fields: Iterable[pa.Field]) -> None:
    """Raise ValueError now, rather than wherever it is first looked at, for what Arrow reads without checking:
    names that are no UTF-8, lists of less than no items.
    """
    for field in fields:
        kind = field.type
        str(field.name)
        if pa.types.is_timestamp(kind):
            str(kind.tz)
        if pa.types.is_fixed_size_list(kind) and kind.list_size < 0:
            raise ValueError(f"{field.name!r} is a list of {kind.list_size} items")
        _look_through(kind.field(index) for index in range(kind.num_fields))


# -- fitting data to it
# -----------------------------------------------------------------------------------------


def missing_columns(given: pa.Schema, declared: pa.Schema) -> tuple[str, ...]:
    """The declared columns that the data lacks (they become NULL; the caller warns).

    Raises SchemaMismatch that names the columns which were not declared, or which lack and may not be NULL.
    """
    extra = [name for name in given.names if name not in declared.names]
    if extra:
        raise SchemaMismatch(f"the data has columns that the schema has not: {', '.join(map(repr, extra))}")
    missing = [column for column in declared if column.name not in given.names]
    for column in missing:
        if not column.nullable:
            raise SchemaMismatch(f"column {column.name!r} may not be NULL and the data lacks it")
    return tuple(column.name for column in missing)


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with exactly the columns of `schema`, cast without loss; absent ones are NULL.

    Raises SchemaMismatch naming the column that cannot be cast. Extra columns are the caller's check
    (`missing_columns`), once per source and not once per batch.
    """
    arrays = []
    for column in schema:
        at = batch.schema.get_field_index(column.name)
        arrays.append(pa.nulls(batch.num_rows, column.type) if at < 0 else _cast(batch.column(at), column))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _cast(values: pa.Array, column: pa.Field) -> pa.Array:
    try:
        if isinstance(values, pa.DictionaryArray):
            # The dictionary first: Arrow cannot unfold one of views.
            values = pa.DictionaryArray.from_arrays(values.indices, values.dictionary.cast(column.type))
        if pa.types.is_run_end_encoded(values.type):
            values = pc.call_function("run_end_decode", [values])
        if isinstance(values.type, pa.BaseExtensionType) and values.type != column.type:
            values = values.storage
        fitted = values if values.type == column.type else values.cast(column.type)
    except (pa.ArrowException, NotImplementedError) as wrong:
        raise SchemaMismatch(
            f"column {column.name!r} does not fit {column.type}: {str(wrong).splitlines()[0]}"
        ) from None
    if not column.nullable and fitted.null_count:
        raise SchemaMismatch(f"column {column.name!r} may not be NULL and has {fitted.null_count} NULLs")
    return fitted
