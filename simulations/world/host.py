"""One machine of a world: a disk, a clock, an address, and the node that runs on it, life after life.

A host is started, stopped, crashed and restored from outside, by whoever tells the world's story; what a node does on
its own (a disk that fails, a swarm that refuses it) ends its life too and is kept as `failure`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from bootstrap.identity import Identity
from p2pnode.core.model import NodeRole
from p2pnode.core.settings import Settings
from p2pnode.env import Env
from p2pnode.node import Node, open_node
from p2pnode.storage.identity_file import load_or_create
from simulations.world.clock import SimClock
from simulations.world.disk import Backup, SimDisk
from simulations.world.executor import SimExecutor
from simulations.world.life import Life
from simulations.world.loop import SPEAKER
from simulations.world.machine import SimMachine
from simulations.world.mount import Mount
from simulations.world.sql import NoSql

if TYPE_CHECKING:
    from simulations.world.world import World

KEY = "identity.key"


class Host:
    """Made by `World.add`; not started."""

    def __init__(self, world: World, settings: Settings) -> None:
        self.name = settings.node_id
        self.settings = settings
        self.disk = SimDisk(self.name, world.rng("disk", self.name), world.trace)
        self.clock = SimClock(world.clock)
        #: Lives begun so far.
        self.lives = 0
        #: The running node once it is ready, else None.
        self.node: Node | None = None
        #: Bytes that each crash took from the disk.
        self.crashes: list[int] = []
        #: What ended the last life, if it ended by itself.
        self.failure: BaseException | None = None
        self._world = world
        self._life: Life | None = None
        self._mount: Mount | None = None
        self._ended = trio.Event()
        self._ended.set()
        self._stop = trio.Event()
        self.identity = self._provide_identity()

    def _provide_identity(self) -> Identity:
        """A machine is bought with a key, so that others can be told its peer id before it runs."""
        made = Life(self.name, 0, self._world.clock)
        mount = Mount(self.disk, made)
        mount.make_dir(self.home, 0o700)
        token = self._world.rng("identity", self.name).token
        identity = load_or_create(mount, self.home / KEY, token)
        made.die()
        return identity

    @property
    def home(self) -> Path:
        return self.settings.home

    @property
    def role(self) -> NodeRole:
        return self.settings.role

    @property
    def peer_id(self) -> str:
        return self.identity.peer_id

    @property
    def address(self) -> str:
        """Multiaddr without /p2p."""
        return self.settings.listen[0]

    @property
    def running(self) -> bool:
        """Whether a life is under way, perhaps still joining."""
        return self._life is not None

    # -- lives -------------------------------------------------------------------------------------------------

    async def start(self, timeout_s: float = float("inf")) -> None:
        """Start the node; returns when it is ready. Raises what `open_node` raises, and TooSlowError."""
        assert self._life is None, f"{self.name} runs already"
        self.lives += 1
        self.failure = None
        life = self._life = Life(self.name, self.lives, self._world.clock)
        self._mount = Mount(self.disk, life)
        self._ended = trio.Event()
        ready = trio.Event()
        self._stop = trio.Event()
        self._world.trace.note("starts", self.name, self.lives)
        self._world.nursery.start_soon(self._live, life, self._mount, ready, self._stop)
        with trio.fail_after(timeout_s):
            await ready.wait()
        if self.failure is not None:
            raise self.failure

    async def _live(self, life: Life, mount: Mount, ready: trio.Event, stop: trio.Event) -> None:
        SPEAKER.set(life)
        life.on_death(self._bury)
        world = self._world
        env = Env(
            self.clock,
            world.rng("node", self.name, life.number),
            mount,
            SimExecutor(life, mount, world.rng("executor", self.name, life.number)),
            SimMachine(self.disk),
        )
        transport = world.transport(self.name, self.address, life)
        try:
            with life.scope:
                async with open_node(self.settings, env, transport=transport, runner=NoSql) as node:
                    self.node = node
                    world.trace.note("ready", self.name, self.lives)
                    ready.set()
                    await stop.wait()
        except Exception as error:  # noqa: BLE001  # kept for whoever asks why it ended
            if not life.dead:
                self.failure = error
                world.trace.note("failed", self.name, type(error).__name__)
        finally:
            powerless = life.dead
            life.die()
            if powerless:
                self.crashes.append(self.disk.crash())
            self._life = self._mount = None
            ready.set()
            self._ended.set()

    def _bury(self) -> None:
        self.node = None

    async def stop(self) -> None:
        """Stop the node as its user would: it says goodbye. Returns when it is down."""
        if self._life is not None:
            self._stop.set()
            await self._ended.wait()

    async def crash(self) -> int:
        """The power goes; bytes that the disk lost. Nothing at all on a host that is down."""
        if self._life is None:
            return 0
        self.cut_power()
        await self._ended.wait()
        return self.crashes[-1]

    def cut_power(self) -> None:
        """`crash`, for whoever does not wait: from here on nothing that the node does has any effect."""
        if self._life is not None:
            self._world.trace.note("crashes", self.name)
            self._life.die()

    def pause(self, seconds: float) -> None:
        """The node's process stands still for so long (SIGSTOP): its clocks go on, its machine still answers for it
        on connections that stand, and when it goes on everything that was due meanwhile is due at once.
        """
        if self._life is not None:
            self._world.trace.note("pauses", self.name, seconds)
            self._life.pause(seconds)

    def crash_at_disk_op(self, changes: int = 1) -> None:
        """The power goes within the so-manieth change to the disk from now (1 is the next): a write torn, a commit
        that may or may not be there.
        """
        if self._mount is not None:
            self._mount.crash_in(changes)

    async def until_down(self) -> None:
        """Return when the present life has ended, however, and its disk has crashed if it had to."""
        await self._ended.wait()

    async def restart(self, timeout_s: float = float("inf")) -> None:
        """`start`, for a host that ran before."""
        await self.start(timeout_s)

    # -- while it is down --------------------------------------------------------------------------------------

    def backup(self) -> Backup:
        """What the disk holds for certain. Also while it runs."""
        return self.disk.backup()

    def restore(self, backup: Backup) -> None:
        """Put a backup back, in place of everything."""
        assert self._life is None, f"{self.name} runs"
        self.disk.restore(backup)

    def wipe(self) -> None:
        """Lose the whole home but the key."""
        assert self._life is None, f"{self.name} runs"
        self.disk.wipe()
        self._provide_identity()

    def reconfigure(self, **settings: Any) -> None:
        """Other settings, from the next start on."""
        self.settings = replace(self.settings, **settings)
