"""The node's own trio thread, for callers who have another loop or none.

A node is trio-native. Under asyncio, or without a loop, it runs in one daemon thread that all nodes of the
process share: its keepalives then survive whatever the user's code blocks on. A call crosses over as a task
there and a future here; cancelling the caller cancels the task. Nodes that nobody stopped are stopped when
the interpreter exits, within `EXIT_S`. This file refuses to know what a node can do; it carries calls.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

import structlog
import trio

from p2pnode.env import Threads
from p2pnode.env.together import telling

log = structlog.get_logger(__name__)

_blocking: ContextVar[bool] = ContextVar("p2pnode_blocking", default=False)

T = TypeVar("T")
N = TypeVar("N")

#: Seconds that nodes get to leave cleanly when the interpreter exits.
EXIT_S = 3.0


async def settle(future: concurrent.futures.Future[T]) -> T:
    """Wait for `future` on the loop that runs here, or blocking. Cancelling the wait cancels the future."""
    running = library()
    if running == "asyncio":
        return await asyncio.wrap_future(future)
    if running == "trio":
        return await _settle_on_trio(future)
    return block(future)


def block(future: concurrent.futures.Future[T]) -> T:
    """Wait for `future` in this thread, loop or no loop."""
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def follow(future: concurrent.futures.Future[T]) -> concurrent.futures.Future[T]:
    """A future that ends as `future` does, but may be cancelled without cancelling it."""
    follower: concurrent.futures.Future[T] = concurrent.futures.Future()

    def pass_on(done: concurrent.futures.Future[T]) -> None:
        if not follower.set_running_or_notify_cancel():
            return
        error = done.exception()
        if error is not None:
            follower.set_exception(error)
        else:
            follower.set_result(done.result())

    future.add_done_callback(pass_on)
    return follower


def caller(call: Callable[..., None]) -> Callable[..., None]:
    """`call` for use in another thread: it runs on the loop that runs here now; at once when none does."""
    running = library()
    if running == "asyncio":
        loop = asyncio.get_running_loop()
        return lambda *args: _unless_closed(loop.call_soon_threadsafe, call, *args)
    if running == "trio":
        token = trio.lowlevel.current_trio_token()
        return lambda *args: _unless_closed(token.run_sync_soon, call, *args)
    return call


class Hosted(Generic[N]):
    """One node in the shared thread, from `open` (its async context manager) to `stop`."""

    def __init__(self, open: Callable[[], AbstractAsyncContextManager[N]]) -> None:
        self._open = open
        self._thread = _shared.thread()
        self._stopping: trio.Event | None = None
        #: Resolves to the node when it is up, or to what kept it from starting.
        self.started: concurrent.futures.Future[N] = concurrent.futures.Future()
        #: Resolves when the node has left, to what killed it if it was not asked to.
        self.ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._life = self._thread.submit(self._live)
        _shared.hosted[self] = None

    async def _live(self) -> None:
        try:
            async with self._open() as node:
                self._stopping = trio.Event()
                self.started.set_result(node)
                await self._stopping.wait()
        except BaseException as error:
            self._fail(telling(error))
            raise
        finally:
            _shared.hosted.pop(self, None)
            if not self.ended.done():
                self.ended.set_result(None)

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, trio.Cancelled):
            error = concurrent.futures.CancelledError()
        if not self.started.done():
            self.started.set_exception(error)
        elif not isinstance(error, concurrent.futures.CancelledError):
            self.ended.set_exception(error)

    def call(self, work: Callable[..., Awaitable[T]], *args: Any) -> concurrent.futures.Future[T]:
        """Run `await work(*args)` beside the node. Cancelling the future cancels the work."""
        return self._thread.submit(work, *args)

    def call_now(self, work: Callable[..., T], *args: Any) -> T:
        """Run the quick, synchronous `work(*args)` beside the node and wait for it."""
        return self._thread.call(work, *args)

    def stop(self) -> concurrent.futures.Future[None]:
        """Begin to stop, and return `ended`. A node still starting is cancelled."""
        if self._stopping is None:
            self._life.cancel()
        else:
            self._thread.post(self._stopping.set)
        return self.ended


class ThreadsUntilExit(Threads):
    """Threads, until the interpreter exits: then some Pythons (3.12) start none, and work runs in place."""

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        return work(*args) if _shared.closing else await super().run(work, *args)


class _TrioThread:
    """A daemon thread that runs trio for as long as the process lives."""

    def __init__(self) -> None:
        ready: concurrent.futures.Future[tuple[trio.lowlevel.TrioToken, trio.Nursery]]
        ready = concurrent.futures.Future()
        # A daemon: the interpreter would otherwise wait for it before it runs `close`.
        self._thread = threading.Thread(target=trio.run, args=(_serve, ready), name="p2pnode", daemon=True)
        self._thread.start()
        self._token, self._nursery = ready.result()

    def post(self, act: Callable[..., object], *args: Any) -> None:
        """Have `act(*args)` called over there soon."""
        self._token.run_sync_soon(act, *args)

    def submit(self, work: Callable[..., Awaitable[T]], *args: Any) -> concurrent.futures.Future[T]:
        """Have `await work(*args)` run over there as a task of its own."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        scope = trio.CancelScope()  # pyright: ignore[reportCallIssue]  # the stubs of an older trio
        self.post(self._nursery.start_soon, _perform, future, scope, work, args)
        future.add_done_callback(lambda done: self.post(scope.cancel) if done.cancelled() else None)
        return future

    def call(self, work: Callable[..., T], *args: Any) -> T:
        """`work(*args)` over there; from there, at once."""
        if threading.current_thread() is self._thread:
            return work(*args)

        async def wrapped() -> T:
            return work(*args)

        return block(self.submit(wrapped))


async def _serve(ready: concurrent.futures.Future[tuple[trio.lowlevel.TrioToken, trio.Nursery]]) -> None:
    async with trio.open_nursery() as nursery:
        ready.set_result((trio.lowlevel.current_trio_token(), nursery))
        await trio.sleep_forever()


async def _perform(
    future: concurrent.futures.Future[T],
    scope: trio.CancelScope,
    work: Callable[..., Awaitable[T]],
    args: tuple[Any, ...],
) -> None:
    """Whatever `work` raises goes to whoever waits for `future`; the thread and its other nodes live on."""
    try:
        with scope:
            result = await work(*args)
            if future.set_running_or_notify_cancel():
                future.set_result(result)
    except Exception as error:  # noqa: BLE001  # carried over to the caller, whole
        if future.set_running_or_notify_cancel():
            future.set_exception(error)


class _Shared:
    """The process's one trio thread, started on first use and again after a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: _TrioThread | None = None
        self._pid = 0
        #: Insertion-ordered, so that nodes are stopped in the order they were started.
        self.hosted: dict[Hosted[Any], None] = {}
        #: The interpreter exits.
        self.closing = False

    def thread(self) -> _TrioThread:
        with self._lock:
            if self._thread is None or self._pid != os.getpid():
                self.hosted.clear()
                self._thread, self._pid = _TrioThread(), os.getpid()
            return self._thread

    def close(self) -> None:
        """Stop what still runs; called when the interpreter exits."""
        if self._pid != os.getpid():
            return
        self.closing = True
        ending = [hosted.stop() for hosted in list(self.hosted)]
        _, late = concurrent.futures.wait(ending, timeout=EXIT_S)
        if late:
            log.warning("exit_without_leaving", nodes=len(late), waited_s=EXIT_S)


@contextmanager
def waiting_in_this_thread() -> Iterator[None]:
    """Inside, `settle` blocks whatever loop runs here."""
    token = _blocking.set(True)
    try:
        yield
    finally:
        _blocking.reset(token)


def library() -> str | None:
    """The loop that runs here, `trio` or `asyncio`; None when there is none or the caller blocks it."""
    if _blocking.get():
        return None
    for name, current in (("trio", trio.lowlevel.current_trio_token), ("asyncio", asyncio.get_running_loop)):
        try:
            current()
        except RuntimeError:
            continue
        return name
    return None


async def _settle_on_trio(future: concurrent.futures.Future[T]) -> T:
    done = trio.Event()
    token = trio.lowlevel.current_trio_token()
    future.add_done_callback(lambda _: _unless_closed(token.run_sync_soon, done.set))
    try:
        await done.wait()
    except BaseException:
        future.cancel()
        raise
    return future.result()


def _unless_closed(schedule: Callable[..., object], *args: Any) -> None:
    """The loop that asked may be gone by now; then nobody waits for the news."""
    try:
        schedule(*args)
    except (RuntimeError, trio.RunFinishedError):
        return


_shared = _Shared()
atexit.register(_shared.close)
