"""Where a manager's node runs: in the caller's own trio loop, or in the shared thread.

`enter` under trio opens the node right here, so that its tasks are the caller's; everything else goes through
`portal`. Both look the same from outside: `call` to await something beside the node, `now` for what is quick.
"""

from __future__ import annotations

import dataclasses
import secrets
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
import trio

from bootstrap.address import is_loopback
from p2pnode.api.config import DistributedConfig
from p2pnode.api.home import default_home, machine_node_id
from p2pnode.api.logs import keep_off_stdout
from p2pnode.api.portal import Hosted, ThreadsUntilExit, follow, library, settle
from p2pnode.core.model import NodeRole
from p2pnode.core.settings import Settings
from p2pnode.env import Env
from p2pnode.env.together import one_failure
from p2pnode.errors import UsageError

if TYPE_CHECKING:
    from p2pnode.node import Node

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Runner:
    """Starts, reaches and stops one node."""

    def __init__(self, config: DistributedConfig, home: Path | None) -> None:
        self._config = config
        self._throwaway = home is None and config.node_id is None and config.role is NodeRole.CLIENT
        if self._throwaway:
            self.node_id = f"client-{secrets.token_hex(4)}"
            home = Path(tempfile.gettempdir()) / f"p2pnode-{self.node_id}"
        else:
            self.node_id = config.node_id or machine_node_id(home)
        self.home = home if home is not None else default_home(self.node_id)
        self._hosted: Hosted[Node] | None = None
        self._own: AbstractAsyncContextManager[Node] | None = None
        self._node: Node | None = None
        self._stopped = False

    @property
    def is_running(self) -> bool:
        return self._node is not None

    def running(self) -> Node:
        """The node. Raises `UsageError` when it does not run."""
        if self._node is None:
            state = "has stopped" if self._stopped else "has not started"
            raise UsageError(
                f"{self.node_id} {state}",
                advice="Use `async with DistributedDatasetManager(…)` or `await manager.start()`.",
            )
        return self._node

    async def enter(self) -> None:
        """Start; under trio in this very loop, until `leave`."""
        if self._node is not None or library() != "trio":
            await self.start(again=True)
            return
        own = self._opened(self._settings())
        with one_failure():
            node = await own.__aenter__()
        self._own, self._node, self._stopped = own, node, False

    async def start(self, *, again: bool = False) -> Node:
        """The running node; started in the shared thread if need be, once, however many ask at a time."""
        if self._stopped and not again:
            self.running()
        if self._own is not None:
            return self.running()
        if self._hosted is None:
            self._hosted = Hosted(partial(self._opened, self._settings()))
        hosted = self._hosted
        if hosted.ended.done() and not hosted.started.exception():
            hosted.ended.result()
        try:
            # A caller who gives up waiting does not stop the start that others may be waiting for.
            self._node = await settle(follow(hosted.started))
        except BaseException:
            if hosted.started.done() and self._hosted is hosted:
                self._hosted = None
            raise
        self._stopped = False
        return self._node

    async def stop(self) -> None:
        if self._own is not None:
            await self.leave(None)
        hosted, self._hosted, self._node = self._hosted, None, None
        self._stopped = True
        if hosted is not None:
            await settle(follow(hosted.stop()))
        self._clear()

    async def leave(self, error: BaseException | None) -> bool:
        """The end of `async with`. The caller's error stays the caller's: only a cancellation goes inside."""
        own, self._own = self._own, None
        if own is None:
            await self.stop()
            return False
        self._node, self._stopped = None, True
        inside = error if _holds_cancelled(error) else None
        with one_failure():
            absorbed = await own.__aexit__(
                type(inside) if inside else None, inside, inside.__traceback__ if inside else None
            )
        self._clear()
        return bool(absorbed)

    async def call(self, method: Callable[..., Awaitable[T]], *args: Any, **options: Any) -> T:
        """`await method(…)` beside the node."""
        work = partial(method, *args, **options)
        with one_failure():
            if self._own is not None:
                return await work()
            assert self._hosted is not None
            return await settle(self._hosted.call(work))

    def now(self, look: Callable[[Node], T]) -> T:
        """`look(node)` beside the node; it must be quick and must not wait."""
        node = self.running()
        if self._own is not None:
            return look(node)
        assert self._hosted is not None
        return self._hosted.call_now(look, node)

    def _settings(self) -> Settings:
        """Whoever listens beyond loopback in Python has written so: no further flag, but a word about it."""
        keep_off_stdout()
        settings = dataclasses.replace(self._config.to_settings(self.home), node_id=self.node_id)
        if self._config.unread:
            log.warning("settings_without_effect", keys=self._config.unread, advice="Nothing reads them yet.")
        wide = [text for text in settings.listen if not is_loopback(text)]
        if wide and not settings.swarm_key and not settings.open_swarm:
            log.warning("open_swarm", listen=wide, advice="Anyone who can dial may join; set [network] swarm_key.")
        return dataclasses.replace(settings, open_swarm=True)

    def _opened(self, settings: Settings) -> AbstractAsyncContextManager[Node]:
        from p2pnode.node import open_node

        return open_node(settings, Env(executor=ThreadsUntilExit()))

    def _clear(self) -> None:
        if self._throwaway:
            shutil.rmtree(self.home, ignore_errors=True)


def _holds_cancelled(error: BaseException | None) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(_holds_cancelled(inner) for inner in error.exceptions)
    return isinstance(error, trio.Cancelled)
