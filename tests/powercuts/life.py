"""Lives of a node's storage, for the power cuts: a process that is started once and forks for every life.

Started with the shim preloaded (see `powercut.c`), it reads one job a line from stdin and answers with one line when
that life is over. A life opens the real home lock, identity, event log, ledger and shard store of a home, writes and
receives for a while, closes cleanly now and then, opens again, and says what it was told is done, one JSON line for
each, into a pipe that lies outside the shim's scope. It ends in a power cut or by SIGKILL.

`disk` names what it stands on: `real`, or one of the controls, disks that lie about one promise each.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import trio

from bootstrap.identity import Identity
from p2pnode.api.logs import keep_off_stdout
from p2pnode.core import records
from p2pnode.core.cid import record_cid
from p2pnode.core.event import SESSION_BYTES, compose, mint_session
from p2pnode.core.model import Manifest, Member, NodeRole
from p2pnode.core.unixfs import ShardHasher
from p2pnode.env import Env, Executor, LocalDisk, Rng, Threads
from p2pnode.services import replay
from p2pnode.services.ledger import Ledger
from p2pnode.storage.event_log import EventLog
from p2pnode.storage.home_lock import hold_home
from p2pnode.storage.identity_file import load_or_create
from p2pnode.storage.shard_store import ShardStore

#: Times that a life opens its home, and what each of its tasks does every time.
OPENINGS = 3
DEEDS = 10
#: Events after which a checkpoint is worth writing: a few in every life.
CHECKPOINT_EVENTS = 40
#: Bytes of a manifest's schema: blocks from one page to what takes the log through a sqlite checkpoint.
BLOCK_BYTES = (100, 400_000)
#: Bytes that a sender hands over at once.
PIECE_BYTES = 300_000
STRANGER = Identity.from_seed(b"s" * 32)


class Inline:
    """Work done where it is asked for: one life with one seed is the same operations in the same order."""

    async def run(self, work: Callable[..., Any], *args: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return work(*args)


class StillClock:
    """The wall stands, so that no event is a byte longer in the replay."""

    def now(self) -> float:
        return trio.current_time()

    def wall(self) -> float:
        return 1.8e9


class LazyDisk(LocalDisk):
    """Syncs nothing."""

    def sync(self, file: BinaryIO) -> None:
        file.flush()


class NamelessDisk(LocalDisk):
    """Leaves every name to luck."""

    def sync_dir(self, path: Path) -> None:
        pass


class AsynchronousDisk(LocalDisk):
    """A sqlite that is told not to wait."""

    def database(self, path: Path) -> sqlite3.Connection:
        connection = super().database(path)
        connection.execute("PRAGMA synchronous=OFF")
        return connection


DISKS = {"real": LocalDisk, "lazy": LazyDisk, "nameless": NamelessDisk, "asynchronous": AsynchronousDisk}


@dataclass(frozen=True)
class Life:
    """One home being lived in. Everything random comes from `rng`; `say` tells the harness what is done."""

    home: Path
    shards: list[Path]
    env: Env
    rng: random.Random
    say: Callable[..., None]

    async def live(self) -> None:
        for _ in range(OPENINGS):
            async with self._opened() as (ledger, store), trio.open_nursery() as background:
                background.start_soon(ledger.run)
                async with trio.open_nursery() as nursery:
                    for task in (self._write, self._write, self._take):
                        nursery.start_soon(task, ledger)
                    for _ in range(2):
                        nursery.start_soon(self._receive, store)
                background.cancel_scope.cancel()

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[tuple[Ledger, ShardStore]]:
        with hold_home(self.env.disk, self.home):
            identity = load_or_create(self.env.disk, self.home / "identity.key", self.env.rng.token)
            self.say(identity=identity.peer_id)
            log = await EventLog.open(self.env, self.home / "catalog.db")
            ledger = Ledger(self.env, log, identity)
            await ledger.open()
            store = await ShardStore.open(self.home, self.env)
            if ledger.genesis is None:
                self.say(event=(await ledger.found("swarm", open_swarm=True)).id)
            up = records.up_body(Member(identity.peer_id, "node", NodeRole.HYBRID))
            self.say(event=(await ledger.write(records.UP, identity.peer_id, up)).id)
            yield ledger, store
            store.close()
            await log.close()

    async def _write(self, ledger: Ledger) -> None:
        """Datasets and their versions, a few large manifests among them."""
        for _ in range(DEEDS):
            name = f"ds-{self.rng.randrange(1000)}"
            define = await ledger.write(records.DEFINE, name, records.define_body(records.Definition(name)))
            self.say(event=define.id)
            schema = self.rng.randbytes(self.rng.choice((1, 1, 1, 2)) * self.rng.randrange(*BLOCK_BYTES) // 2)
            block = records.encode_manifest(Manifest(name, "parquet", schema, (), ()))
            version = records.version_body(records.Version(record_cid(block)))
            self.say(event=(await ledger.write(records.VERSION, name, version, [block])).id, block=record_cid(block))
            if self.rng.random() < 0.2:
                self.say(event=(await ledger.write(records.DELETE, name, records.delete_body([define.id]))).id)

    async def _take(self, ledger: Ledger) -> None:
        """Batches of another member's events."""
        session = mint_session(self.rng.randbytes(SESSION_BYTES))
        assert ledger.genesis is not None

        async def nothing(cid: bytes) -> bytes | None:
            return None

        for number in range(DEEDS):
            up = records.up_body(Member(STRANGER.peer_id, "stranger", NodeRole.HYBRID))
            kind, about, body = (records.UP, STRANGER.peer_id, up) if not number else ("note", "", {"n": number})
            event = compose(
                namespace=ledger.genesis,
                author=STRANGER.peer_id,
                session=session,
                position=ledger.clock.next_position(STRANGER.peer_id, session),
                time=0,
                kind=kind,
                object_id=about,
                body=body,
                sign=STRANGER.sign,
            )
            taken = await ledger.take([event.wire], "stranger", nothing)
            for event_id in taken.durable:
                self.say(event=event_id)

    async def _receive(self, store: ShardStore) -> None:
        """Shards arrive, some break off, some go again."""
        for _ in range(DEEDS // 2):
            path = self.rng.choice(self.shards)
            data, hasher = path.read_bytes(), ShardHasher()
            hasher.update(data)
            cid = hasher.cid()
            async with store.receive(cid, hasher.outline(), len(data), "parquet") as incoming:
                end = self.rng.choice((len(data), len(data), self.rng.randrange(len(data))))
                for at in range(incoming.offset, end, PIECE_BYTES):
                    await store.take(incoming, [data[at : min(at + PIECE_BYTES, end)]])
                if self.rng.random() < 0.3:
                    await store.sync(incoming)
                if end == len(data):
                    self.say(finishing=cid)
                    await store.finish(incoming, "parquet")
                    self.say(shard=cid)
            if self.rng.random() < 0.3 and store.has(cid):
                self.say(deleting=cid)
                await store.delete(cid)
                self.say(deleted=cid)


def live(job: dict[str, Any]) -> None:
    """One life, in a process of its own. Never returns when the power goes or the harness kills."""
    pipe = os.open(job["acks"], os.O_WRONLY)

    def say(**done: bytes | str) -> None:
        plain = {what: name if isinstance(name, str) else name.hex() for what, name in done.items()}
        os.write(pipe, json.dumps(plain).encode() + b"\n")

    home, seed, rng = Path(job["home"]), job["seed"], random.Random(job["seed"])
    shim = ctypes.CDLL(None) if job["shim"] else None
    executor: Executor = Threads()
    if shim is not None:
        executor = Inline()
        trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True
        trio._core._run._r.seed(seed)
        shim.powercut_begin(
            os.fsencode(home.parent), ctypes.c_uint64(seed), ctypes.c_uint64(job["at"]), int(job["barriers"])
        )
    replay.TAIL_EVENTS = CHECKPOINT_EVENTS
    env = Env(clock=StillClock(), rng=Rng(seed), disk=DISKS[job["disk"]](), executor=executor)
    life = Life(home, [Path(path) for path in job["shards"]], env, rng, say)
    trio.run(life.live)
    if shim is not None:
        shim.powercut_seen.restype = ctypes.c_uint64
        os.write(pipe, json.dumps({"seen": [shim.powercut_seen(0), shim.powercut_seen(1)]}).encode() + b"\n")
        shim.powercut_now()


def serve() -> None:
    """A fork for each line of stdin; its pid, then how it ended, on stdout."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            live(json.loads(line))
            return
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    keep_off_stdout()
    serve()
