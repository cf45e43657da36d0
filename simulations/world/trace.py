"""What happened, in order: a running digest of everything, and the last lines of it for people.

Two runs with one digest did the same things at the same virtual times. Every delivery, every change on a disk and
every host that starts, stops or crashes is noted here, by whoever makes it happen.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable

#: Lines kept for a failing seed's reader.
TAIL_LINES = 2_000


class Trace:
    """One world's. `now` gives virtual seconds; with `readable` the last TAIL_LINES notes are kept as they are."""

    def __init__(self, now: Callable[[], float], *, readable: bool = False) -> None:
        self._now = now
        self._hash = hashlib.blake2b(digest_size=16)
        self._tail: deque[tuple[float, str, tuple[object, ...]]] | None = deque(maxlen=TAIL_LINES) if readable else None
        #: Notes taken so far.
        self.count = 0

    def note(self, kind: str, *fields: str | int | float | None) -> None:
        """Something happened now. Fields are plain values whose text is the same in every run."""
        now = self._now()
        self.count += 1
        self._hash.update(repr((now, kind, fields)).encode())
        if self._tail is not None:
            self._tail.append((now, kind, fields))

    def digest(self) -> str:
        """Of everything so far, 32 hex characters."""
        return self._hash.hexdigest()

    def lines(self) -> list[str]:
        """The tail, readable; empty unless asked for."""
        return [f"{now:12.6f}  {kind:<10} {' '.join(map(str, fields))}" for now, kind, fields in self._tail or ()]
