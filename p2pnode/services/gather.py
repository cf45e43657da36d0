"""Gathering: one scan of a plan, performed over the holders of its shards.

    route the shards over live holders → one stream per holder → Arrow back; what failed is routed again

Shards are immutable, so any replica gives the same answer: when a holder dies, stalls or turns out to lack a shard,
its share is routed again over those that are left, and what it had sent is thrown away. What no live peer holds is
named in the answer, never left out in silence. This file refuses to decide what that means (`ask`), who may hold a
shard (`locate`), and who of them reads it (`core.routing`).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from p2pnode.core.cid import cid_text
from p2pnode.core.planner import Scan, TableInfo
from p2pnode.core.routing import Wanted, route
from p2pnode.env import Env
from p2pnode.env.together import together
from p2pnode.errors import (
    Busy,
    IntegrityError,
    P2PNodeError,
    PeerLost,
    QueryError,
    ShardUnavailable,
    StorageFailed,
    Timeout,
)
from p2pnode.net.peers import Peers
from p2pnode.query.spool import Spool
from p2pnode.services.query import FragmentService, done_of
from protocols.codec import encode
from protocols.errors import LocalProtocolError
from protocols.frame import frame
from protocols.message import CIDS_MAX
from protocols.query import QUERY, Batch, Done, FragmentTable, Run

log = structlog.get_logger(__name__)

#: Times that a scan's lost shares are routed before the query gives up: three dead replicas, a wrong guess, what
#: everyone answered, and some to spare. Each round strikes out a holder, so it ends by itself in small swarms.
ROUNDS_MAX = 10


@dataclass(slots=True)
class FragmentReport:
    """What one holder did for a query, as `--explain` shows it."""

    node_id: str
    shards: int
    ms: float
    rows: int
    bytes_scanned: int
    bytes_moved: int
    table: str

    def as_document(self) -> dict[str, Any]:
        return {
            "node_id": self.node_id,
            "table": self.table,
            "shards": self.shards,
            "ms": round(self.ms, 2),
            "rows": self.rows,
            "bytes_scanned": self.bytes_scanned,
            "bytes_moved": self.bytes_moved,
        }


@dataclass(slots=True)
class ScanAnswer:
    """The gathered pieces of one scan, and what is missing from it."""

    spools: list[Spool] = field(default_factory=list)
    reports: list[FragmentReport] = field(default_factory=list)
    missing: list[Wanted] = field(default_factory=list)
    retries: int = 0


class Lost(Exception):
    """A holder gave nothing usable for its share; `why` goes to the log, the share is routed again."""

    def __init__(self, why: P2PNodeError) -> None:
        super().__init__(str(why))
        self.why = why


@dataclass(slots=True)
class _Search:
    """Where one scan has looked for its shards so far."""

    #: Peers that failed to answer for a shard; they are not asked for it again.
    tried: dict[bytes, set[str]] = field(default_factory=dict)
    #: Who says that it has a shard, after everyone was asked.
    asked: dict[bytes, Sequence[str]] = field(default_factory=dict)
    #: Shards of shares that went to a peer that lacks some of them: whoever guessed so may be wrong about all.
    astray: set[bytes] = field(default_factory=set)

    def failed(self, peer: str, shards: Sequence[Wanted], why: P2PNodeError) -> None:
        """Learn from a holder's failure: what it lacks, if it says so, or that it answers for nothing."""
        lacking = set(why.missing) if isinstance(why, ShardUnavailable) else set()
        named = [shard for shard in shards if cid_text(shard.cid) in lacking]
        if named:
            self.astray.update(shard.cid for shard in shards)
        for shard in named or shards:
            self.tried.setdefault(shard.cid, set()).add(peer)


class Gatherer:
    """Performs the scans of a plan over the swarm.

    Args:
        candidates: peers worth asking for a shard now, best first (holdings, then placement; live ones only).
        ask_everyone: the last resort: which live peers have these shards, asked one by one.
        until_doubtful: returns as soon as a peer is suspected or dead, `until_dead` when it is dead.
        node_id_of: the human name of a peer.
    """

    def __init__(
        self,
        env: Env,
        peers: Peers,
        me: str,
        local: FragmentService | None,
        *,
        candidates: Callable[[bytes], Sequence[str]],
        ask_everyone: Callable[[Sequence[bytes]], Awaitable[Mapping[bytes, Sequence[str]]]],
        until_doubtful: Callable[[str], Awaitable[None]],
        until_dead: Callable[[str], Awaitable[None]],
        node_id_of: Callable[[str], str],
    ) -> None:
        self._env = env
        self._peers = peers
        self._me = me
        self._local = local
        self._candidates = candidates
        self._ask_everyone = ask_everyone
        self._until_doubtful = until_doubtful
        self._until_dead = until_dead
        self._node_id_of = node_id_of

    async def scan(self, scan: Scan, table: TableInfo, deadline: float, new_spool: Callable[[], Spool]) -> ScanAnswer:
        """Everything that `scan` needs of `table`, from whoever holds it.

        Args:
            deadline: on `env.clock`; the fragments get what is left of it.

        Raises:
            SqlRefused: the statement itself is at fault; another replica would say the same.
            Timeout: the deadline passed.
        """
        wanted = [
            Wanted(index, table.shards[index].cid, table.shards[index].rows, len(scan.columns)) for index in scan.shards
        ]
        answer = ScanAnswer()
        search = _Search()
        for attempt in range(ROUNDS_MAX):
            if not wanted:
                break
            choices = self._choices(wanted, search)
            unsure = {cid for cid, peers in choices.items() if not peers or cid in search.astray} - search.asked.keys()
            if unsure:
                found = await self._ask_everyone(sorted(unsure))
                search.asked.update({cid: found.get(cid, ()) for cid in unsure})
                choices = self._choices(wanted, search)
            routes = route(wanted, choices, me=self._me)
            answer.missing.extend(routes.missing)
            answer.retries += attempt > 0
            wanted = await self._round(scan, table, routes.by_peer, choices, search, deadline, new_spool, answer)
        answer.missing.extend(wanted)
        return answer

    def _choices(self, wanted: Sequence[Wanted], search: _Search) -> dict[bytes, list[str]]:
        choices: dict[bytes, list[str]] = {}
        for shard in wanted:
            known = search.asked[shard.cid] if shard.cid in search.asked else self._candidates(shard.cid)
            choices[shard.cid] = [peer for peer in known if peer not in search.tried.get(shard.cid, ())]
        return choices

    async def _round(
        self,
        scan: Scan,
        table: TableInfo,
        by_peer: Mapping[str, Sequence[Wanted]],
        choices: Mapping[bytes, Sequence[str]],
        search: _Search,
        deadline: float,
        new_spool: Callable[[], Spool],
        answer: ScanAnswer,
    ) -> list[Wanted]:
        """Ask every holder for its share at once; the shares that failed come back to be routed again."""
        failed: list[Wanted] = []

        async def one(peer: str, shards: Sequence[Wanted]) -> None:
            replaceable = all(len(choices[shard.cid]) > 1 for shard in shards)
            spool = new_spool()
            try:
                report = await self._fragment(scan, table, peer, shards, deadline, spool, replaceable)
            except Lost as lost:
                spool.close()
                search.failed(peer, shards, lost.why)
                failed.extend(shards)
                log.info(
                    "fragment_lost",
                    peer=peer,
                    node_id=self._node_id_of(peer),
                    shards=len(shards),
                    why=str(lost.why),
                )
                return
            answer.spools.append(spool)
            answer.reports.append(report)

        async with together() as nursery:
            for peer, shards in by_peer.items():
                for start in range(0, len(shards), CIDS_MAX):
                    nursery.start_soon(one, peer, shards[start : start + CIDS_MAX])
        return failed

    async def _fragment(
        self,
        scan: Scan,
        table: TableInfo,
        peer: str,
        shards: Sequence[Wanted],
        deadline: float,
        spool: Spool,
        replaceable: bool,
    ) -> FragmentReport:
        """One holder's share, whole, or Lost."""
        remaining = deadline - self._env.clock.now()
        if remaining <= 0:
            raise Timeout("The query's time was up before every shard had answered.")
        request = Run(
            sql=scan.sql,
            tables=[
                FragmentTable(
                    name=scan.view,
                    cids=[shard.cid for shard in shards],
                    columns=[(column.name, column.type) for column in scan.columns],
                    format=table.format,
                )
            ],
            timeout_ms=math.ceil(remaining * 1000),
        )
        _check_size(request)
        started = self._env.clock.now()
        try:
            if peer == self._me and self._local is not None:
                done = await self._run_here(request, remaining, spool)
            else:
                done = await self._run_there(peer, request, remaining, spool, replaceable)
        except (PeerLost, ShardUnavailable, Busy, IntegrityError, StorageFailed) as error:
            raise Lost(error) from error
        except P2PNodeError as error:
            if not error.retryable or isinstance(error, Timeout):
                raise
            raise Lost(error) from error
        return FragmentReport(
            node_id=self._node_id_of(peer),
            shards=len(shards),
            ms=(self._env.clock.now() - started) * 1000,
            rows=done.rows,
            bytes_scanned=done.bytes_scanned,
            bytes_moved=0 if peer == self._me else spool.bytes,
            table=scan.table,
        )

    async def _run_here(self, request: Run, remaining: float, spool: Spool) -> Done:
        assert self._local is not None
        async with self._local.run(request.sql, request.tables, remaining, own=True) as run:
            async for piece in run.batches():
                await spool.write(piece)
        return done_of(run, request)

    async def _run_there(self, peer: str, request: Run, remaining: float, spool: Spool, replaceable: bool) -> Done:
        """The exchange with a holder, given up as soon as it is doubted and somebody else could answer, or dead."""
        outcome: list[Done] = []
        async with together() as nursery:

            async def watch() -> None:
                await (self._until_doubtful if replaceable else self._until_dead)(peer)
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            async with self._peers.exchange(peer, QUERY, request, timeout_s=remaining) as exchange:
                while not isinstance(message := await exchange.receive(), Done):
                    assert isinstance(message, Batch)
                    async for piece in exchange.payload():
                        await spool.write(piece)
                outcome.append(message)
            nursery.cancel_scope.cancel()
        if not outcome:
            raise PeerLost(f"{self._node_id_of(peer)} stopped answering.")
        return outcome[0]


def _check_size(request: Run) -> None:
    """Raise QueryError for what no holder would read: a statement, or names and types of columns, beyond all bounds."""
    try:
        frame(encode(request))
    except LocalProtocolError as error:
        raise QueryError(
            f"The statement is too long for its holders: {error}.", advice="Read fewer columns at once."
        ) from error
