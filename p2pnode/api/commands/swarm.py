"""`id`, `peers`, `health`, `doctor`, `config show`: what this node is and sees."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from p2pnode.api.commands.session import Session

config_app = typer.Typer(help="The configuration of a node.", no_args_is_help=True, rich_markup_mode=None)


def identity(context: typer.Context) -> None:
    """Who this node is and the addresses that others can dial."""
    from p2pnode.api import output

    session = Session.of(context)
    found = session.client().get("id")
    if session.json:
        output.document(found)
        return
    for key, value in found.items():
        for line in value if isinstance(value, list) else [value]:
            output.text(f"{key:<10} {line}")


def peers(context: typer.Context) -> None:
    """Members of the swarm and connected clients, this node among them."""
    from p2pnode.api import output

    session = Session.of(context)
    found = session.client().get("peers")
    if session.json:
        output.document(found)
        return
    columns = ("node_id", "role", "state", "region", "rtt_ms", "peer_id")
    output.table(columns, [[peer[column] for column in columns] for peer in found])


def health(
    context: typer.Context,
    node: Annotated[str | None, typer.Argument(help="One node; by default all.")] = None,
) -> None:
    """How the nodes do: CPU, memory, disk, network, loop lag."""
    from p2pnode.api import output

    session = Session.of(context)
    found = session.client().get("health", node) if node else session.client().get("health")
    if session.json:
        output.document(found)
        return
    columns = ("status", "cpu_usage", "memory_usage", "disk_usage", "network_usage", "loop_lag_ms")
    rows = [[node_id, *(state.get(column) for column in columns)] for node_id, state in found.items()]
    output.table(("node_id", "status", "cpu %", "memory %", "disk %", "network KB/s", "lag ms"), rows)


def doctor(context: typer.Context) -> None:
    """What is wrong with this node and what to do about it. Also without a node that runs."""
    from p2pnode.api import output
    from p2pnode.errors import SwarmUnreachable

    session = Session.of(context)
    unreachable: SwarmUnreachable | None = None
    try:
        found: list[dict[str, Any]] = session.client().get("doctor")
    except SwarmUnreachable as error:
        unreachable = error
        found = [{"check": "node", "ok": False, "detail": error.message, "fix": error.advice}]
    if session.json:
        output.document(found)
    else:
        output.table(
            ("check", "ok", "detail", "fix"), [[row["check"], row["ok"], row["detail"], row["fix"]] for row in found]
        )
    if unreachable is not None:
        raise typer.Exit(unreachable.exit_code)


@config_app.command("show")
def show_config(
    context: typer.Context,
    origin: Annotated[bool, typer.Option("--origin", help="Also where each value came from.")] = False,
) -> None:
    """The configuration that `up` would start with on this home. Secrets are shown only as set."""
    from p2pnode.api import output
    from p2pnode.api.config import DistributedConfig

    session = Session.of(context)
    config = DistributedConfig.load(session.home)
    values, origins = config.values(), config.origins
    if session.json:
        output.document(
            {key: {"value": value, "origin": origins[key]} for key, value in values.items()} if origin else values
        )
    elif origin:
        output.table(("key", "value", "origin"), [[key, value, origins[key]] for key, value in values.items()])
    else:
        output.table(("key", "value"), list(values.items()))
