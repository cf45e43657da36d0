"""Statistics against plain Python over the same values, and files that lie or are broken."""

from __future__ import annotations

import datetime
import io
import math
from decimal import Decimal
from typing import Any

import libipld
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnode.core.model import ColumnStats
from p2pnode.errors import IntegrityError
from p2pnode.storage import statistics
from p2pnode.storage.statistics import ShardFacts, shard_facts


def facts_of(table: pa.Table, format: str = "parquet") -> ShardFacts:
    sink = io.BytesIO()
    if format == "parquet":
        pq.write_table(table, sink, row_group_size=3)
    else:
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
    return shard_facts(io.BytesIO(sink.getvalue()), format)


def column(values: list[Any], kind: pa.DataType) -> ColumnStats:
    return facts_of(pa.table({"c": pa.array(values, kind)})).stats["c"]


D = datetime.datetime


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (pa.int64(), [3, None, -(2**63), 2**63 - 1], ColumnStats(1, -(2**63), 2**63 - 1)),
        (pa.uint64(), [2**64 - 1, 5], ColumnStats(0, 5, 2**64 - 1)),
        (pa.int8(), [None, None], ColumnStats(2)),
        (pa.int32(), [], ColumnStats(0)),
        (pa.bool_(), [True, True, None], ColumnStats(1, True, True)),
        (pa.float64(), [1.5, -2.0, None, 7.25, 0.0], ColumnStats(1, -2.0, 7.25)),
        (pa.float32(), [0.1], ColumnStats(0, 0.10000000149011612, 0.10000000149011612)),
        (pa.float64(), [1.0, 2.0, 3.0, 4.0, math.nan], ColumnStats(0)),
        (pa.float64(), [math.nan, 1.0, 2.0, 3.0, 4.0], ColumnStats(0)),
        (pa.float64(), [math.inf, 1.0], ColumnStats(0, 1.0, None)),
        (pa.float64(), [-math.inf, 1.0], ColumnStats(0, None, 1.0)),
        (pa.string(), ["b", "Z", None, "é", "zz"], ColumnStats(1, "Z", "é")),
        (pa.string(), ["a" * 65, "b"], ColumnStats(0, "a" * 64, None)),
        (pa.string(), ["a", "b" * 65], ColumnStats(0, "a", None)),
        (pa.string(), ["a" * 64, "b" * 64], ColumnStats(0, "a" * 64, "b" * 64)),
        (pa.string(), [""], ColumnStats(0, "", "")),
        # UTF-8 order, in which U+FFFF comes before U+10000; UTF-16 order has them the other way round.
        (pa.string(), ["\U00010000", "\uffff"], ColumnStats(0, "\uffff", "\U00010000")),
        (pa.date32(), [datetime.date(2020, 2, 29), datetime.date(1, 1, 1)], ColumnStats(0, "0001-01-01", "2020-02-29")),
        (
            pa.timestamp("us"),
            [D(2020, 1, 1), D(1969, 12, 31, 23, 59, 59, 999999)],
            ColumnStats(0, "1969-12-31T23:59:59.999999", "2020-01-01T00:00:00.000000"),
        ),
        (pa.timestamp("ms"), [1], ColumnStats(0, "1970-01-01T00:00:00.001000", "1970-01-01T00:00:00.001000")),
        # Nanoseconds are rounded outwards, below zero too.
        (pa.timestamp("ns"), [1, 1001], ColumnStats(0, "1970-01-01T00:00:00.000000", "1970-01-01T00:00:00.000002")),
        (pa.timestamp("ns"), [-1], ColumnStats(0, "1969-12-31T23:59:59.999999", "1970-01-01T00:00:00.000000")),
        (pa.timestamp("us"), [2**62], ColumnStats(0)),
        (pa.timestamp("us", "UTC"), [D(2020, 1, 1)], ColumnStats(0)),
        (pa.time64("us"), [datetime.time(1)], ColumnStats(0)),
        (pa.decimal128(5, 2), [Decimal("1.25"), None], ColumnStats(1)),
        (pa.binary(), [b"x", None], ColumnStats(1)),
        (pa.list_(pa.int64()), [[1], None, []], ColumnStats(1)),
        (pa.struct([("a", pa.int64())]), [{"a": 1}, None], ColumnStats(1)),
    ],
)
def test_bounds(kind: pa.DataType, values: list[Any], expected: ColumnStats) -> None:
    found = column(values, kind)
    assert found == expected
    assert type(found.low) is type(expected.low)
    # A receipt carries them as DAG-CBOR, which knows neither NaN nor infinities.
    document = [found.nulls, found.low, found.high]
    assert libipld.decode_dag_cbor(libipld.encode_dag_cbor(document)) == document


@pytest.mark.parametrize("format", ["parquet", "arrow"])
@given(rows=st.lists(st.tuples(st.none() | st.integers(-(2**63), 2**63 - 1), st.none() | st.text(max_size=70))))
@settings(max_examples=60)
def test_bounds_hold_for_every_value(format: str, rows: list[tuple[int | None, str | None]]) -> None:
    numbers, texts = [row[0] for row in rows], [row[1] for row in rows]
    table = pa.table({"n": pa.array(numbers, pa.int64()), "t": pa.array(texts, pa.string())})
    found = facts_of(table, format)
    assert found.rows == len(rows)
    present = [n for n in numbers if n is not None]
    assert found.stats["n"] == ColumnStats(
        len(rows) - len(present), min(present, default=None), max(present, default=None)
    )
    stats = found.stats["t"]
    for text in texts:
        if text is not None:
            assert stats.low is None or str(stats.low).encode() <= text.encode()
            assert stats.high is None or text.encode() <= str(stats.high).encode()


def test_the_footer_is_not_believed() -> None:
    """Statistics of another table, grafted into the file's footer, change nothing."""
    honest, liar = io.BytesIO(), io.BytesIO()
    pq.write_table(pa.table({"c": [5, 6]}), honest, compression="none", use_dictionary=False)
    pq.write_table(pa.table({"c": [1, 2]}), liar, compression="none", use_dictionary=False)
    data = honest.getvalue()
    body = data.index((5).to_bytes(8, "little") + (6).to_bytes(8, "little")) + 16
    forged = data[:body] + liar.getvalue()[body:]
    footer = pq.ParquetFile(io.BytesIO(forged)).metadata.row_group(0).column(0).statistics
    assert (footer.min, footer.max) == (1, 2)
    assert shard_facts(io.BytesIO(forged), "parquet").stats["c"] == ColumnStats(0, 5, 6)


@pytest.mark.parametrize("format", ["parquet", "arrow", "orc"])
@pytest.mark.parametrize("data", [b"", b"PAR1", b"nonsense" * 100])
def test_files_that_do_not_read_are_refused(format: str, data: bytes) -> None:
    with pytest.raises(IntegrityError):
        shard_facts(io.BytesIO(data), format)


def test_a_file_damaged_in_the_middle_is_refused() -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"c": [f"text {n}" for n in range(5000)]}), sink, compression="zstd")
    data = bytearray(sink.getvalue())
    data[100:4000] = bytes(3900)
    with pytest.raises(IntegrityError, match="not a readable parquet"):
        shard_facts(io.BytesIO(bytes(data)), "parquet")


def test_text_that_is_not_utf8_is_refused() -> None:
    raw = pa.array([b"\xff\xfe"]).view(pa.string())
    with pytest.raises(IntegrityError):
        facts_of(pa.table({"c": raw}))


def test_batches_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "BATCH_ROWS", 2)
    assert column([5, 9, 1, None, 7], pa.int16()) == ColumnStats(1, 1, 9)
