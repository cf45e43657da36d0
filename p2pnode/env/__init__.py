"""The world as the node sees it: clock, rng, disk, executor, machine, net.

Every part takes what it needs from here, so that the simulator can supply another world and try a thousand faults
in a second. Nothing outside this package reads a clock, draws a random number, opens a file for writing or starts
a thread (`tests/test_house_rules.py` holds that).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from p2pnode.env.clock import Clock, LoopClock
from p2pnode.env.disk import Disk, LocalDisk
from p2pnode.env.executor import Executor, Threads
from p2pnode.env.machine import LocalMachine, Machine
from p2pnode.env.rng import Rng, SystemRng


@dataclass(frozen=True, slots=True)
class Env:
    """Everything but the network, which needs the node's identity first (see `p2pnode.env.net`)."""

    clock: Clock = field(default_factory=LoopClock)
    rng: Rng = field(default_factory=SystemRng)
    disk: Disk = field(default_factory=LocalDisk)
    executor: Executor = field(default_factory=Threads)
    machine: Machine = field(default_factory=LocalMachine)


__all__ = [
    "Clock",
    "Disk",
    "Env",
    "Executor",
    "LocalDisk",
    "LocalMachine",
    "LoopClock",
    "Machine",
    "Rng",
    "SystemRng",
    "Threads",
]
