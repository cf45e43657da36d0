"""The events of a log for people: oldest first in (height, id) order, each with the names it speaks of, page by page.

Works on the file alone, so the log of a dead node reads as well as a living one's. A page is bounded in events and
bytes, and between two pages nothing is held but a place, so a slow reader costs nothing and no buffer can overflow.
What came after the first look follows in order of arrival. Records that are no events are counted and passed over;
`audit` says what is wrong with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from p2pnode.core import records
from p2pnode.core.event import BadEvent, Event, parse
from p2pnode.storage.log_reader import START, LogReader, Order

#: Events of one page and records looked at in one step, some 5 ms; and bytes after which a page is full.
PAGE_EVENTS = 256
PAGE_BYTES = 1 << 20

#: Where the kinds that name their object say its name.
_NAME_FIELDS = {records.UP: "node_id", records.DEFINE: "name"}


@dataclass(frozen=True, slots=True)
class Entry:
    """An event, what its author calls itself, and what its object (a peer or a dataset) is called; empty if unknown."""

    event: Event
    author_name: str
    object_name: str


@dataclass(slots=True)
class History:
    """One reading of a log. `kinds` picks events (none: all), `last` only the newest so many."""

    reader: LogReader
    kinds: Sequence[str] = ()
    last: int | None = None
    #: Records passed over because they are no events.
    unreadable: int = 0
    _place: int = 0
    #: Peer or dataset id -> its newest name, and the event that gave it.
    _names: dict[str, tuple[Order, str]] = field(default_factory=dict)

    def pages(self) -> Iterator[list[Entry]]:
        """What is there now, page by page. A step that found nothing to show yet yields an empty page."""
        while found := self._next_events():
            self.reader.arrange((event.height, event.id, event.kind, place) for place, event in found)
            yield []
        if not self._place:
            return
        after = START if self.last is None else self.reader.before_last(self.last, self.kinds)
        while self.last != 0 and (wires := self.reader.ordered(after, self.kinds, PAGE_EVENTS)):
            page: list[Entry] = []
            size = 0
            for wire in wires:
                event = parse(wire)
                page.append(self._entry(event))
                after = event.order
                size += len(wire)
                if size >= PAGE_BYTES:
                    break
            yield page

    def news(self) -> list[Entry] | None:
        """What came since the last look, in order of arrival, a page of it; None when there is nothing."""
        found = self._next_events()
        if not found:
            return None
        return [self._entry(event) for _, event in found if not self.kinds or event.kind in self.kinds]

    def _entry(self, event: Event) -> Entry:
        return Entry(event, self._name(event.author), self._name(event.object_id))

    def _name(self, identity: str) -> str:
        return self._names[identity][1] if identity in self._names else ""

    def _next_events(self) -> list[tuple[int, Event]]:
        """The next events with their places; empty only when there is no further record."""
        found: list[tuple[int, Event]] = []
        while not found and (rows := self.reader.rows(self._place, PAGE_EVENTS)):
            self._place = rows[-1].place
            for row in rows:
                try:
                    event = parse(row.wire)
                except BadEvent:
                    self.unreadable += 1
                    continue
                found.append((row.place, event))
                self._learn_name(event)
        return found

    def _learn_name(self, event: Event) -> None:
        name = event.body.get(_NAME_FIELDS.get(event.kind, ""))
        if type(name) is str and event.order > self._names.get(event.object_id, (START, ""))[0]:
            self._names[event.object_id] = (event.order, name)
