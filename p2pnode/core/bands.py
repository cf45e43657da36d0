"""History in bands of heights, for a node that is far behind: how it is cut, and who fetches which part.

Whoever is asked first promises the bands, each with a digest of exactly the events that are in it; any member can serve
one, and what does not match the promise does not count, whoever sent it. Bands are fetched by several at once, the
lowest first, and admitted in their order. A source that goes, lags or lies is left out; what it had begun, another
starts again. When nobody is left who could give the next band the fetching ends: what was admitted counts, and the next
comparison goes on from there. Pure: `plan` says who fetches what, a shell does it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from p2pnode.core.clock import MerkleClock
from p2pnode.core.reconcile import pack

#: Events of one band: some 1 MB, a third of a second to check. Bands get larger where there would be too many.
BAND_EVENTS = 2048
BANDS_MAX = 4096
DIGEST_BYTES = 16
#: Bands of one source that may not match before it is left out: its set may differ a little and be honest.
MISMATCHES_MAX = 2


@dataclass(frozen=True, slots=True)
class Band:
    """Every event of heights low ≤ h < high: so many, with that digest."""

    low: int
    high: int
    count: int
    digest: bytes


class BandDigest:
    """The running count and digest of one band's events."""

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=DIGEST_BYTES)
        self.count = 0

    def add(self, event_ids: Sequence[bytes]) -> None:
        """Events in (height, id) order."""
        self._hash.update(pack(event_ids))
        self.count += len(event_ids)

    def matches(self, band: Band) -> bool:
        return (self.count, self.value) == (band.count, band.digest)

    @property
    def value(self) -> bytes:
        return self._hash.digest()


def cut(clock: MerkleClock, low: int) -> list[Band]:
    """The history from height `low` on, in bands. Looks at all of it: for a thread."""
    ordered = clock.between(low)
    size = max(BAND_EVENTS, -(-len(ordered) // BANDS_MAX))
    bands: list[Band] = []
    start = 0
    while start < len(ordered):
        stop = min(start + size, len(ordered))
        high = clock.height_of(ordered[stop - 1]) + 1
        while stop < len(ordered) and clock.height_of(ordered[stop]) < high:
            stop += 1
        digest = BandDigest()
        digest.add(ordered[start:stop])
        bands.append(Band(low, high, digest.count, digest.value))
        low, start = high, stop
    return bands


def is_plausible(bands: Sequence[Band], height: int, count_max: int) -> bool:
    """Whether a promise can be one of the history above that height: without gaps, and of so many events at most."""
    # What came meanwhile may have raised the height.
    low = min(bands[0].low, height + 1) if bands else 0
    total = 0
    for band in bands:
        if band.low != low or band.high <= low or not band.count or len(band.digest) != DIGEST_BYTES:
            return False
        low, total = band.high, total + band.count
    return total <= count_max


class Plan:
    """Which source fetches which band. Bands are told by their number, in order."""

    def __init__(self, bands: Sequence[Band], sources: Iterable[str]) -> None:
        self.bands = tuple(bands)
        #: The band that is admitted next; as many as there are when all were.
        self.next = 0
        self._staged: set[int] = set()
        self._fetching: dict[int, str] = {}
        #: Source -> bands that it could not give as promised.
        self._failed: dict[str, set[int]] = {source: set() for source in sources}

    @property
    def sources(self) -> list[str]:
        """Those that are still of use."""
        return list(self._failed)

    def assign(self, source: str, *, room: bool) -> int | None:
        """The lowest band that this source should fetch now, if any; without `room` only the one that is next."""
        failed = self._failed.get(source)
        if failed is None:
            return None
        for number in range(self.next, len(self.bands) if room else min(self.next + 1, len(self.bands))):
            if number not in self._staged and number not in self._fetching and number not in failed:
                self._fetching[number] = source
                return number
        return None

    def give_back(self, number: int) -> None:
        """It was not fetched, for no fault of its source."""
        self._fetching.pop(number, None)

    def stage(self, number: int) -> None:
        """It came as promised."""
        self.give_back(number)
        self._staged.add(number)

    def fail(self, source: str, number: int) -> None:
        """What that source sent was not what was promised."""
        self.give_back(number)
        failed = self._failed.get(source, set())
        failed.add(number)
        if len(failed) > MISMATCHES_MAX:
            self.lose(source)

    def lose(self, source: str) -> None:
        """That source is of no further use."""
        self._failed.pop(source, None)
        self._fetching = {number: other for number, other in self._fetching.items() if other != source}

    def is_staged(self, number: int) -> bool:
        return number in self._staged

    def admit(self) -> None:
        """The next band was admitted."""
        self._staged.discard(self.next)
        self.next += 1

    @property
    def is_done(self) -> bool:
        return self.next == len(self.bands)

    @property
    def is_hopeless(self) -> bool:
        """Whether nobody is left who could give the next band."""
        if self.is_done or self.next in self._staged or self.next in self._fetching:
            return False
        return all(self.next in failed for failed in self._failed.values())
