"""What the planner takes and gives: tables with their shards in, scans and a final statement out.

Plain values. How a plan is made stands in `plan`, who runs it in the query service.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from p2pnode.core.model import Column, ShardEntry

_ASCII_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


def folded(name: str) -> str:
    """`name` as DuckDB compares it: without regard to case in ASCII, and only there."""
    return name.translate(_ASCII_LOWER)


@dataclass(frozen=True, slots=True)
class TableInfo:
    """One dataset as a query sees it: `name` as the dataset is called, every shard of the version asked for."""

    name: str
    columns: tuple[Column, ...]
    shards: tuple[ShardEntry, ...]
    format: str = "parquet"

    def column(self, name: str) -> Column | None:
        """The column called `name`, in whatever case."""
        wanted = folded(name)
        return next((column for column in self.columns if folded(column.name) == wanted), None)


#: Finds the dataset behind a name in FROM, or None. `name` is given as written, without quotes.
Resolve = Callable[[str], TableInfo | None]


@dataclass(frozen=True, slots=True)
class Scan:
    """The work of the holders for one reference to one table.

    Each holder runs `sql` with the relation `view` bound to its share of the shards; `view` has exactly `columns`,
    or rows without any that `sql` could name when it only counts them.
    The union of all answers (in any order) is the relation `output`, which `Plan.final` reads. `shards` are indexes
    into ``TableInfo.shards``. When it is empty nobody is asked and `output` is an empty relation of `columns`:
    `sql` then never renames nor computes, which the planner guarantees.
    `partial` says that the answers are merged (groups, top rows, distinct rows) rather than just collected.
    """

    table: str
    view: str
    sql: str
    columns: tuple[Column, ...]
    shards: tuple[int, ...]
    output: str
    partial: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """A statement cut in two: `scans` where the shards lie, `final` at the asker over their outputs.

    `pushed`: the holders do all the work that can be cut for this statement; False when something (a join, a window,
    a median) is finished at the asker from gathered rows. `notes` say in sentences what was pushed and what was not.
    """

    scans: tuple[Scan, ...]
    final: str
    pushed: bool
    tables: tuple[str, ...]
    shards_total: int
    notes: tuple[str, ...]
