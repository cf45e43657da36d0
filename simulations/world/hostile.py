"""Members that lie. Each is a real member with a real key, whose node runs as any other; the lies go beside it.

Every lie is one that a stolen key allows and a signature does not prevent: other words to other peers, impossible
places in the clock, children without parents, frames that are noise, and slander about who is dead. What honest nodes
owe in return stands in `checks`. This file refuses to break cryptography: a signature by another's key is sent too, and
must be refused, but none is forged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import libipld
import trio

from p2pnode.core import records
from p2pnode.core.catalog import Catalog
from p2pnode.core.event import SESSION_BYTES, Event, Position, compose, mint_session
from p2pnode.core.membership import State
from p2pnode.env import Rng
from p2pnode.env.net import StreamBroken
from p2pnode.errors import P2PNodeError
from p2pnode.node import Node
from protocols import health, metadata
from protocols.health import CLAIMS_MAX, HEALTH, Claim
from protocols.metadata import METADATA, Push
from simulations.world.inside import identity_of, ledger_of, metadata_of, peers_of, raw_stream

#: Children sent without their parent to each victim: some; and to one of them more than any buffer takes.
ORPHANS = 40
FLOOD = 1100
#: Streams of noise to each victim, and the most bytes on one.
NOISES = 6
NOISE_BYTES_MAX = 4096
#: A payload beyond what an event may carry, bytes.
TOO_LARGE = 80 << 10
#: Seconds between two rounds of slander, and for one answer to a lie.
SLANDER_EVERY_S = 0.5
ANSWER_S = 5.0
#: Every lie, as `plan.MENU` calls it.
LIES = (
    "equivocate",
    "forge_height",
    "forge_sequence",
    "garbage",
    "withhold",
    "forge_signature",
    "oversize",
    "false_down",
    "slander",
)


class Liar:
    """One hostile member. A lie takes the peers to lie to, and never raises for what they answer."""

    def __init__(self, node: Node, rng: Rng) -> None:
        self._node = node
        self._rng = rng
        #: Both branches were heard and kept, so proof exists.
        self.equivocated = False

    async def tell(self, lie: str, victims: Sequence[str], for_s: float) -> None:
        """Tell the lie of that name, one of LIES."""
        tell = {
            "equivocate": self._equivocate,
            "forge_height": self._forge_height,
            "forge_sequence": self._forge_sequence,
            "garbage": self._garbage,
            "withhold": self._withhold,
            "forge_signature": self._forge_signature,
            "oversize": self._oversize,
            "false_down": self._false_down,
            "slander": self._slander,
        }[lie]
        with trio.move_on_after(for_s):
            await tell(victims)

    # -- events --------------------------------------------------------------------------------------------------

    async def _equivocate(self, victims: Sequence[str]) -> None:
        """Two events for one place: one half hears this, the other half that."""
        session, position = self._own_place()
        white, black = (self._event(session, position, capability) for capability in ("white", "black"))
        half = len(victims) // 2
        heard_white = [await self._push(peer, [white]) for peer in victims[:half]]
        heard_black = [await self._push(peer, [black]) for peer in victims[half:]]
        self.equivocated |= any(heard_white) and any(heard_black)

    async def _forge_height(self, victims: Sequence[str]) -> None:
        """To win every tie for ever."""
        session, position = self._own_place()
        await self._push_to_all(victims, self._event(session, replace(position, height=position.height + 1_000_000)))
        await self._push_to_all(victims, self._event(session, replace(position, height=1)))

    async def _forge_sequence(self, victims: Sequence[str]) -> None:
        session, position = self._own_place()
        await self._push_to_all(victims, self._event(session, replace(position, sequence=position.sequence + 5)))

    async def _withhold(self, victims: Sequence[str]) -> None:
        """Children whose first parent nobody gets: they must wait, and not for ever more room."""
        session, position = self._own_place()
        chain: list[Event] = []
        for number in range(FLOOD + 1):
            event = self._event(session, position, str(number))
            chain.append(event)
            position = Position(event.sequence + 1, event.id, (event.id,), event.height + 1)
        for peer in victims:
            await self._push(peer, chain[1 : ORPHANS + 1])
        for start in range(1, FLOOD + 1, ORPHANS):
            await self._push(victims[0], chain[start : start + ORPHANS])

    async def _forge_signature(self, victims: Sequence[str]) -> None:
        """Without a good signature, and in another's name."""
        session, position = self._own_place()
        event = self._event(session, position)
        for signature in (bytes(64), event.signature[:-1] + bytes((event.signature[-1] ^ 1,))):
            await self._push_to_all(victims, replace(event, signature=signature))
        for peer in victims:
            await self._push(peer, [self._event(session, Position(parents=position.parents), author=peer)])

    async def _oversize(self, victims: Sequence[str]) -> None:
        session, position = self._own_place()
        small = self._event(session, position)
        fields: dict[str, Any] = libipld.decode_dag_cbor(small.encoded)
        fields["b"]["capabilities"] = ["x" * TOO_LARGE]
        encoded = libipld.encode_dag_cbor(fields)
        signature = identity_of(self._node).sign(b"p2pnode/event/1\0" + encoded)
        await self._push_to_all(victims, replace(small, encoded=encoded, signature=signature))

    async def _false_down(self, victims: Sequence[str]) -> None:
        """Well formed, well signed, and untrue: every other member is down."""
        for peer in victims:
            member = self._catalog.member(peer)
            if member is not None:
                body = records.down_body(member.up)
                await metadata_of(self._node).author(records.DOWN, peer, body, wait=False)

    # -- words ---------------------------------------------------------------------------------------------------

    async def _garbage(self, victims: Sequence[str]) -> None:
        """Noise on every protocol: random bytes, endless lengths, beginnings without an end."""
        for peer in victims:
            for _ in range(NOISES):
                protocol = self._rng.choice((metadata.PROTOCOL_ID, health.PROTOCOL_ID))
                noise = self._rng.randbytes(self._rng.randint(1, NOISE_BYTES_MAX))
                prefix = self._rng.choice((b"", b"\xff\xff\xff\xff\x7f", b"\x80" * 9, b"\x05"))
                try:
                    stream = await raw_stream(self._node, peer, protocol)
                    await stream.write(prefix + noise)
                    await stream.close()
                except StreamBroken:
                    continue

    async def _slander(self, victims: Sequence[str]) -> None:
        """Everybody is dead, says this one to everybody, at every incarnation it knows and beyond."""
        boast = 0
        while True:
            boast += 1
            claims = [Claim(peer, State.DEAD.value, boast) for peer in victims]
            for peer in victims:
                others = [claim for claim in claims if claim.peer_id != peer][:CLAIMS_MAX]
                await self._ask(peer, HEALTH, health.Ping(incarnation=0, claims=others))
            await trio.sleep(SLANDER_EVERY_S)

    # -- making and sending ----------------------------------------------------------------------------------------

    @property
    def _catalog(self) -> Catalog:
        return ledger_of(self._node).catalog

    def _own_place(self) -> tuple[bytes, Position]:
        """A session that its node knows nothing of, and where that session's first event belongs."""
        session = mint_session(self._rng.token(SESSION_BYTES))
        return session, ledger_of(self._node).clock.next_position(self._node.peer_id, session)

    def _event(self, session: bytes, position: Position, capability: str = "", author: str = "") -> Event:
        """A renewal of its own record there; of another's if it signs as another."""
        known = self._catalog.member(self._node.peer_id)
        assert known is not None
        author = author or known.peer_id
        return compose(
            namespace=ledger_of(self._node).genesis,
            author=author,
            session=session,
            position=position,
            time=0,
            kind=records.UP,
            object_id=author,
            body=records.up_body(replace(known, capabilities=(capability,))),
            sign=identity_of(self._node).sign,
        )

    async def _push_to_all(self, victims: Sequence[str], event: Event) -> None:
        for peer in victims:
            await self._push(peer, [event])

    async def _push(self, peer_id: str, events: Sequence[Event]) -> bool:
        """Whether the peer says that all of it is on its disk."""
        wires = [event.wire for event in events]
        answer = await self._ask(peer_id, METADATA, Push(sizes=[len(wire) for wire in wires]), b"".join(wires))
        return isinstance(answer, metadata.Stored) and len(answer.durable) == len(events)

    async def _ask(self, peer_id: str, spec: Any, request: Any, payload: bytes = b"") -> Any:
        try:
            answer, _ = await peers_of(self._node).ask(peer_id, spec, request, payload, timeout_s=ANSWER_S)
        except P2PNodeError:
            return None
        return answer
