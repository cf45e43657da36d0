"""How the demo looks: rich on a terminal, plain text into a pipe, nothing at all beside JSON.

rich itself leaves out colours and animation where there is no terminal. This file refuses to know how
anything is found out: it gets values and shows them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pyarrow as pa
from rich import box
from rich.columns import Columns
from rich.console import Console, Group
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

#: One colour a worker, told apart also in their dark and light forms.
COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "bright_red", "bright_cyan", "bright_magenta")
#: Columns of text when there is no terminal to ask.
PLAIN_WIDTH = 100
#: Columns of text of a shard, before those of the workers: where all do not fit, a worker is its number.
SHARD_WIDTH = 38


class Screen:
    """Says what happens, in order, on `console` or on stdout. `quiet` says nothing."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self._console = console or Console(quiet=quiet, highlight=False)
        if console is None and not self._console.is_terminal:
            self._console.width = PLAIN_WIDTH
        self._chapter = 0

    def opening(self) -> None:
        title = Text("p2pnode", style="bold cyan")
        words = Text("a swarm that shards, replicates and answers SQL, with no server in the middle", "dim")
        self._console.print(Panel(Group(title, words), box=box.ROUNDED, border_style="cyan", padding=(0, 2)))

    def chapter(self, title: str) -> None:
        self._chapter += 1
        self._console.print()
        heading = Text.assemble((f" {self._chapter} ", "bold black on cyan"), (f" {title} ", "bold"))
        self._console.print(Rule(heading, align="left", style="cyan"))

    def say(self, markup: str) -> None:
        self._console.print(Padding(markup, (0, 0, 0, 2)))

    def working(self, what: str) -> AbstractContextManager[Any]:
        """A spinner while something is under way."""
        return self._console.status(f"[dim]{what}[/]", spinner="dots")

    @contextmanager
    def bar(self) -> Iterator[Bars]:
        """Progress bars of a publish."""
        columns = (
            SpinnerColumn(style="cyan"),
            TextColumn("[bold]{task.description:<9}[/]"),
            BarColumn(bar_width=36, complete_style="cyan", finished_style="green"),
            MofNCompleteColumn(),
            TextColumn("[dim]{task.fields[note]}[/]"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            yield Bars(progress)

    def nodes(self, rows: Sequence[tuple[str, str, int | None, str]]) -> None:
        """(node_id, role, pid, address), one line each."""
        table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
        for heading, justify in (("node", "left"), ("role", "left"), ("pid", "right"), ("address", "left")):
            table.add_column(heading, justify=justify)  # type: ignore[arg-type]
        for node_id, role, pid, address in rows:
            table.add_row(f"[bold]{node_id}[/]", role, str(pid or ""), f"[dim]{address}[/]")
        self._console.print(Padding(table, (0, 0, 0, 2)))

    def shards(
        self, rows: Sequence[tuple[str, str, int, int, Sequence[str]]], workers: Sequence[str], gone: str = ""
    ) -> None:
        """(dataset, shard id, rows, bytes, holders); one column a worker, its dots crossed out if it is gone."""
        table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False, collapse_padding=True)
        table.add_column("dataset", no_wrap=True)
        table.add_column("shard", no_wrap=True)
        table.add_column("rows", justify="right", no_wrap=True)
        table.add_column("size", justify="right", no_wrap=True)
        tight = SHARD_WIDTH + sum(len(worker) + 2 for worker in workers) > self._console.width
        for index, worker in enumerate(workers):
            style = "red strike" if worker == gone else COLOURS[index % len(COLOURS)]
            name = worker.rpartition("-")[2] if tight else worker
            table.add_column(Text(name, style), justify="center", no_wrap=True)
        for dataset, shard_id, count, size, holders in rows:
            dots = [self._dot(worker, index, holders, gone) for index, worker in enumerate(workers)]
            table.add_row(dataset, f"[dim]…{shard_id[-6:]}[/]", f"{count:,}", size_text(size), *dots)
        self._console.print(Padding(table, (0, 0, 0, 2)))

    def _dot(self, worker: str, index: int, holders: Sequence[str], gone: str) -> Text:
        if worker not in holders:
            return Text("·", "dim")
        return Text("✗", "red") if worker == gone else Text("●", COLOURS[index % len(COLOURS)])

    def answer(self, title: str, sql: str, table: pa.Table, footnote: str, *, equal: bool) -> None:
        """A question, its SQL, its rows and how it was found."""
        shown = Table(box=box.SIMPLE, header_style="dim", pad_edge=False)
        for name in table.column_names:
            numeric = pa.types.is_integer(table.schema.field(name).type) or pa.types.is_floating(
                table.schema.field(name).type
            )
            shown.add_column(name, justify="right" if numeric else "left")
        columns = [_cells(column.to_pylist()) for column in table.columns]
        for row in zip(*columns, strict=True):
            shown.add_row(*row)
        body = Group(
            Syntax(sql, "sql", theme="ansi_dark", background_color="default", word_wrap=True),
            shown,
            Text.from_markup(f"{_mark(equal)} [dim]· {footnote}[/]"),
        )
        border = "green" if equal else "red"
        self._console.print(
            Panel(body, title=f"[bold]{title}[/]", title_align="left", box=box.ROUNDED, border_style=border)
        )

    def again(self, rows: Sequence[tuple[str, bool, str]]) -> None:
        """The same questions once more: (title, equal, how it was found), one line each."""
        table = Table.grid(padding=(0, 2))
        for title, equal, footnote in rows:
            table.add_row(f"[bold]{title}[/]", _mark(equal), f"[dim]{footnote}[/]")
        self._console.print(Padding(table, (0, 0, 0, 2)))

    def killed(self, node_id: str, pid: int, detail: str) -> None:
        text = Text.assemble(("SIGKILL ", "bold white on red"), (f"  {node_id}", "bold red"), f"  pid {pid}")
        self._console.print(Panel(Group(text, Text(detail, "dim")), box=box.HEAVY, border_style="red", padding=(0, 2)))

    def closing(self, facts: Sequence[tuple[str, str]], *, ok: bool) -> None:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", justify="right")
        table.add_column()
        for name, value in facts:
            table.add_row(name, value)
        verdict = "[bold green]all answers equal[/]" if ok else "[bold red]answers differ[/]"
        self._console.print()
        self._console.print(
            Panel(
                Columns([table]),
                title=verdict,
                title_align="left",
                box=box.ROUNDED,
                border_style="green" if ok else "red",
                padding=(1, 2),
            )
        )


class Bars:
    """One bar a dataset; `note` says what is being done to it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}

    def add(self, name: str, total: int) -> None:
        self._tasks[name] = self._progress.add_task(name, total=total, note="", start=False)

    def begin(self, name: str) -> None:
        self._progress.start_task(self._tasks[name])

    def move(self, name: str, done: int, note: str) -> None:
        self._progress.update(self._tasks[name], completed=done, note=note)


def size_text(size: float) -> str:
    """Bytes for people: 1.2 kB, 34.5 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def _mark(equal: bool) -> str:
    return "[bold green]✓ equal[/]" if equal else "[bold red]✗ differs[/]"


def _cells(values: Sequence[Any]) -> list[str]:
    """A column alike from top to bottom. Small numbers may be names, as flight numbers are, and get no commas."""
    grouped = any(isinstance(value, int) and value >= 10_000 for value in values)
    return [
        f"{value:,.2f}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int) and grouped
        else str(value)
        for value in values
    ]
