"""Every kind of data becomes the same rows, and every kind of wrong data a sentence that names it."""

from __future__ import annotations

import datetime
import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.dataset as pads
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from p2pnode.errors import EmptyData, SchemaMismatch, UsageError
from p2pnode.storage import sources, tabular_files
from p2pnode.storage.sources import open_source

ROWS = [{"id": n, "text": None if n % 7 == 0 else f"row {n}", "x": n / 4, "ok": n % 2 == 0} for n in range(1000)]
TABLE = pa.Table.from_pylist(ROWS)


def as_ipc(path: Path, make: Callable[[str, pa.Schema], Any]) -> Path:
    with make(str(path), TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=300)
    return path


def as_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path: Path) -> Path:
    pq.write_table(TABLE, path, row_group_size=170)
    return path


def gz_csv(path: Path) -> Path:
    plain = path.with_suffix("")
    pacsv.write_csv(TABLE, plain)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    return path


def written(path: Path, write: Callable[[Any, Any], Any]) -> Path:
    write(TABLE, path)
    return path


KINDS: dict[str, Callable[[Path], Any]] = {
    "rows": lambda tmp: ROWS,
    "pandas": lambda tmp: TABLE.to_pandas(),
    "pandas with Arrow types": lambda tmp: TABLE.to_pandas(types_mapper=pd.ArrowDtype),
    "polars": lambda tmp: pl.DataFrame(TABLE),
    "polars lazy": lambda tmp: pl.DataFrame(TABLE).lazy(),
    "table": lambda tmp: TABLE,
    "batch": lambda tmp: TABLE.combine_chunks().to_batches()[0],
    "reader": lambda tmp: TABLE.to_reader(max_chunksize=77),
    "dataset": lambda tmp: pads.dataset(parquet(tmp / "d.parquet")),
    "parquet": lambda tmp: parquet(tmp / "a.parquet"),
    "parquet as text": lambda tmp: str(parquet(tmp / "a.PARQUET")),
    "csv": lambda tmp: written(tmp / "a.csv", pacsv.write_csv),
    "csv.gz": lambda tmp: gz_csv(tmp / "a.csv.gz"),
    "arrow file": lambda tmp: as_ipc(tmp / "a.arrow", pa.ipc.new_file),
    "arrow stream": lambda tmp: as_ipc(tmp / "a.arrows", pa.ipc.new_stream),
    "feather": lambda tmp: written(tmp / "a.feather", feather.write_feather),
    "jsonl": lambda tmp: as_lines(tmp / "a.jsonl", ROWS),
    "paths": lambda tmp: [as_lines(tmp / "1.jsonl", ROWS[:10]), as_lines(tmp / "2.jsonl", ROWS[10:])],
    "glob": lambda tmp: [as_lines(tmp / f"{n}.jsonl", ROWS[n * 500 :][:500]) for n in (1, 0)] and f"{tmp}/*.jsonl",
    "directory": lambda tmp: parquet(tmp / "a.parquet").parent,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_rows(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tabular_files, "TEXT_BLOCK_BYTES", 4096)
    source = open_source(KINDS[kind](tmp_path))
    assert source.schema == pa.schema(
        [("id", pa.int64()), ("text", pa.string()), ("x", pa.float64()), ("ok", pa.bool_())]
    )
    assert source.rows in (None, 1000)
    batches = list(source.batches())
    assert all(batch.schema == source.schema for batch in batches)
    assert pa.Table.from_batches(batches).to_pylist() == ROWS


def test_batches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BATCH_ROWS", 64)
    assert max(batch.num_rows for batch in open_source(TABLE).batches()) == 64
    monkeypatch.setattr(sources, "BATCH_BYTES", 200)
    batches = list(open_source(TABLE).batches())
    assert max(batch.num_rows for batch in batches) < 20
    assert sum(batch.num_rows for batch in batches) == 1000


def test_importing_loads_no_library_that_only_some_data_needs() -> None:
    script = (
        "import sys, p2pnode.storage.splitter\n"
        "print([name for name in ('pandas', 'polars', 'libp2p', 'duckdb') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def read(data: Any, declared: pa.Schema | None = None) -> list[dict[str, Any]]:
    return [row for batch in open_source(data, declared).batches() for row in batch.to_pylist()]


def test_rows_may_lack_columns() -> None:
    assert read([{"a": 1}, {"b": "x", "a": None}]) == [{"a": 1, "b": None}, {"a": None, "b": "x"}]


def test_a_named_index_is_data_and_an_unnamed_one_is_not() -> None:
    frame = pd.DataFrame({"x": [1, 2]}, index=pd.Index([7, 8], name="key"))
    assert read(frame) == [{"x": 1, "key": 7}, {"x": 2, "key": 8}]
    assert read(pd.DataFrame({"x": [1, 2, 3]})[lambda f: f.x > 1]) == [{"x": 2}, {"x": 3}]


def test_dictionaries_and_views_are_stored_plain() -> None:
    frame = pl.DataFrame({"c": ["a", "b", "a"]}, schema={"c": pl.Categorical})
    assert open_source(frame).schema == pa.schema({"c": pa.string()})
    assert read(frame) == [{"c": "a"}, {"c": "b"}, {"c": "a"}]


# -- text files say nothing about types
# ------------------------------------------------------------------------


def test_csv_types_are_found_over_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tabular_files, "TEXT_BLOCK_BYTES", 256)
    lines = ["whole,late,mixed,day,moment,zoned,flag,empty,word"]
    for n in range(200):
        late = "0.5" if n == 150 else str(n)
        mixed = "many" if n == 180 else "" if n == 3 else str(n)
        moment = "2020-01-01" if n < 100 else "2020-01-01T10:00:00.25"
        lines.append(f'{n},{late},{mixed},2020-02-{n % 28 + 1:02},{moment},2020-01-01T00:00:00Z,true,,"NA, ""x"""')
    path = tmp_path / "a.csv"
    path.write_text("\n".join(lines))
    source = open_source(path)
    assert source.schema == pa.schema(
        [
            ("whole", pa.int64()),
            ("late", pa.float64()),
            ("mixed", pa.string()),
            ("day", pa.date32()),
            ("moment", pa.timestamp("us")),
            ("zoned", pa.timestamp("us", "UTC")),
            ("flag", pa.bool_()),
            ("empty", pa.string()),
            ("word", pa.string()),
        ]
    )
    rows = [row for batch in source.batches() for row in batch.to_pylist()]
    assert source.rows == len(rows) == 200
    assert rows[3]["mixed"] is None
    assert rows[180]["mixed"] == "many"
    assert rows[150]["late"] == 0.5
    assert rows[199]["moment"] == datetime.datetime(2020, 1, 1, 10, 0, 0, 250000)
    assert rows[0]["empty"] is None
    assert rows[0]["word"] == 'NA, "x"'


def test_csv_numbers_may_say_na_and_text_may_be_na(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("n\tcountry\n1\tNA\nNA\tDE\n")
    assert read(path) == [{"n": 1, "country": "NA"}, {"n": None, "country": "DE"}]


def test_json_lines_widen_over_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tabular_files, "TEXT_BLOCK_BYTES", 64)
    rows: list[dict[str, Any]] = [{"a": 1, "when": "2020-01-01 10:00:00"}] * 20
    rows += [{"a": 2.5, "when": "soon", "deep": {"b": [1]}}]
    assert read(as_lines(tmp_path / "a.jsonl", rows)) == [
        *([{"a": 1.0, "when": "2020-01-01 10:00:00", "deep": None}] * 20),
        {"a": 2.5, "when": "soon", "deep": {"b": [1]}},
    ]
    wrong = as_lines(tmp_path / "b.jsonl", [*([{"a": 1}] * 20), {"a": "one"}])
    with pytest.raises(SchemaMismatch, match=r"b\.jsonl: column 'a' is int64 and later string"):
        open_source(wrong)


def test_files_are_joined_by_column_name(tmp_path: Path) -> None:
    one = as_lines(tmp_path / "1.jsonl", [{"a": 1}])
    two = tmp_path / "2.parquet"
    pq.write_table(pa.table({"b": pa.array(["x"], pa.large_string()), "a": [0.5]}), two)
    assert read([one, two]) == [{"a": 1.0, "b": None}, {"a": 0.5, "b": "x"}]
    three = as_lines(tmp_path / "3.jsonl", [{"a": "text"}])
    with pytest.raises(SchemaMismatch, match="do not share a schema"):
        open_source([two, three])


# -- fitted to a declared schema
# -------------------------------------------------------------------------------

DECLARED = pa.schema([("id", pa.int32()), ("vector", pa.list_(pa.float64()))])


def test_declared_columns_that_lack_become_null_and_are_told() -> None:
    source = open_source([{"id": 1}], DECLARED)
    assert source.missing == ("vector",)
    assert read([{"id": 1}], DECLARED) == [{"id": 1, "vector": None}]


def test_what_was_not_declared_or_does_not_fit_is_named() -> None:
    with pytest.raises(SchemaMismatch, match="'text'"):
        open_source([{"id": 1, "text": "x"}], DECLARED)
    with pytest.raises(SchemaMismatch, match="'id'"):
        read([{"id": "one"}], DECLARED)


# -- wrong data
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [[], pd.DataFrame(), TABLE.slice(0, 0), pa.table({}), [{}], pl.DataFrame({"a": []})],
    ids=["list", "pandas", "table", "no columns", "empty dict", "polars"],
)
def test_nothing_is_empty_data(data: Any) -> None:
    with pytest.raises(EmptyData):
        open_source(data)


@pytest.mark.parametrize("data", [None, 7, b"bytes", {"a": [1]}, [1, 2], [{"a": 1}, "b.csv"], object()])
def test_what_is_no_data_is_told_what_would_be(data: Any) -> None:
    with pytest.raises(UsageError, match="is no data") as caught:
        open_source(data)
    assert "pandas" in caught.value.advice


@pytest.mark.parametrize(
    ("rows", "error", "said"),
    [
        ([{"a": 1}, {"a": "x"}], SchemaMismatch, "'a' mixes types"),
        ([{"a": 1, "A": 2}], UsageError, "one name to SQL"),
        ([{"__p2p_x": 1}], UsageError, "reserved"),
        ([{1: 2}], UsageError, "1 is no text"),
        ([{"d": datetime.timedelta(1)}], UsageError, "column 'd'"),
        ([{"big": 2**70}], SchemaMismatch, "'big'"),
    ],
)
def test_rows_that_cannot_be(rows: list[dict[Any, Any]], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        open_source(rows)


def test_frames_that_cannot_be() -> None:
    with pytest.raises(SchemaMismatch, match="odd"):
        open_source(pd.DataFrame({"odd": [1, "x", object()]}))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", b"PAR1 and no more"),
        ("a.arrow", b"ARROW1\0\0 nonsense"),
        ("a.arrows", b"nonsense"),
        ("a.csv", b"a,b\n1,2,3\n"),
        ("a.csv", b"a,b\n\xff\xfe,1\n"),
        ("a.jsonl", b'{"a": 1}\n{"a": '),
        ("a.csv.gz", b"not gzip"),
    ],
)
def test_a_broken_file_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"{name} cannot be read"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        ("a.csv", "café\n1\nü\n".encode("latin1"), "UTF-8"),
        ("a.jsonl", '{"a": "café"}\n'.encode("latin1"), "UTF-8"),
        ("a.json", b' [{"a": 1}]\n', "one object a line"),
    ],
)
def test_a_file_that_only_needs_converting(name: str, content: bytes, advice: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError, match=name) as caught:
        read(path)
    assert advice in caught.value.advice


def test_a_parquet_file_cut_in_the_middle_is_named(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet")
    data = bytearray(path.read_bytes())
    data[200:2000] = bytes(1800)
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"a\.parquet cannot be read"):
        read(path)


@pytest.mark.parametrize("name", ["none.csv", "*.parquet", "sub/"])
def test_paths_that_match_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no table file matches"):
        open_source(tmp_path / name)


def test_unknown_suffixes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    path.write_bytes(b"x")
    with pytest.raises(UsageError, match=r"a\.xlsx: no known table format") as caught:
        open_source(path)
    assert ".parquet" in caught.value.advice


@pytest.mark.parametrize(("name", "content"), [("a.csv", b""), ("a.csv", b"a,b\n"), ("a.jsonl", b"\n\n")])
def test_files_without_rows(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(EmptyData):
        open_source(path)
