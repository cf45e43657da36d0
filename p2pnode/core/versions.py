"""The versions of one dataset: which stand, and what they amount to together.

Every version names in `over` the versions whose place it takes, so the ones that stand (the tips) are a
difference of two sets. An appending version's *lineage* is itself and what it appended to, back to its
root: a version that replaced everything, or nothing at all. Tips with the same root, format and columns
differ only by appended shards, and fold to the highest one's shards followed by what each of the others
added. A union is a manifest of its own, with a content id that every replica computes alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from p2pnode.core.cid import record_cid
from p2pnode.core.model import Manifest, ShardEntry
from p2pnode.core.records import Version, encode_manifest

#: Unions kept between folds, each as large as its manifest; the next union mostly stands on the last one.
UNIONS_MAX = 8

_Tips = tuple[bytes, ...]
#: The root of appends to nothing.
_NOTHING = b""


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
        self._versions: dict[bytes, Version] = {}
        self._orders: dict[bytes, tuple[int, bytes]] = {}
        self._superseded: set[bytes] = set()
        #: Several tips -> what they fold to. Emptied as soon as it may be stale.
        self._unions: dict[_Tips, Folded] = {}

    def add(self, order: tuple[int, bytes], version: Version) -> None:
        event_id = order[1]
        if event_id in self._superseded:
            # It comes after one that stands on it, so what was folded without it may be wrong.
            self._unions.clear()
        self._versions[event_id] = version
        self._orders[event_id] = order
        self._superseded.update(version.over)

    def listed(self) -> list[tuple[bytes, Version]]:
        """All of them, oldest first by (height, id)."""
        return [
            (event_id, self._versions[event_id]) for event_id in sorted(self._versions, key=self._orders.__getitem__)
        ]

    def of_publish(self, publish: str) -> bytes | None:
        """The version event that carries out that publish, the first if there are two; None if there is none."""
        found = [event_id for event_id, version in self._versions.items() if version.publish == publish]
        return min(found, key=self._orders.__getitem__, default=None)

    def tips(self, deleted: AbstractSet[bytes] = frozenset()) -> _Tips:
        """Versions that stand: neither replaced nor deleted; sorted."""
        return tuple(sorted(self._versions.keys() - self._superseded - deleted))

    def fold(self, deleted: AbstractSet[bytes] = frozenset()) -> Folded:
        """What stands now."""
        return self._fold(self.tips(deleted))

    def union(self, version: bytes, deleted: AbstractSet[bytes] = frozenset()) -> Manifest | None:
        """The union with that content id, which no event names: of what stands now, or stood when it was replaced."""
        for stood in (self.tips(deleted), *(said.over for said in self._versions.values())):
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
        own = self._lineage(winner)
        added = {event_id for other in others for event_id in self._lineage(other)} - own
        grounds = [self._versions[event_id].over for event_id in sorted(added)]
        return [over for over in grounds if not self._is_at_hand(over)]

    def _union(self, tips: _Tips) -> Folded:
        winner, others, losers = self._split(tips)
        if winner is None:
            return Folded()
        manifest = self._read(winner)
        assert manifest is not None  # _split only names readable ones
        siblings = tuple(sorted(self._versions[loser].manifest for loser in losers))
        if not others:
            return Folded(self._versions[winner].manifest, manifest, siblings)
        shards = list(manifest.shards)
        done = set(self._lineage(winner))
        carried_out = {self._versions[event_id].publish for event_id in done} - {""}
        for other in others:
            for event_id in sorted(self._lineage(other) - done, key=self._orders.__getitem__):
                publish = self._versions[event_id].publish
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
        readable.sort(key=self._orders.__getitem__)
        winner = readable.pop()
        others = [tip for tip in readable if self._unites(tip, winner)]
        losers = [tip for tip in readable if not self._unites(tip, winner)]
        return winner, others, losers

    def _unites(self, tip: bytes, winner: bytes) -> bool:
        ours, theirs = self._read(tip), self._read(winner)
        assert ours is not None
        assert theirs is not None
        if (ours.format, ours.columns) != (theirs.format, theirs.columns):
            return False
        return self._versions[tip].append and self._roots(tip) == self._roots(winner)

    def _added(self, event_id: bytes) -> list[ShardEntry]:
        """The shards that an append brought: its manifest's without those of what it stands on."""
        manifest = self._read(event_id)
        ground = self._at_hand(self._versions[event_id].over).manifest
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

    def _lineage(self, event_id: bytes) -> set[bytes]:
        """The appends from this version back to its roots, itself included if it is one."""
        return {step for step in self._walk(event_id) if step in self._versions and self._versions[step].append}

    def _roots(self, event_id: bytes) -> set[bytes]:
        """Where its appends began: versions that replaced everything, or _NOTHING."""
        roots: set[bytes] = set()
        for step in self._walk(event_id):
            version = self._versions.get(step)
            if version is None or not version.append:
                roots.add(step)
            elif not version.over:
                roots.add(_NOTHING)
        return roots

    def _walk(self, event_id: bytes) -> Iterable[bytes]:
        """This version and all that it appended to, directly or not."""
        seen = {event_id}
        pending = [event_id]
        while pending:
            step = pending.pop()
            yield step
            version = self._versions.get(step)
            if version is not None and version.append:
                fresh = [over for over in version.over if over not in seen]
                seen.update(fresh)
                pending.extend(fresh)

    def _read(self, event_id: bytes) -> Manifest | None:
        version = self._versions.get(event_id)
        manifest = self._manifest_block(version.manifest) if version else None
        return manifest if manifest and manifest.dataset_id == self._dataset_id else None
