"""`query`: SQL over the swarm's datasets."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from p2pnode.api.commands.session import Session

#: Rows that a terminal is shown: more scroll away unread, and take long to lay out.
TERMINAL_ROWS_MAX = 500


class OnMissing(StrEnum):
    ERROR = "error"
    PARTIAL = "partial"


def query(
    context: typer.Context,
    sql: Annotated[str, typer.Argument(metavar="SQL", help='One SELECT; "-" reads it from stdin.')],
    dataset: Annotated[str | None, typer.Option(metavar="NAME", help="Let the table `dataset` mean this one.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show how it would run, and do not run it.")] = False,
    on_missing: Annotated[
        OnMissing, typer.Option(help="Without a live holder for some shard: fail (exit 5), or answer from the rest.")
    ] = OnMissing.ERROR,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", min=0.001, help="Give up after this.")] = None,
    at: Annotated[str | None, typer.Option(metavar="VERSION", help="Read a dataset as it was in this version.")] = None,
) -> None:
    """Answer one SELECT in DuckDB's dialect; tables are dataset names.

    \b
      p2pnode query "SELECT carrier, avg(dep_delay) FROM flights GROUP BY carrier"
      p2pnode query "SELECT * FROM dataset WHERE id > 500 LIMIT 10" --dataset trips -o json
    """
    from p2pnode.api import output

    session = Session.of(context)
    wanted = {
        "sql": sys.stdin.read() if sql == "-" else sql,
        "dataset": dataset,
        "on_missing": str(on_missing),
        "timeout_s": timeout,
        "at": at,
        "explain": explain,
    }
    answer = session.client().ask(wanted)
    if session.json:
        output.raw(answer)
    elif explain:
        _show_plan(json.loads(answer))
    else:
        _show_answer(json.loads(answer), quiet=session.quiet)


def _show_answer(answer: dict[str, Any], *, quiet: bool) -> None:
    from p2pnode.api import output

    rows = answer["rows"]
    terminal = output.on_terminal()
    first = rows[:TERMINAL_ROWS_MAX] if terminal else rows
    output.table([column["name"] for column in answer["columns"]], first, _value if terminal else _plain_value)
    stats = answer["stats"]
    if stats["coverage"] < 1:
        output.note(f"INCOMPLETE: this answer covers {stats['coverage']:.0%} of the data.")
    if len(first) < len(rows):
        output.note(f"These are the first {len(first):,} of {len(rows):,} rows; a file or a pipe gets all of them.")
    if sys.stderr.isatty() and not quiet:
        output.note(
            f"{output.counted(len(rows), 'row')} · {stats['shards_scanned']} of "
            f"{output.counted(stats['shards_total'], 'shard')} · {output.size(stats['bytes_moved'])} moved for "
            f"{output.size(stats['bytes_scanned'])} scanned · {stats['elapsed_ms']:.0f} ms"
        )


def _value(value: Any) -> str:
    """A value of the data, as SQL and JSON write it: nothing rounded, NULL is not the empty text."""
    return "NULL" if value is None else _plain_value(value)


def _plain_value(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _show_plan(plan: dict[str, Any]) -> None:
    """What runs where, in the order it happens."""
    from p2pnode.api import output

    for scan in plan["scans"]:
        pruned = f", {scan['shards_pruned']} skipped by their statistics" if scan["shards_pruned"] else ""
        output.text(f"at the holders of {scan['table']} ({output.counted(scan['shards'], 'shard')}{pruned}):")
        output.text(f"  {scan['sql']}")
    output.text("at the asker:")
    output.text(f"  {plan['final']}")
    for note in plan["notes"]:
        output.text(f"note: {note}")
