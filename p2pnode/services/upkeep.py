"""What a member does for the swarm's record without being asked.

It witnesses that others are down, and protests when it is recorded as down itself; it takes up the readmission that
another granted it; it ties heads together when they stay many; and it shows everybody at once the proof that an author
forked its chain. Each decision is pure (`core.witness`, `core.merging`); this shell looks when the record or somebody's
health has changed, and else sleeps until the next is due. It refuses to retry: whatever fails is due again at the next
look.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import structlog
import trio

from p2pnode.core import records
from p2pnode.core.event import Event
from p2pnode.core.membership import ABSENT
from p2pnode.core.merging import HEADS_MAX, Merging
from p2pnode.core.witness import Protest, Swarm, Witness
from p2pnode.errors import P2PNodeError
from p2pnode.services.health import HealthService
from p2pnode.services.metadata import MetadataService

log = structlog.get_logger(__name__)

#: Seconds after a deed failed before the next look, and the least between two looks.
FAILED_S = 5.0
LOOK_S = 0.05
#: Merges written in one go at most: they bring a thousand heads down to a few.
MERGES_MAX = 64
#: Forks of one author that are shown round; what it says counts for nothing from the first one on.
EXPOSED_MAX = 16

#: Kinds of events that change who is present, and so what a look finds.
_ABOUT_MEMBERS = frozenset((records.UP, records.LEAVE, records.DOWN, records.READMIT))


class Upkeep:
    """One member's. `run` until cancelled; a client has none."""

    def __init__(self, me: str, metadata: MetadataService, health: HealthService, down_after_s: float) -> None:
        self._me = me
        self._metadata = metadata
        self._health = health
        #: All times are of a clock that stands still while this process does not run.
        self._awake = health.awake
        self._witness = Witness(me, down_after_s)
        self._protest = Protest()
        self._merging = Merging(me)
        self._taken_up: set[bytes] = set()
        #: The `up`s whose end this node witnessed: once each, whether or not the others take its word.
        self._witnessed: set[bytes] = set()
        self._forks_seen = 0
        self._exposed: dict[str, set[bytes]] = {}
        self._changed = trio.Event()

    def _heard(self, events: Sequence[Event]) -> None:
        many = len(self._metadata.clock.heads()) > HEADS_MAX
        if many or any(event.kind in _ABOUT_MEMBERS for event in events):
            self._changed.set()
        if self._metadata.clock.fork_count != self._forks_seen:
            self._expose()

    async def run(self) -> None:
        self._metadata.on_change(self._heard)
        self._health.on_change(lambda *_: self._changed.set())
        if self._metadata.genesis is not None:  # what was known before this start was shown then
            self._forks_seen = self._metadata.clock.fork_count
            for fork in self._metadata.clock.forks():
                self._exposed.setdefault(fork.author, set()).update(fork.events)
        while True:
            self._changed = trio.Event()
            try:
                due = await self._look()
            except P2PNodeError as error:
                log.warning("upkeep_failed", why=str(error))
                due = self._awake() + FAILED_S
            with trio.move_on_after(max(LOOK_S, due - self._awake())):
                await self._changed.wait()
            await trio.sleep(LOOK_S)

    async def _look(self) -> float:
        """Do what is due; when to look again."""
        if self._metadata.genesis is None:
            return math.inf
        return min(await self._set_right(), await self._bear_witness(), await self._tie_heads())

    # -- oneself ---------------------------------------------------------------------------------------------

    async def _set_right(self) -> float:
        """Say anew that this node is up if others say that it is not, or readmitted it."""
        if self._metadata.leaving:
            return math.inf
        catalog = self._metadata.catalog
        fresh = [readmission for readmission in catalog.readmissions(self._me) if readmission not in self._taken_up]
        for readmission in fresh:
            await self._metadata.announce(readmit=readmission)
            self._taken_up.add(readmission)  # once: an `up` that a further fork spoils is no better the second time
            log.warning("readmission_taken_up")
        if not catalog.witnesses(self._me):
            return math.inf
        due = self._protest.due(self._awake())
        if due <= self._awake():
            self._protest.made(self._awake())
            log.warning("called_down", by=catalog.witnesses(self._me))
            await self._metadata.announce()
            return math.inf
        return due

    # -- others ----------------------------------------------------------------------------------------------

    async def _bear_witness(self) -> float:
        if not self._metadata.clock.is_heard(self._me):
            return math.inf  # it forked, and what it says is no witness
        catalog = self._metadata.catalog
        swarm = Swarm(catalog.present(), self._is_absent, catalog.witnesses, catalog.witnesses_needed)
        ended, due = self._witness.look(self._awake(), swarm)
        for member in ended:
            if member.up not in self._witnessed:
                log.warning("witnessed_down", node_id=member.node_id, peer=member.peer_id)
                await self._metadata.author(records.DOWN, member.peer_id, records.down_body(member.up), wait=False)
                self._witnessed.add(member.up)
        return due

    def _is_absent(self, peer_id: str) -> bool:
        return self._health.state_of(peer_id) in ABSENT

    # -- the clock -------------------------------------------------------------------------------------------

    async def _tie_heads(self) -> float:
        clock = self._metadata.clock
        living = [m.peer_id for m in self._metadata.catalog.present() if not self._is_absent(m.peer_id)]
        mine, due = self._merging.look(self._awake(), clock.heads(), living)
        if mine:
            for _ in range(MERGES_MAX):
                if len(clock.heads()) <= HEADS_MAX:
                    break
                await self._metadata.author(records.MERGE, "", {}, wait=False)
        return due

    def _expose(self) -> None:
        """Show the forks that came to light to everybody: their author meant each of us to see one branch."""
        clock = self._metadata.clock
        self._forks_seen = clock.fork_count
        for author in clock.accused():
            shown = self._exposed.setdefault(author, set())
            for fork in clock.forks(author) if len(shown) < 2 * EXPOSED_MAX else ():
                fresh = [event_id for event_id in fork.events if event_id not in shown]
                if fresh and len(shown) < 2 * EXPOSED_MAX:
                    shown.update(fork.events)
                    self._metadata.expose(fork.events)
