"""Seeds that failed once: kept, with the reason, and run again each time.

One JSON object a line: what differs from a plain world, and in one sentence what was wrong. A line never goes: a
mistake that was made once is the likeliest to be made again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from p2pnode.errors import UsageError
from simulations.world.options import WorldOptions


@dataclass(frozen=True, slots=True)
class Case:
    """One line: the world, and why it is remembered."""

    options: WorldOptions
    why: str

    def as_line(self) -> str:
        world = {"seed": self.options.seed, "nodes": self.options.nodes, **self.options.changed()}
        return json.dumps({**world, "why": self.why}, ensure_ascii=False)


def read_case(line: str) -> Case:
    """Raises UsageError for a line that is none."""
    try:
        said: dict[str, Any] = json.loads(line)
        why = said.pop("why")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"no line of a corpus: {line[:80]!r}") from error
    unknown = said.keys() - {field.name for field in fields(WorldOptions)}
    if unknown:
        raise UsageError(f"no such option of a world: {', '.join(sorted(unknown))}")
    return Case(WorldOptions(**{name: _plain(value) for name, value in said.items()}), why)


def read_corpus(path: Path) -> list[Case]:
    """Every line of the file."""
    return [read_case(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _plain(value: Any) -> Any:
    """JSON's lists are the options' tuples."""
    return tuple(value) if isinstance(value, list) else value
