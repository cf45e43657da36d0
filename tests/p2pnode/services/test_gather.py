"""One scan over holders that answer, fall silent or never hear of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from p2pnode.core.cid import cid_text, record_cid
from p2pnode.core.model import Column, ShardEntry
from p2pnode.core.planner import Scan, TableInfo
from p2pnode.env import Env
from p2pnode.errors import Busy, IntegrityError, P2PNodeError, PeerLost, QueryError, ShardUnavailable, StorageFailed
from p2pnode.query.spool import Spool
from p2pnode.services.gather import Gatherer, ScanAnswer
from protocols.query import Done, Run

pytestmark = pytest.mark.trio

CID = record_cid(b"shard")


class Holders:
    """Peers by name: what each is (answering or silent), and when each dies."""

    def __init__(self, *silent: str, dies_at: Mapping[str, float] | None = None) -> None:
        self.silent, self.dies_at = silent, dies_at or {}
        self.asked: list[str] = []

    @asynccontextmanager
    async def exchange(self, peer_id: str, spec: object, request: Run, *, timeout_s: float) -> AsyncIterator[Any]:
        self.asked.append(peer_id)
        yield self if peer_id not in self.silent else Silence()

    async def receive(self) -> Done:
        return Done(rows=1, shards=1)

    async def until_dead(self, peer_id: str) -> None:
        await trio.sleep(self.dies_at.get(peer_id, float("inf")))


class Silence:
    async def receive(self) -> Done:
        await trio.sleep_forever()
        raise AssertionError


async def scanned(holders: Holders, *peers: str, type_: str = "BIGINT", sql: str = "SELECT a FROM t") -> ScanAnswer:
    async def nobody_else(cids: Sequence[bytes]) -> dict[bytes, Sequence[str]]:
        return dict.fromkeys(cids, peers)

    gatherer = Gatherer(
        Env(),
        cast("Any", holders),
        "me",
        None,
        candidates=lambda cid: peers,
        ask_everyone=nobody_else,
        until_doubtful=holders.until_dead,
        until_dead=holders.until_dead,
        node_id_of=str,
    )
    columns = (Column("a", type_),)
    scan = Scan("flights", "t", sql, columns, (0,), "out", partial=False)
    table = TableInfo("flights", columns, (ShardEntry(CID, 10, 100),), "parquet")
    return await gatherer.scan(scan, table, Env().clock.now() + 60, lambda: Spool(Env(), Path()))


async def test_the_only_holder_falls_silent_and_the_shard_is_named_when_it_is_dead(
    autojump_clock: trio.testing.MockClock,
) -> None:
    begun = trio.current_time()
    answer = await scanned(Holders("a", dies_at={"a": 5.0}), "a")
    assert [shard.cid for shard in answer.missing] == [CID]
    assert trio.current_time() - begun < 10, "it does not wait for the whole time that the query has"


async def test_another_holder_answers_for_one_that_fell_silent(autojump_clock: trio.testing.MockClock) -> None:
    holders = Holders("a", dies_at={"a": 5.0})
    answer = await scanned(holders, "a", "b")
    assert (answer.missing, [report.node_id for report in answer.reports]) == ([], ["b"])
    assert holders.asked == ["a", "b"]


async def test_a_type_of_any_length_that_a_struct_may_have_is_asked_for() -> None:
    wide = "STRUCT(" + ", ".join(f'"field_{n}" TIMESTAMP WITH TIME ZONE' for n in range(300)) + ")"
    assert (await scanned(Holders(), "a", type_=wide)).missing == []


async def test_a_statement_beyond_all_bounds_is_the_users_to_shorten() -> None:
    with pytest.raises(QueryError, match="too long"):
        await scanned(Holders(), "a", sql=f"SELECT a FROM t WHERE a IN ({', '.join(map(str, range(100_000)))})")


class Disks:
    """Peers by name, each with the shards that it holds; those in `broken` answer with that error instead."""

    def __init__(self, held: Mapping[str, set[bytes]], broken: Mapping[str, P2PNodeError] | None = None) -> None:
        self.held, self.broken = held, broken or {}
        self.answered: list[tuple[str, list[bytes]]] = []
        self.asked_everyone = 0

    @asynccontextmanager
    async def exchange(self, peer_id: str, spec: object, request: Run, *, timeout_s: float) -> AsyncIterator[Any]:
        wanted = request.tables[0].cids
        lacking = [cid_text(cid) for cid in wanted if cid not in self.held[peer_id]]
        if peer_id in self.broken:
            raise self.broken[peer_id]
        if lacking:
            raise ShardUnavailable("not here", missing=tuple(lacking))
        self.answered.append((peer_id, list(wanted)))
        yield Holders()

    async def ask_everyone(self, cids: Sequence[bytes]) -> dict[bytes, list[str]]:
        self.asked_everyone += 1
        return {cid: [peer for peer in self.held if cid in self.held[peer]] for cid in cids}

    async def scan(self, cids: Sequence[bytes], guess: Mapping[bytes, Sequence[str]]) -> ScanAnswer:
        gatherer = Gatherer(
            Env(),
            cast("Any", self),
            "me",
            None,
            candidates=lambda cid: guess[cid],
            ask_everyone=self.ask_everyone,
            until_doubtful=_never,
            until_dead=_never,
            node_id_of=str,
        )
        columns = (Column("a", "BIGINT"),)
        scan = Scan("flights", "t", "SELECT a FROM t", columns, tuple(range(len(cids))), "out", partial=False)
        table = TableInfo("flights", columns, tuple(ShardEntry(cid, 10, 100) for cid in cids), "parquet")
        return await gatherer.scan(scan, table, Env().clock.now() + 60, lambda: Spool(Env(), Path()))

    def all_answered(self) -> list[bytes]:
        return sorted(cid for _, cids in self.answered for cid in cids)


async def _never(peer_id: str) -> None:
    await trio.sleep_forever()


SHARDS = [record_cid(bytes([number])) for number in range(8)]
#: What a client guesses that has heard from nobody yet.
ANYONE = {cid: ["a", "b", "c", "d"] for cid in SHARDS}


async def test_a_wrong_guess_is_asked_for_once_and_then_right() -> None:
    held = {peer: {cid for at, cid in enumerate(SHARDS) if at % 4 == number} for number, peer in enumerate("abcd")}
    disks = Disks(held)
    answer = await disks.scan(SHARDS, ANYONE)
    assert answer.missing == []
    assert disks.all_answered() == sorted(SHARDS), "each shard once"
    assert disks.asked_everyone == 1


async def test_what_nobody_has_stays_missing_whatever_later_rounds_find() -> None:
    gone, *rest = SHARDS
    disks = Disks({"a": set(), "b": set(rest)}, {"a": PeerLost("gone")})
    answer = await disks.scan(SHARDS, {cid: ["a", "b"] for cid in rest} | {gone: []})
    assert [shard.cid for shard in answer.missing] == [gone]
    assert disks.all_answered() == sorted(rest)


@pytest.mark.parametrize("error", [IntegrityError("rot"), StorageFailed("full"), Busy("busy"), PeerLost("gone")])
async def test_a_holder_that_fails_is_replaced(error: P2PNodeError) -> None:
    disks = Disks({"a": set(SHARDS), "b": set(SHARDS)}, {"a": error})
    answer = await disks.scan(SHARDS, {cid: ["a", "b"] for cid in SHARDS})
    assert answer.missing == []
    assert {peer for peer, _ in disks.answered} == {"b"}
