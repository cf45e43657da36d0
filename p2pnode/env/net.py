"""The network, as the node sees it: peers by id, streams by protocol, nothing of libp2p.

`p2pnode.net.host` supplies the real one; the simulator supplies another. Peer ids are base58 text (`12D3Koo…`),
addresses are multiaddr text.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol


class StreamBroken(Exception):
    """The stream ended by reset, a lost connection, or a stuck write; nothing more can be done with it."""


class DialFailed(Exception):
    """No address of that peer could be reached and authenticated; the text says why, address by address."""


class RawStream(Protocol):
    """Ordered bytes to one authenticated peer."""

    @property
    def peer_id(self) -> str:
        """Whom the encryption handshake proved at the other end."""
        ...

    def is_quiet(self) -> bool:
        """Whether, as far as is known here, nothing waits to be read and neither side has ended or reset it."""
        ...

    async def read(self, max_bytes: int) -> bytes:
        """1..max_bytes bytes, or b"" at the end. Safe to cancel. Raises StreamBroken."""
        ...

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of it. Safe to cancel: a write once begun ends, or the stream is broken. Raises StreamBroken."""
        ...

    async def close(self) -> None:
        """Say that no more will be written, and let go."""
        ...

    async def reset(self) -> None:
        """Abort both ways at once. Never raises."""
        ...


StreamHandler = Callable[[RawStream], Awaitable[None]]


class Transport(Protocol):
    """One node's door to the network. Entered as an async context manager by the composition root."""

    @property
    def peer_id(self) -> str: ...

    def addresses(self) -> list[str]:
        """Where this node listens, as full multiaddrs with /p2p/, loopback included."""
        ...

    def serve(self, protocol_id: str, handler: StreamHandler) -> None:
        """Call `handler` for each inbound stream of that protocol. It must not raise (the guard sees to that).

        It may be cancelled when the peer resets the stream or is lost: nobody waits for its work any more.
        """
        ...

    async def dial(self, peer_id: str, addresses: Sequence[str]) -> str:
        """Connect, proving that the peer at the other end is `peer_id`. Raises DialFailed.

        The address that answered; "", at once, if there is a connection already.
        """
        ...

    async def open_stream(self, peer_id: str, protocol_id: str) -> RawStream:
        """A new stream on the existing connection. Raises StreamBroken (also when the peer lacks the protocol)."""
        ...

    def connected(self) -> list[str]:
        """Peer ids with a live connection, sorted."""
        ...

    async def disconnect(self, peer_id: str) -> None:
        """Close every connection to that peer. Never raises."""
        ...

    def on_change(self, callback: Callable[[str, bool], None]) -> None:
        """Call back with (peer_id, connected) when a peer's first connection appears or its last one goes."""
        ...
