"""A node without SQL: statements run in processes of their own, which no virtual clock governs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

from p2pnode.errors import SqlRefused
from p2pnode.query.fence import FenceReport
from p2pnode.query.runner import Run, SqlRunner


class NoSql(SqlRunner):
    """`SqlRunner` that refuses every statement and starts nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.fence = FenceReport(True, 0, "no statement runs in a simulated world")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """There is nothing to end."""

    async def warm(self) -> None:
        """There is nothing to warm."""

    @asynccontextmanager
    async def run(self, *_: Any, **__: Any) -> AsyncIterator[Run]:
        """Raises SqlRefused."""
        raise SqlRefused("No statement runs in a simulated world.")
        yield
