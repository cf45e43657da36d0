"""A whole swarm of real `p2pnode up` processes on this machine, over loopback.

    async with LocalSwarm(coordinators=1, workers=3) as swarm:
        async with swarm.client() as manager:
            …
        await swarm.nodes[2].kill()

For demos, tests and trying things out, under trio and asyncio. It refuses to leave anything behind: whatever it
started dies with the block, with the test, and with the process that runs it. Homes and logs lie in `base_dir`, a
temporary directory unless one is given, which then stays.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Generic, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from p2pnode import DistributedDatasetManager, NodeRole
from p2pnode.api.client import Client
from p2pnode.api.home import read_api_file
from p2pnode.errors import P2PNodeError, SwarmUnreachable, UsageError

T = TypeVar("T")

#: Seconds until a node must have joined: its imports take two on an idle core, many start at once on few.
READY_S = 60.0
#: Seconds until all nodes must have met, and between two looks.
MET_S = 30.0
LOOK_EVERY_S = 0.1
#: Seconds a node gets to leave after SIGTERM (it promises 3) or to be gone after SIGKILL.
LEAVE_S = 10.0
#: Seconds between two looks whether a process has stopped.
STOPPED_LOOK_S = 0.005
#: Lines of a node's log that an error quotes.
LOG_LINES_SHOWN = 5
#: Nodes that a restarted one is told of.
BOOTSTRAP_MAX = 3

#: Runs the command after it; dies with the thread that started it, however that ends.
_TIED = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execv(sys.argv[2], sys.argv[2:])"
)


class Done(Generic[T]):
    """Something already begun. Await it to see it finished; or do not."""

    def __init__(self, finish: Callable[[], Awaitable[T]]) -> None:
        self._finish = finish

    def __await__(self) -> Generator[Any, Any, T]:
        return self._finish().__await__()


class LocalNode:
    """One node's process. `kill`, `stop`, `pause`, `resume`, `start` act at once; await one to see it done."""

    def __init__(self, swarm: LocalSwarm, node_id: str, role: NodeRole, options: Sequence[str] = ()) -> None:
        self._swarm = swarm
        self._options = tuple(options)
        self._process: subprocess.Popen[bytes] | None = None
        self._joined = False
        self._doomed = False
        self.node_id = node_id
        self.role = role
        self.home = swarm.base_dir / node_id
        self.log = swarm.base_dir / f"{node_id}.log"
        #: Known once it was ready; its addresses stay the same when it starts again.
        self.peer_id = ""
        self.addresses: list[str] = []
        self.api = ""

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Done[None]:
        """Start it, again with the same home; done when it has joined. One that runs goes on."""
        if self._doomed and self._process is not None:
            self._process.wait()  # a SIGKILL takes effect within milliseconds
        if not self.is_running:
            self._spawn()
        return Done(self._ready)

    def kill(self) -> Done[None]:
        """SIGKILL, as when the machine loses power."""
        self._doomed = True
        self._signal_all(signal.SIGKILL)
        return Done(self._gone)

    def stop(self) -> Done[None]:
        """SIGTERM: it leaves cleanly."""
        if self.is_running:
            assert self._process is not None
            self._process.terminate()
        return Done(self._gone)

    def pause(self) -> Done[None]:
        """SIGSTOP: it hangs, connections and all."""
        self._signal_all(signal.SIGSTOP)
        return Done(self._stopped)

    def resume(self) -> Done[None]:
        """SIGCONT after `pause`."""
        self._signal_all(signal.SIGCONT)
        return Done(anyio.lowlevel.checkpoint)

    def client(self) -> Client:
        """Its HTTP API, blocking."""
        access = read_api_file(self.home)
        if access is None:
            raise SwarmUnreachable(f"{self.node_id} does not run")
        return Client(access)

    def last_words(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-LOG_LINES_SHOWN:])

    def __repr__(self) -> str:
        return f"<LocalNode {self.node_id!r}, {self.role}, {'up' if self.is_running else 'down'}, pid {self.pid}>"

    def _spawn(self) -> None:
        command = [sys.executable, "-m", "p2pnode", "--home", str(self.home), "-o", "json", "up"]
        command += ["--node-id", self.node_id, "--role", str(self.role), *self._options]
        for address in self._swarm.bootstrap_for(self):
            command += ["--bootstrap", address]
        self._joined = self._doomed = False
        with open(self.log, "ab") as log:
            # Not through a worker thread, whose end would end the node.
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-c", _TIED, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if not name.startswith("P2PNODE_")},
            )

    async def _ready(self) -> None:
        if self._joined:
            return
        assert self._process is not None
        assert self._process.stdout is not None
        with anyio.move_on_after(READY_S):
            found = await _first_line(self._process.stdout)
            if found is not None and found.get("event") == "ready":
                self.peer_id, self.addresses, self.api = found["peer_id"], found["addresses"], found["api"]
                self._joined = True
                return
            await _until_dead(self._process)  # it is about to say why in its log
        await self.kill()
        raise SwarmUnreachable(f"{self.node_id} did not become ready:\n{self.last_words()}", advice=f"See {self.log}.")

    async def _stopped(self) -> None:
        """The kernel stops a process when it next runs."""
        while self.is_running and not _is_stopped(self.pid):  # noqa: ASYNC110
            await anyio.sleep(STOPPED_LOOK_S)

    async def _gone(self) -> None:
        """Wait until it is dead and reaped; what does not go in time is killed."""
        process = self._process
        if process is None:
            return
        with anyio.move_on_after(LEAVE_S):
            await _until_dead(process)
        self._signal_all(signal.SIGKILL)
        await _until_dead(process)

    def _signal_all(self, number: signal.Signals) -> None:
        """To the node and the processes that it started."""
        if self._process is not None:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                return


class LocalSwarm:
    """Starts the nodes, lets them meet, and ends with them.

    `nodes` lists coordinators, hybrids, workers, clients, in this order. Raises `SwarmUnreachable` with the end
    of the log when one does not come up.
    """

    def __init__(
        self,
        coordinators: int = 1,
        workers: int = 3,
        hybrids: int = 0,
        clients: int = 1,
        base_dir: str | Path | None = None,
        *,
        options: Sequence[str] = (),
    ) -> None:
        self._temporary = base_dir is None
        if base_dir is None:
            base_dir = Path(tempfile.gettempdir()) / f"p2pnode-swarm-{secrets.token_hex(6)}"
        self.base_dir = Path(base_dir).absolute()
        counts = {
            NodeRole.COORDINATOR: coordinators,
            NodeRole.HYBRID: hybrids,
            NodeRole.WORKER: workers,
            NodeRole.CLIENT: clients,
        }
        if min(counts.values()) < 0 or not sum(counts.values()) - clients:
            raise UsageError("a swarm needs at least one coordinator, hybrid or worker")
        self.nodes = [
            LocalNode(self, f"{role}-{number}", role, options)
            for role, count in counts.items()
            for number in range(1, count + 1)
        ]
        self._managers: list[DistributedDatasetManager] = []

    async def __aenter__(self) -> LocalSwarm:
        self.base_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            first, *others = self.nodes
            await first.start()
            begun = [node.start() for node in others]
            async with anyio.create_task_group() as group:
                for each in begun:
                    group.start_soon(_finish, each)
            await self.met()
        except BaseException as error:
            await self._end()
            if isinstance(error, BaseExceptionGroup) and isinstance(error.exceptions[0], P2PNodeError):
                raise error.exceptions[0] from None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()
        if self._temporary and not isinstance(error, Exception):  # a failure's logs are kept
            shutil.rmtree(self.base_dir, ignore_errors=True)

    def client(self, node_id: str | None = None, **options: Any) -> DistributedDatasetManager:
        """A manager in this process that joins as a client; not started yet, stopped with the swarm at the latest."""
        node_id = node_id or f"manager-{len(self._managers) + 1}"
        given = {"role": NodeRole.CLIENT, "storage_dir": self.base_dir / node_id, **options}
        manager = DistributedDatasetManager(node_id, bootstrap_peers=self.addresses, **given)
        self._managers.append(manager)
        return manager

    @property
    def addresses(self) -> list[str]:
        """One loopback address of each node that runs, members first."""
        return [node.addresses[0] for node in self.nodes if node.is_running and node.addresses]

    def bootstrap_for(self, node: LocalNode) -> list[str]:
        """Whom a node that starts is told of."""
        others = [each for each in self.nodes if each is not node and each.is_running and each.addresses]
        return [each.addresses[0] for each in others[:BOOTSTRAP_MAX]]

    async def met(self, timeout_s: float = MET_S) -> None:
        """Wait until every running member sees every other alive. Raises `SwarmUnreachable`."""
        members = [node for node in self.nodes if node.is_running and node.role.is_member]
        wanted = {node.node_id for node in members}
        missing: dict[str, set[str]] = {}
        with anyio.move_on_after(timeout_s):
            while True:
                missing = {node.node_id: wanted - await anyio.to_thread.run_sync(_sees_alive, node) for node in members}
                if not any(missing.values()):
                    return
                await anyio.sleep(LOOK_EVERY_S)
        lonely = "; ".join(f"{node} misses {', '.join(sorted(names))}" for node, names in missing.items() if names)
        raise SwarmUnreachable(f"the nodes have not met: {lonely}", advice=f"See the logs in {self.base_dir}.")

    async def _end(self) -> None:
        """Also when cancelled: nothing may survive."""
        with anyio.CancelScope(shield=True):
            for manager in self._managers:
                await manager.stop()
            for node in self.nodes:
                node.kill()
            for node in self.nodes:
                await node.kill()


async def _finish(begun: Done[None]) -> None:
    await begun


async def _first_line(pipe: IO[bytes]) -> dict[str, Any] | None:
    """The first line that comes, or None when the process ends without one."""
    os.set_blocking(pipe.fileno(), False)
    taken = b""
    while b"\n" not in taken:
        await anyio.wait_readable(pipe)
        piece = os.read(pipe.fileno(), 65_536)
        if not piece:
            return None
        taken += piece
    return json.loads(taken.partition(b"\n")[0])


async def _until_dead(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    handle = os.pidfd_open(process.pid)
    try:
        await anyio.wait_readable(handle)
    finally:
        os.close(handle)
    process.wait()


def _is_stopped(pid: int | None) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _sees_alive(node: LocalNode) -> set[str]:
    try:
        return {peer["node_id"] for peer in node.client().get("peers") if peer["state"] == "alive"}
    except P2PNodeError:
        return set()
