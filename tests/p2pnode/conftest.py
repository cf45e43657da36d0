"""A log worth reading, for what looks at logs from several sides."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bootstrap.identity import Identity
from p2pnode.core import records
from p2pnode.core.cid import record_cid
from p2pnode.core.model import Manifest, Member, NodeRole, ShardEntry
from p2pnode.env import Env
from p2pnode.services.ledger import Ledger
from p2pnode.storage.event_log import EventLog


async def _no_block(cid: bytes) -> bytes | None:
    return None


class Book:
    """Two members' ledgers, each with a real log in a home of its own: `ada` founded the swarm, `bob` joined."""

    def __init__(self, ada: Ledger, bob: Ledger, logs: list[EventLog]) -> None:
        self.ada, self.bob, self._logs = ada, bob, logs

    @classmethod
    async def open(cls, home: Path) -> Book:
        env = Env()
        ledgers: list[Ledger] = []
        logs: list[EventLog] = []
        for number, name in enumerate(("ada", "bob"), 1):
            (home / name).mkdir(parents=True, exist_ok=True)
            logs.append(await EventLog.open(env, home / name / "catalog.db"))
            ledgers.append(Ledger(env, logs[-1], Identity.from_seed(bytes([number]) * 32)))
            await ledgers[-1].open()
        return cls(*ledgers, logs)

    async def write(self) -> None:
        """Members, a dataset, two appends that did not know of each other, a merge, and what bob does besides."""
        await self.ada.found("test", open_swarm=True)
        await self.up(self.ada, "ada")
        await self.ada.write(records.DEFINE, "ds-1", records.define_body(records.Definition("trips")))
        await self.bob.adopt(self.ada.genesis or b"")
        await self.tell(self.ada, self.bob)
        await self.up(self.bob, "bob")
        await self.tell(self.bob, self.ada)
        for number, ledger in enumerate((self.ada, self.bob)):
            shard = ShardEntry(record_cid(bytes([number])), 10, 100)
            block = records.encode_manifest(Manifest("ds-1", "parquet", b"", (), (shard,)))
            body = records.version_body(records.Version(record_cid(block), append=True))
            await ledger.write(records.VERSION, "ds-1", body, [block])
        await self.bob.write(records.DEFINE, "ds-2", records.define_body(records.Definition("zones")))
        await self.tell(self.bob, self.ada)
        await self.tell(self.ada, self.bob)
        await self.ada.write(records.MERGE, "", {})
        await self.tell(self.ada, self.bob)
        observed = self.bob.catalog.observed("ds-2")
        await self.bob.write(records.DELETE, "ds-2", records.delete_body(observed))
        await self.tell(self.bob, self.ada)

    async def up(self, ledger: Ledger, node_id: str) -> None:
        peer_id = ledger._identity.peer_id
        await ledger.write(records.UP, peer_id, records.up_body(Member(peer_id, node_id, NodeRole.HYBRID)))

    async def tell(self, teller: Ledger, hearer: Ledger) -> None:
        await hearer.take([event.wire for event in teller.clock.events()], "peer", teller.block)

    async def close(self) -> None:
        for log in self._logs:
            await log.close()


@pytest.fixture(scope="session")
def book() -> Callable[[Path], Awaitable[Any]]:
    return Book.open
