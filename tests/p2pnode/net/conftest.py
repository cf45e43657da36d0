"""Nodes over loopback, in one process."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from p2pnode.env.net import RawStream
from p2pnode.net.host import Libp2pTransport, open_transport

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
ECHO = "/test/echo/1.0.0"

OpenNode = Callable[..., AbstractAsyncContextManager[Libp2pTransport]]


async def echo(stream: RawStream) -> None:
    while data := await stream.read(1 << 20):
        await stream.write(data)
    await stream.close()


@pytest.fixture
def open_node() -> OpenNode:
    """`async with open_node() as transport`: listens on loopback and echoes on ECHO."""

    @asynccontextmanager
    async def opened(
        seed: bytes | None = None, listen: str = LOOPBACK, swarm_key: str = ""
    ) -> AsyncIterator[Libp2pTransport]:
        async with open_transport(seed or os.urandom(32), [listen], swarm_key) as transport:
            transport.serve(ECHO, echo)
            yield transport

    return opened
