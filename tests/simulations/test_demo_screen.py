"""The demo in a pipe is plain text, and beside JSON it is silent."""

from __future__ import annotations

import io

import pyarrow as pa
import pytest
from rich.console import Console

from simulations.demo_screen import Screen, size_text

WORKERS = ["worker-1", "worker-2"]


def play(screen: Screen) -> None:
    screen.opening()
    screen.chapter("Publish")
    with screen.working("starting"):
        pass
    with screen.bar() as bars:
        bars.add("flights", 100)
        bars.begin("flights")
        bars.move("flights", 100, "4 shards")
    screen.nodes([("worker-1", "worker", 42, "/ip4/127.0.0.1/tcp/1")])
    screen.shards([("flights", "bafkr4iabcdef", 25_000, 390_123, ["worker-1", "worker-2"])], WORKERS, "worker-2")
    screen.answer("How late?", "SELECT 1", pa.table({"n": [120_835], "x": [1.5]}), "5 ms", equal=True)
    screen.again([("How late?", False, "6 ms")])
    screen.killed("worker-2", 4242, "it held 1 shard")
    screen.closing([("data", "100 rows")], ok=False)


def test_a_pipe_gets_every_fact_and_no_control_codes(capsys: pytest.CaptureFixture[str]) -> None:
    play(Screen())
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "\r" not in text
    for fact in ("worker-2", "4242", "120,835", "1.50", "390.1 kB", "…abcdef", "● ", "✗ differs", "answers differ"):
        assert fact in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(("width", "workers", "heading"), [(80, 3, "worker-2"), (64, 4, " 2 "), (120, 12, " 12 ")])
def test_shards_are_whole_on_a_narrow_terminal(width: int, workers: int, heading: str) -> None:
    console = Console(file=io.StringIO(), record=True, width=width)
    names = [f"worker-{number}" for number in range(1, workers + 1)]
    Screen(console=console).shards([("airports", "bafkr4iabcdef", 25_000, 390_123, names[:2])], names)
    text = console.export_text()
    for fact in (heading, "airports", "…abcdef", "25,000", "390.1 kB"):
        assert fact in text


def test_beside_json_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    play(Screen(quiet=True))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (5_248_363, "5.2 MB"), (3e12, "3000.0 GB")]
)
def test_sizes_for_people(size: float, text: str) -> None:
    assert size_text(size) == text
