"""Whose turn it is to do what any of several could do: nobody leads, one does it, and if that one does not, the next.

The order is rendezvous hashing over what there is to do, so that everybody who sees the same members computes the same
order, another for each occasion. This file refuses to know what is done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def turn(occasion: bytes, me: str, others: Iterable[str]) -> int:
    """How many of the others come before `me`: 0 for whoever is first."""

    def rank(peer_id: str) -> bytes:
        return hashlib.sha256(occasion + peer_id.encode()).digest()

    mine = rank(me)
    return sum(rank(peer_id) < mine for peer_id in others if peer_id != me)
