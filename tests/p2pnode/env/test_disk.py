"""The machine's disk keeps what its verbs promise."""

from __future__ import annotations

from pathlib import Path

from p2pnode.env import LocalDisk


class ListeningDisk(LocalDisk):
    """Remembers which directories were synced."""

    def __init__(self) -> None:
        self.synced: set[Path] = set()

    def sync_dir(self, path: Path) -> None:
        super().sync_dir(path)
        self.synced.add(path)


def test_a_new_directory_stands_in_a_synced_one(tmp_path: Path) -> None:
    disk = ListeningDisk()
    disk.make_dir(tmp_path / "home" / "shards")
    assert disk.synced == {tmp_path, tmp_path / "home"}
    disk.synced.clear()
    disk.make_dir(tmp_path / "home" / "shards")
    assert disk.synced == set()
