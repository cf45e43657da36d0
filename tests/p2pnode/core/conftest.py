"""Authors with fixed keys, for tests of the clock and what is folded from it."""

from __future__ import annotations

from typing import Any

import pytest

from bootstrap.identity import Identity
from p2pnode.core import records
from p2pnode.core.clock import MerkleClock
from p2pnode.core.event import Event, Position, compose, mint_session
from p2pnode.core.model import Member, NodeRole


class Author:
    """A peer that writes events on whatever clock it is given, each with the next position there."""

    def __init__(self, number: int, session: int = 0) -> None:
        self.identity = Identity.from_seed(bytes([number]) * 32)
        self.peer_id = self.identity.peer_id
        self.session = mint_session(bytes([session]) * 16)

    def genesis(self, name: str = "swarm") -> Event:
        return self.compose(None, Position(), records.GENESIS, "", records.genesis_body(name, open_swarm=True))

    def write(self, clock: MerkleClock, kind: str, object_id: str, body: dict[str, Any]) -> Event:
        position = clock.next_position(self.peer_id, self.session)
        return self.compose(clock.genesis, position, kind, object_id, body)

    def up(self, clock: MerkleClock, node_id: str, role: NodeRole = NodeRole.HYBRID) -> Event:
        body = records.up_body(Member(self.peer_id, node_id, role))
        return self.write(clock, records.UP, self.peer_id, body)

    def compose(
        self, genesis: bytes | None, position: Position, kind: str, object_id: str, body: dict[str, Any]
    ) -> Event:
        return compose(
            namespace=genesis,
            author=self.peer_id,
            session=self.session,
            position=position,
            time=1_700_000_000_000 << 16,
            kind=kind,
            object_id=object_id,
            body=body,
            sign=self.identity.sign,
        )


@pytest.fixture(scope="session")
def author() -> type[Author]:
    return Author
