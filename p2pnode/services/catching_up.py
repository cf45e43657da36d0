"""Catching up: bands of history from several members at once, admitted in their order.

The shell of `core.bands`. One task a source fetches bands, checks the signatures in a thread and stages them on disk;
one task admits them, lowest first. What a source sends that does not match the promise is forgotten, the source is
left out when it does so again, and when nobody can give the next band the fetching ends with what was admitted. Memory
is one message a source, the disk is bounded, and none of it lasts longer than the fetching.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
import trio

from p2pnode.core import bands
from p2pnode.core.bands import BandDigest, Plan
from p2pnode.core.conduct import Reason
from p2pnode.core.event import BadEvent, parse
from p2pnode.env import Env
from p2pnode.env.together import together
from p2pnode.errors import P2PNodeError, PeerLost, StorageFailed
from p2pnode.net.peers import Peers
from p2pnode.services.event_stream import EventStream
from p2pnode.services.ledger import Checked, Ledger, Taken
from p2pnode.storage.staging import Staging, clear, staging
from protocols import metadata as words

log = structlog.get_logger(__name__)

#: Members that one node fetches from at once: as many as keep its cores busy with signatures.
SOURCES_MAX = 4
#: Seconds for one band: it takes well under one.
BAND_S = 60.0
#: Bytes that lie staged before nobody fetches ahead any more, and before the band that is next is given up as well:
#: the largest honest one, 2,048 events of 66 KiB, is half of that.
STAGED_BYTES_MAX = 64 << 20
STAGED_BYTES_LIMIT = 256 << 20

Admit = Callable[[Checked, str], Awaitable[Taken]]


class CatchingUp:
    """What one node does when it is far behind."""

    def __init__(self, ledger: Ledger, peers: Peers, env: Env, path: Path, admit: Admit) -> None:
        self._ledger = ledger
        self._peers = peers
        self._env = env
        self._path = path
        self._admit = admit

    async def clear(self) -> None:
        """Remove what a crash left behind."""
        await clear(self._env, self._path)

    async def fetch(self, peer_id: str, promise: words.Synced) -> None:
        """Fetch what that peer promised, from it and other connected members.

        Returns when all of it was admitted, or some of it and nobody could give the next band. Raises PeerLost if not
        even the first one came as promised, StorageFailed.
        """
        promised = [bands.Band(band.low, band.high, band.count, band.digest) for band in promise.bands]
        if not bands.is_plausible(promised, self._ledger.clock.height + 1, promise.count):
            self._peers.blame.note(peer_id, Reason.BAD_MESSAGE, why="bands that cannot be")
            raise PeerLost(f"{peer_id} promises bands that cannot be.")
        plan = Plan(promised, [peer_id, *self._others(peer_id)])
        log.info("catching_up", peer=peer_id, events=sum(band.count for band in promised), sources=len(plan.sources))
        async with staging(self._env, self._path) as staged:
            await _Fetching(self, plan, staged).run()
        log.info("caught_up", peer=peer_id, bands=plan.next, of=len(promised))
        if not plan.next:
            raise PeerLost(f"{peer_id} promised bands that nobody could give.")

    def _others(self, peer_id: str) -> list[str]:
        others = [
            other
            for other in self._peers.connected()
            if other != peer_id and (role := self._peers.role_of(other)) is not None and role.is_member
        ]
        return self._env.rng.sample(others, min(SOURCES_MAX - 1, len(others)))

    async def fetch_band(self, source: str, band: bands.Band, keep: Callable[[list[bytes]], Awaitable[bool]]) -> bool:
        """Fetch one band, message by message, as long as `keep` takes it. Returns whether it came as promised."""
        digest = BandDigest()
        request = words.WantBand(low=band.low, high=band.high)
        async with self._peers.exchange(source, words.METADATA, request, timeout_s=BAND_S) as exchange:
            stream = EventStream(exchange)
            async for wires in stream.batches():
                checked = await self._env.executor.run(self._ledger.check, wires)
                for reason in checked.refused.values():
                    self._peers.blame.note(source, reason)
                digest.add(checked.ids)
                if checked.refused or digest.count > band.count or not await keep(wires):
                    return False
        return digest.matches(band)

    async def admit(self, wires: list[bytes], source: str) -> Taken:
        """Take in events of a band that came as promised: their signatures were checked then."""
        return await self._admit(await self._env.executor.run(self._parse, wires), source)

    def _parse(self, wires: list[bytes]) -> Checked:
        events = [parse(wire) for wire in wires]
        new = tuple(event for event in events if event.id not in self._ledger.clock)
        return Checked(tuple(event.id for event in events), new, {})

    def blame(self, source: str, error: BadEvent) -> None:
        self._peers.blame.note(source, Reason.BAD_BATCH, why=str(error))


class _Fetching:
    """One run: a task for each source, and one that admits."""

    def __init__(self, deeds: CatchingUp, plan: Plan, staged: Staging) -> None:
        self._deeds = deeds
        self._plan = plan
        self._staged = staged
        #: Band -> who gave it.
        self._givers: dict[int, str] = {}
        self._changed = trio.Event()

    async def run(self) -> None:
        async with together() as nursery:
            for source in self._plan.sources:
                nursery.start_soon(self._fetch_from, source)
            await self._admit_all()
            nursery.cancel_scope.cancel()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _fetch_from(self, source: str) -> None:
        while source in self._plan.sources:
            number = self._plan.assign(source, room=self._staged.size_bytes < STAGED_BYTES_MAX)
            if number is None:
                await self._changed.wait()
                continue
            try:
                complete = await self._fetch(source, number)
            except StorageFailed:
                raise
            except P2PNodeError as error:
                if isinstance(error, BadEvent):
                    self._deeds.blame(source, error)
                log.info("band_not_fetched", peer=source, why=str(error))
                await self._staged.drop(number)
                self._plan.lose(source)
            else:
                if complete:
                    self._givers[number] = source
                    self._plan.stage(number)
                else:
                    full = self._staged.size_bytes > STAGED_BYTES_LIMIT
                    await self._staged.drop(number)
                    if full and number != self._plan.next:
                        self._plan.give_back(number)
                    else:
                        log.info("band_differs", peer=source, band=number)
                        self._plan.fail(source, number)
            self._change()

    async def _fetch(self, source: str, number: int) -> bool:
        async def keep(wires: list[bytes]) -> bool:
            await self._staged.put(number, wires)
            return self._staged.size_bytes <= STAGED_BYTES_LIMIT

        return await self._deeds.fetch_band(source, self._plan.bands[number], keep)

    async def _admit_all(self) -> None:
        plan = self._plan
        while not plan.is_done:
            if not plan.is_staged(plan.next):
                if plan.is_hopeless:
                    return
                await self._changed.wait()
                continue
            known = new = 0
            async for wires in self._staged.read(plan.next):
                taken = await self._deeds.admit(wires, self._givers[plan.next])
                known, new = known + taken.known, new + len(taken.new)
            if not known + new:
                return  # nothing of it stands on what is here: the promise was no history
            await self._staged.drop(plan.next)
            plan.admit()
            self._change()
