"""A machine whose figures are always the same, but for its disk: how busy it is decides nothing in a world."""

from __future__ import annotations

from pathlib import Path

from p2pnode.env.machine import Reading
from simulations.world.disk import SimDisk


class SimMachine:
    """`p2pnode.env.Machine`."""

    def __init__(self, disk: SimDisk) -> None:
        self._disk = disk

    def read(self, path: Path) -> Reading:
        used = 100.0 * self._disk.used_bytes / self._disk.faults.capacity_bytes
        return Reading(cpu_percent=5.0, memory_percent=40.0, disk_percent=used, network_bytes=0, process_rss_bytes=0)
