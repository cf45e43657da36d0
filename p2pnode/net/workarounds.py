"""Everything that py-libp2p 0.8.1 needs to be bent for, in one place, each with its reason.

Nothing else in this package touches an underscore of the library. Whoever raises the pinned version rereads
this file first: each part names the behaviour it corrects, and `tests/p2pnode/net` shows what breaks without
it.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Callable
from typing import Any

import trio
from libp2p.abc import IMuxedConn, IRawConnection, ISecureConn
from libp2p.custom_types import StreamHandlerFn
from libp2p.host.basic_host import _IdentifyNotifee
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.connection import swarm_connection
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.stream.net_stream import NetStream
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import (
    FLAG_FIN,
    FLAG_SYN,
    HEADER_SIZE,
    TYPE_DATA,
    TYPE_GO_AWAY,
    YAMUX_HEADER_FORMAT,
    Yamux,
    YamuxStream,
)
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from p2pnode.env.shield import shielded

#: One yamux frame of this many bytes, header included, fills four noise messages exactly. The library's
#: 65,536 splits each frame into a full noise message and one of 17 bytes (312 against 719 MB/s, measured).
FRAME_BYTES = 4 * 65519
#: What a frame carries at most.
FRAME_PAYLOAD_BYTES = FRAME_BYTES - HEADER_SIZE
#: What a peer may send on one stream before we read it: 160 MB/s at 50 ms. The library's 16 MiB, on every
#: stream that a peer may open, would be a right to all of our memory.
WINDOW_BYTES = 8 << 20
#: Unread bytes of one connection, all streams together, beyond which it is closed: the full windows of the 32
#: streams that an asker of ours opens at most. A peer that ignores its windows ends here; the library only logs
#: that, and buffers on. Looked at after every so many bytes.
UNREAD_BYTES_MAX = 32 * WINDOW_BYTES
UNREAD_CHECK_BYTES = WINDOW_BYTES
#: Connections that have not proved who they are. One more pushes out the oldest, so that a flood of idle
#: sockets delays nobody: an honest handshake takes milliseconds.
HALF_OPEN_MAX = 256
#: One frame that does not fit into the socket for so long means a peer that takes nothing off the wire: the
#: connection is closed. 256 KiB in 15 s is 17 KiB/s.
STUCK_WRITE_S = 15.0
#: Frames without payload (credit, acknowledgements, resets) that may wait for a full socket before the peer
#: counts as gone: 256 streams, each with a few.
CONTROL_FRAMES_MAX = 1024
#: A connection whose peer's machine vanished, or which takes no bytes at all, is closed by the kernel after
#: this.
DEAD_LINK_MS = 20_000
#: An idle connection is probed after this many seconds, and then every so many seconds, so many times.
KEEPALIVE_S, KEEPALIVE_EVERY_S, KEEPALIVE_TRIES = 15, 5, 3

_libp2p_log = logging.getLogger("libp2p")


def quiet_logs() -> None:
    """Keep libp2p's log lines off stderr unless somebody asked for them (LIBP2P_DEBUG, or a handler of their own).

    Its loggers have no handler, so that Python's last-resort one prints; and `swarm_connection` calls the
    functions of the `logging` module, which install a handler on the root logger of the whole program.
    """
    if not _libp2p_log.handlers:
        _libp2p_log.addHandler(logging.NullHandler())
    swarm_connection.logging = _libp2p_log.getChild("swarm_connection")  # type: ignore[assignment]


def bound_windows() -> None:
    """Let yamux grow a stream's window no further than WINDOW_BYTES. A window is the reader's to choose."""
    yamux.MAX_WINDOW_SIZE = WINDOW_BYTES


def never_identify_others(swarm: Swarm) -> None:
    """Answer Identify, but do not ask it of every peer that connects (nor believe what one pushes at us).

    What a p2pnode peer is it says itself in Hello; the library's own round costs both sides some milliseconds
    at every connection, in tasks that outlive the host.
    """
    for notifee in [n for n in swarm.notifees if isinstance(n, _IdentifyNotifee)]:
        swarm.remove_notifee(notifee)


def tune_socket(stream: trio.SocketStream) -> None:
    """Let the kernel notice a dead link: neither yamux nor TCP's defaults do within two hours."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_EVERY_S),
        ("TCP_KEEPCNT", KEEPALIVE_TRIES),
        ("TCP_USER_TIMEOUT", DEAD_LINK_MS),
    ):
        number = getattr(socket, option, None)
        if number is not None:
            stream.setsockopt(socket.IPPROTO_TCP, number, value)


class TunedTcp(TCP):
    """TCP whose outbound sockets notice a dead link."""

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        connection = await super().dial(maddr)
        if isinstance(connection, RawConnection) and isinstance(connection.stream, TrioTCPStream):
            tune_socket(connection.stream.stream)
        return connection


class SteadyYamux(Yamux):
    """Yamux whose reader never waits for a writer, that tells when a stream is gone, and that can be cut off.

    The library answers pings and new streams from its one reading task. When both ends fill the socket at
    once, each then waits for the other to read: a deadlock. Here such small frames are written by tasks of
    their own. And upstream, cancelling a write in the middle of a frame ends the connection.
    """

    def __init__(self, secured_conn: ISecureConn, peer_id: ID) -> None:
        super().__init__(secured_conn, peer_id, is_initiator=secured_conn.is_initiator)
        self._control_frames = 0
        self._unchecked_bytes = 0
        #: Stream id -> whom to tell, once, when the stream was reset by either side or died with the
        #: connection.
        self.watchers: dict[int, Callable[[], None]] = {}

    async def _write_frame(self, data: bytes) -> None:
        if len(data) == HEADER_SIZE and data[1] != TYPE_GO_AWAY and not data[3] & (FLAG_SYN | FLAG_FIN):
            self._write_later(data)
            return
        # SYN stays before the stream's data and FIN after it, so these two keep their place in line.
        async with self._write_lock:
            await self._write_whole(data)

    async def write_data(self, stream: YamuxStream, piece: memoryview) -> None:
        """Write one frame of at most FRAME_PAYLOAD_BYTES, for which the caller knows that there is room.

        Cancelled while it waits for its turn it has written nothing; a frame begun is finished. Raises one of
        the library's errors if the connection is gone.
        """
        async with self._write_lock:
            stream.send_window -= len(piece)
            header = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_DATA, 0, stream.stream_id, len(piece))
            await self._write_whole(header + piece)

    async def _write_whole(self, frame: bytes) -> None:
        # Half a frame, or a noise message that was numbered and never sent, ends the connection for
        # everybody.
        with trio.move_on_after(STUCK_WRITE_S, shield=True) as bound:  # type: ignore[call-arg]  # old stubs
            await self.secured_conn.write(frame)
        if bound.cancelled_caught:
            self.cut()
            raise ConnectionClosedError(f"{self.peer_id} takes no bytes off the wire")

    def _finalize_stream_locked(self, stream: YamuxStream, *, fully_closed: bool) -> None:
        super()._finalize_stream_locked(stream, fully_closed=fully_closed)
        if stream.reset_received and stream.stream_id in self.watchers:
            self.watchers.pop(stream.stream_id)()

    async def _cleanup_on_error(self) -> None:
        while self.watchers:
            self.watchers.popitem()[1]()
        await super()._cleanup_on_error()

    async def _read_data_body(self, length: int) -> bytes:
        self._unchecked_bytes += length
        if self._unchecked_bytes > UNREAD_CHECK_BYTES:
            self._unchecked_bytes = 0
            if sum(map(len, self.stream_buffers.values())) > UNREAD_BYTES_MAX:
                self.cut()
        return await super()._read_data_body(length)

    def _write_later(self, frame: bytes) -> None:
        if self._nursery is None or self.event_shutting_down.is_set():
            return
        if self._control_frames >= CONTROL_FRAMES_MAX:
            self.cut()
            return
        self._control_frames += 1
        self._nursery.start_soon(self._write_control, frame)

    async def _write_control(self, frame: bytes) -> None:
        try:
            async with self._write_lock:
                await self._write_whole(frame)
        except Exception as error:  # noqa: BLE001  # the reading task meets the same broken socket and cleans up
            _libp2p_log.debug("a control frame was not sent: %s", error)
        finally:
            self._control_frames -= 1

    def cut(self) -> None:
        """Close the socket under the connection, whatever is stuck on it. The reading task then cleans up.

        Closing in the library's own way first writes a farewell, and waits for ever where the peer reads no
        more.
        """
        socket_stream = _socket_below(self.secured_conn)
        if socket_stream is not None:
            socket_stream.socket.close()


def _socket_below(connection: object) -> trio.SocketStream | None:
    """Walk from the encrypted session down to the TCP socket (one layer more with a swarm key)."""
    layer = connection
    for _ in range(8):
        if isinstance(layer, trio.SocketStream):
            return layer
        for name in ("conn", "read_writer", "read_write_closer", "_conn", "stream"):
            below = getattr(layer, name, None)
            if below is not None:
                layer = below
                break
        else:
            return None
    return None


class SteadyUpgrader(TransportUpgrader):
    """Makes our yamux where the library would make its own, whatever class was registered."""

    async def upgrade_connection(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        await self.muxer_multistream.select_transport(conn)
        return SteadyYamux(conn, peer_id)


class _NoAutoConnector(AutoConnector):
    """Dials nobody: the library would dial whoever it heard of until half of all allowed connections stand."""

    async def maybe_connect(self) -> None:
        """Whom to dial is decided by `bootstrap.joining`."""


class SteadySwarm(Swarm):
    """A swarm that survives its peers.

    Upstream, an exception that leaves a stream handler (a peer's reset is enough) ends the whole swarm; every
    accepted connection keeps one of 250 slots until the program ends, even after it closed; and half-open
    connections count as accepted ones, so that 300 idle sockets lock everybody out.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._half_open: dict[int, trio.CancelScope] = {}
        self.auto_connector = _NoAutoConnector(self)

    def set_stream_handler(self, stream_handler: StreamHandlerFn) -> None:
        async def survive(stream: NetStream) -> None:
            try:
                await stream_handler(stream)
            except Exception as error:  # noqa: BLE001  # the outermost shell of a stream
                _libp2p_log.debug("a stream handler failed: %r", error)
                await stream.reset()

        super().set_stream_handler(survive)  # type: ignore[arg-type]

    async def _handle_inbound_connection(self, read_write_closer: ReadWriteCloser, maddr: Multiaddr) -> None:
        if isinstance(read_write_closer, TrioTCPStream):
            tune_socket(read_write_closer.stream)
        with trio.CancelScope() as proving:  # type: ignore[call-arg]  # old stubs
            self._admit(proving)
            try:
                muxed = await self.upgrade_inbound_raw_conn(RawConnection(read_write_closer, False), maddr)
            finally:
                self._half_open.pop(id(proving), None)
        if not proving.cancelled_caught:
            # The listener closes the socket when this handler returns.
            await muxed.event_closed.wait()  # type: ignore[attr-defined]

    def _admit(self, proving: trio.CancelScope) -> None:
        while len(self._half_open) >= HALF_OPEN_MAX:
            self._half_open.pop(next(iter(self._half_open))).cancel()
        self._half_open[id(proving)] = proving


def live_connections(swarm: Swarm, peer_id: ID) -> list[SwarmConn]:
    """The peer's open connections, oldest first."""
    return [
        connection
        for connection in swarm.connections.get(peer_id, ())
        if isinstance(connection, SwarmConn)
        and not connection.is_closed
        and not connection.muxed_conn.event_shutting_down.is_set()  # type: ignore[attr-defined]
    ]


async def return_credit(stream: YamuxStream, buffered: int) -> None:
    """Let the peer send more, once half of the window has been read.

    The library sends credit after every read, however small, which doubles the frames of a conversation in
    small messages; go-yamux waits for half a window, as here. Shielded: the bytes read are already ours.
    """
    window = stream.target_recv_window
    if window - stream.recv_window - buffered >= window // 2:
        with shielded():
            await stream._auto_tune_and_send_window_update()


def forget_reader(stream: YamuxStream) -> None:
    """Drop the event that a reader left behind in the connection's table after the stream had gone."""
    if stream.stream_id not in stream.conn.streams:
        stream.conn.stream_events.pop(stream.stream_id, None)
