"""JSON loses nothing: each rule of the published encoding."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import uuid

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnode.api.json import columns, duration, encode, jsonable, rows


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (2**53, 2**53),
        (2**53 + 1, str(2**53 + 1)),
        (-(2**53) - 1, str(-(2**53) - 1)),
        (1.5, 1.5),
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
        (decimal.Decimal("1.10"), "1.10"),
        (dt.date(2013, 1, 2), "2013-01-02"),
        (dt.datetime(2013, 1, 2, 3, 4, 5), "2013-01-02T03:04:05"),
        (dt.datetime(2013, 1, 2, tzinfo=dt.UTC), "2013-01-02T00:00:00+00:00"),
        (dt.time(1, 2, 3), "01:02:03"),
        (dt.timedelta(seconds=90, microseconds=500_000), "PT90.5S"),
        (dt.timedelta(microseconds=-500_000), "-PT0.5S"),
        (b"\x00\xff", "AP8="),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ({"a": [float("nan"), {"b": 2**60}]}, {"a": ["NaN", {"b": str(2**60)}]}),
    ],
)
def test_each_kind_of_value(value: object, expected: object) -> None:
    assert jsonable(value) == expected
    assert json.loads(encode(value)) == expected


def test_a_table_keeps_every_value() -> None:
    table = pa.table(
        {
            "small": pa.array([1, None, 3], pa.int32()),
            "large": pa.array([2**62, 1, None], pa.int64()),
            "real": pa.array([float("nan"), 1.0, None], pa.float64()),
            "money": pa.array([decimal.Decimal("0.10"), None, None], pa.decimal128(10, 2)),
            "when": pa.array([1, 1_000_000_001, None], pa.timestamp("ns")),
            "zoned": pa.array([0, None, -1], pa.timestamp("ns", tz="UTC")),
            "nested": pa.array([{"x": [2**60]}, None, {"x": []}]),
            "word": pa.array(["a", None, "b"]).dictionary_encode(),
        }
    )
    assert rows(table) == [
        [1, str(2**62), "NaN", "0.10", "1970-01-01T00:00:00.000000001", "1970-01-01T00:00:00+00:00",
         {"x": [str(2**60)]}, "a"],
        [None, 1, 1.0, None, "1970-01-01T00:00:01.000000001", None, None, None],
        [3, None, None, None, None, "1969-12-31T23:59:59.999999999+00:00", {"x": []}, "b"],
    ]  # fmt: skip
    assert columns(table)[:2] == [{"name": "small", "type": "INTEGER"}, {"name": "large", "type": "BIGINT"}]
    assert columns(pa.table({"i": pa.array([], pa.month_day_nano_interval())}))[0]["type"] == "month_day_nano_interval"
    assert rows(pa.table({"a": pa.array([], pa.int8())})) == []


def test_dates_and_times_beyond_python() -> None:
    far, never = 568_971_820_800_000_000, (1 << 63) - 1
    stamps = pa.array([0, far, never, -never, None], pa.timestamp("us"))
    days = pa.array([0, 3_000_000, (1 << 31) - 1, -(1 << 31) + 1, None], pa.date32())
    told = [
        ["1970-01-01T00:00:00", "1970-01-01"],
        ["20000-01-01T00:00:00.000000", "10183-09-21"],
        ["infinity", "infinity"],
        ["-infinity", "-infinity"],
        [None, None],
    ]
    assert rows(pa.table({"stamps": stamps, "days": days})) == told
    lists = pa.array([[far, None]], pa.list_(pa.timestamp("us")))
    structs = pa.array([{"day": 3_000_000, "n": 1}], pa.struct({"day": pa.date32(), "n": pa.int64()}))
    maps = pa.array([[("k", far)]], pa.map_(pa.string(), pa.timestamp("us")))
    assert rows(pa.table({"lists": lists, "structs": structs, "maps": maps})) == [
        [[told[1][0], None], {"day": "10183-09-21", "n": 1}, [["k", told[1][0]]]]
    ]


def test_two_columns_may_share_a_name() -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    assert rows(table) == [[1, 2]]


@given(st.timedeltas())
def test_durations_read_back(value: dt.timedelta) -> None:
    text = duration(value)
    sign, _, number = text.partition("PT")
    assert (
        decimal.Decimal(sign + number.removesuffix("S"))
        == decimal.Decimal(value // dt.timedelta(microseconds=1)) / 1_000_000
    )


@given(st.integers(-(2**63), 2**63 - 1))
def test_nanosecond_timestamps_keep_every_digit(nanos: int) -> None:
    if not nanos > -(2**63) + 10**9:
        return
    [[text]] = rows(pa.table({"t": pa.array([nanos], pa.timestamp("ns"))}))
    whole, _, fraction = text.partition(".")
    seconds = int(dt.datetime.fromisoformat(whole).replace(tzinfo=dt.UTC).timestamp())
    assert seconds * 10**9 + int(fraction.ljust(9, "0") or 0) == nanos
