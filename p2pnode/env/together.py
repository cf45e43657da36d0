"""A nursery that fails with one error.

trio bundles what concurrent parts raised; whoever made one call wants one error to catch and one sentence to read.
The most telling leaf is taken: an error of ours before any other, any error before a cancellation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

from p2pnode.errors import P2PNodeError


@asynccontextmanager
async def together() -> AsyncIterator[trio.Nursery]:
    """`trio.open_nursery()`, which raises the most telling leaf in place of a group."""
    with one_failure():
        async with trio.open_nursery() as nursery:
            yield nursery


@contextmanager
def one_failure() -> Iterator[None]:
    """Raise the most telling leaf in place of a group."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise telling(group) from None


def telling(error: BaseException) -> BaseException:
    """`error` itself, or the most telling leaf of a group."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    return min(_leaves(error), key=lambda leaf: (not isinstance(leaf, P2PNodeError), not isinstance(leaf, Exception)))


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
