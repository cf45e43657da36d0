"""Two nodes comparing notes, either side, and taking what is pushed.

The asker says what its heads are. Equal replicas end it in one message; an answerer that knows these heads streams
what lies beyond them, or, if that is very much, says in which bands it can be fetched (`catching_up`); else both
compare the leaves of their authors' chains (`core.reconcile`), and exactly what either side lacks flows, forks
included: the asker takes what it lacks and then pushes what the answerer lacks. Whoever sends what is refused is
paused (`net.blame`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import structlog
import trio

from p2pnode.core import bands, reconcile
from p2pnode.core.cid import record_cid
from p2pnode.core.conduct import Reason
from p2pnode.core.event import BadEvent, Event, split_wires
from p2pnode.core.reconcile import BadAnswer, Inquiry
from p2pnode.env import Env
from p2pnode.env.together import together
from p2pnode.errors import Busy, GenesisMismatch, P2PNodeError, PeerLost, UsageError
from p2pnode.net.exchange import Exchange, expect
from p2pnode.net.guard import Handler
from p2pnode.net.peers import Peers
from p2pnode.services.catching_up import CatchingUp
from p2pnode.services.event_stream import EventStream
from p2pnode.services.ledger import Checked, Ledger, Taken
from p2pnode.services.spreading import RUMOUR_EVENTS_MAX, batches
from protocols import metadata as words
from protocols.message import Message

log = structlog.get_logger(__name__)

#: Seconds for one push or block, after which the peer is given up.
ANSWER_S = 10.0
#: Seconds for one stream of events: some 5,000 come a second, so a million still come through.
SYNC_S = 300.0
#: Events read from the disk at once to be sent: at most 17 MB, mostly some 100 kB.
SERVED_EVENTS = 256
#: Events in so many bytes are checked where they come: two of the usual size cost what handing them to a thread does.
CHECKED_HERE_BYTES = 2048
#: Events pushed back to a peer that lacks them. One that is further behind fetches them itself, from several at once;
#: otherwise everybody who tells it something new would push all of history.
PUSHED_BACK_MAX = 8192
#: Events that an asker may lack and still get in one stream; of more it is told the bands.
FAR_EVENTS = 8192
#: Times that one sync begins to catch up anew, as long as each time brings something.
GOES_MAX = 8
#: Events and blocks lost on this disk that one sync asks for, each in a round trip of its own: a bad sector or two.
MENDED_MAX = 64
#: Seconds to wait for a block that another peer is being asked for; one that is slow, or keeps it, holds up no more.
SHARED_S = 2.0
#: Random bytes that salt the buckets of one comparison.
SALT_BYTES = 8

#: Hears of a peer that knows much more than this node.
OnAhead = Callable[[str], None]
#: Hears of events that were new here and may be news to others, and from whom they came.
OnNews = Callable[[Sequence[Event], str], None]


@dataclass(eq=False, slots=True)
class _Block:
    """A block on its way."""

    data: bytes | None = None
    came: trio.Event = field(default_factory=trio.Event)


class Syncer:
    """The comparing of one node. `pushes_back` is false for a client, whose pushes nobody takes."""

    def __init__(
        self,
        ledger: Ledger,
        peers: Peers,
        env: Env,
        staging: Path,
        *,
        pushes_back: bool,
        on_news: OnNews,
        on_ahead: OnAhead,
    ) -> None:
        """`staging` is a file that may be used to catch up."""
        self._ledger = ledger
        self._peers = peers
        self._env = env
        self._pushes_back = pushes_back
        self._on_news = on_news
        self._on_ahead = on_ahead
        self._turns: dict[str, trio.Lock] = {}
        #: Blocks that somebody is being asked for: news comes from several sides at once.
        self._blocks: dict[bytes, _Block] = {}
        #: What a sync under way brought, as far as it makes a difference to rumours.
        self._heard: dict[str, list[Event]] = {}
        self._far_behind = trio.Lock()
        #: The last history that was cut into bands, (fingerprint, lowest height) and what came of it: newcomers come
        #: in crowds, and one cut at a time is enough.
        self._cut: tuple[tuple[bytes, int], list[bands.Band]] = ((b"", 0), [])
        self._cutting = trio.Lock()
        self._catching_up = CatchingUp(ledger, peers, env, staging, self._admit)

    async def open(self) -> None:
        """Clear what a crash left behind."""
        await self._catching_up.clear()

    # -- what is said ----------------------------------------------------------------------------------------

    def _heads(self) -> list[bytes]:
        """All heads, or none if they are too many to be said."""
        heads = self._ledger.clock.heads()
        return heads if len(heads) <= words.HEADS_MAX else []

    def _is_same(self, said: words.Sync | words.Differs) -> bool:
        """Whether a peer that says this has the same events.

        The heads are hashes and cannot be made to fit; the fingerprint is a sum, and whoever mints events may make two
        sets agree in it.
        """
        clock = self._ledger.clock
        return (said.count, said.fingerprint, said.heads) == (len(clock), clock.fingerprint, self._heads())

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
            # Told in the end: who is asked to compare in the middle would send the other half as well.
            self._on_news(self._heard.pop(peer_id, []), peer_id)

    async def _sync(self, peer_id: str) -> None:
        answer = await self._ask(peer_id)
        for _ in range(GOES_MAX):
            if not isinstance(answer, words.Synced) or not answer.bands:
                break
            # One of all syncs catches up; the others look again when it is done.
            waited = self._far_behind.locked()
            async with self._far_behind:
                if not waited:
                    await self._catching_up.fetch(peer_id, answer)
            answer = await self._ask(peer_id)
        if isinstance(answer, words.Differs):
            try:
                await self._compare(peer_id, answer)
            except BadAnswer as error:
                self._peers.blame.note(peer_id, Reason.BAD_MESSAGE, why=str(error))
                raise PeerLost(f"{peer_id} answers a sync with nonsense: {error}") from error
        await self._mend(peer_id)

    async def _mend(self, peer_id: str) -> None:
        """Fetch again what this disk lost of what the clock knows, which no comparison shows."""
        for event_id in self._ledger.lost[:MENDED_MAX]:
            before = self._ledger.clock.previous_of(event_id)
            await self._fetch(peer_id, [event_id], [] if before is None else [before])
        for cid in self._ledger.lost_blocks[:MENDED_MAX]:
            data = await self._fetch_block(peer_id, cid)
            if data is not None:
                await self._ledger.mend_block(cid, data)

    async def _ask(self, peer_id: str) -> Message:
        """Say what is here, and take what comes of it."""
        clock = self._ledger.clock
        request = words.Sync(
            genesis=clock.genesis, count=len(clock), fingerprint=clock.fingerprint, heads=self._heads()
        )
        answer, _ = await self._events(peer_id, request)
        # What another sync took in at the same time may be on its way to the disk: it counts before this one ends.
        await self._ledger.settle()
        return answer

    async def _compare(self, peer_id: str, theirs: words.Differs) -> None:
        """Find out what either side lacks, and move it."""
        clock = self._ledger.clock
        if self._is_same(theirs):
            return
        if theirs.heads and all(head in clock for head in theirs.heads):
            beyond = await self._env.executor.run(clock.missing_beyond, theirs.heads)
            if beyond is not None:
                return await self._push_back(peer_id, beyond)
        inquiry = await self._env.executor.run(Inquiry, clock, theirs.salt, theirs.digests)
        if not inquiry.groups:
            return
        await self._inquire(peer_id, inquiry)
        async with together() as nursery:
            if inquiry.wanted:
                nursery.start_soon(self._fetch, peer_id, inquiry.wanted, inquiry.common)
            nursery.start_soon(self._push_back, peer_id, inquiry.lacking)

    async def _inquire(self, peer_id: str, inquiry: Inquiry) -> None:
        named = [leaf for _, leaves in inquiry.groups for leaf in leaves]
        groups = [words.Group(number, len(leaves)) for number, leaves in inquiry.groups]
        request = words.Compare(salt=inquiry.salt, bits=inquiry.bits, groups=groups)
        answer, payload = await self._events(peer_id, request, reconcile.pack(named))
        await self._ledger.settle()
        compared = expect(answer, words.Compared)
        known = reconcile.unpack_flags(compared.known, len(named))
        others = _by_count(reconcile.unpack(payload), compared.others)
        await self._env.executor.run(inquiry.hear, known, others)
        while probes := inquiry.probes():
            answer, _ = await self._events(peer_id, words.Compare(), reconcile.pack(probes))
            known = reconcile.unpack_flags(expect(answer, words.Compared).known, len(probes))
            await self._env.executor.run(inquiry.learn, known)

    async def _fetch(self, peer_id: str, wanted: Sequence[bytes], common: Sequence[bytes]) -> None:
        wanted, common = wanted[: reconcile.LEAVES_MAX], common[: reconcile.LEAVES_MAX]
        request = words.WantEvents(wanted=len(wanted))
        await self._events(peer_id, request, reconcile.pack([*wanted, *common]))
        await self._ledger.settle()

    async def _events(self, peer_id: str, request: Message, payload: bytes = b"") -> tuple[Message, bytes]:
        """Ask for events and take them in as they come. Returns the final answer and its payload."""
        asked = self._peers.exchange(peer_id, words.METADATA, request, payload, timeout_s=SYNC_S)
        async with asked as exchange:
            stream = EventStream(exchange)
            try:
                async for wires in stream.batches():
                    taken = await self._take(peer_id, wires)
                    heard = self._heard.setdefault(peer_id, [])
                    heard += taken.new[: RUMOUR_EVENTS_MAX + 1 - len(heard)]
                    stream.took(known=taken.known, new=len(taken.new))
            except BadEvent as error:
                self._peers.blame.note(peer_id, Reason.BAD_BATCH, why=str(error))
                raise
            assert stream.final is not None  # the batches have come to their end
            return stream.final, await stream.payload(words.IDS_BYTES_MAX)

    async def _push_back(self, peer_id: str, event_ids: Sequence[bytes]) -> None:
        """Hand over what that peer lacks, parents first."""
        if self._pushes_back and len(event_ids) <= PUSHED_BACK_MAX:
            async for wires in self._wires(event_ids):
                await self._push(peer_id, wires)

    async def push(self, peer_id: str, events: Sequence[Event], *, wide: bool) -> words.Stored:
        """Hand over one batch (see `spreading.batches`); `wide` if every connected member gets it.

        Raises PeerLost, Timeout, or what the peer answers.
        """
        return await self._push(peer_id, [event.wire for event in events], wide=wide)

    async def _push(self, peer_id: str, wires: Sequence[bytes], *, wide: bool = False) -> words.Stored:
        request = words.Push(sizes=[len(wire) for wire in wires], wide=wide)
        answer, _ = await self._peers.ask(peer_id, words.METADATA, request, b"".join(wires), timeout_s=ANSWER_S)
        return expect(answer, words.Stored)

    # -- answering -------------------------------------------------------------------------------------------

    def handlers(self) -> Mapping[type[Message], Handler]:
        return {
            words.Sync: self._answer_sync,
            words.Compare: self._answer_compare,
            words.WantEvents: self._answer_want_events,
            words.WantBand: self._answer_want_band,
            words.Push: self._answer_push,
            words.WantBlock: self._answer_want_block,
        }

    async def _answer_sync(self, peer_id: str, request: Message, exchange: Exchange) -> None:
        asked = expect(request, words.Sync)
        self._check_joined()
        clock = self._ledger.clock
        if asked.genesis != clock.genesis:
            raise GenesisMismatch("The two nodes belong to different swarms.")
        # Taken at one moment: events that come while we stream are the next sync's.
        synced = words.Synced(count=len(clock), fingerprint=clock.fingerprint)
        if self._is_same(asked):
            return await exchange.send(synced)
        if asked.count > synced.count + PUSHED_BACK_MAX:
            self._on_ahead(peer_id)  # for it will not push all that
        if asked.count and not (asked.heads and all(head in clock for head in asked.heads)):
            return await exchange.send(await self._differs())
        if synced.count - asked.count > FAR_EVENTS:
            return await self._promise(asked, synced, exchange)
        beyond = await self._env.executor.run(clock.missing_beyond, asked.heads)
        if beyond is None:
            return await exchange.send(await self._differs())
        await self._stream(exchange, beyond)
        await exchange.send(synced)

    async def _promise(self, asked: words.Sync, synced: words.Synced, exchange: Exchange) -> None:
        """Send what the asker lacks of the heights that it has, and say in which bands the rest can be fetched."""
        clock = self._ledger.clock
        top = max(map(clock.height_of, asked.heads), default=0)
        history = await self._bands(top + 1)
        below: Sequence[bytes] | None = ()
        if synced.count - asked.count > sum(band.count for band in history):
            below = await self._env.executor.run(clock.missing_beyond, asked.heads)
        if below is None:
            return await exchange.send(await self._differs())
        await self._stream(exchange, [event_id for event_id in below if clock.height_of(event_id) <= top])
        promised = [words.Band(band.low, band.high, band.count, band.digest) for band in history]
        await exchange.send(words.Synced(count=synced.count, fingerprint=synced.fingerprint, bands=promised))

    async def _bands(self, low: int) -> list[bands.Band]:
        clock = self._ledger.clock
        async with self._cutting:
            key = (clock.fingerprint, low)
            if self._cut[0] != key:
                self._cut = (key, await self._env.executor.run(bands.cut, clock, low))
            return self._cut[1]

    async def _differs(self) -> words.Differs:
        clock = self._ledger.clock
        count, fingerprint, heads = len(clock), clock.fingerprint, self._heads()
        salt = self._env.rng.token(SALT_BYTES)
        return words.Differs(
            count=count,
            fingerprint=fingerprint,
            heads=heads,
            salt=salt,
            digests=await self._env.executor.run(reconcile.digests, clock, salt),
        )

    async def _answer_compare(self, peer_id: str, request: Message, exchange: Exchange) -> None:
        asked = expect(request, words.Compare)
        ids = await self._ids(peer_id, exchange, words.IDS_BYTES_MAX)
        try:
            *leaves, probes = _by_count(ids, [group.leaves for group in asked.groups], rest=True)
            groups = list(zip((group.bucket for group in asked.groups), leaves, strict=True))
            answer = await self._env.executor.run(self._compared, groups, asked.salt, asked.bits, probes)
        except BadAnswer as error:
            raise self._nonsense(peer_id, error) from error
        await self._stream(exchange, answer.lacking)
        await exchange.send(
            words.Compared(known=reconcile.pack_flags(answer.known), others=[len(one) for one in answer.others]),
            reconcile.pack(leaf for one in answer.others for leaf in one),
        )

    def _compared(
        self, groups: Sequence[reconcile.Group], salt: bytes, bits: int, probes: Sequence[bytes]
    ) -> reconcile.Comparison:
        clock = self._ledger.clock
        mine = reconcile.leaves_by_bucket(clock, salt, bits) if groups else {}
        return reconcile.compare(clock, groups, mine, probes)

    async def _answer_want_events(self, peer_id: str, request: Message, exchange: Exchange) -> None:
        asked = expect(request, words.WantEvents)
        ids = await self._ids(peer_id, exchange, 2 * words.IDS_BYTES_MAX)
        clock = self._ledger.clock
        here = [
            [event_id for event_id in part if event_id in clock] for part in (ids[: asked.wanted], ids[asked.wanted :])
        ]
        synced = words.Synced(count=len(clock), fingerprint=clock.fingerprint)
        await self._stream(exchange, await self._env.executor.run(reconcile.beyond, clock, *here))
        await exchange.send(synced)

    async def _answer_want_band(self, peer_id: str, request: Message, exchange: Exchange) -> None:
        asked = expect(request, words.WantBand)
        self._check_joined()
        clock = self._ledger.clock
        synced = words.Synced(count=len(clock), fingerprint=clock.fingerprint)
        rising = await self._env.executor.run(clock.rising, asked.low, asked.high)
        # Drawn as it is read there: who asks for all heights at once costs no more than who asks for a band.
        while event_ids := await self._env.executor.run(list, islice(rising, SERVED_EVENTS)):
            await self._stream(exchange, event_ids)
        await exchange.send(synced)

    async def _answer_push(self, peer_id: str, request: Message, exchange: Exchange) -> None:
        push = expect(request, words.Push)
        payload = await exchange.payload_all(words.EVENTS_BYTES_MAX)
        self._check_joined()
        try:
            wires = split_wires(payload, push.sizes)
        except BadEvent as error:
            self._peers.blame.note(peer_id, Reason.BAD_BATCH, why=str(error))
            raise
        taken = await self._take(peer_id, wires)
        self._peers.blame.note(peer_id, Reason.ORPHAN, len(taken.waiting))
        # Only of a push: what was asked for of several peers may well come twice.
        self._peers.blame.note_pushed(peer_id, taken.known, len(self._ledger.clock))
        if not push.wide:
            self._on_news(taken.new, peer_id)
        await exchange.send(
            words.Stored(durable=list(taken.durable), waiting=list(taken.waiting), refused=list(taken.refused))
        )

    async def _answer_want_block(self, peer_id: str, request: Message, exchange: Exchange) -> None:
        cid = expect(request, words.WantBlock).cid
        data = await self._ledger.block(cid)
        await exchange.send(words.Block(cid=cid, found=data is not None), data or b"")

    def _check_joined(self) -> None:
        if self._ledger.genesis is None:
            raise Busy("This node has not joined a swarm yet.")

    async def _ids(self, peer_id: str, exchange: Exchange, bytes_max: int) -> list[bytes]:
        payload = await exchange.payload_all(bytes_max)
        self._check_joined()
        try:
            return reconcile.unpack(payload)
        except BadAnswer as error:
            raise self._nonsense(peer_id, error) from error

    def _nonsense(self, peer_id: str, error: BadAnswer) -> UsageError:
        self._peers.blame.note(peer_id, Reason.BAD_MESSAGE, why=str(error))
        return UsageError(f"This cannot be compared: {error}.")

    async def _stream(self, exchange: Exchange, event_ids: Sequence[bytes]) -> None:
        async for wires in self._wires(event_ids):
            await exchange.send(words.Events(sizes=[len(wire) for wire in wires]), b"".join(wires))

    async def _wires(self, event_ids: Sequence[bytes]) -> AsyncIterator[list[bytes]]:
        """These events' bytes, as much at a time as one message takes."""
        for start in range(0, len(event_ids), SERVED_EVENTS):
            for batch in batches(await self._ledger.wires(event_ids[start : start + SERVED_EVENTS]), len):
                yield batch

    # -- taking ----------------------------------------------------------------------------------------------

    async def _take(self, peer_id: str, wires: Sequence[bytes]) -> Taken:
        pause_s = self._peers.blame.pause_s(peer_id)
        if pause_s:
            raise Busy("Too much of what this peer sent was refused.", retry_after_s=pause_s)
        if sum(map(len, wires)) <= CHECKED_HERE_BYTES:
            return await self._admit(self._ledger.check(wires), peer_id)
        return await self._admit(await self._env.executor.run(self._ledger.check, wires), peer_id)

    async def _admit(self, checked: Checked, peer_id: str) -> Taken:
        """Take in what was checked, with the blocks that it needs from that peer."""

        async def fetch(cid: bytes) -> bytes | None:
            return await self._fetch_block(peer_id, cid)

        taken = await self._ledger.admit(checked, peer_id, fetch)
        for source, reason, count in taken.faults:
            self._peers.blame.note(source, reason, count)
        return taken

    async def _fetch_block(self, peer_id: str, cid: bytes) -> bytes | None:
        """A block from that peer, or from whoever is being asked for it already and gives it soon; None if it has none
        or fails.
        """
        with trio.move_on_after(SHARED_S):
            while (under_way := self._blocks.get(cid)) is not None:
                await under_way.came.wait()
                if under_way.data is not None:
                    return under_way.data
        mine = self._blocks[cid] = _Block()
        try:
            mine.data = await self._ask_block(peer_id, cid)
            return mine.data
        finally:
            if self._blocks.get(cid) is mine:
                del self._blocks[cid]
            mine.came.set()

    async def _ask_block(self, peer_id: str, cid: bytes) -> bytes | None:
        try:
            answer, data = await self._peers.ask(peer_id, words.METADATA, words.WantBlock(cid=cid), timeout_s=ANSWER_S)
        except P2PNodeError as error:
            log.info("block_not_fetched", peer=peer_id, why=str(error))
            return None
        if not expect(answer, words.Block).found:
            return None
        if record_cid(data) != cid:
            self._peers.blame.note(peer_id, Reason.FALSE_BLOCK)
            return None
        return data


def _by_count(ids: Sequence[bytes], counts: Sequence[int], *, rest: bool = False) -> list[list[bytes]]:
    """Cut a run of ids into pieces of these lengths, and with `rest` what is left. Raises BadAnswer if it is short."""
    pieces: list[list[bytes]] = []
    start = 0
    for count in counts:
        pieces.append(list(ids[start : start + count]))
        start += count
    if start > len(ids) or (start < len(ids) and not rest):
        raise BadAnswer(f"{len(ids)} ids where {start} are announced")
    return [*pieces, list(ids[start:])] if rest else pieces
