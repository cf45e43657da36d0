"""`make picture`: one real run of the demo, drawn as docs/demo.svg.

The README shows it. What the run says is all there is to see; the picture only leaves out what it would say twice.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import trio
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from simulations.demo import run_demo
from simulations.demo_screen import PLAIN_WIDTH, Screen
from simulations.flights import QUESTIONS

PICTURE = Path(__file__).parent.parent / "docs" / "demo.svg"
#: The question whose answer is drawn in full.
DRAWN = next(question.title for question in QUESTIONS if question.kind == "group-by")
#: A picture loads nothing from anywhere: without rich's web fonts.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace(
    "Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace"
)


class Picture(Screen):
    """Keeps what is shown, without the shards before the kill and without all answers but one."""

    def __init__(self) -> None:
        self._kept = Console(file=io.StringIO(), record=True, width=PLAIN_WIDTH, highlight=False)
        super().__init__(console=self._kept)

    def shards(
        self, rows: Sequence[tuple[str, str, int, int, Sequence[str]]], workers: Sequence[str], gone: str = ""
    ) -> None:
        if gone:
            super().shards(rows, workers, gone)

    def answer(self, title: str, sql: str, table: pa.Table, footnote: str, *, equal: bool) -> None:
        if title == DRAWN:
            super().answer(title, sql, table, footnote, equal=equal)

    def svg(self) -> str:
        drawn = self._kept.export_svg(title="p2pnode demo", unique_id="demo", code_format=FORMAT)
        return "\n".join(line.rstrip() for line in drawn.splitlines()) + "\n"


def main() -> int:
    """Draw it, if every answer of the run was right."""
    picture = Picture()
    summary = trio.run(lambda: run_demo(screen=picture))
    if not summary["ok"]:
        print("the demo's answers differ: nothing was drawn", file=sys.stderr)
        return 1
    PICTURE.write_text(picture.svg(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
