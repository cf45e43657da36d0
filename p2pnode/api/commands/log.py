"""`log`, `log verify`: what the swarm said, and whether this node's copy of it is whole.

Both ask the node that runs on the home; where none runs they read the home's file, so that the log of a machine that
died can be looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2pnode.api.commands.session import Session
from p2pnode.errors import SwarmUnreachable, UsageError

if TYPE_CHECKING:
    from p2pnode.api.client import Client

app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)

#: Events that a terminal is shown unless `--last` says more: what lies before scrolls away unread.
TERMINAL_EVENTS_MAX = 500
#: Of a log that is not whole, as `dataset verify` of a dataset that is not.
INCOMPLETE = 5

_MENDING = (
    "What is lacking or damaged comes back from other members while the node runs: look again then. A log that was "
    "tampered with stays marked. To begin it anew, stop the node, move catalog.db (and its -wal, -shm) away and start "
    "with --bootstrap at a living member; shards are not touched."
)
_COLUMNS = ("time", "height", "node_id", "kind", "text", "id")
_WIDTHS = {"time": 19, "height": 7, "node_id": 14, "kind": 8}
#: On a terminal of fewer characters the year goes, and names are cut sooner: what was said matters more.
ROOMY = 100
_WIDTHS_NARROW = {**_WIDTHS, "time": 14, "node_id": 10}
_COLOURS = {
    "genesis": "bold",
    "up": "green",
    "leave": "yellow",
    "down": "red",
    "readmit": "magenta",
    "define": "cyan",
    "version": "blue",
    "delete": "yellow",
    "merge": "dim",
}


@app.callback()
def log(
    context: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with new events as they come.")] = False,
    kind: Annotated[list[str] | None, typer.Option(metavar="K", help="Only events of this kind; repeatable.")] = None,
    last: Annotated[int | None, typer.Option(metavar="N", min=0, help="Only the newest N of them.")] = None,
) -> None:
    """The events of the merkle clock, oldest first.

    \b
      p2pnode log --kind version --last 20
      p2pnode log --follow
      p2pnode --home DIR log           also of a node that does not run

    Kinds are genesis, up, leave, down, readmit, define, version, delete and merge. The order is that of every
    replica (height, then id); --follow goes on in order of arrival. Times are what authors' clocks said and decide
    nothing.
    """
    if context.invoked_subcommand is not None:
        if follow or kind or last is not None:
            raise UsageError("These options are for `log` itself.", advice=f"`{context.command_path} -h` tells.")
        return
    from p2pnode.api import output

    session = Session.of(context)
    kinds = kind or []
    strange = sorted(set(kinds) - set(_COLOURS))
    if strange and not session.quiet:
        output.note(f"{', '.join(strange)}: this p2pnode knows no such kind; it knows {', '.join(_COLOURS)}.")
    most = last
    if last is None and output.on_terminal() and not session.json:
        most = TERMINAL_EVENTS_MAX
    shown = 0
    try:
        with ExitStack() as stack:
            entries = stack.enter_context(_entries(session, kinds, most, follow=follow))
            shown = _show(entries, as_json=session.json)
    except KeyboardInterrupt:
        if not follow:
            raise
        return
    if most != last and shown == most:
        output.note(f"These are the newest {shown:,}; --last N shows more, a file or a pipe gets all of them.")


@app.command("verify")
def verify(context: typer.Context) -> None:
    """Check this node's log, record by record; also of a node that does not run.

    Every event is read anew (bytes, id, signature, links, height, sequence, entitlement), every block hashed, and the
    catalog folded from scratch and compared with the running node's. Exit 5 if anything is not as it should be.
    """
    from p2pnode.api import output

    session = Session.of(context)
    found = _verified(session)
    if session.json:
        output.document(found)
    else:
        output.table(("check", "ok", "detail"), [[one["check"], one["ok"], one["detail"]] for one in found["checks"]])
        for one in found["damaged"]:
            places = [f"place {one['place']}"] if one["place"] is not None else []
            where = " ".join((*places, *([one["id"]] if one["id"] else [])))
            output.text(": ".join(word for word in (one["check"], where, one["why"]) if word))
        output.text(
            f"{output.counted(found['events'], 'event')} to height {found['height']:,},"
            f" {output.counted(len(found['heads']), 'head')}, fingerprint {found['fingerprint'][:16]}…,"
            f" digest {found['digest'][:16]}…: {'whole' if found['ok'] else 'NOT WHOLE'}"
        )
    if not found["ok"]:
        if not session.quiet:
            output.note(f"  → {_MENDING}")
        raise typer.Exit(INCOMPLETE)


# -- from a node, or from its file -----------------------------------------------------------------------------


@contextmanager
def _entries(session: Session, kinds: list[str], last: int | None, *, follow: bool) -> Iterator[Iterable[Any]]:
    """Documents of events: the running node's, or the file's of one that does not run."""
    source = _source(session, offline=not follow)
    if not isinstance(source, Path):
        query = {"kind": kinds, "follow": str(follow).lower(), **({} if last is None else {"last": str(last)})}
        yield source.lines("log", query=query)
        return
    from p2pnode.api import output, telling
    from p2pnode.services.history import History
    from p2pnode.storage.log_reader import LogReader

    with LogReader.of_home(source) as reader:
        history = History(reader, kinds, last)
        yield (telling.entry(entry) for page in history.pages() for entry in page)
        if history.unreadable:
            output.note(
                f"{output.counted(history.unreadable, 'record')} passed over: no event; `p2pnode log verify` tells."
            )


def _verified(session: Session) -> dict[str, Any]:
    source = _source(session)
    if not isinstance(source, Path):
        found = _watch(source.lines("log", "verify"), quiet=session.quiet)
        if found is None:
            raise SwarmUnreachable("the node stopped in the middle of the audit", advice="Run it again.")
        return found
    from p2pnode.api import telling
    from p2pnode.services.audit import Audit
    from p2pnode.storage.log_reader import LogReader

    with LogReader.of_home(source) as reader:
        audit = Audit(reader)
        _watch((telling.audited(step) for step in audit.steps()), quiet=session.quiet)
        return telling.report(audit.report())


def _source(session: Session, *, offline: bool = True) -> Client | Path:
    """The node that runs on the home, else the log in the home. Raises SwarmUnreachable when there is neither."""
    from p2pnode.api import output
    from p2pnode.api.home import LOG_FILE, only_home

    try:
        client = session.client()
        client.get("id")  # a killed node leaves its address behind
    except SwarmUnreachable:
        home = session.home or only_home()
        if not offline or session.api or home is None or not (home.expanduser() / LOG_FILE).is_file():
            raise
    else:
        return client
    if not session.quiet:
        output.note(f"No node runs on {home}: this is its log as it lies on disk.")
    return home.expanduser() / LOG_FILE


def _watch(lines: Iterable[dict[str, Any]], *, quiet: bool) -> dict[str, Any] | None:
    """Read an audit to its end, with a bar on a terminal. Returns its document."""
    if quiet or not sys.stderr.isatty():
        return next((line["document"] for line in lines if line["event"] == "done"), None)
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    fields = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*fields, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=None)
        for line in lines:
            if line["event"] == "done":
                return line["document"]
            bar.update(task, description=line["stage"], completed=line["done"], total=line["total"])
    return None


# -- what is shown -----------------------------------------------------------------------------------------------


def _show(entries: Iterable[dict[str, Any]], *, as_json: bool) -> int:
    """Print them as they come; returns how many."""
    from p2pnode.api import output

    show = output.document
    if not as_json:
        show = _lines_on_terminal() if output.on_terminal() else _lines_in_pipe()
    count = 0
    for entry in entries:
        show(entry)
        count += 1
    return count


def _lines_in_pipe() -> Callable[[dict[str, Any]], None]:
    from p2pnode.api import output

    output.text("\t".join(_COLUMNS))
    return lambda entry: output.text("\t".join(_cells(entry)))


def _lines_on_terminal() -> Callable[[dict[str, Any]], None]:
    """An event is one line, however narrow the terminal; its id comes last and is the first to be cut."""
    from rich.console import Console
    from rich.text import Text

    from p2pnode.api.output import harmless

    console = Console(highlight=False)
    narrow = console.width < ROOMY
    widths = _WIDTHS_NARROW if narrow else _WIDTHS
    gap = Text("  ")

    def show(entry: dict[str, Any]) -> None:
        time, *others = _cells(entry)
        told = (time[len("2000-") :] if narrow else time, *others)
        cells = [_fitted(harmless(cell), name, widths) for name, cell in zip(_COLUMNS, told, strict=True)]
        styles = ("dim", "", "bold", _COLOURS.get(entry["kind"], ""), "", "dim")
        line = gap.join(Text(cell, style) for cell, style in zip(cells, styles, strict=True))
        console.print(line, no_wrap=True, overflow="ellipsis")

    headings = gap.join(Text(_fitted(name, name, widths), "bold") for name in _COLUMNS)
    console.print(headings, no_wrap=True, overflow="ellipsis")
    return show


def _cells(entry: dict[str, Any]) -> list[str]:
    """The texts of one line, in the order of _COLUMNS; what would break the line is a blank."""
    from p2pnode.api.telling import short

    time = entry["time"][:19].replace("T", " ")
    node = entry["node_id"] or short(entry["author"])
    cells = (time, str(entry["height"]), node, entry["kind"], entry["text"], short(entry["id"]))
    return [" ".join(cell.split()) for cell in cells]


def _fitted(text: str, column: str, widths: dict[str, int]) -> str:
    width = widths.get(column, len(text))
    if len(text) > width:
        return f"{text[: width - 1]}…"
    return text.rjust(width) if column == "height" else text.ljust(width)
