"""What one dataset is called and said to be: its define events, as far as no delete took them away.

The last one (height, id) is what it is; it has its name since the first of those with that name. Where deletes took
all of them and a version still stands, they speak for it nevertheless. A coordinator may define a dataset as often as
it likes, so both answers cost the same whatever the number: the last and the first of each name are kept at hand, and
each definition lies in one string of bytes until somebody asks for it.
"""

from __future__ import annotations

import heapq
import struct
from bisect import insort
from collections.abc import Collection
from typing import Any

from p2pnode.core.event import RANK_HEIGHT_BYTES
from p2pnode.core.records import Definition

#: A packed definition: bytes of the name and of the description, then both, then the schema.
_HEAD = struct.Struct(">HH")


class Definitions:
    """The define events of one dataset, in any order of arrival. Events are named by their rank."""

    def __init__(self) -> None:
        self._said: dict[bytes, bytes] = {}
        self._gone: set[bytes] = set()
        self._all = _Line()
        self._live = _Line()

    def __bool__(self) -> bool:
        """Whether it was ever defined."""
        return bool(self._said)

    def add(self, rank: bytes, definition: Definition) -> None:
        if rank in self._said:
            return
        self._said[rank] = _pack(definition)
        self._all.add(rank, definition.name)
        if _id(rank) not in self._gone:
            self._live.add(rank, definition.name)

    def take_away(self, event_ids: Collection[bytes]) -> None:
        """A delete names these, of which some may be define events, here already or not."""
        self._gone.update(event_ids)

    @property
    def stands(self) -> bool:
        """Whether one of them is left."""
        return self._live.last(self._gone) is not None

    def current(self) -> tuple[bytes, Definition]:
        """What is said of it now, and the rank since which it has its name. Only once it was defined."""
        line, gone = (self._live, self._gone) if self.stands else (self._all, frozenset[bytes]())
        last = line.last(gone)
        assert last is not None  # it was defined
        said = _unpack(self._said[last])
        return line.first(said.name, gone), said

    def left(self) -> list[bytes]:
        """Ids of those that no delete took away."""
        return [event_id for event_id in map(_id, self._said) if event_id not in self._gone]

    @property
    def gone(self) -> set[bytes]:
        """Every id that a delete named, versions' too. Not to be changed."""
        return self._gone

    def dump(self) -> list[Any]:
        """All of it as plain data."""
        return [list(self._said), list(self._said.values()), sorted(self._gone)]

    def load(self, dump: list[Any]) -> None:
        """What `dump` gave, into empty definitions."""
        ranks, said, gone = dump
        self._said, self._gone = dict(zip(ranks, said, strict=True)), set(gone)
        for rank, row in self._said.items():
            name = _name(row)
            self._all.add(rank, name)
            if _id(rank) not in self._gone:
                self._live.add(rank, name)


class _Line:
    """Ranks in order, and those of each name. What is gone goes from it when it would be the answer."""

    def __init__(self) -> None:
        self._ranks: list[bytes] = []
        self._named: dict[str, list[bytes]] = {}

    def add(self, rank: bytes, name: str) -> None:
        insort(self._ranks, rank)  # mostly at the end
        heapq.heappush(self._named.setdefault(name, []), rank)

    def last(self, gone: Collection[bytes]) -> bytes | None:
        while self._ranks and _id(self._ranks[-1]) in gone:
            self._ranks.pop()
        return self._ranks[-1] if self._ranks else None

    def first(self, name: str, gone: Collection[bytes]) -> bytes:
        ranks = self._named[name]
        while _id(ranks[0]) in gone:
            heapq.heappop(ranks)
        return ranks[0]


def _id(rank: bytes) -> bytes:
    return rank[RANK_HEIGHT_BYTES:]


def _pack(said: Definition) -> bytes:
    name, description = said.name.encode(), said.description.encode()
    return _HEAD.pack(len(name), len(description)) + name + description + said.schema


def _name(row: bytes) -> str:
    length, _ = _HEAD.unpack_from(row)
    return row[_HEAD.size : _HEAD.size + length].decode()


def _unpack(row: bytes) -> Definition:
    length, more = _HEAD.unpack_from(row)
    start = _HEAD.size + length
    return Definition(_name(row), row[start : start + more].decode(), row[start + more :])
