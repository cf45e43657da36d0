"""One failure out of a group of them.

trio bundles what concurrent parts raised; a person who made one call wants one error. The most telling leaf
is taken: a named one before any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from p2pnode.errors import P2PNodeError


def telling(error: BaseException) -> BaseException:
    """`error` itself, or the most telling leaf of a group."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = list(_leaves(error))
    named = [leaf for leaf in leaves if isinstance(leaf, P2PNodeError)]
    return (named or leaves)[0]


@contextmanager
def one_failure() -> Iterator[None]:
    """Raise the most telling leaf in place of a group."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise telling(group) from None


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
