"""A request that comes a second time, from nobody who waits for the answer.

No packet of an encrypted connection can be replayed; a request can, by an asker that lost the answer and asks again.
A ghost is the worst of them: it asks late, on a stream of its own, perhaps after its asker's connection has ended.
"""

from __future__ import annotations

import trio

from p2pnode.env.net import StreamBroken
from protocols.errors import RemoteProtocolError
from protocols.health import HEALTH
from protocols.machine import Link, NeedData, Payload, PayloadEnd, Received, Side
from protocols.metadata import METADATA
from protocols.query import QUERY
from protocols.shard_transfer import SHARD_TRANSFER

_SPECS = {spec.protocol_id: spec for spec in (HEALTH, METADATA, QUERY, SHARD_TRANSFER)}


def is_whole_request(protocol_id: str, data: bytes) -> bool:
    """Whether these bytes are one request with all of its payload; only such a one means the same a second time."""
    spec = _SPECS.get(protocol_id)
    if spec is None:
        return False
    link = Link(spec, Side.ANSWERER)
    try:
        link.receive_data(data)
        event = link.next_event()
        if not isinstance(event, Received):
            return False
        lacking = event.payload_bytes
        while lacking and isinstance(event := link.next_event(), Payload):
            lacking -= len(event.data)
        return not lacking and isinstance(link.next_event(), NeedData | PayloadEnd)
    except RemoteProtocolError:
        return False


class Ghost:
    """`p2pnode.env.net.RawStream` that says one thing, ends, and does not listen."""

    def __init__(self, peer_id: str, data: bytes) -> None:
        self.peer_id = peer_id
        self._data = data
        self._broken = False

    def is_quiet(self) -> bool:
        """It has something to say as long as it is there."""
        return False

    async def read(self, max_bytes: int) -> bytes:
        """What is left of the request, then the end."""
        await trio.lowlevel.checkpoint()
        piece, self._data = self._data[:max_bytes], self._data[max_bytes:]
        return piece

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Into the void. Raises StreamBroken once the ghost is gone."""
        await trio.lowlevel.checkpoint()
        if self._broken:
            raise StreamBroken("the ghost is gone")

    async def close(self) -> None:
        """Let go."""
        self._broken = True

    async def reset(self) -> None:
        """Let go."""
        self._broken = True
