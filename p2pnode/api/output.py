"""What commands print: one JSON document, a table on a terminal, tab-separated text into a pipe.

stdout carries the answer and nothing else; everything said beside it goes to stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from p2pnode.api.json import encode
from p2pnode.errors import P2PNodeError


def document(value: Any) -> None:
    """One JSON document, on one line, at once."""
    raw(value if isinstance(value, bytes) else encode(value))


def raw(data: bytes) -> None:
    sys.stdout.buffer.write(data + b"\n")
    sys.stdout.buffer.flush()


def text(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def note(line: str) -> None:
    """A word beside the answer."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Rows for people: aligned on a terminal, otherwise one line a row with tabs between cells."""
    cells = [[shown(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in (headings, *cells):
            text("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, heading in enumerate(headings):
        numeric = bool(rows) and all(isinstance(row[number], (int, float)) for row in rows)
        grid.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        grid.add_row(*(Text(cell) for cell in row))
    Console().print(grid)


def failure(error: P2PNodeError, *, as_json: bool) -> None:
    """One line what is wrong, one line what to do; with JSON the error's document on stdout besides."""
    if as_json:
        document(error.as_document())
    note(f"p2pnode: {' '.join(str(error).split())}")
    if error.advice:
        note(f"  → {error.advice}")


def shown(value: Any) -> str:
    """A cell's text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}" if sys.stdout.isatty() else repr(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(shown(item) for item in value)
    return str(value)


def size(count: int) -> str:
    """Bytes for people."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
