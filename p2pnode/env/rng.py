"""Chance, as the node sees it: one seeded generator, so a simulated node repeats its choices."""

from __future__ import annotations

import os
import random


class Rng(random.Random):
    """`random.Random` whose `token` serves identifiers; the real one is seeded from the operating system."""

    def token(self, size_bytes: int = 16) -> bytes:
        """Unpredictable bytes in production, repeatable ones in a simulation."""
        return self.randbytes(size_bytes)


class SystemRng(Rng):
    """Every draw comes from the operating system; nothing to seed, nothing to predict."""

    def random(self) -> float:
        return int.from_bytes(os.urandom(7), "big") / (1 << 56)

    def getrandbits(self, k: int, /) -> int:
        return int.from_bytes(os.urandom((k + 7) // 8), "big") >> (-k % 8)

    def randbytes(self, n: int) -> bytes:
        return os.urandom(n)

    def seed(self, *args: object, **kwargs: object) -> None:
        """Ignored: the operating system seeds itself."""
