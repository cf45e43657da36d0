"""Production's bounds made small, so that a small world meets them.

A swarm of twenty with two hundred events never writes a checkpoint, never falls a band behind, never hears more news
than it passes on at once. Here the same code runs with bounds that it meets all the time. Each is read where it is
used; this file refuses to change anything but numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from p2pnode.core import bands
from p2pnode.services import replay, spreading, syncing

#: (module, name, its value in a narrow world)
BOUNDS = (
    (replay, "TAIL_EVENTS", 32),
    (syncing, "FAR_EVENTS", 40),
    (syncing, "PUSHED_BACK_MAX", 40),
    (bands, "BAND_EVENTS", 16),
    (spreading, "RUMOUR_EVENTS_MAX", 8),
)


@contextmanager
def narrowed(wanted: bool) -> Iterator[None]:
    """Run the body with small bounds, if wanted. Raises AttributeError for a bound that is there no more."""
    before = [getattr(module, name) for module, name, _ in BOUNDS]
    if wanted:
        for module, name, value in BOUNDS:
            setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(BOUNDS, before, strict=True):
            setattr(module, name, value)
