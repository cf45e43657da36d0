"""Runs the figures that were asked for and shows them: a table on a terminal, documents for JSON."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from typing import Any, Literal

import trio
from rich import box
from rich.console import Console
from rich.table import Table

from p2pnode.api.logs import keep_off_stdout
from p2pnode.errors import UsageError
from simulations.bench.figure import Figure

#: Every benchmark, in the order of running; each is a module here with a `measure`.
NAMES = ("connect", "request", "transfer", "publish", "count", "idle", "clock")
#: Those that take minutes to set up: only when asked for by name.
LONG_NAMES = ("clock_million",)
#: Characters of the longest name in one word.
NAME_CHARS = 16


def run_bench(names: Sequence[str], output: Literal["table", "json"] = "table") -> list[dict[str, Any]]:
    """Measure `names` (all of NAMES if none) and return the figures' documents. Raises UsageError for an unknown name.

    A mark that is missed is shown, not raised: this machine may have been busy.
    """
    known = (*NAMES, *LONG_NAMES)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"no such figure: {', '.join(unknown)}", advice=f"There are {', '.join(known)}.")
    keep_off_stdout()
    console = Console(quiet=output == "json", highlight=False)
    figures: list[Figure] = []
    try:
        for name in names or NAMES:
            measure: Callable[[], Awaitable[list[Figure]]] = import_module(f"simulations.bench.{name}").measure
            with console.status(f"[dim]measuring {name}[/]"):
                figures += trio.run(measure)
    finally:  # also of a run that somebody grew tired of
        console.print(table_of(figures))
    return [figure.as_document() for figure in figures]


def table_of(figures: Sequence[Figure]) -> Table:
    """The figures for people."""
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("figure", "value", "baseline", "ratio", "mark", "", "baseline is"):
        number = heading in ("value", "baseline", "ratio")
        # Words may take two lines, so that eighty columns do; numbers are never cut.
        width = NAME_CHARS if heading == "figure" else None
        table.add_column(heading, justify="right" if number else "left", no_wrap=number or not heading, width=width)
    for figure in figures:
        table.add_row(
            f"[bold]{figure.name}[/]",
            f"{_readable(figure.value)} {figure.unit}",
            _readable(figure.baseline),
            f"{figure.ratio:.2f}",
            figure.target,
            "[green]✓[/]" if figure.ok else "[red]✗[/]",
            f"[dim]{figure.against}[/]",
        )
    return table


def _readable(value: float) -> str:
    """Four digits that count, and no powers of ten."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
