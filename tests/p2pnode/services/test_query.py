"""A holder's own bounds on what a peer asks it to run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from p2pnode.errors import Timeout
from p2pnode.services.query import FRAGMENT_S_MAX, FragmentService
from protocols.query import Run


class Runner:
    """Notes how long each statement may take, and gives it no time at all."""

    def __init__(self) -> None:
        self.timeouts: list[float] = []

    @asynccontextmanager
    async def run(self, sql: str, tables: object, *, timeout_s: float, **options: object) -> AsyncIterator[Any]:
        self.timeouts.append(timeout_s)
        raise Timeout
        yield


class Store:
    async def sound_paths(self, cids: object) -> dict[bytes, Any]:
        return {}


@pytest.mark.trio
async def test_a_peer_may_ask_for_less_time_than_the_holder_gives_and_not_for_more() -> None:
    runner = Runner()
    service = FragmentService(cast("Any", Store()), cast("Any", runner), queries_max=1)
    answer = service.handlers()[Run]
    for timeout_ms in (1500, 1 << 62):
        with pytest.raises(Timeout):
            await answer("peer", Run(sql="SELECT 1", tables=[], timeout_ms=timeout_ms), cast("Any", None))
    assert runner.timeouts == [1.5, FRAGMENT_S_MAX]
