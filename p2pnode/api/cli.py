"""`p2pnode`: the command line. Each command is one call on the node that runs here (`up` runs it).

This file holds what all commands share: the global options, which may stand anywhere on the line, the exit codes,
and the one place where a failure becomes a line of text. The commands themselves stand in `commands/`; others join
through the entry-point group `p2pnode.commands`. Nothing heavy is imported before a command needs it.

    0 done · 1 failed · 2 misuse · 3 no node reachable · 4 refused · 5 incomplete data
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from p2pnode.api.commands import dataset, log, node, query, swarm, up
from p2pnode.api.commands.session import OutputFormat, Session
from p2pnode.errors import P2PNodeError, UsageError

COMMANDS = "p2pnode.commands"
INTERRUPTED = 130

#: Global options, and whether a value follows.
_GLOBAL = {
    "--home": True,
    "--api": True,
    "-o": True,
    "--output": True,
    "-v": False,
    "--verbose": False,
    "-q": False,
    "--quiet": False,
}

app = typer.Typer(
    name="p2pnode",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        from p2pnode import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main_options(
    context: typer.Context,
    home: Annotated[
        Path | None,
        typer.Option(envvar="P2PNODE_HOME", metavar="DIR", help="The node's home; by default the one that runs here."),
    ] = None,
    api: Annotated[
        str | None, typer.Option(envvar="P2PNODE_API", metavar="URL", help="The node's HTTP API, instead of a home.")
    ] = None,
    output: Annotated[
        OutputFormat, typer.Option("-o", "--output", envvar="P2PNODE_OUTPUT", help="What to print on stdout.")
    ] = OutputFormat.TABLE,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Log everything to stderr.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Log only errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A swarm of ordinary machines that holds datasets and answers SQL where the data lies.

    \b
      p2pnode up --node-id alpha          start a node (in another terminal)
      p2pnode dataset publish trips.parquet --name trips --replicas 1
      p2pnode query "SELECT count(*) FROM trips"
      p2pnode demo                        see a whole swarm at work

    The global options may also follow the command.
    """
    context.obj = Session(home, api, output is OutputFormat.JSON, verbose=verbose, quiet=quiet)


app.command("up")(up.up)
app.command("id")(swarm.identity)
app.command("peers")(swarm.peers)
app.add_typer(dataset.app, name="dataset")
app.command("query")(query.query)
app.add_typer(log.app, name="log")
app.add_typer(node.app, name="node")
app.command("health")(swarm.health)
app.command("doctor")(swarm.doctor)
app.add_typer(swarm.config_app, name="config")


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code and lets no failure through."""
    as_json = False
    try:
        arranged = globals_first(arguments)
        as_json = _wants_json(arranged)
        _add_others(app)
        return app(args=arranged, prog_name="p2pnode", standalone_mode=False) or 0
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except TyperException as misuse:
        return _misused(misuse, as_json)
    except P2PNodeError as error:
        return _failed(error, as_json)
    except BrokenPipeError:
        _forget_stdout()
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        return _failed(P2PNodeError(f"{error.filename or 'input or output'}: {error.strerror or error}"), as_json)
    except Exception as error:
        if "-v" in arguments or "--verbose" in arguments:
            raise
        advice = "Run it again with -v for the details, and report them."
        return _failed(P2PNodeError(f"internal error: {type(error).__name__}: {error}", advice=advice), as_json)


def globals_first(arguments: Sequence[str]) -> list[str]:
    """The global options moved to the front, where the parser wants them; what follows `--` stays as it is."""
    front: list[str] = []
    rest: list[str] = []
    pending = list(arguments)
    while pending:
        word = pending.pop(0)
        if word == "--":
            rest += [word, *pending]
            break
        name = word.partition("=")[0]
        if name not in _GLOBAL:
            rest.append(word)
            continue
        front.append(word)
        if _GLOBAL[name] and "=" not in word and pending:
            front.append(pending.pop(0))
    return front + rest


def _wants_json(arranged: Sequence[str]) -> bool:
    for number, word in enumerate(arranged[:-1]):
        if word in ("-o", "--output"):
            return arranged[number + 1] == OutputFormat.JSON
    return "--output=json" in arranged or os.environ.get("P2PNODE_OUTPUT") == OutputFormat.JSON


def _add_others(app: typer.Typer) -> None:
    """Commands of other packages, by name; `simulations` brings `demo`, `sim` and `bench`."""
    present = {group.name for group in app.registered_groups} | {command.name for command in app.registered_commands}
    for entry in sorted(entry_points(group=COMMANDS), key=lambda entry: entry.name):
        if entry.name in present:
            continue
        try:
            command: Any = entry.load()
        except ImportError as error:
            # One package's broken command must not take the others with it.
            print(f"p2pnode: the command {entry.name!r} does not load: {error}", file=sys.stderr)
            continue
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=entry.name)
        else:
            function: Callable[..., Any] = command
            app.command(entry.name)(function)


def _misused(misuse: TyperException, as_json: bool) -> int:
    """What the parser refuses looks like every other failure; a group without a command shows its help."""
    context: typer.Context | None = getattr(misuse, "ctx", None)
    told = misuse.format_message().replace("Value error, ", "")
    if context is not None and told == context.get_help():
        print(told, file=sys.stderr)
        return misuse.exit_code
    advice = None if context is None else f"`{context.command_path} -h` tells what it takes."
    return _failed(UsageError(told, advice=advice), as_json)


def _failed(error: P2PNodeError, as_json: bool) -> int:
    from p2pnode.api.output import failure

    try:
        failure(error, as_json=as_json)
    except BrokenPipeError:
        _forget_stdout()
    return error.exit_code


def _forget_stdout() -> None:
    """Whoever read it has gone: keep the interpreter from complaining about it once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
