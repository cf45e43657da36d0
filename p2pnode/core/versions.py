"""The versions of one dataset: which stand, and what they amount to together.

Every version names in `over` the versions whose place it takes, so the ones that stand (the tips) are a
difference of two sets. An appending version's *lineage* is itself and what it appended to, back to its
root: a version that replaced everything, or nothing at all. Tips with the same root, format and columns
differ only by appended shards, and fold to the highest one's shards followed by what each of the others
added. A union is a manifest of its own, with a content id that every replica computes alike.

A history may be a million versions long and is loaded whenever a node starts, so each lies in one string of bytes
and is read when somebody asks for it.
"""

from __future__ import annotations

import heapq
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

from p2pnode.core.cid import CID_BYTES, record_cid
from p2pnode.core.model import Manifest, ShardEntry
from p2pnode.core.records import Version, encode_manifest

#: Unions kept between folds, each as large as its manifest; the next union mostly stands on the last one.
UNIONS_MAX = 8

_Tips = tuple[bytes, ...]
#: The root of appends to nothing.
_NOTHING = b""

#: A packed version: height, whether it appends and has a base, how many it replaces, then manifest, base if any,
#: the replaced, and the publish's name.
_HEAD = struct.Struct(">QBH")
_HEIGHT_BYTES = 8
_APPENDS, _HAS_BASE = 1, 2
#: Reached from both of two versions.
_BOTH = 3


@dataclass(frozen=True, slots=True)
class Folded:
    """What a dataset's tips amount to. All None and empty when nothing was published."""

    version: bytes | None = None
    manifest: Manifest | None = None
    #: Manifests of tips that lost.
    siblings: tuple[bytes, ...] = ()


class VersionHistory:
    """The version events of one dataset, in any order of arrival."""

    def __init__(self, dataset_id: str, manifests: Callable[[bytes], Manifest | None]) -> None:
        self._dataset_id = dataset_id
        self._manifest_block = manifests
        #: event id -> its version, packed.
        self._rows: dict[bytes, bytes] = {}
        #: Those whose place nobody took.
        self._standing: set[bytes] = set()
        #: Replaced before they came here themselves -> the lowest height of a version that names them.
        self._awaited: dict[bytes, int] = {}
        #: Whether one names another that is not below it: its author has not seen that, whatever it says.
        self._is_odd = False
        #: Several tips -> what they fold to. Emptied as soon as it may be stale.
        self._unions: dict[_Tips, Folded] = {}

    def add(self, order: tuple[int, bytes], version: Version) -> None:
        height, event_id = order
        if event_id in self._rows:
            return
        if event_id in self._awaited:
            # It comes after one that stands on it, so what was folded without it may be wrong.
            self._unions.clear()
            self._is_odd |= self._awaited.pop(event_id) <= height
        else:
            self._standing.add(event_id)
        self._rows[event_id] = _pack(height, version)
        self._standing.difference_update(version.over)
        for over in version.over:
            if over in self._rows:
                self._is_odd |= self._height(over) >= height
            else:
                self._awaited[over] = min(height, self._awaited.get(over, height))

    def dump(self) -> list[Any]:
        """The history as plain data: ids, rows, tips, what was replaced before it came, and whether it is odd."""
        awaited = [list(one) for one in sorted(self._awaited.items())]
        return [list(self._rows), list(self._rows.values()), sorted(self._standing), awaited, self._is_odd]

    def load(self, dump: list[Any]) -> None:
        """What `dump` gave, into an empty history."""
        ids, rows, standing, awaited, self._is_odd = dump
        self._rows = dict(zip(ids, rows, strict=True))
        self._standing, self._awaited = set(standing), dict(awaited)

    def listed(self) -> list[tuple[bytes, Version]]:
        """All of them, oldest first by (height, id)."""
        return [(event_id, _unpack(self._rows[event_id])) for event_id in sorted(self._rows, key=self._order)]

    def of_publish(self, publish: str) -> bytes | None:
        """The version event that carries out that publish, the first if there are two; None if there is none."""
        ending = publish.encode()
        likely = (event_id for event_id, row in self._rows.items() if row.endswith(ending))
        found = [event_id for event_id in likely if self._version(event_id).publish == publish]
        return min(found, key=self._order, default=None)

    def tips(self, deleted: AbstractSet[bytes] = frozenset()) -> _Tips:
        """Versions that stand: neither replaced nor deleted; sorted."""
        return tuple(sorted(self._standing - deleted))

    def _order(self, event_id: bytes) -> bytes:
        """Sorts as (height, id) does."""
        return self._rows[event_id][:_HEIGHT_BYTES] + event_id

    def _version(self, event_id: bytes) -> Version:
        return _unpack(self._rows[event_id])

    def _find(self, event_id: bytes) -> Version | None:
        row = self._rows.get(event_id)
        return None if row is None else _unpack(row)

    def fold(self, deleted: AbstractSet[bytes] = frozenset()) -> Folded:
        """What stands now."""
        return self._fold(self.tips(deleted))

    def union(self, version: bytes, deleted: AbstractSet[bytes] = frozenset()) -> Manifest | None:
        """The union with that content id, which no event names: of what stands now, or stood when it was replaced."""
        several = (_unpack(row).over for row in self._rows.values() if _replaced(row) > 1)
        for stood in (self.tips(deleted), *several):
            if len(stood) > 1 and (folded := self._fold(stood)).version == version:
                return folded.manifest
        return None

    def _fold(self, tips: _Tips) -> Folded:
        # An explicit stack: unions of unions nest as deep as the history of concurrent appends is long.
        pending = [tips]
        while pending:
            current = pending[-1]
            needed = [] if self._is_at_hand(current) else self._unions_needed(current)
            if needed:
                pending.extend(needed)
                continue
            if not self._is_at_hand(current):
                self._unions[current] = self._union(current)
            pending.pop()
        folded = self._at_hand(tips)
        while len(self._unions) > UNIONS_MAX:
            del self._unions[next(iter(self._unions))]
        return folded

    def _is_at_hand(self, tips: _Tips) -> bool:
        return len(tips) < 2 or tips in self._unions

    def _at_hand(self, tips: _Tips) -> Folded:
        return self._unions[tips] if len(tips) > 1 else self._union(tips)

    def _unions_needed(self, tips: _Tips) -> list[_Tips]:
        """What must be folded first: the grounds of every append that is not the winner's own."""
        winner, others, _ = self._split(tips)
        if winner is None:
            return []
        added = {event_id for other in others for event_id in self._beyond(other, winner)}
        grounds = [self._version(event_id).over for event_id in sorted(added)]
        return [over for over in grounds if not self._is_at_hand(over)]

    def _union(self, tips: _Tips) -> Folded:
        winner, others, losers = self._split(tips)
        if winner is None:
            return Folded()
        manifest = self._read(winner)
        assert manifest is not None  # _split only names readable ones
        siblings = tuple(sorted(self._version(loser).manifest for loser in losers))
        if not others:
            return Folded(self._version(winner).manifest, manifest, siblings)
        shards = list(manifest.shards)
        beyond = [self._beyond(other, winner) for other in others]
        carried_out = self._carried_out(winner, set[bytes]().union(*beyond))
        done: set[bytes] = set()
        for fresh in beyond:
            for event_id in sorted(fresh - done, key=self._order):
                publish = self._version(event_id).publish
                if publish not in carried_out:
                    shards.extend(self._added(event_id))
                done.add(event_id)
                carried_out.update({publish} - {""})
        union = replace(manifest, shards=tuple(shards))
        return Folded(record_cid(encode_manifest(union)), union, siblings)

    def _split(self, tips: _Tips) -> tuple[bytes | None, list[bytes], list[bytes]]:
        """(the winner, those that union with it, the losers), the latter two in (height, id) order."""
        readable = [tip for tip in tips if self._read(tip) is not None]
        if not readable:
            return None, [], []
        readable.sort(key=self._order)
        winner = readable.pop()
        united = {tip: self._unites(tip, winner) for tip in readable}
        others = [tip for tip in readable if united[tip]]
        losers = [tip for tip in readable if not united[tip]]
        return winner, others, losers

    def _unites(self, tip: bytes, winner: bytes) -> bool:
        ours, theirs = self._read(tip), self._read(winner)
        assert ours is not None
        assert theirs is not None
        if (ours.format, ours.columns) != (theirs.format, theirs.columns):
            return False
        return self._version(tip).append and self._have_one_root(tip, winner)

    def _added(self, event_id: bytes) -> list[ShardEntry]:
        """The shards that an append brought: its manifest's without those of what it stands on."""
        manifest = self._read(event_id)
        ground = self._at_hand(self._version(event_id).over).manifest
        if manifest is None:
            return []
        present = Counter(shard.cid for shard in ground.shards) if ground else Counter()
        added: list[ShardEntry] = []
        for shard in manifest.shards:
            if present[shard.cid]:
                present[shard.cid] -= 1
            else:
                added.append(shard)
        return added

    # -- lineages: of two that part late, however long they are, only what lies above the parting is looked at --

    def _have_one_root(self, one: bytes, other: bytes) -> bool:
        """Whether the appends of both began in the same places."""
        apart = self._apart(one, other)
        if apart is not None:
            mine, theirs = (self._roots_among(steps) for steps in apart)
            if (mine | theirs) - {_NOTHING}:
                return False
            if mine == theirs:
                return True
        return self._roots_among(self._reached(one)) == self._roots_among(self._reached(other))

    def _beyond(self, other: bytes, winner: bytes) -> set[bytes]:
        """The appends in a version's lineage that are not in the winner's."""
        apart = self._apart(other, winner)
        if apart is None:
            return self._lineage(other) - self._lineage(winner)
        return self._appends_among(apart[0])

    def _carried_out(self, winner: bytes, added: AbstractSet[bytes]) -> set[str]:
        """Publishes of added versions that the winner's lineage has too."""
        wanted = {_publish(self._rows[event_id]) for event_id in added} - {b""}
        again = [e for e, row in self._rows.items() if _publish(row) in wanted and e not in added]
        lineage = self._lineage(winner) if again else set[bytes]()
        return {self._version(event_id).publish for event_id in again if event_id in lineage}

    def _lineage(self, event_id: bytes) -> set[bytes]:
        """The appends from this version back to its roots, itself included if it is one."""
        return self._appends_among(self._reached(event_id))

    def _appends_among(self, steps: Iterable[bytes]) -> set[bytes]:
        return {step for step in steps if (version := self._find(step)) is not None and version.append}

    def _roots_among(self, steps: Iterable[bytes]) -> set[bytes]:
        """Where appends began: versions that replaced everything or are not here, or _NOTHING."""
        roots: set[bytes] = set()
        for step in steps:
            version = self._find(step)
            if version is None or not version.append:
                roots.add(step)
            elif not version.over:
                roots.add(_NOTHING)
        return roots

    def _reached(self, event_id: bytes) -> set[bytes]:
        """This version and all that it appended to, directly or not, here or not."""
        seen = {event_id}
        pending = [event_id]
        while pending:
            version = self._find(pending.pop())
            if version is not None and version.append:
                fresh = [over for over in version.over if over not in seen]
                seen.update(fresh)
                pending.extend(fresh)
        return seen

    def _apart(self, one: bytes, other: bytes) -> tuple[set[bytes], set[bytes]] | None:
        """What is reached from each of two and not from the other. None where the short way may miss something: if one
        names what is not here, or is not below it.
        """
        if self._is_odd:
            return None
        sides = {one: 1, other: 2}
        pending = [(-self._height(step), step) for step in sides]
        heapq.heapify(pending)
        alone = 2
        # The highest first, so that whoever names a version has had its say before it.
        while alone:
            step = heapq.heappop(pending)[1]
            side, version = sides[step], self._version(step)
            alone -= side < _BOTH
            for over in version.over if version.append else ():
                if over not in self._rows:
                    return None
                before = sides.get(over, 0)
                if not before:
                    heapq.heappush(pending, (-self._height(over), over))
                sides[over] = before | side
                alone += (not before and side < _BOTH) - (0 < before < _BOTH == before | side)
        return {s for s, side in sides.items() if side == 1}, {s for s, side in sides.items() if side == 2}

    def _height(self, event_id: bytes) -> int:
        return int.from_bytes(self._rows[event_id][:_HEIGHT_BYTES], "big")

    def _read(self, event_id: bytes) -> Manifest | None:
        version = self._find(event_id)
        manifest = self._manifest_block(version.manifest) if version else None
        return manifest if manifest and manifest.dataset_id == self._dataset_id else None


def _pack(height: int, version: Version) -> bytes:
    marks = _APPENDS * version.append | _HAS_BASE * (version.base is not None)
    head = _HEAD.pack(height, marks, len(version.over))
    return b"".join((head, version.manifest, version.base or b"", *version.over, version.publish.encode()))


def _publish(row: bytes) -> bytes:
    _, marks, count = _HEAD.unpack_from(row)
    return row[_HEAD.size + (1 + bool(marks & _HAS_BASE) + count) * CID_BYTES :]


def _replaced(row: bytes) -> int:
    return _HEAD.unpack_from(row)[2]


def _unpack(row: bytes) -> Version:
    _, marks, count = _HEAD.unpack_from(row)
    links = 1 + bool(marks & _HAS_BASE) + count
    end = _HEAD.size + links * CID_BYTES
    ids = [row[start : start + CID_BYTES] for start in range(_HEAD.size, end, CID_BYTES)]
    manifest, base = ids[0], ids[1] if marks & _HAS_BASE else None
    return Version(manifest, base, bool(marks & _APPENDS), tuple(ids[links - count :]), row[end:].decode())
