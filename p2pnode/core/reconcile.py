"""Which events two replicas lack of each other, found out without naming what both have.

An author's events form a forest by their `pa`. Its *leaves*, the events that no later one of the author names,
determine all of it, forks included, so replicas compare leaves and never lists of events:

- the answerer sorts its authors into buckets and sends one short digest of the leaves in each (`digests`);
- the asker names its own leaves in the buckets that differ (`Inquiry`); whatever grows out of one of these the
  asker lacks for certain, and gets at once (`compare`);
- where both sides have leaves in one bucket that the other does not know, somebody forked, or went on from a
  backup, or both are new: the asker asks which of its events there are known until it knows where the branches
  part, and then for what lies beyond (`beyond`).

Buckets are salted anew each time, so that nobody can choose who shares one with him for long, and what is cut
off by a bound comes with the next sync. Pure; what may look at many events says so and belongs in a thread.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from p2pnode.core.cid import DIGEST_BYTES, record_cid
from p2pnode.core.clock import MerkleClock

#: Bytes of one bucket's digest. A false match, one in 2⁶⁴, lasts until the next sync's salt.
BUCKET_DIGEST_BYTES = 8
#: log₂ of the most buckets: 8 KiB of digests, which tell eight thousand authors apart eight at a time.
BITS_MAX = 10
#: Leaves named at once, by either side: 256 KiB.
LEAVES_MAX = 8192
#: Events sent before it is clear what else the asker lacks: they may have to wait for that, and so many can.
EARLY_EVENTS_MAX = 512
#: Events asked after at once where branches part: two rounds find one place among 65,000.
PROBES = 256
#: Rounds after which what is still undecided counts as lacking: it may move twice, and nothing else.
ROUNDS_MAX = 8

_PREFIX = record_cid(b"")[:-DIGEST_BYTES]


class BadAnswer(ValueError):
    """What the other side said fits neither the question nor itself."""


def pack(event_ids: Iterable[bytes]) -> bytes:
    """Ids as they travel: their digests, one after the other."""
    return b"".join(event_id[-DIGEST_BYTES:] for event_id in event_ids)


def unpack(packed: bytes) -> list[bytes]:
    """The ids that were packed. Raises BadAnswer."""
    if len(packed) % DIGEST_BYTES:
        raise BadAnswer("ids that are not whole")
    return [_PREFIX + packed[start : start + DIGEST_BYTES] for start in range(0, len(packed), DIGEST_BYTES)]


def pack_flags(flags: Sequence[bool]) -> bytes:
    """One bit for each, the first the lowest of the first byte."""
    return sum(flag << place for place, flag in enumerate(flags)).to_bytes(-(-len(flags) // 8), "little")


def unpack_flags(packed: bytes, count: int) -> list[bool]:
    """So many flags as `pack_flags` wrote them. Raises BadAnswer."""
    if len(packed) != -(-count // 8):
        raise BadAnswer(f"{len(packed)} bytes where {count} flags belong")
    bits = int.from_bytes(packed, "little")
    return [bool(bits >> place & 1) for place in range(count)]


# -- buckets ---------------------------------------------------------------------------------------------------


def bits_for(authors: int) -> int:
    """log₂ of the number of buckets for so many authors: about one author in each."""
    return min(BITS_MAX, max(0, authors - 1).bit_length())


def leaves_by_bucket(clock: MerkleClock, salt: bytes, bits: int) -> dict[int, list[bytes]]:
    """Every leaf, sorted, by the number of its author's bucket. Looks at every author."""
    buckets: dict[int, list[bytes]] = {}
    for author in clock.authors():
        number = _hash(salt, author.encode()) >> (64 - bits)
        buckets.setdefault(number, []).extend(clock.leaves(author))
    return {number: sorted(buckets[number]) for number in sorted(buckets)}


def digests(clock: MerkleClock, salt: bytes) -> bytes:
    """One digest for each bucket, in the order of their numbers. Looks at every author."""
    bits = bits_for(len(clock.authors()))
    buckets = leaves_by_bucket(clock, salt, bits)
    return b"".join(_digest(salt, buckets.get(number, ())) for number in range(1 << bits))


def bits_of(packed: bytes) -> int:
    """log₂ of the number of buckets that these digests are of. Raises BadAnswer."""
    count, rest = divmod(len(packed), BUCKET_DIGEST_BYTES)
    bits = count.bit_length() - 1
    if rest or count != 1 << max(bits, 0) or bits > BITS_MAX:
        raise BadAnswer(f"{len(packed)} bytes are no digests of buckets")
    return bits


def _hash(salt: bytes, data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8, key=salt).digest(), "big")


def _digest(salt: bytes, leaves: Iterable[bytes]) -> bytes:
    return blake2b(pack(leaves), digest_size=BUCKET_DIGEST_BYTES, key=salt).digest()


# -- chains ----------------------------------------------------------------------------------------------------


def beyond(clock: MerkleClock, tips: Iterable[bytes], common: Iterable[bytes]) -> list[bytes]:
    """What lies on the authors' chains that end in `tips` and on none that ends in `common`, in (height, id) order.

    All of them are here. Looks at the answer, and at as much of the common chains as lies above its lowest event.
    """
    by_author: dict[str, tuple[set[bytes], set[bytes]]] = {}
    for side, ids in enumerate((tips, common)):
        for event_id in ids:
            by_author.setdefault(clock.author_of(event_id), (set(), set()))[side].add(event_id)
    found: list[tuple[int, bytes]] = []
    for one, other in by_author.values():
        found += _beyond_of_one(clock, one, other)
    return [event_id for _, event_id in sorted(found)]


def _beyond_of_one(clock: MerkleClock, tips: set[bytes], common: set[bytes]) -> list[tuple[int, bytes]]:
    theirs, seen = set(common), tips | common
    pending = [(-clock.height_of(event_id), event_id) for event_id in seen]
    heapq.heapify(pending)
    lacking = len(seen) - len(theirs)
    found: list[tuple[int, bytes]] = []
    # Down all chains at once, the highest event first: whoever stands on it has been looked at before it.
    while lacking:
        height, event_id = heapq.heappop(pending)
        has_it = event_id in theirs
        if not has_it:
            found.append((-height, event_id))
            lacking -= 1
        previous = clock.previous_of(event_id)
        if previous is None:
            continue
        if previous not in seen:
            seen.add(previous)
            heapq.heappush(pending, (-clock.height_of(previous), previous))
            lacking += not has_it
        elif has_it and previous not in theirs:
            lacking -= 1
        if has_it:
            theirs.add(previous)
    return found


def _grown_from(clock: MerkleClock, ordered: Iterable[bytes], leaves: set[bytes]) -> set[bytes]:
    """Those of these events, parents first, that stand on one of the other side's leaves: it has none of them."""
    grown: set[bytes] = set()
    for event_id in ordered:
        previous = clock.previous_of(event_id)
        if previous in leaves or previous in grown:
            grown.add(event_id)
    return grown


# -- the answerer ----------------------------------------------------------------------------------------------

#: A bucket's number and leaves in it.
Group = tuple[int, list[bytes]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What an answerer makes of the asker's leaves."""

    #: For each id that the asker named, whether it is here.
    known: list[bool]
    #: For each group: further leaves here, of which the asker may have more, less, or nothing.
    others: list[list[bytes]]
    #: What the asker lacks for certain, in (height, id) order; none if it had better ask for all at once.
    lacking: list[bytes]


def compare(
    clock: MerkleClock, groups: Sequence[Group], mine: dict[int, list[bytes]], probes: Sequence[bytes] = ()
) -> Comparison:
    """Answer an asker that names all its leaves in some buckets, and further events of its own.

    `mine` is `leaves_by_bucket` by the same salt. Looks at what the asker lacks: for a thread. Raises BadAnswer.
    """
    numbers = [number for number, _ in groups]
    if numbers != sorted(set(numbers)):
        raise BadAnswer("buckets out of order")
    known = [event_id in clock for _, leaves in groups for event_id in leaves]
    known += [event_id in clock for event_id in probes]
    unnamed: list[list[bytes]] = []
    unclear: list[list[bytes]] = []
    ahead: list[bytes] = []
    for number, theirs in groups:
        here = {event_id for event_id in theirs if event_id in clock}
        unnamed.append([event_id for event_id in mine.get(number, ()) if event_id not in here])
        if len(here) == len(theirs):
            unclear.append([])
            ahead += beyond(clock, unnamed[-1], here)
        else:
            sure = _surely_beyond(clock, unnamed[-1], here)
            unclear.append([event_id for event_id in unnamed[-1] if event_id not in sure])
            ahead += sure
    if len(ahead) > EARLY_EVENTS_MAX and any(unclear):
        return Comparison(known, _cut(unnamed), [])
    ordered = sorted(set(ahead), key=lambda event_id: (clock.height_of(event_id), event_id))
    return Comparison(known, _cut(unclear), ordered)


def _surely_beyond(clock: MerkleClock, tips: list[bytes], here: set[bytes]) -> set[bytes]:
    """What an asker lacks of those chains that has these leaves and others which are unknown here."""
    authors = {clock.author_of(event_id) for event_id in here}
    tips = [event_id for event_id in tips if clock.author_of(event_id) in authors]
    return _grown_from(clock, beyond(clock, tips, here), here)


def _cut(groups: list[list[bytes]]) -> list[list[bytes]]:
    """As many leaves as one answer may name."""
    room = LEAVES_MAX
    for place, leaves in enumerate(groups):
        groups[place] = leaves[:room]
        room -= len(groups[place])
    return groups


# -- the asker -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Branches:
    """Own events of one bucket of which it is not decided whether the other side knows them, parents first."""

    undecided: list[bytes]
    probed: list[bytes] = field(default_factory=list)

    def probe(self, room: int) -> list[bytes]:
        """The next events to ask after, evenly spread."""
        count = min(len(self.undecided), max(1, room))
        step = len(self.undecided) / count
        self.probed = [self.undecided[int(place * step)] for place in range(count)]
        return self.probed

    def learn(self, clock: MerkleClock, known: Sequence[bool]) -> tuple[list[bytes], list[bytes]]:
        """Decide what follows from the answers: who knows an event knows its past. Returns (known, unknown)."""
        has = {event_id for event_id, flag in zip(self.probed, known, strict=True) if flag}
        lacks = set(self.probed) - has
        for event_id in reversed(self.undecided):
            previous = clock.previous_of(event_id)
            if event_id in has and previous is not None:
                has.add(previous)
        for event_id in self.undecided:
            if clock.previous_of(event_id) in lacks:
                lacks.add(event_id)
        common = [event_id for event_id in self.undecided if event_id in has]
        lacking = [event_id for event_id in self.undecided if event_id not in has and event_id in lacks]
        self.undecided = [event_id for event_id in self.undecided if event_id not in has and event_id not in lacks]
        return common, lacking


class Inquiry:
    """The asker's side of one comparison: ask `groups` first, then `probes` until there are none.

    After that `lacking` is what the other side lacks, in (height, id) order, and `wanted` beyond `common` what is
    still to be asked for. Made on the loop; `hear` and `learn` look at all that differs: for a thread.
    """

    def __init__(self, clock: MerkleClock, salt: bytes, theirs: bytes) -> None:
        """`theirs` are the answerer's digests. Raises BadAnswer."""
        self.bits = bits_of(theirs)
        self.salt = salt
        self._clock = clock
        mine = leaves_by_bucket(clock, salt, self.bits)
        self.groups: list[Group] = []
        room = LEAVES_MAX
        for number in range(1 << self.bits):
            leaves = mine.get(number, [])
            start = number * BUCKET_DIGEST_BYTES
            if _digest(salt, leaves) == theirs[start : start + BUCKET_DIGEST_BYTES]:
                continue
            # Of a bucket that is too full alone the salt chooses whose turn it is; what is left comes another time.
            named = leaves if len(leaves) <= LEAVES_MAX else sorted(leaves, key=lambda leaf: _hash(salt, leaf))
            if self.groups and len(named) > room:
                break
            self.groups.append((number, named[:room]))
            room -= len(self.groups[-1][1])
        self.wanted: list[bytes] = []
        self.common: list[bytes] = []
        self._lacking: set[bytes] = set()
        self._branches: list[_Branches] = []
        self._rounds = 0

    @property
    def lacking(self) -> list[bytes]:
        clock = self._clock
        return sorted(self._lacking, key=lambda event_id: (clock.height_of(event_id), event_id))

    def hear(self, known: Sequence[bool], others: Sequence[Sequence[bytes]]) -> None:
        """Take the answer to `groups`. Raises BadAnswer."""
        if len(known) != sum(len(leaves) for _, leaves in self.groups) or len(others) != len(self.groups):
            raise BadAnswer("an answer to another question")
        start = 0
        for (_, leaves), theirs in zip(self.groups, others, strict=True):
            self._hear_of_one(leaves, known[start : start + len(leaves)], theirs)
            start += len(leaves)

    def _hear_of_one(self, leaves: Sequence[bytes], known: Sequence[bool], theirs: Sequence[bytes]) -> None:
        clock = self._clock
        shared = [leaf for leaf, flag in zip(leaves, known, strict=True) if flag]
        own = [leaf for leaf, flag in zip(leaves, known, strict=True) if not flag]
        # What they name and we know is a leaf of theirs: what grows out of it they do not have.
        behind = [leaf for leaf in theirs if leaf in clock]
        unknown = [leaf for leaf in theirs if leaf not in clock]
        ahead = beyond(clock, own, [*shared, *behind])
        if not unknown:
            self._lacking.update(ahead)
            return
        sure = _grown_from(clock, ahead, set(behind))
        self._lacking.update(sure)
        self.wanted += unknown
        self.common += [*shared, *behind]
        undecided = [event_id for event_id in ahead if event_id not in sure]
        branches = _Branches(undecided, [leaf for leaf in own if leaf not in sure])
        self._decide(branches, [False] * len(branches.probed))
        if branches.undecided:
            self._branches.append(branches)

    def _decide(self, branches: _Branches, known: Sequence[bool]) -> None:
        common, lacking = branches.learn(self._clock, known)
        self._lacking.update(lacking)
        standing_on = set(common) - {self._clock.previous_of(event_id) for event_id in common}
        self.common += sorted(standing_on)

    def probes(self) -> list[bytes]:
        """Own events of which the other side must say whether it knows them; none when all is decided."""
        self._rounds += 1
        if self._rounds > ROUNDS_MAX:
            for branches in self._branches:
                self._lacking.update(branches.undecided)
            self._branches = []
        share = PROBES // max(1, len(self._branches))
        return [event_id for branches in self._branches for event_id in branches.probe(share)]

    def learn(self, known: Sequence[bool]) -> None:
        """Take the answer to `probes`."""
        start = 0
        for branches in self._branches:
            count = len(branches.probed)
            self._decide(branches, known[start : start + count])
            start += count
        self._branches = [branches for branches in self._branches if branches.undecided]
