"""Serves the HTTP API of one node on loopback and says in `HOME/api` where.

hypercorn on trio, in the caller's loop. Beyond loopback it refuses to listen: the token would travel in the clear.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import trio

from p2pnode.api.home import FETCHED_PREFIX, ApiAccess, remove_api_file, write_api_file
from p2pnode.env import Disk, Env
from p2pnode.errors import ConfigError

if TYPE_CHECKING:
    from p2pnode.node import Node

#: Bytes of a token that the node makes itself.
TOKEN_BYTES = 32
#: Seconds that calls at work get to end when the node stops.
GRACE_S = 0.5
_BACKLOG = 128


@asynccontextmanager
async def serve_api(node: Node, env: Env, *, host: str, port: int, token: str) -> AsyncIterator[ApiAccess]:
    """The API of `node`, until the block ends. Port 0 takes a free one, an empty token a fresh one.

    Raises `ConfigError` for a host that is not loopback or a port that is taken.
    """
    from hypercorn.config import Config
    from hypercorn.trio import serve

    from p2pnode.api.http import build_app
    from p2pnode.api.http_guard import HttpGuard

    listener = _listen(host, port)
    place = f"[{host}]" if ":" in host else host
    bound = listener.getsockname()[1]
    access = ApiAccess(
        url=f"http://{place}:{bound}",
        token=token or env.rng.token(TOKEN_BYTES).hex(),
        pid=os.getpid(),
        node_id=node.node_id,
    )
    app = HttpGuard(
        build_app(node, env, access.url), access.token, frozenset({f"{place}:{bound}", f"localhost:{bound}"})
    )
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]  # hypercorn's from here on
    config.accesslog = config.errorlog = None
    config.graceful_timeout = config.shutdown_timeout = GRACE_S
    stopping = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve(cast("Any", app), config, shutdown_trigger=stopping.wait))
        await env.executor.run(_forget_fetched, env.disk, node.home)
        await env.executor.run(write_api_file, node.home, access)
        try:
            yield access
        finally:
            remove_api_file(node.home, access)
            stopping.set()
            nursery.cancel_scope.deadline = trio.current_time() + 2 * GRACE_S


def _forget_fetched(disk: Disk, home: Path) -> None:
    """A node that was killed while it fetched a shard for somebody leaves the file behind."""
    for file in disk.scan(home):
        if file.name.startswith(FETCHED_PREFIX):
            disk.unlink(file)


def _listen(host: str, port: int) -> socket.socket:
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise ConfigError(f"api.host: {host!r} is not an IP address", key="api.host") from None
    if not address.is_loopback:
        raise ConfigError(
            f"api.host: {host} is not loopback",
            advice="The HTTP API serves this machine only; reach it from elsewhere through ssh -L.",
            key="api.host",
        )
    listener = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(address), port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"api.port: cannot listen on {host}:{port}: {error.strerror}", key="api.port") from None
    return listener
