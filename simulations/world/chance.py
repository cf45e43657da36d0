"""Chance, one stream to a purpose: what one purpose draws never shifts what another one gets.

Leaving one fault out of a run therefore leaves every other draw as it was, which is what makes a failing seed small.
"""

from __future__ import annotations

import hashlib

from p2pnode.env import Rng


def stream(seed: int, *purpose: object) -> Rng:
    """The seed's generator for that purpose: blake2b of both, the same on every machine."""
    name = "/".join(map(str, (seed, *purpose)))
    return Rng(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "big"))
