"""The power cut's shim, compiled, and the process that lives lives under it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
#: How a process ends whose power was cut (see powercut.c).
CUT = 97
#: Rows of the shards that are received: less than a chunk, more than one, several.
SHARD_ROWS = (100, 150_000, 400_000)


@dataclass(frozen=True)
class Ended:
    """A life that is over: what it said was done, in order, and its exit code (negative: the signal)."""

    said: list[dict[str, Any]]
    code: int


class Lives:
    """Starts life after life, each a fork of one process that has its imports behind it."""

    def __init__(self, folder: Path, shards: list[Path], shim: Path | None) -> None:
        self._shards = [str(path) for path in shards]
        self._shim = shim is not None
        self._acks = folder / "acks"
        os.mkfifo(self._acks)
        preload = {"LD_PRELOAD": str(shim)} if shim else {}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "life.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **preload, "PYTHONPATH": str(ROOT)},
        )

    def live(
        self,
        home: Path,
        seed: int,
        *,
        at: int = 0,
        barriers: bool = False,
        disk: str = "real",
        kill_after: int | None = None,
    ) -> Ended:
        """One life of `home`. Under the shim the power goes at operation `at` (of the `barriers` alone), 0: when all
        is done. Without it the life is killed when it has said `kill_after` things.
        """
        job = {"home": str(home), "seed": seed, "at": at, "barriers": barriers, "disk": disk}
        job |= {"acks": str(self._acks), "shards": self._shards, "shim": self._shim}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        pid = int(self._process.stdout.readline())
        said = []
        with open(self._acks, "rb") as acks:
            for line in acks:
                if line.endswith(b"\n"):  # what was cut off in the saying was not said
                    said.append(json.loads(line))
                if len(said) == kill_after:
                    os.kill(pid, signal.SIGKILL)
        return Ended(said, int(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process; between two lives it has no other."""
        self._process.communicate()


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Parquet files for the lives to receive."""
    folder, rng = tmp_path_factory.mktemp("shards"), np.random.default_rng(1)
    for number, rows in enumerate(SHARD_ROWS):
        pq.write_table(pa.table({"n": rng.integers(0, 1 << 60, rows)}), folder / f"{number}.parquet")
    return sorted(folder.iterdir())


@contextmanager
def _lives(folder: Path, shards: list[Path], shim: Path | None) -> Iterator[Callable[..., Ended]]:
    lives = Lives(folder, shards, shim)
    try:
        yield lives.live
    finally:
        lives.close()


@pytest.fixture(scope="session")
def under_shim(tmp_path_factory: pytest.TempPathFactory, shards: list[Path]) -> Iterator[Callable[..., Ended]]:
    """`Lives.live` where every life ends in a power cut."""
    folder = tmp_path_factory.mktemp("shim")
    shim = folder / "powercut.so"
    command = ["cc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", str(shim), str(HERE / "powercut.c"), "-lpthread"], check=True)
    with _lives(folder, shards, shim) as live:
        yield live


@pytest.fixture(scope="session")
def without_shim(tmp_path_factory: pytest.TempPathFactory, shards: list[Path]) -> Iterator[Callable[..., Ended]]:
    """`Lives.live` with threads and a disk as they are, for SIGKILL."""
    with _lives(tmp_path_factory.mktemp("kill"), shards, None) as live:
        yield live
