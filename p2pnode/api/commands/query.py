"""`query`: SQL over the swarm's datasets."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from p2pnode.api.commands.session import Session


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
    at: Annotated[str | None, typer.Option(metavar="VERSION", help="Ask a past version of --dataset.")] = None,
) -> None:
    """Answer one SELECT; tables are dataset names and the dialect is DuckDB's.

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

    output.table([column["name"] for column in answer["columns"]], answer["rows"])
    stats = answer["stats"]
    if stats["coverage"] < 1:
        output.note(f"INCOMPLETE: this answer covers {stats['coverage']:.0%} of the data.")
    if sys.stderr.isatty() and not quiet:
        output.note(
            f"{len(answer['rows']):,} rows · {stats.get('shards_scanned')} of {stats.get('shards_total')} shards · "
            f"{output.size(stats.get('bytes_moved', 0))} moved for {output.size(stats.get('bytes_scanned', 0))} "
            f"scanned · {stats.get('elapsed_ms', 0):.0f} ms"
        )


def _show_plan(plan: dict[str, Any]) -> None:
    from p2pnode.api import output

    for key, value in plan.items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
        output.text(f"{key}: {shown}")
