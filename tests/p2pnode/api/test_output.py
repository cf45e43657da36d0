"""Tables on a terminal of any width, and what data may do to it."""

from __future__ import annotations

from typing import Any

import pytest

from p2pnode.api import output
from p2pnode.api.commands import query


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> pytest.CaptureFixture[str]:
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("TTY_COMPATIBLE", "0")  # rich prints no styles
    monkeypatch.setenv("COLUMNS", "40")
    return capsys


def test_a_table_that_fits_is_a_grid(terminal: pytest.CaptureFixture[str]) -> None:
    output.table(("name", "rows"), [["trips", 7], ["flights", 12]])
    lines = terminal.readouterr().out.splitlines()
    assert [line.split() for line in lines if "trips" in line or "flights" in line] == [
        ["trips", "7"],
        ["flights", "12"],
    ]


def test_columns_too_narrow_to_read_become_records(terminal: pytest.CaptureFixture[str]) -> None:
    names = [f"column{number}" for number in range(10)]
    output.table(names, [list(range(10)), list(range(10, 20))])
    text = terminal.readouterr().out
    assert [line.split() for line in text.splitlines() if "column3" in line] == [["column3", "3"], ["column3", "13"]]
    assert "row 2" in text
    assert max(map(len, text.splitlines())) <= 40


def test_no_rows_and_no_columns(terminal: pytest.CaptureFixture[str]) -> None:
    output.table(("name",), [])
    assert "name" in terminal.readouterr().out
    output.table((), [])


def test_data_cannot_drive_the_terminal(terminal: pytest.CaptureFixture[str]) -> None:
    output.table(("na\x1bme",), [["[bold]\x1b]0;title\x07"], ["\x9b31m"]])
    output.text("a\x1b[2Jb")
    text = terminal.readouterr().out
    assert not {"\x1b", "\x07", "\x9b"} & set(text)
    assert "[bold]" in text


def answer(rows: list[list[Any]]) -> dict[str, Any]:
    stats = {"shards_total": 1, "shards_scanned": 1, "bytes_scanned": 1, "bytes_moved": 1, "elapsed_ms": 1.0}
    return {"columns": [{"name": "v", "type": "?"}], "rows": rows, "stats": {**stats, "coverage": 1.0}}


def test_values_are_shown_as_they_are(terminal: pytest.CaptureFixture[str]) -> None:
    query._show_answer(answer([[None], [True], [1234567.89], [[1, None]], [{"a": "ü"}], [""]]), quiet=False)
    shown = [line.strip() for line in terminal.readouterr().out.splitlines()[3:-1]]
    assert shown == ["NULL", "true", "1234567.89", "[1, null]", '{"a": "ü"}', ""]


def test_a_terminal_is_not_flooded(terminal: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[number] for number in range(query.TERMINAL_ROWS_MAX + 1)]
    query._show_answer(answer(rows), quiet=True)
    found = terminal.readouterr()
    assert "first 500 of 501 rows" in found.err
    assert "499" in found.out
    assert " 500" not in found.out
    monkeypatch.setattr(output, "on_terminal", lambda: False)
    query._show_answer(answer(rows), quiet=True)
    assert terminal.readouterr().out.splitlines()[-1] == "500"


def test_counts() -> None:
    assert output.counted(1, "row") == "1 row"
    assert output.counted(2000, "row") == "2,000 rows"
