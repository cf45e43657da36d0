"""`up`: a node in the foreground, until it is told to stop."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2pnode.api.commands.session import Session
from p2pnode.errors import ConfigError, UsageError

if TYPE_CHECKING:
    import trio

    from p2pnode.api.config import Api
    from p2pnode.core.settings import Settings

#: Seconds from the signal to the end, whatever hangs.
STOP_S = 2.8
#: Seconds of dialing after which the user hears of it: a wrong address looks like a dead one.
SLOW_S = 5.0


def up(
    context: typer.Context,
    node_id: Annotated[str | None, typer.Option(metavar="N", help="The node's name; unique in the swarm.")] = None,
    role: Annotated[str | None, typer.Option(metavar="R", help="coordinator, worker, hybrid or client.")] = None,
    listen: Annotated[list[str] | None, typer.Option(metavar="MADDR", help="Where to listen; repeatable.")] = None,
    bootstrap: Annotated[list[str] | None, typer.Option(metavar="MADDR", help="Whom to join; repeatable.")] = None,
    open: Annotated[
        bool, typer.Option("--open", help="Listen beyond loopback though anyone who can dial may join.")
    ] = False,
    capability: Annotated[list[str] | None, typer.Option(metavar="C", help="What it can do; repeatable.")] = None,
    region: Annotated[str | None, typer.Option(metavar="R", help="Where it stands.")] = None,
    weight: Annotated[float | None, typer.Option(metavar="W", help="Its share of the shards; 1 is usual.")] = None,
    config: Annotated[Path | None, typer.Option(metavar="F", help="Instead of HOME/config.toml.")] = None,
    api_listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The HTTP API; a free loopback port unless told.")
    ] = None,
) -> None:
    """Run a node until SIGINT or SIGTERM.

    \b
      p2pnode up --node-id alpha
      p2pnode up --node-id beta --role worker --bootstrap /ip4/192.0.2.1/tcp/4001/p2p/12D3Koo…
      p2pnode up --node-id gamma --listen /ip4/0.0.0.0/tcp/4001 --open

    With `-o json` each event of its life is one line on stdout; the first is `ready`, when it has joined.
    """
    from p2pnode.api import output
    from p2pnode.api.config import DistributedConfig
    from p2pnode.api.home import default_home

    session = Session.of(context)
    home = session.home
    if home is None and node_id:
        home = default_home(node_id)
    loaded = DistributedConfig.load(
        home,
        file=config,
        node_id=node_id,
        role=role,
        listen_addresses=listen or None,
        bootstrap_peers=bootstrap or None,
        capabilities=capability or None,
        region=region,
        weight=weight,
        network={"open": True if open else None},
        api=_host_and_port(api_listen),
    )
    settings = loaded.to_settings(None if home is None else home.expanduser().absolute())
    settings = replace(settings, join_timeout_s=None)  # a node in the foreground dials until somebody answers
    _refuse_open_doors(settings)
    if loaded.unread and not session.quiet:
        output.note(f"p2pnode: nothing reads {', '.join(loaded.unread)} yet.")
    _run(session, settings, loaded.api)


def _host_and_port(text: str | None) -> dict[str, str | int | None]:
    if text is None:
        return {}
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdigit():
        raise UsageError(f"--api-listen {text}: not HOST:PORT", advice="For example 127.0.0.1:8080.")
    return {"host": host.strip("[]") or None, "port": int(port)}


def _refuse_open_doors(settings: Settings) -> None:
    from bootstrap.address import is_loopback

    wide = [text for text in settings.listen if not is_loopback(text)]
    if wide and not settings.open_swarm and not settings.swarm_key:
        raise ConfigError(
            f"listen_addresses: {wide[0]} is beyond loopback, and anyone who can dial it could join",
            advice="Set [network] swarm_key to keep strangers out, or say --open if they may come in.",
            key="listen_addresses",
        )


def _run(session: Session, settings: Settings, api: Api) -> None:
    """Everything heavy is imported before the loop runs: a loop that stalls looks dead to its peers."""
    import trio

    import p2pnode.api.http
    import p2pnode.node  # noqa: F401
    from p2pnode.api.logs import to_stderr
    from p2pnode.env.together import one_failure

    level = logging.DEBUG if session.verbose else logging.ERROR if session.quiet else logging.WARNING
    to_stderr(level, as_json=session.json)
    with one_failure():
        trio.run(_serve, settings, api, session.json)


async def _serve(settings: Settings, api: Api, as_json: bool) -> None:
    import trio

    from p2pnode.api import documents, output
    from p2pnode.api.server import serve_api
    from p2pnode.env import Env
    from p2pnode.node import open_node

    env = Env()
    ready, told = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_until_told, ready, told, nursery.cancel_scope)
        nursery.start_soon(_say_when_slow, ready, settings.bootstrap)
        async with (
            open_node(settings, env) as node,
            serve_api(node, env, host=api.host, port=api.port, token=api.token) as access,
        ):
            ready.set()
            if as_json:
                output.document(documents.ready(node, access.url))
            else:
                _banner(documents.identity(node, access.url))
            await told.wait()
            if as_json:
                output.document({"event": "stopping", "node_id": settings.node_id})
        nursery.cancel_scope.cancel()
    if as_json:
        output.document({"event": "stopped", "node_id": settings.node_id})


async def _say_when_slow(ready: trio.Event, bootstrap: Sequence[str]) -> None:
    import trio

    from p2pnode.api import output

    with trio.move_on_after(SLOW_S):
        await ready.wait()
    if bootstrap and not ready.is_set():
        output.note(
            f"p2pnode: nobody answers yet at {', '.join(bootstrap)}; dialing on, Ctrl-C gives up.\n"
            "  → Check the address, that the node is up, and that both have the same swarm key or none."
        )


async def _until_told(ready: trio.Event, told: trio.Event, everything: trio.CancelScope) -> None:
    """The first signal asks the node to leave; one before it is ready, or a second, or `STOP_S` cut it short."""
    import trio

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            if told.is_set() or not ready.is_set():
                everything.cancel()
            told.set()
            everything.deadline = trio.current_time() + STOP_S


def _banner(found: dict[str, object]) -> None:
    from p2pnode.api import output

    output.text(f"{found['node_id']} ({found['role']}) is up.")
    addresses = found["addresses"]
    assert isinstance(addresses, list)
    for address in addresses:
        output.text(f"  join it:  p2pnode up --node-id NAME --bootstrap {address}")
    output.text(f"  home:     {found['home']}")
    output.text(f"  API:      {found['api']} (token in {found['home']}/api)")
    output.text("Ctrl-C stops it.")
