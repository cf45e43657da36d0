"""`dataset publish | ls | show | rm | get`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from p2pnode.api.commands.session import Session
from p2pnode.errors import UsageError

app = typer.Typer(help="Publish, list, show, fetch and delete datasets.", no_args_is_help=True, rich_markup_mode=None)


class Format(StrEnum):
    PARQUET = "parquet"
    ARROW = "arrow"


class Strategy(StrEnum):
    CONSISTENT_HASH = "consistent_hash"
    BALANCED_LOAD = "balanced_load"


@app.command("publish")
def publish(
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(metavar="PATH…", help="Parquet, CSV, Arrow or JSONL; globs too.")],
    name: Annotated[str, typer.Option(metavar="N", help="The dataset's name, defined if it is new.")],
    append: Annotated[bool, typer.Option("--append", help="Add to its newest version.")] = False,
    shard_rows: Annotated[
        int | None, typer.Option(metavar="K", min=1, help="Rows of a shard; 1000 unless the node is configured.")
    ] = None,
    replicas: Annotated[
        str | None, typer.Option(metavar="R|all", help="Nodes that hold each shard; 3 unless the node is configured.")
    ] = None,
    format: Annotated[Format, typer.Option(help="What a shard is on disk.")] = Format.PARQUET,
    strategy: Annotated[Strategy | None, typer.Option(help="How shards are spread.")] = None,
    min_regions: Annotated[int | None, typer.Option(metavar="N", min=1, help="Regions each shard spans.")] = None,
) -> None:
    """Split files into shards and put each on several nodes.

    \b
      p2pnode dataset publish trips/*.parquet --name trips --replicas 2
      p2pnode dataset publish airports.csv --name airports --replicas all
    """
    from p2pnode.api import output

    session = Session.of(context)
    body = {
        "paths": [str(Path(path).expanduser().absolute()) for path in paths],
        "name": name,
        "append": append,
        "shard_rows": shard_rows,
        "replicas": _replicas(replicas),
        "format": str(format),
        "strategy": None if strategy is None else str(strategy),
        "min_regions": min_regions,
    }
    lines = session.client().lines("datasets", body=body)
    found = _follow(lines, name, quiet=session.quiet)
    if session.json:
        output.document(found)
        return
    output.text(
        f"{found['name']}: {output.counted(found['rows'], 'row')}, {output.size(found['bytes'])} in"
        f" {output.counted(len(found['shards']), 'shard')} (version {found['version']})"
    )
    if found["short"]:
        few = output.counted(found["short"], "replica")
        output.note(f"{few} short of what was asked for; `p2pnode dataset show {shlex.quote(name)}` tells.")


@app.command("ls")
def ls(context: typer.Context) -> None:
    """Every dataset of the swarm."""
    from p2pnode.api import output

    session = Session.of(context)
    found = session.client().get("datasets")
    if session.json:
        output.document(found)
        return
    output.table(
        ("name", "rows", "size", "shards", "dataset_id"),
        [
            [each["name"], each["rows"], output.size(each["bytes"]), each["shards"], each["dataset_id"]]
            for each in found
        ],
    )


@app.command("show")
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name or id.")],
    explain: Annotated[bool, typer.Option("--explain", help="Also why each holder is one.")] = False,
) -> None:
    """A dataset's shards, and who is verified to hold each now."""
    from p2pnode.api import output

    session = Session.of(context)
    client = session.client()
    found = client.get("datasets", name, explain="true") if explain else client.get("datasets", name)
    if session.json:
        output.document(found)
        return
    rows = output.counted(found["rows"], "row")
    output.text(f"{found['name']} ({found['dataset_id']}): {rows}, {output.size(found['bytes'])}")
    output.table(
        ("shard_id", "rows", "size", "holders"),
        [
            [shard["shard_id"], shard["rows"], output.size(shard["bytes"]), shard["holders"]]
            for shard in found["shards"]
        ],
    )
    if explain:
        output.table(
            ("shard_id", "node_id", "why"),
            [
                [shard["shard_id"], node_id, why]
                for shard in found["shards"]
                for node_id, why in (*shard["why"].items(), *((lacking, "LACKS IT") for lacking in shard["lacking"]))
            ],
        )


@app.command("rm")
def rm(context: typer.Context, name: Annotated[str, typer.Argument(help="Name or id.")]) -> None:
    """Delete a dataset, for the whole swarm."""
    from p2pnode.api import output

    session = Session.of(context)
    found = session.client().delete("datasets", name)
    if session.json:
        output.document(found)
    else:
        output.text(f"deleted {found['deleted']} ({found['dataset_id']})")


@app.command("get")
def get(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The dataset's name or id.")],
    shard_id: Annotated[str, typer.Argument(metavar="SHARD_ID", help="As `dataset show` names it.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write it.")],
) -> None:
    """Fetch one shard, verified, from any node that holds it."""
    from p2pnode.api import output

    session = Session.of(context)
    if out.is_dir() or not out.parent.is_dir():
        what = "is a folder" if out.is_dir() else f"there is no folder {out.parent}"
        raise UsageError(f"--out {out}: {what}", advice="Name a file in a folder that exists.")
    written = session.client().download("shards", shard_id, dataset=name, to=out)
    if session.json:
        output.document({"shard_id": shard_id, "bytes": written, "path": str(out)})
    else:
        output.text(f"{out}: {output.size(written)}")


def _replicas(text: str | None) -> int | str | None:
    if text is None or text == "all":
        return text
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"--replicas {text}: not a count", advice="Give a number from 1, or all.")
    return int(text)


def _follow(lines: Iterator[dict[str, Any]], name: str, *, quiet: bool) -> dict[str, Any]:
    """Read a publish to its end, with a bar on a terminal. Returns its document."""
    if quiet or not sys.stderr.isatty():
        return _last(lines)["document"]
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from p2pnode.api.output import counted, harmless, size

    fields = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*fields, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(harmless(f"publishing {name}"), total=None)
        for line in lines:
            if line["event"] == "done":
                return line["document"]
            if line["stage"] == "push":
                done = f"{counted(line['rows'], 'row')}, {size(line['bytes'])}"
                bar.update(task, completed=line["rows"], total=line["rows_total"], description=done)
    raise _cut_off()


def _last(lines: Iterator[dict[str, Any]]) -> dict[str, Any]:
    line: dict[str, Any] = {}
    for line in lines:  # noqa: B007  # only the last one is wanted
        pass
    if line.get("event") != "done":
        raise _cut_off()
    return line


def _cut_off() -> Exception:
    from p2pnode.errors import SwarmUnreachable

    return SwarmUnreachable(
        "the node stopped in the middle of the publish", advice="Start it again; it is safe to repeat the command."
    )
