"""A simulated file's bytes, and which of them a power cut would leave."""

from __future__ import annotations

from p2pnode.env import Rng


class Inode:
    """A file: its bytes as programs see them, as the platter has them, and the writes in between."""

    __slots__ = ("betrayed", "data", "durable", "mode", "pending", "written")

    def __init__(self) -> None:
        self.data = bytearray()
        self.durable = bytearray()
        #: (offset, bytes), or (length, None) for a truncation.
        self.pending: list[tuple[int, bytes | None]] = []
        #: A sync failed: programs see bytes that no later sync will bring to the platter.
        self.betrayed = False
        self.mode = 0o644
        self.written = 0

    def write(self, offset: int, data: bytes) -> None:
        _apply(self.data, offset, data)
        self.pending.append((offset, data))

    def truncate(self, length: int) -> None:
        _apply(self.data, length, None)
        self.pending.append((length, None))

    def sync(self) -> None:
        for change in self.pending:
            _apply(self.durable, *change)
        self.pending.clear()

    def fail_sync(self, rng: Rng) -> None:
        """A sync failed: some of the writes are on the platter, and no later sync will see the others."""
        for change in self.pending:
            if rng.random() < 0.5:
                _apply(self.durable, *change)
        self.pending.clear()
        self.betrayed = True

    @property
    def unsynced_bytes(self) -> int:
        return sum(len(data) for _, data in self.pending if data is not None)

    def crash(self, rng: Rng) -> int:
        """Forget, more or less, what was not synced; the bytes that are gone."""
        if not self.pending and not self.betrayed:
            return 0
        before = self.unsynced_bytes
        if rng.random() < 0.5:
            kept = self.pending[: rng.randint(0, len(self.pending))]
            offset, last = kept[-1] if kept else (0, None)
            if last:
                kept[-1] = offset, last[: rng.randint(0, len(last))]  # torn
        else:
            kept = [change for change in self.pending if rng.random() < 0.5]
        for change in kept:
            _apply(self.durable, *change)
        self.pending.clear()
        self.betrayed = False
        self.data = bytearray(self.durable)
        return before - sum(len(data) for _, data in kept if data)

    def rots(self) -> bool:
        """Whether there is a bit to flip."""
        return bool(self.durable)

    def flip_bit(self, rng: Rng) -> None:
        """Change one bit of what the platter has."""
        at = rng.randrange(len(self.durable))
        self.durable[at] ^= 1 << rng.randrange(8)
        self.data = bytearray(self.durable)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    if data is not None:
        content[offset : offset + len(data)] = data
