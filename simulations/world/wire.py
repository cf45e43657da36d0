"""Streams between two machines: a pipe each way, ordered, bounded, and broken with its connection.

A connection has two ends that need not agree: one may know that it is broken while the other waits. A `SimStream` is
`p2pnode.env.net.RawStream`. Whatever passes a pipe was drawn when it was sent and is looked at again when it comes:
a way that was cut meanwhile holds it back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol
from zlib import crc32

import trio

from p2pnode.env.net import StreamBroken

if TYPE_CHECKING:
    from simulations.world.life import Life
    from simulations.world.network import SimNetwork

#: Bytes that a stream's peer has not read yet, at most; the writer waits. Yamux's window.
WINDOW_BYTES = 256 << 10
#: A larger write goes in pieces of this.
PIECE_BYTES = 64 << 10
#: A peer that reads nothing of a stream for so long has it reset.
STALLED_READER_S = 30.0

#: What passes a pipe: bytes, or one of these.
OPEN, ACCEPT, REFUSE, FINISH, RESET = "open", "accept", "refuse", "finish", "reset"


class Machine(Protocol):
    """One life of a machine, as its connections know it: a `transport.SimTransport`, or a `sockets.Interface`."""

    network: SimNetwork
    name: str
    peer_id: str
    life: Life
    #: It answers nobody any more; `dark`: because it has no power, so that nobody is told.
    dead: bool
    dark: bool

    def ends_to(self, name: str) -> list[End]:
        """Connections to that machine, in the order in which they were made."""
        ...

    def buffered_bytes(self) -> int:
        """Bytes on their way here or waiting to be read."""
        ...

    def lost(self, end: End) -> None:
        """That connection is over at this end."""
        ...

    def accept(self, stream: SimStream) -> None:
        """Somebody opens a stream."""
        ...

    def maybe_replay(self, stream: SimStream, data: bytes) -> None:
        """Whether a ghost asks that once more is the link's chance to say."""
        ...

    def replayed(self, peer_id: str, protocol_id: str, data: bytes) -> None:
        """A ghost of that peer asks something; nobody hears the answer."""
        ...


class End:
    """One end of a connection, at `machine`, to `peer_id` on the machine `far`."""

    def __init__(self, machine: Machine, other: Machine) -> None:
        self.machine = machine
        self.network = machine.network
        self.near, self.far = machine.name, other.name
        self.peer_id = other.peer_id
        self.other: End
        self.alive = True
        #: Something went that way and no acknowledgement can come back.
        self.unacknowledged = False
        #: By number and by who opened it, for both ends number their own.
        self.streams: dict[tuple[int, bool], SimStream] = {}

    def passes(self) -> bool:
        """Whether a packet from here gets there now: the way is open and the machine has power."""
        there = self.network.machine(self.far)
        return self.network.is_open(self.near, self.far) and there is not None and not there.dark

    def answers(self) -> bool:
        """Whether a packet from here gets there and an answer back."""
        return self.passes() and self.network.is_open(self.far, self.near)

    def check(self) -> None:
        """Keepalive: broken if nobody answers, or answers that there is no such connection."""
        if self.alive and (not self.answers() or not self.other.alive or self.other.machine.dead):
            self.break_("keepalive failed")

    def break_(self, why: str) -> None:
        """This end is over; the other is not told."""
        if not self.alive:
            return
        self.alive = False
        self.network.counts["broken"] += 1
        streams, self.streams = list(self.streams.values()), {}
        for stream in streams:
            stream.fail(f"{self.peer_id}: {why}")
        if self.other.alive and not self.other.machine.dead:
            self.network.watch(self.other.check, self.network.chance(self.far, self.near))
        self.machine.lost(self)

    def lose_power(self) -> None:
        """This end's machine has no power any more; nobody is told."""
        self.alive = False
        for stream in list(self.streams.values()):
            stream.fail("this machine is dead")

    def close(self) -> None:
        """End it politely: the other end is told as soon as a packet gets there."""
        if not self.alive:
            return
        delay = self.network.delay_s(self.near, self.far, 0)
        self.network.clock.at(self.network.clock.current_time() + delay, self.other._closed_by_peer)
        self.break_("closed")

    def _closed_by_peer(self) -> None:
        if not self.machine.dead and self.network.is_open(self.far, self.near):
            self.break_("closed by the peer")


class Pipe:
    """One direction of one stream, from the end `source` to the stream `target` of the other end."""

    __slots__ = ("held_bytes", "last_at", "source", "stalled_at", "target", "waiting", "writer")

    def __init__(self, source: End, target: SimStream) -> None:
        self.source = source
        self.target = target
        #: Bytes sent and not yet read.
        self.held_bytes = 0
        self.last_at = 0.0
        self.waiting: deque[bytes | str] = deque()
        self.stalled_at = 0.0
        self.writer: trio.lowlevel.Task | None = None

    def send(self, what: bytes | str) -> None:
        """On its way."""
        network = self.source.network
        clock = network.clock
        when = clock.current_time() + network.delay_s(self.source.near, self.source.far, len(what))
        if when < self.last_at:
            when = self.last_at
        self.last_at = when
        clock.at(when, self._come, what)

    def _come(self, what: bytes | str) -> None:
        resumes_at = self.target.end.machine.life.resumes_at
        if resumes_at > self.source.network.clock.current_time():
            self.source.network.clock.at(resumes_at, self._come, what)
        elif self.waiting:
            self.waiting.append(what)
        elif self.source.passes():
            self._deliver(what)
        elif self.source.alive:
            self.waiting.append(what)
            self.source.network.stall(self)

    def resume(self) -> None:
        """The way is open again."""
        while self.waiting and self.source.passes():
            self._deliver(self.waiting.popleft())
        if self.waiting:
            if self.source.alive:
                self.source.network.stall(self)
            else:
                self.waiting.clear()

    def _deliver(self, what: bytes | str) -> None:
        end = self.target.end
        network = end.network
        if end.machine.dead or not end.alive:
            self.source.break_("reset by the peer")  # its machine knows of no such connection
            return
        network.counts["delivered"] += 1
        if not network.is_open(end.near, end.far):
            network.unacknowledged(self.source)
        if isinstance(what, str):
            network.trace.note(what, end.far, end.near, self.target.number)
        else:
            network.counts["bytes"] += len(what)
            seen = 0 if network.sealed else crc32(what)
            network.trace.note("bytes", end.far, end.near, self.target.number, len(what), seen)
        self.target.take(what)

    def let_go(self, bytes_read: int) -> None:
        """So much was read: the writer may go on."""
        self.held_bytes -= bytes_read
        if self.held_bytes < WINDOW_BYTES:
            self.wake_writer()

    def wake_writer(self) -> None:
        """There is room, or no sense in waiting for it."""
        if self.writer is not None:
            task, self.writer = self.writer, None
            trio.lowlevel.reschedule(task)


class SimStream:
    """One side of a stream. `opened_here` tells which end began it."""

    def __init__(self, end: End, number: int, protocol_id: str, *, opened_here: bool) -> None:
        self.end = end
        self.number = number
        self.protocol_id = protocol_id
        self.opened_here = opened_here
        self.peer_id = end.peer_id
        self.incoming: Pipe
        self.outgoing: Pipe
        #: Called once when the stream breaks.
        self.when_broken: Callable[[], None] | None = None
        self._buffer = bytearray()
        self._finished = False
        self._closed = False
        self._broken = ""
        self._answer: str | None = None
        self._reader: trio.lowlevel.Task | None = None

    # -- p2pnode.env.net.RawStream -------------------------------------------------------------------------------

    def is_quiet(self) -> bool:
        """Whether, as far as is known here, nothing waits to be read and neither side has ended or reset it."""
        return not (self._buffer or self._finished or self._closed or self._broken)

    async def read(self, max_bytes: int) -> bytes:
        """1..max_bytes bytes, or b"" at the end. Safe to cancel. Raises StreamBroken."""
        buffer = self._buffer
        while not buffer:
            if self._broken:
                raise StreamBroken(self._broken)
            if self._finished:
                return b""
            await self._woken()
        if len(buffer) <= max_bytes:
            piece = bytes(buffer)
            buffer.clear()
        else:
            piece = bytes(buffer[:max_bytes])
            del buffer[:max_bytes]
        self.incoming.let_go(len(piece))
        return piece

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of it. Cancelled before the first byte it has done nothing, later it resets the stream."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check()
        pipe = self.outgoing
        whole = bytes(data)
        if self.opened_here:
            self.end.machine.maybe_replay(self, whole)
        if pipe.held_bytes + len(whole) <= WINDOW_BYTES and len(whole) <= PIECE_BYTES:
            pipe.held_bytes += len(whole)
            pipe.send(whole)
            return
        sent = 0
        try:
            while sent < len(whole):
                await self._room()
                piece = whole[sent : sent + min(PIECE_BYTES, WINDOW_BYTES - pipe.held_bytes)]
                pipe.held_bytes += len(piece)
                pipe.send(piece)
                sent += len(piece)
        except trio.Cancelled:
            if sent:
                self.abort()
            raise

    async def _room(self) -> None:
        pipe = self.outgoing
        with trio.move_on_after(STALLED_READER_S) as patience:
            while pipe.held_bytes >= WINDOW_BYTES and not self._broken:
                pipe.writer = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._stop_writing)
        if patience.cancelled_caught:
            self.abort()
            raise StreamBroken(f"{self.peer_id} has read nothing for {STALLED_READER_S:g} s")
        self._check()

    async def close(self) -> None:
        """Say that no more will be written, and let go. Never raises."""
        if not self._closed and not self._broken:
            self._closed = True
            self.outgoing.send(FINISH)
            if self._finished:
                self._forget()

    async def reset(self) -> None:
        """Abort both ways at once. Never raises."""
        self.abort()

    # -- the inside ----------------------------------------------------------------------------------------------

    def abort(self) -> None:
        """`reset`, for whoever cannot wait."""
        if self._broken or (self._closed and self._finished):
            return
        self.fail("the stream is reset")
        if self.end.alive and not self.end.machine.dead:
            self.outgoing.send(RESET)

    async def answered(self) -> str:
        """ACCEPT or REFUSE, what the other side said to the opening. Raises StreamBroken."""
        while self._answer is None:
            self._check()
            await self._woken()
        return self._answer

    def take(self, what: bytes | str) -> None:
        """It has come."""
        if self._broken:
            return
        if isinstance(what, bytes):
            self._buffer += what
        elif what == FINISH:
            self._finished = True
            if self._closed:
                self._forget()
        elif what == RESET:
            self.fail(f"{self.peer_id} reset the stream")
            return
        elif what == OPEN:
            self.end.machine.accept(self)
            return
        else:
            self._answer = what
        self._wake()

    def fail(self, why: str) -> None:
        """Nothing more comes or goes."""
        if self._broken:
            return
        self._broken = why
        self._forget()
        self.outgoing.wake_writer()
        self._wake()
        if self.when_broken is not None:
            self.when_broken()

    @property
    def unread_bytes(self) -> int:
        """Bytes on their way here or waiting to be read."""
        return self.incoming.held_bytes

    def _forget(self) -> None:
        self.end.streams.pop((self.number, self.opened_here), None)

    def _check(self) -> None:
        if self._broken:
            raise StreamBroken(self._broken)
        if self._closed:
            raise StreamBroken("the stream is closed")

    def _wake(self) -> None:
        if self._reader is not None:
            task, self._reader = self._reader, None
            trio.lowlevel.reschedule(task)

    async def _woken(self) -> None:
        self._reader = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._stop_reading)

    def _stop_reading(self, _: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _stop_writing(self, _: object) -> trio.lowlevel.Abort:
        self.outgoing.writer = None
        return trio.lowlevel.Abort.SUCCEEDED
