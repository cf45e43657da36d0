"""What a node costs while nobody asks anything: CPU, and memory that it has to itself or its share of.

A worker in a swarm of four, its SQL processes apart; Pss divides shared pages among those who share them. The
baseline is a process with a bare libp2p host.
Bound: pings once a second each way, anti-entropy, vitals; of the memory two thirds are imported libraries.
"""

from __future__ import annotations

import psutil
import trio

from simulations.bench import bare
from simulations.bench.figure import ROUNDS, Figure, at_most, stated
from simulations.local import LocalSwarm

CPU_MAX = 1.0
PSS_MAX_MIB = 190.0
#: Seconds until a new swarm has nothing more to say, and of one measurement.
SETTLE_S = 10.0
WINDOW_S = 5.0


async def measure() -> list[Figure]:
    async with bare.bare_server(), LocalSwarm(coordinators=1, workers=3, clients=0) as swarm:
        node = psutil.Process(swarm.nodes[-1].pid)
        [alone] = [child for child in psutil.Process().children() if "simulations.bench.bare" in child.cmdline()]
        await trio.sleep(SETTLE_S)
        before = _cpu_s(node), _cpu_s(alone)
        await trio.sleep(WINDOW_S * ROUNDS)
        cpu, base_cpu = (
            100 * (_cpu_s(process) - then) / (WINDOW_S * ROUNDS)
            for process, then in zip((node, alone), before, strict=True)
        )
        pss, base_pss = _pss_mib(node), _pss_mib(alone)
        workers = sum(_pss_mib(child) for child in node.children(recursive=True))
    against = "idle bare libp2p host"
    return [
        at_most("idle_cpu", cpu, "%", base_cpu, against, value_max=CPU_MAX),
        at_most("idle_memory", pss, "MiB", base_pss, against, value_max=PSS_MAX_MIB),
        stated("idle_sql_memory", workers, "MiB", base_pss, against),
    ]


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _pss_mib(process: psutil.Process) -> float:
    with open(f"/proc/{process.pid}/smaps_rollup") as file:
        [line] = [line for line in file if line.startswith("Pss:")]
    return int(line.split()[1]) * 1024 / (1 << 20)
