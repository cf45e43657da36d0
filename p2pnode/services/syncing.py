"""Two nodes comparing notes, either side, and taking what is pushed.

A sync is one round trip: the asker says how far it knows each author's sessions; equal (count, fingerprint)
ends it in one message, else the answerer streams what the asker lacks, parents first, and says how far it
knows, whereupon the asker pushes back what the answerer lacks. Marks cannot see a fork; when a round moved
nothing and the sets still differ, the next one asks for everything. Whoever sends what is refused is paused
(`core.conduct`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog
import trio

from p2pnode.core.conduct import Conduct
from p2pnode.core.event import BadEvent, Event, cut
from p2pnode.env import Env
from p2pnode.errors import Busy, GenesisMismatch, P2PNodeError, Timeout
from p2pnode.net.exchange import Exchange, expect
from p2pnode.net.guard import Handler
from p2pnode.net.peers import Peers
from p2pnode.services.ledger import Ledger, Taken
from p2pnode.services.spreading import batches
from protocols import metadata as words
from protocols.message import Message

log = structlog.get_logger(__name__)

Marks = dict[tuple[str, bytes], int]

#: Seconds of silence in a sync, and for one push or block, after which the peer is given up.
ANSWER_S = 10.0
#: Seconds for one whole sync: a newcomer takes some 5,000 events a second, so a million still come through.
SYNC_S = 300.0
#: Seconds between two syncs with one peer in which everything is asked for: only a fork makes that necessary.
EVERYTHING_S = 60.0
#: Peers whose last such sync is remembered.
EVERYTHING_PEERS_MAX = 1024


class Syncer:
    """The comparing of one node. `pushes_back` is false for a client, whose pushes nobody takes."""

    def __init__(self, ledger: Ledger, peers: Peers, env: Env, *, pushes_back: bool) -> None:
        self._ledger = ledger
        self._peers = peers
        self._env = env
        self._pushes_back = pushes_back
        self._everything_at: dict[str, float] = {}
        self._turns: dict[str, trio.Lock] = {}
        #: Who sent events that were refused.
        self.conduct = Conduct()

    # -- asking ----------------------------------------------------------------------------------------------

    async def sync_with(self, peer_id: str) -> None:
        """Bring this node and that peer up to date with each other.

        Raises:
            GenesisMismatch: it belongs to another swarm.
            Busy: it sent too much that was refused, and is paused.
            PeerLost, Timeout: it went or fell silent; what came until then counts.
            StorageFailed: this disk refuses.
        """
        # One at a time with each peer: the second of two finds little left to do, and never takes the last of the
        # peer's streams from the blocks that the first one waits for.
        turn = self._turns.setdefault(peer_id, trio.Lock())
        try:
            async with turn:
                await self._sync(peer_id)
        finally:
            if not turn.locked():
                self._turns.pop(peer_id, None)

    async def _sync(self, peer_id: str) -> None:
        moved, differ = await self._round(peer_id, self._ledger.clock.marks())
        now = self._env.clock.now()
        if moved or not differ or now < self._everything_at.get(peer_id, now):
            return
        self._everything_at.pop(peer_id, None)
        self._everything_at[peer_id] = now + EVERYTHING_S
        while len(self._everything_at) > EVERYTHING_PEERS_MAX:
            del self._everything_at[next(iter(self._everything_at))]
        log.info("sync_everything", peer=peer_id)
        await self._round(peer_id, {})

    async def _round(self, peer_id: str, marks: Marks) -> tuple[bool, bool]:
        """One sync. Returns (whether any event moved, whether the sets still differ)."""
        clock = self._ledger.clock
        request = words.Sync(
            genesis=clock.genesis,
            count=len(clock),
            fingerprint=clock.fingerprint,
            marks=_as_marks(marks),
        )
        new = 0
        async with self._peers.exchange(peer_id, words.METADATA, request, timeout_s=SYNC_S) as exchange:
            while isinstance(message := await _next(exchange), words.Events):
                taken = await self._take(peer_id, message.sizes, await _payload(exchange))
                new += len(taken.new)
        # What another sync took in at the same time may be on its way to the disk: it counts before this one ends.
        await self._ledger.settle()
        synced = expect(message, words.Synced)
        if (synced.count, synced.fingerprint) == (len(clock), clock.fingerprint):
            return new > 0, False
        theirs = {(mark.author, mark.session): mark.next for mark in synced.marks}
        lacking = [event for event in map(clock.get, clock.missing(theirs)) if event] if self._pushes_back else []
        stored = 0
        for batch in batches(lacking):
            stored += len((await self.push(peer_id, batch)).durable)
        return bool(new or stored), True

    async def push(self, peer_id: str, events: Sequence[Event]) -> words.Stored:
        """Hand over one batch (see `spreading.batches`). Raises PeerLost, Timeout, or what the peer answers."""
        wires = [event.wire for event in events]
        request = words.Push(sizes=[len(wire) for wire in wires])
        answer, _ = await self._peers.ask(peer_id, words.METADATA, request, b"".join(wires), timeout_s=ANSWER_S)
        return expect(answer, words.Stored)

    # -- answering -------------------------------------------------------------------------------------------

    def handlers(self) -> Mapping[type[Message], Handler]:
        return {
            words.Sync: self._answer_sync,
            words.Push: self._answer_push,
            words.WantBlock: self._answer_want_block,
        }

    async def _answer_sync(self, peer_id: str, request: Message, exchange: Exchange) -> None:
        asked = expect(request, words.Sync)
        if self._ledger.genesis is None:
            raise Busy("This node has not joined a swarm yet.")
        clock = self._ledger.clock
        if asked.genesis != clock.genesis:
            raise GenesisMismatch("The two nodes belong to different swarms.")
        # Taken at one moment: events that come while we stream are the next sync's.
        count, fingerprint = len(clock), clock.fingerprint
        if (asked.count, asked.fingerprint) == (count, fingerprint):
            await exchange.send(words.Synced(count=count, fingerprint=fingerprint))
            return
        marks = _as_marks(clock.marks())
        missing = clock.missing({(mark.author, mark.session): mark.next for mark in asked.marks})
        lacking = [event for event in map(clock.get, missing) if event]
        for batch in batches(lacking):
            wires = [event.wire for event in batch]
            await exchange.send(words.Events(sizes=[len(wire) for wire in wires]), b"".join(wires))
        await exchange.send(words.Synced(count=count, fingerprint=fingerprint, marks=marks))

    async def _answer_push(self, peer_id: str, request: Message, exchange: Exchange) -> None:
        push = expect(request, words.Push)
        payload = await exchange.payload_all(words.EVENTS_BYTES_MAX)
        if self._ledger.genesis is None:
            raise Busy("This node has not joined a swarm yet.")
        taken = await self._take(peer_id, push.sizes, payload)
        await exchange.send(
            words.Stored(durable=list(taken.durable), waiting=list(taken.waiting), refused=list(taken.refused))
        )

    async def _answer_want_block(self, peer_id: str, request: Message, exchange: Exchange) -> None:
        cid = expect(request, words.WantBlock).cid
        data = await self._ledger.block(cid)
        await exchange.send(words.Block(cid=cid, found=data is not None), data or b"")

    # -- taking ----------------------------------------------------------------------------------------------

    async def _take(self, peer_id: str, sizes: Sequence[int], payload: bytes) -> Taken:
        pause_s = self.conduct.pause_s(peer_id, self._env.clock.now())
        if pause_s:
            raise Busy("Too many of this peer's events were refused.", retry_after_s=round(pause_s, 1))
        try:
            wires = cut(payload, sizes)
        except BadEvent:
            self.conduct.refused(peer_id, 1, self._env.clock.now())
            raise

        async def fetch(cid: bytes) -> bytes | None:
            return await self._fetch_block(peer_id, cid)

        taken = await self._ledger.take(wires, peer_id, fetch)
        self.conduct.refused(peer_id, len(taken.refused), self._env.clock.now())
        return taken

    async def _fetch_block(self, peer_id: str, cid: bytes) -> bytes | None:
        """A block from that peer; None if it has none or fails."""
        try:
            answer, data = await self._peers.ask(peer_id, words.METADATA, words.WantBlock(cid=cid), timeout_s=ANSWER_S)
            return data if expect(answer, words.Block).found else None
        except P2PNodeError as error:
            log.info("block_not_fetched", peer=peer_id, why=str(error))
            return None


async def _next(exchange: Exchange) -> Message:
    with trio.move_on_after(ANSWER_S):
        return await exchange.receive()
    raise Timeout(f"{exchange.peer_id} fell silent in a sync.")


async def _payload(exchange: Exchange) -> bytes:
    with trio.move_on_after(ANSWER_S):
        return await exchange.payload_all(words.EVENTS_BYTES_MAX)
    raise Timeout(f"{exchange.peer_id} fell silent in a sync.")


def _as_marks(marks: Marks) -> list[words.AuthorMark]:
    """As far as they fit a message; a session left out is sent again in full, which costs bytes and no truth."""
    return [
        words.AuthorMark(author, session, count)
        for (author, session), count in list(marks.items())[: words.AUTHORS_MAX]
    ]
