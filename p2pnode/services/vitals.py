"""How this machine and this process are doing, sampled once a second.

Loop lag, how late trio wakes a sleeper, is the figure that matters most: peers read it as death, so the
failure detector grows patient with it. A sample costs about 0.1 ms and is taken in a thread, because a
hanging filesystem must not hang the node. This file refuses to keep history and to judge what it measures.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path

import trio

from p2pnode.env import Env

#: Seconds between two measurements of the loop's lag: often enough to meet a stall of that length.
LAG_PROBE_S = 0.25
#: Measurements between two samples: what `health` shows is about a second old at most.
SAMPLE_PROBES = 4
#: Measurements that the worst recent lag is taken over: five seconds.
LAG_PROBES = 20


@dataclass(frozen=True, slots=True)
class Sample:
    """Percentages 0–100 of the machine, network in KB/s of the machine, resident bytes of this process."""

    at: float
    cpu_usage: float
    memory_usage: float
    disk_usage: float
    network_usage: float
    loop_lag_ms: float
    process_rss_bytes: int


class Vitals:
    """Measures from `start` on. `path` tells which disk counts."""

    def __init__(self, env: Env, path: Path) -> None:
        self._env = env
        self._path = path
        self._started = 0.0
        self._latest: Sample | None = None
        self._lags: deque[float] = deque([0.0], maxlen=LAG_PROBES)
        self._network_bytes: int | None = None
        self._sampling = False

    @property
    def lag_s(self) -> float:
        """The worst lag of the last five seconds."""
        return max(self._lags)

    @property
    def uptime_s(self) -> float:
        return self._env.clock.now() - self._started

    @property
    def latest(self) -> Sample:
        """The newest sample. There is one from `start` on."""
        assert self._latest is not None
        return self._latest

    async def start(self, nursery: trio.Nursery) -> None:
        """Take the first sample, then go on in `nursery` until it is cancelled."""
        self._started = self._env.clock.now()
        await self._sample()
        nursery.start_soon(self._keep_sampling, nursery)

    async def _keep_sampling(self, nursery: trio.Nursery) -> None:
        while True:
            for _ in range(SAMPLE_PROBES):
                due = self._env.clock.now() + LAG_PROBE_S
                await trio.sleep(LAG_PROBE_S)
                self._lags.append(max(0.0, self._env.clock.now() - due))
            if not self._sampling:  # a hanging filesystem must not stop the measuring of lag
                nursery.start_soon(self._sample)

    async def _sample(self) -> None:
        self._sampling = True
        try:
            read = await self._env.executor.run(self._env.machine.read, self._path)
        finally:
            self._sampling = False
        now = self._env.clock.now()
        rate = 0.0
        if self._network_bytes is not None and self._latest is not None:
            elapsed_s = max(1e-3, now - self._latest.at)
            rate = max(0, read.network_bytes - self._network_bytes) / 1000 / elapsed_s
        self._network_bytes = read.network_bytes
        self._latest = Sample(
            now,
            read.cpu_percent,
            read.memory_percent,
            read.disk_percent,
            rate,
            self.lag_s * 1000,
            read.process_rss_bytes,
        )
