"""Answers: how they convert, iterate and show themselves."""

from __future__ import annotations

import polars
import pyarrow as pa
import pytest

from p2pnode.api import results
from p2pnode.api.results import Dataset, QueryResult, Shard
from p2pnode.errors import MissingExtra


@pytest.fixture
def answer() -> QueryResult:
    table = pa.table({"id": list(range(12)), "text": [f"<line {i}>" for i in range(12)]})
    stats = {"shards_total": 16, "shards_scanned": 3, "fragments": [{}, {}], "elapsed_ms": 12.3}
    return QueryResult(table, stats)


def test_every_form_has_the_same_rows(answer: QueryResult) -> None:
    expected = [{"id": i, "text": f"<line {i}>"} for i in range(12)]
    assert list(answer) == expected
    assert answer.to_arrow().to_pylist() == expected
    assert answer.to_pandas().to_dict("records") == expected
    assert answer.to_polars().to_dicts() == expected
    assert pa.table(answer).to_pylist() == expected
    assert polars.DataFrame(answer).to_dicts() == expected
    assert (len(answer), answer.columns, answer.coverage) == (12, ["id", "text"], 1.0)


def test_an_answer_shows_its_head_and_how_it_was_found(answer: QueryResult) -> None:
    text = repr(answer)
    assert "12 rows × 2 columns · 3 of 16 shards scanned · 2 fragments · 12 ms" in text
    assert "<line 9>" in text
    assert "<line 10>" not in text
    assert "2 more rows" in text
    html = answer._repr_html_()
    assert "&lt;line 9&gt;" in html
    assert "<line" not in html


def test_columns_of_one_name_are_told_apart() -> None:
    answer = QueryResult(pa.table([[1], [2], [3], [None]], names=["a", "a", "a_1", "b"]), {})
    assert list(answer) == [{"a": 1, "a_1": 2, "a_1_1": 3, "b": None}]
    assert answer.to_polars().to_dicts() == list(answer)
    assert answer.columns == ["a", "a", "a_1", "b"]
    assert "1  2  3    None" in repr(answer)
    assert "<td>2</td>" in answer._repr_html_()


def test_an_incomplete_answer_says_so() -> None:
    answer = QueryResult(pa.table({"id": pa.array([], pa.int64())}), {}, coverage=0.75)
    assert "INCOMPLETE: 75%" in repr(answer)
    assert answer  # an answer without rows is still an answer
    assert list(answer) == []


def test_a_missing_library_is_named(answer: QueryResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as caught:
        answer.to_polars()
    assert "p2pnode[polars]" in caught.value.advice
    assert results  # the module itself needs neither library


def test_datasets_and_shards_show_what_matters() -> None:
    shard = Shard("s1", "bafy", 10, 100, ("w1", "w2"))
    assert repr(shard) == "<Shard s1: 10 rows, 100 B, held by w1, w2>"
    assert repr(Dataset("ds-1", "trips")) == "<Dataset 'trips' (ds-1): nothing published>"
    assert "10 rows in 1 shard>" in repr(Dataset("ds-1", "trips", version="bafy", shards=[shard]))
