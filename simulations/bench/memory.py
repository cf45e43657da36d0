"""A network of memory between nodes' parts, which counts what passes: bytes, messages' turns, nothing else.

For figures about what is said, not about how fast the wire is. Streams are handed over as they are written; there
is no loss, no delay and no encryption.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio

from p2pnode.env.net import StreamBroken, StreamHandler


@dataclass(slots=True)
class Counted:
    """What passed between all of them since `clear`."""

    bytes: int = 0
    #: Times that an asker spoke after it had listened: round trips.
    turns: int = 0
    _listened: bool = field(default=True)

    def clear(self) -> None:
        self.bytes = self.turns = 0
        self._listened = True

    def wrote(self, count: int, *, asker: bool) -> None:
        self.bytes += count
        if asker and self._listened:
            self.turns += 1
            self._listened = False
        elif not asker:
            self._listened = True


class _Stream:
    """One end of a stream to `peer_id`."""

    def __init__(self, net: MemoryNet, peer_id: str, *, asker: bool) -> None:
        self.peer_id = peer_id
        self.far: _Stream | None = None
        self._net = net
        self._asker = asker
        self._waiting = bytearray()
        self._ended = False
        self._came = trio.Event()

    def is_quiet(self) -> bool:
        return not self._waiting and not self._ended

    async def read(self, max_bytes: int) -> bytes:
        while not self._waiting and not self._ended:
            self._came = trio.Event()
            await self._came.wait()
        await trio.lowlevel.checkpoint()
        piece = bytes(self._waiting[:max_bytes])
        del self._waiting[:max_bytes]
        return piece

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if self.far is None or self._ended or self.far._ended:
            raise StreamBroken("closed")
        self._net.counted.wrote(len(data), asker=self._asker)
        self.far._waiting += data
        self.far._came.set()

    async def close(self) -> None:
        await self.reset()

    async def reset(self) -> None:
        for end in (self, self.far):
            if end is not None:
                end._ended = True
                end._came.set()


class MemoryTransport:
    """One node's door: `p2pnode.env.net.Transport`."""

    def __init__(self, net: MemoryNet, peer_id: str) -> None:
        self.peer_id = peer_id
        self._net = net
        self._handlers: dict[str, StreamHandler] = {}

    def addresses(self) -> list[str]:
        return []

    def serve(self, protocol_id: str, handler: StreamHandler) -> None:
        self._handlers[protocol_id] = handler

    def on_change(self, callback: Callable[[str, bool], None]) -> None:
        """Nobody comes or goes here."""

    def connected(self) -> list[str]:
        return sorted(self._net.doors.keys() - {self.peer_id})

    async def dial(self, peer_id: str, addresses: Sequence[str]) -> str:
        return ""

    async def open_stream(self, peer_id: str, protocol_id: str) -> _Stream:
        far_door = self._net.doors[peer_id]
        near = _Stream(self._net, peer_id, asker=True)
        far = _Stream(self._net, self.peer_id, asker=False)
        near.far, far.far = far, near
        self._net.nursery.start_soon(far_door._handlers[protocol_id], far)
        return near

    async def disconnect(self, peer_id: str) -> None:
        """Everybody stays connected."""


class MemoryNet:
    """All doors; everybody is connected to everybody."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.doors: dict[str, MemoryTransport] = {}
        self.counted = Counted()

    def door(self, peer_id: str) -> MemoryTransport:
        self.doors[peer_id] = MemoryTransport(self, peer_id)
        return self.doors[peer_id]
