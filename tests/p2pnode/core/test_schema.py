"""Columns: words, storage, and that DuckDB sees in the file exactly the type that we say it will."""

from __future__ import annotations

import datetime
import decimal
import uuid
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from p2pnode.core.model import Column
from p2pnode.core.schema import (
    check_names,
    columns_of,
    conform,
    declared_schema,
    duckdb_type,
    missing_columns,
    parse_type,
    plain_schema,
    plain_type,
    schema_bytes,
    schema_of_bytes,
)
from p2pnode.errors import SchemaMismatch, UsageError

#: Every kind of column that data may bring, with values that must survive.
KINDS: list[tuple[pa.DataType, list[Any]]] = [
    (pa.null(), [None, None]),
    (pa.bool_(), [True, None]),
    *((kind, [1, None]) for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())),
    *((kind, [1, None]) for kind in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())),
    *((kind, [1.5, None]) for kind in (pa.float16(), pa.float32(), pa.float64())),
    *((kind, ["ä", None]) for kind in (pa.string(), pa.large_string(), pa.string_view())),
    *((kind, [b"x", None]) for kind in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(1))),
    *((kind, [datetime.date(2020, 2, 29), None]) for kind in (pa.date32(), pa.date64())),
    *(
        (kind, [datetime.time(1, 2, 3), None])
        for kind in (pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns"))
    ),
    *(
        (pa.timestamp(unit, zone), [datetime.datetime(2020, 1, 1, 12), None])
        for unit in ("s", "ms", "us", "ns")
        for zone in (None, "UTC")
    ),
    (pa.timestamp("us", "Europe/Berlin"), [datetime.datetime(2020, 1, 1, 12), None]),
    *(
        (kind, [decimal.Decimal("1.25"), None])
        for kind in (pa.decimal32(5, 2), pa.decimal64(12, 2), pa.decimal128(38, 10), pa.decimal256(30, 2))
    ),
    (pa.list_(pa.int32()), [[1, None], None]),
    (pa.large_list(pa.large_string()), [["a"], None]),
    (pa.list_(pa.float32(), 2), [[1.0, 2.0], None]),
    (pa.list_(pa.list_(pa.string())), [[["a"], []], None]),
    (pa.struct([("a", pa.int32()), ('B "c', pa.large_list(pa.string()))]), [{"a": 1, 'B "c': ["x"]}, None]),
    (pa.map_(pa.string(), pa.int32()), [[("k", 1)], None]),
    (pa.dictionary(pa.int32(), pa.string()), ["a", None]),
    (pa.uuid(), [uuid.UUID(int=7).bytes, None]),
    (pa.json_(), ['{"a": 1}', None]),
]


@pytest.mark.parametrize(("kind", "values"), KINDS, ids=lambda v: str(v) if isinstance(v, pa.DataType) else "")
def test_duckdb_reads_what_we_say(kind: pa.DataType, values: list[Any], tmp_path: Path) -> None:
    given = pa.RecordBatch.from_arrays([pa.array(values, kind)], ["c"])
    schema = plain_schema(given.schema)
    fitted = conform(given, schema)
    assert fitted.schema == schema
    path = tmp_path / "shard.parquet"
    pq.write_table(pa.Table.from_batches([fitted]), path)
    said = duckdb_type(kind)
    assert columns_of(schema) == (Column("c", said),)
    query = f"SELECT typeof(c), typeof(CAST(NULL AS {said})) FROM read_parquet($1)"
    assert {a == b for a, b in duckdb.connect().execute(query, [str(path)]).fetchall()} == {True}
    # Stored is final: what comes back is stored the same way again.
    assert plain_schema(pq.read_schema(path)) == schema
    if kind != pa.null():
        assert pq.read_table(path)["c"].to_pylist()[0] is not None
    assert pq.read_table(path)["c"].to_pylist()[1] is None


@pytest.mark.parametrize(
    "kind",
    [
        pa.duration("us"),
        pa.month_day_nano_interval(),
        pa.decimal256(40, 2),
        pa.decimal128(6, -2),
        pa.struct([]),
        pa.list_view(pa.int32()),
        pa.sparse_union([pa.field("a", pa.int32())]),
        pa.list_(pa.duration("s")),
    ],
    ids=str,
)
def test_what_sql_cannot_read_back_is_refused_by_name(kind: pa.DataType) -> None:
    with pytest.raises(UsageError, match="column 'odd'"):
        plain_schema(pa.schema([("odd", kind)]))


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("integer", pa.int64()),
        ("string", pa.string()),
        ("float", pa.float64()),
        ("float[]", pa.list_(pa.float64())),
        ("Float32[384]", pa.list_(pa.float32(), 384)),
        ("string[][]", pa.list_(pa.list_(pa.string()))),
        ("boolean", pa.bool_()),
        ("timestamp", pa.timestamp("us")),
        ("DECIMAL(12, 2)", pa.decimal128(12, 2)),
        ("numeric(5)", pa.decimal128(5, 0)),
        ("date", pa.date32()),
    ],
)
def test_words(word: str, kind: pa.DataType) -> None:
    assert parse_type(word) == kind


@pytest.mark.parametrize("word", ["", "integr", "[]", "float[", "decimal(39,2)", "decimal(3,4)", "float[x]"])
def test_no_words(word: str) -> None:
    with pytest.raises(UsageError, match="is no column type") as caught:
        parse_type(word)
    assert "integer" in caught.value.advice


def test_declared() -> None:
    declared = declared_schema({"id": "integer", "text": "string", "vector": "float[]", "own": pa.large_string()})
    assert declared == pa.schema(
        [("id", pa.int64()), ("text", pa.string()), ("vector", pa.list_(pa.float64())), ("own", pa.string())]
    )
    assert declared_schema(pa.schema([("a", pa.large_string())], metadata={"pandas": "x"})) == pa.schema(
        {"a": pa.string()}
    )
    assert declared_schema(None) is None
    with pytest.raises(UsageError, match="not list"):
        declared_schema(["id"])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a", "__p2p_rows"], "'__p2p_rows' is reserved"),
        (["__P2P"], "reserved"),
        (["a", "b", "A"], "'a' and 'A' are one name"),
        ([""], "empty"),
        (["a\x00b"], "NUL"),
        ([], "not 0"),
    ],
)
def test_names_that_cannot_be(names: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_names(names)


def test_schemas_travel_as_bytes() -> None:
    schema = pa.schema([("a", pa.int32()), ("b", pa.list_(pa.string()))])
    assert schema_of_bytes(schema_bytes(schema)) == schema
    for wrong in (b"", b"nonsense", schema_bytes(schema)[:20]):
        with pytest.raises(SchemaMismatch):
            schema_of_bytes(wrong)


DECLARED = pa.schema([pa.field("id", pa.int32(), nullable=False), ("text", pa.string()), ("when", pa.timestamp("us"))])


def test_missing_columns_become_null() -> None:
    batch = pa.RecordBatch.from_pydict({"text": ["x"], "id": [7]})
    assert missing_columns(batch.schema, DECLARED) == ("when",)
    fitted = conform(batch, DECLARED)
    assert fitted.schema == DECLARED
    assert fitted.to_pylist() == [{"id": 7, "text": "x", "when": None}]


def test_extra_columns_are_named() -> None:
    with pytest.raises(SchemaMismatch, match="'id2', 'z'"):
        missing_columns(pa.schema({"id": pa.int32(), "id2": pa.int32(), "z": pa.int32()}), DECLARED)
    with pytest.raises(SchemaMismatch, match="'id' may not be NULL and the data lacks it"):
        missing_columns(pa.schema({"text": pa.string()}), DECLARED)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("id", pa.array([2**40])),
        ("id", pa.array([1.5])),
        ("id", pa.array(["seven"])),
        ("id", pa.array([None], pa.int32())),
        ("when", pa.array(["yesterday"])),
        ("when", pa.array([1], pa.timestamp("ns"))),
        ("text", pa.array([[1]])),
    ],
)
def test_what_does_not_fit_is_named(column: str, values: pa.Array) -> None:
    row = {"id": pa.array([1], pa.int32()), column: values}
    with pytest.raises(SchemaMismatch, match=f"column '{column}'"):
        conform(pa.RecordBatch.from_pydict(row), DECLARED)


def test_what_fits_without_loss_is_cast() -> None:
    batch = pa.RecordBatch.from_pydict({"id": ["12"], "text": [3], "when": ["2020-01-01T00:00:00"]})
    assert conform(batch, DECLARED).to_pylist() == [{"id": 12, "text": "3", "when": datetime.datetime(2020, 1, 1)}]


def test_run_end_encoded_data_is_unfolded() -> None:
    folded = pc.call_function("run_end_encode", [pa.array([1, 1, 2])])
    schema = pa.schema({"c": plain_type(folded.type)})
    assert conform(pa.RecordBatch.from_arrays([folded], ["c"]), schema)["c"].to_pylist() == [1, 1, 2]
