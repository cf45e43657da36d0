"""The node's hold on its SQL processes: start the zygote, have it fork, talk to a worker, kill one.

A worker is held by its pidfd, never by its number: the number may belong to someone else by the time a signal
arrives. Nothing here decides when; the pool does.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from typing import Any

import structlog
import trio

from p2pnode.env.shield import shielded
from p2pnode.query.frames import (
    FORK,
    FORKED,
    PIECE_BYTES_MAX,
    PREFIX,
    ZYGOTE_ANSWER_BYTES_MAX,
    Nonsense,
    Prefix,
    decode,
    encode,
    with_descriptor,
)
from p2pnode.query.tables import WorkerDied

#: The zygote imports for 0.3 s, on a cold and busy machine for several; a fork takes milliseconds.
FORK_TIMEOUT_S = 20.0
#: What is asked of a socket at once: a little more than a Unix socket's buffer ever holds.
RECEIVE_BYTES = 256 << 10
#: A killed process is gone as soon as the kernel has freed its memory.
GONE_TIMEOUT_S = 2.0
#: What the zygote needs of the node's environment: where to find its libraries, nothing about the user.
_ENVIRONMENT_KEPT = ("LD_LIBRARY_PATH", "PYTHONHOME", "VIRTUAL_ENV")
#: A zygote must have one thread when it forks, so numpy's and Arrow's helpers may not start; and an allocator that
#: reserves a gigabyte ahead would make the limit on a worker's memory meaningless.
_ENVIRONMENT_SET = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}

log = structlog.get_logger(__name__)


class Worker:
    """One worker process and the socket to it."""

    def __init__(self, sock: trio.socket.SocketType, pidfd: int) -> None:
        self._socket = sock
        self._pidfd = pidfd
        self.runs = 0
        #: It has answered all that it was asked, and may be asked again.
        self.idle = False

    async def send(self, head: dict[str, Any], body: list[bytearray] | None = None) -> None:
        """One frame. Raises WorkerDied."""
        buffers = body or []
        try:
            for data in (encode(head, sum(map(len, buffers))), *buffers):
                await self._send_all(data)
        except OSError as error:
            raise WorkerDied(f"The SQL worker ended: {error.strerror}.") from None

    async def send_descriptor(self, descriptor: int) -> None:
        """A frame that carries an open file. Raises WorkerDied."""
        frame = encode({"kind": "spool"})
        try:
            sent = await self._socket.sendmsg([frame], with_descriptor(descriptor))
            await self._send_all(frame[sent:])
        except OSError as error:
            raise WorkerDied(f"The SQL worker ended: {error.strerror}.") from None

    async def receive(self) -> tuple[dict[str, Any], bytes]:
        """The next frame. Raises WorkerDied at the end of the stream, and for anything that is not a frame."""
        try:
            prefix = Prefix.parse(await self._read(PREFIX.size), body_bytes_max=PIECE_BYTES_MAX)
            head = decode(await self._read(prefix.head_bytes))
            return head, await self._read(prefix.body_bytes)
        except (OSError, Nonsense) as error:
            raise WorkerDied(f"The SQL worker ended: {error}.") from None

    def ended(self) -> bool:
        """The process is gone, whoever ended it."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def kill(self) -> None:
        """End it now, whatever it does; `gone` waits for the effect. Safe to call twice."""
        self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def gone(self) -> None:
        """Wait until a killed process has let go of everything, then forget it."""
        with trio.move_on_after(GONE_TIMEOUT_S, shield=True) as scope:  # pyright: ignore[reportCallIssue]  # same
            await trio.lowlevel.wait_readable(self._pidfd)
        if scope.cancelled_caught:
            log.warning("sql_worker_lingers")
        os.close(self._pidfd)

    async def _send_all(self, data: bytes | bytearray) -> None:
        view = memoryview(data)
        while len(view):
            view = view[await self._socket.send(view) :]

    async def _read(self, size: int) -> bytes:
        """Exactly `size` bytes; a frame that arrives whole is not copied again."""
        parts: list[bytes] = []
        while size:
            part = await self._socket.recv(min(size, RECEIVE_BYTES))
            if not part:
                raise Nonsense("the stream closed")
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class Zygote:
    """The process that forks workers; started at the first fork, and again after it died."""

    def __init__(self) -> None:
        self._process: trio.Process | None = None
        self._control: trio.socket.SocketType | None = None
        self._turn = trio.Lock()

    async def fork(self) -> Worker:
        """One more worker, which has not spoken yet. Raises WorkerDied when there can be none.

        Not cancellable: an answer left in the socket would be taken for the next question's.
        """
        async with self._turn:
            with shielded():
                try:
                    with trio.fail_after(FORK_TIMEOUT_S):
                        return await self._ask_the_living()
                except (OSError, Nonsense, trio.TooSlowError) as error:
                    await self._end()
                    raise WorkerDied(f"No SQL worker could be started: {str(error) or 'it took too long'}.") from None

    async def close(self) -> None:
        """End the zygote, and with it every worker that still lives."""
        async with self._turn:
            await self._end()

    async def _ask_the_living(self) -> Worker:
        if self._control is not None:
            try:
                return await self._ask()
            except (OSError, Nonsense) as error:
                log.warning("sql_zygote_died", error=str(error))
                await self._end()
        await self._start()
        return await self._ask()

    async def _start(self) -> None:
        # The other end stays blocking, so it may not be one of trio's.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        kept = {name: os.environ[name] for name in _ENVIRONMENT_KEPT if name in os.environ}
        with theirs:
            self._control = trio.socket.from_stdlib_socket(ours)
            self._process = await trio.lowlevel.open_process(
                [sys.executable, "-P", "-m", "p2pnode.query.zygote", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**kept, **_ENVIRONMENT_SET, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                # A terminal's Ctrl-C is for the node, which ends its own processes in order.
                start_new_session=True,
            )

    async def _ask(self) -> Worker:
        assert self._control is not None
        ours, theirs = socket.socketpair()
        descriptors = array.array("i")
        try:
            with theirs:
                await self._control.sendmsg([FORK], with_descriptor(theirs.fileno()))
            message, ancillary, _flags, _address = await self._control.recvmsg(
                ZYGOTE_ANSWER_BYTES_MAX, socket.CMSG_SPACE(descriptors.itemsize)
            )
            for _level, _kind, data in ancillary:
                descriptors.frombytes(data)
            if message != FORKED or len(descriptors) != 1:
                raise Nonsense(message.decode(errors="replace") or "the zygote ended")
        except BaseException:
            ours.close()
            raise
        return Worker(trio.socket.from_stdlib_socket(ours), descriptors[0])

    async def _end(self) -> None:
        """Leave nothing of the present zygote, if there is one."""
        if self._control is not None:
            self._control.close()
            self._control = None
        process, self._process = self._process, None
        if process is None:
            return
        with shielded():
            with trio.move_on_after(GONE_TIMEOUT_S):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
