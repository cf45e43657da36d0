"""What commands print: one JSON document, a table on a terminal, tab-separated text into a pipe.

stdout carries the answer and nothing else; everything said beside it goes to stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import NoneType
from typing import TYPE_CHECKING, Any

from p2pnode.api.json import encode
from p2pnode.errors import P2PNodeError

if TYPE_CHECKING:
    from rich.table import Table

#: Characters of a cell that may not be folded, and between two columns.
READABLE, GAP = 16, 3
#: Control characters as the signs for them, but for tab and newline.
_CONTROLS = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | dict.fromkeys(range(127, 160), 0xFFFD)


def document(value: Any) -> None:
    """One JSON document, on one line, at once."""
    raw(value if isinstance(value, bytes) else encode(value))


def raw(data: bytes) -> None:
    sys.stdout.buffer.write(data + b"\n")
    sys.stdout.buffer.flush()


def text(line: str) -> None:
    sys.stdout.write((harmless(line) if on_terminal() else line) + "\n")
    sys.stdout.flush()


def on_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout.isatty()


def note(line: str) -> None:
    """A word beside the answer."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]], show: Callable[[Any], str] | None = None) -> None:
    """Rows for people. On a terminal a grid, or one record after the other where columns would be too narrow to
    read; otherwise one line a row with tabs between cells. `show` makes a cell's text.
    """
    cells = [[(show or shown)(cell) for cell in row] for row in rows]
    if not on_terminal():
        for row in (headings, *cells):
            text("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in row))
        return
    from rich.console import Console

    console = Console(highlight=False)
    headings = [harmless(heading) for heading in headings]
    cells = [[harmless(cell) for cell in row] for row in cells]
    needed = sum(_least_width(column) + GAP for column in zip(headings, *cells, strict=True))
    if needed <= console.width:
        numeric = [
            all(isinstance(cell, (int, float, NoneType)) for cell in column) for column in zip(*rows, strict=True)
        ]
        console.print(_grid(headings, cells, numeric or [False] * len(headings)))
        return
    for number, row in enumerate(cells, 1):
        console.rule(f"row {number}", align="left", style="dim")
        console.print(_record(headings, row))


def _grid(headings: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, number in zip(headings, numeric, strict=True):
        grid.add_column(Text(heading), justify="right" if number else "left", overflow="fold")
    for row in cells:
        grid.add_row(*(Text(cell) for cell in row))
    return grid


def _record(headings: Sequence[str], row: Sequence[str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", overflow="fold")
    grid.add_column(overflow="fold")
    for heading, cell in zip(headings, row, strict=True):
        grid.add_row(Text(heading), Text(cell))
    return grid


def _least_width(column: Sequence[str]) -> int:
    """Characters that a column needs to be read: its longest text, which beyond `READABLE` may be folded."""
    return min(max(map(len, column)), READABLE)


def harmless(text: str) -> str:
    """Text as a terminal may see it: what others wrote moves no cursor and sets no title."""
    return text.translate(_CONTROLS)


def failure(error: P2PNodeError, *, as_json: bool) -> None:
    """One line what is wrong, one line what to do; with JSON the error's document on stdout besides."""
    if as_json:
        document(error.as_document())
    note(harmless(f"p2pnode: {' '.join(str(error).split())}"))
    if error.advice:
        note(harmless(f"  → {error.advice}"))


def shown(value: Any) -> str:
    """A cell's text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}" if on_terminal() else repr(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(shown(item) for item in value)
    return str(value)


def counted(count: int, noun: str) -> str:
    """1 row, 2,000 rows."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def size(count: int) -> str:
    """Bytes for people."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
