"""One yamux stream as `env.net.RawStream`: the only place where bytes meet libp2p.

What the library gets wrong is put right here: a cancelled write does not destroy the connection, a lost peer
does not look like a clean end, a reader that is cancelled loses nothing, and a writer waits longer than 5 s
for a slow reader but not for ever. It goes to the muxed stream directly, past two layers that only add locks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import trio
from libp2p.io.exceptions import IOException
from libp2p.network.connection.exceptions import RawConnError
from libp2p.network.stream.net_stream import NetStream
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux.yamux import YamuxStream

from p2pnode.env.net import StreamBroken
from p2pnode.env.shield import shielded
from p2pnode.net.workarounds import FRAME_PAYLOAD_BYTES, SteadyYamux, forget_reader, return_credit

#: A peer that reads nothing of a stream for so long has it reset. Longer than a disk's worst fsync.
STALLED_READER_S = 30.0
#: Smaller rooms are not worth a frame while more than this is waiting. A peer that has read everything always
#: leaves at least half of the smallest window, 128 KiB.
_ROOM_MIN = 65_536
#: How often a writer without room looks again, seconds: yamux has no event for credit that comes.
_ROOM_POLL_S = 0.002

_BROKEN = (MuxedStreamError, IOException, RawConnError, OSError)


class YamuxedStream:
    """Ordered bytes to one authenticated peer. One reader and one writer at a time."""

    def __init__(self, stream: NetStream) -> None:
        self._net_stream = stream
        self._muxed = cast("YamuxStream", stream.muxed_stream)
        self._connection = cast("SteadyYamux", self._muxed.conn)
        self._id = self._muxed.stream_id
        self.peer_id: str = self._connection.peer_id.to_base58()

    @contextmanager
    def cancelled_when_broken(self) -> Iterator[None]:
        """Cancel the body as soon as the peer resets the stream or is lost: nobody waits for its work any
        more.
        """
        with trio.CancelScope() as work:  # type: ignore[call-arg]  # old stubs
            self._connection.watchers[self._id] = work.cancel
            try:
                yield
            finally:
                self._connection.watchers.pop(self._id, None)

    def is_quiet(self) -> bool:
        """Whether, as far as is known here, nothing waits to be read and neither side has ended or reset it."""
        connection, muxed = self._connection, self._muxed
        over = muxed.reset_received or muxed.recv_closed or muxed.send_closed or muxed.closed
        return not (over or connection.stream_buffers.get(self._id) or connection.event_shutting_down.is_set())

    async def read(self, max_bytes: int) -> bytes:
        """1..max_bytes bytes, or b"" at the end. Safe to cancel. Raises StreamBroken."""
        buffer = self._connection.stream_buffers.get(self._id)
        if not buffer:
            buffer = await self._filled()
            if buffer is None:
                return b""
        if len(buffer) <= max_bytes:
            piece = bytes(buffer)
            buffer.clear()
        else:
            with memoryview(buffer) as view:
                piece = bytes(view[:max_bytes])
            del buffer[:max_bytes]
        await return_credit(self._muxed, len(buffer))
        return piece

    async def _filled(self) -> bytearray | None:
        """Wait for bytes; None at the end. No await stands between looking and waiting, so no wake-up is
        lost.
        """
        connection, muxed = self._connection, self._muxed
        while True:
            buffer = connection.stream_buffers.get(self._id)
            if buffer:
                return buffer
            if muxed.reset_received or connection.event_shutting_down.is_set():
                forget_reader(muxed)
                raise StreamBroken(f"{self.peer_id} reset the stream or is gone")
            if muxed.recv_closed:
                return None
            event = connection.stream_events.get(self._id)
            if muxed.closed or event is None:
                raise StreamBroken("the stream is closed")
            if event.is_set():
                event = connection.stream_events[self._id] = trio.Event()
            await event.wait()

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of it. Cancelled before the first byte it has done nothing, later it resets the stream."""
        view = memoryview(data).cast("B")
        total, sent = len(view), 0
        try:
            while sent < total:
                room = await self._room(total - sent)
                piece = view[sent : sent + min(room, FRAME_PAYLOAD_BYTES)]
                await self._connection.write_data(self._muxed, piece)
                sent += len(piece)
        except trio.Cancelled:
            if sent:
                await self.reset()
            raise
        except _BROKEN as error:
            raise StreamBroken(f"{self.peer_id}: {error}") from error

    async def _room(self, wanted: int) -> int:
        """Bytes that the peer will take now, at least one. Raises StreamBroken if it takes none for too long."""
        muxed = self._muxed
        least = min(wanted, _ROOM_MIN)
        if muxed.send_window < least:
            with trio.move_on_after(STALLED_READER_S):
                while muxed.send_window < least and not muxed.send_closed:  # noqa: ASYNC110  # see above
                    await trio.sleep(_ROOM_POLL_S)
        if muxed.send_closed or muxed.closed:
            raise StreamBroken(f"{self.peer_id} reset the stream or is gone")
        if muxed.send_window < least:
            await self.reset()
            raise StreamBroken(f"{self.peer_id} has read nothing for {STALLED_READER_S:g} s")
        return muxed.send_window

    async def close(self) -> None:
        """Say that no more will be written, and let go. Never raises."""
        with shielded():
            try:
                await self._net_stream.close()
            except _BROKEN:
                pass  # it is as closed as it can be

    async def reset(self) -> None:
        """Abort both ways at once. Never raises."""
        with shielded():
            await self._net_stream.reset()
