"""Nothing that a node said is stored is lost, whenever its power is cut or its process is killed, life after life.

Each test is one home that is cut again and again, in its recoveries too. After every cut a copy of it is opened
without the shim and compared with all that was ever said. Its number is the seed of everything: the same test cut
at the same operations again, `pytest 'tests/powercuts/test_power_cuts.py::test_a_power_cut_loses_nothing[7]'`.

The controls are the same lives on disks that keep one promise less. They must lose: a harness that finds nothing
wrong with them would find nothing wrong with anybody.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pnode.core.cid import cid_text
from p2pnode.env import Env, LocalDisk
from p2pnode.errors import P2PNodeError
from p2pnode.services.ledger import Ledger
from p2pnode.storage.event_log import EventLog
from p2pnode.storage.identity_file import load_or_create
from p2pnode.storage.shard_store import ShardStore

#: How a process ends whose power was cut, or that was killed.
CUT, KILLED = 97, -9
#: Cuts of one home, one after the other: 10 homes in CI, 100 by night.
CUTS = 5
HOMES, MORE_HOMES = range(1, 11), range(11, 111)
#: Kills of one home.
KILLS, KILLED_HOMES = 6, range(1, 6)
#: Homes of each control at the most; the first or second mostly loses.
CONTROL_HOMES = 16


class Promises:
    """All that a node has ever said is so on this home."""

    def __init__(self) -> None:
        self.identity = ""
        self.events: set[bytes] = set()
        self.blocks: set[bytes] = set()
        #: True: it is there; False: it is gone; None: somebody was at it when the power went.
        self.shards: dict[bytes, bool | None] = {}

    def take(self, said: Iterable[dict[str, Any]]) -> None:
        under_way: Counter[tuple[str, str]] = Counter()
        for done in said:
            for what, name in done.items():
                if what == "identity":
                    self.identity = name
                elif what == "event":
                    self.events.add(bytes.fromhex(name))
                elif what == "block":
                    self.blocks.add(bytes.fromhex(name))
                elif what in ("finishing", "deleting"):
                    under_way[what, name] += 1
                    self._at(name, (self.shards.get(bytes.fromhex(name)) or None) if what == "finishing" else None)
                elif what == "shard":
                    under_way["finishing", name] -= 1
                    self._at(name, None if under_way["deleting", name] else True)
                elif what == "deleted":
                    under_way["deleting", name] -= 1
                    self._at(name, None if under_way["finishing", name] else False)

    def _at(self, name: str, is_here: bool | None) -> None:
        self.shards[bytes.fromhex(name)] = is_here

    async def broken(self, home: Path) -> list[str]:
        """Which of them a home does not keep, and whatever else is wrong with it. It is written to: give a copy."""
        try:
            return [
                *self._broken_identity(home),
                *await self._broken_events(home),
                *await self._broken_shards(home),
            ]
        except P2PNodeError as error:
            return [f"does not open: {error}"]

    def _broken_identity(self, home: Path) -> list[str]:
        key = home / "identity.key"
        if not key.exists():
            return ["identity lost"] if self.identity else []
        found = load_or_create(LocalDisk(), key, lambda _: b"").peer_id
        return [] if self.identity in ("", found) else ["another identity"]

    async def _broken_events(self, home: Path) -> list[str]:
        env = Env()
        log = await EventLog.open(env, home / "catalog.db")
        ledger = Ledger(env, log, load_or_create(env.disk, home / "identity.key", env.rng.token))
        await ledger.open()
        if ledger.genesis is None:
            return [f"event {cid_text(event)} lost" for event in sorted(self.events)]
        found = [f"event {cid_text(event)} lost" for event in sorted(self.events) if event not in ledger.clock]
        found += [f"block {cid_text(block)} lost" for block in sorted(self.blocks) if not await ledger.block(block)]
        found += [f"{fork.author} forked" for fork in ledger.clock.forks()]
        found += [f"{ledger.incomplete} events are damaged"] if ledger.incomplete else []
        # It goes on where it was, from a checkpoint or without one.
        await ledger.write("note", "", {})
        await log.close()
        known = [_known(ledger)]
        for kept in (True, False):
            if not kept:
                (home / "catalog.checkpoint").unlink(missing_ok=True)
            log = await EventLog.open(env, home / "catalog.db")
            again = Ledger(env, log, ledger._identity)
            await again.open()
            await log.close()
            known.append(_known(again))
        return found if known[0] == known[1] == known[2] else [*found, f"opened again it is another log: {known}"]

    async def _broken_shards(self, home: Path) -> list[str]:
        store = await ShardStore.open(home, Env())
        here = store.cids()
        found = [f"shard {cid_text(cid)} lost" for cid, is_here in self.shards.items() if is_here and cid not in here]
        found += [f"shard {cid_text(cid)} back" for cid in here if self.shards.get(cid) is False]
        found += [f"shard {cid_text(cid)} damaged" for cid in here if not await store.verify(cid)]
        found += [f"{path.name} in quarantine" for path in sorted((home / "quarantine").iterdir())]
        store.close()
        return found


def _known(ledger: Ledger) -> tuple[int, bytes, bytes]:
    return len(ledger.clock), ledger.clock.fingerprint, ledger.catalog.digest()


def _is_whole(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as database:
        try:
            return database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        except sqlite3.DatabaseError:
            return False


def broken_after(promises: Promises, home: Path) -> list[str]:
    """What of them the home does not keep; the home stays as it was found, for its next life."""
    if not home.exists():
        return ["everything is lost"] if promises.identity else []
    copy = shutil.copytree(home, home.with_name("copy"))
    try:
        damaged = [f"{path.name} is damaged" for path in sorted(copy.glob("*.db")) if not _is_whole(path)]
        return damaged or trio.run(promises.broken, copy)
    finally:
        shutil.rmtree(copy, ignore_errors=True)


@pytest.fixture(scope="session")
def operations(under_shim: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """Operations of a whole life, and barriers among them: between the first and the last the power goes."""
    whole = under_shim(tmp_path_factory.mktemp("whole") / "home", 0)
    assert whole.code == CUT
    return whole.said[-1]["seen"]


def cut_again_and_again(
    live: Callable[..., Any], home: Path, seed: int, cuts: int, operations: list[int], disk: str = "real"
) -> list[str]:
    """What was broken after the first of so many cuts that broke anything."""
    rng, promises = random.Random(seed), Promises()
    for number in range(cuts):
        barriers = rng.random() < 0.5
        at = rng.randrange(1, operations[barriers])
        ended = live(home, rng.getrandbits(60), at=at, barriers=barriers, disk=disk)
        assert ended.code == CUT, "the life failed by itself: see its last words"
        promises.take(ended.said)
        if broken := broken_after(promises, home):
            return [f"cut {number + 1} of seed {seed}, at {'barrier' if barriers else 'operation'} {at}:", *broken]
    return []


@pytest.mark.parametrize("seed", [*HOMES, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in MORE_HOMES)])
def test_a_power_cut_loses_nothing(
    under_shim: Callable[..., Any], operations: list[int], tmp_path: Path, seed: int
) -> None:
    assert cut_again_and_again(under_shim, tmp_path / "home", seed, CUTS, operations) == []


@pytest.mark.parametrize(("disk", "loss"), [("asynchronous", "event"), ("lazy", "shard"), ("nameless", "shard")])
def test_a_disk_that_breaks_one_promise_is_found_out(
    under_shim: Callable[..., Any], operations: list[int], tmp_path: Path, disk: str, loss: str
) -> None:
    found: list[str] = []
    for seed in range(CONTROL_HOMES):
        (tmp_path / str(seed)).mkdir()
        found += cut_again_and_again(under_shim, tmp_path / str(seed) / "home", seed, CUTS, operations, disk)
        if any(line.startswith(loss) and line.endswith("lost") for line in found):
            return
    pytest.fail(f"the {disk} disk lost no {loss}: {found}")


@pytest.mark.parametrize("seed", KILLED_HOMES)
def test_a_kill_loses_nothing(without_shim: Callable[..., Any], tmp_path: Path, seed: int) -> None:
    home, rng, promises = tmp_path / "home", random.Random(seed), Promises()
    for number in range(KILLS):
        ended = without_shim(home, rng.getrandbits(60), kill_after=rng.randrange(1, 200))
        assert ended.code == KILLED
        promises.take(ended.said)
        assert broken_after(promises, home) == [], f"after kill {number + 1}"
