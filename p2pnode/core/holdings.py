"""Who does hold what, as far as we were told: soft state beside the catalog.

Placement says who should hold a shard; this table says who claims to. Each member tells its whole list
whenever its digest has changed, receipts and misses amend it in between, and a list not confirmed for
`LIFE_S` is forgotten. Nothing here is proof: whoever fetches verifies, and whoever counts replicas for repair
asks (`have?`).

The digest does not depend on order and changes in O(1) when a shard comes or goes: the sum modulo 2^256 of
the BLAKE3 of each id. It finds differences between honest peers; it is no commitment against a lying one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from blake3 import blake3

from p2pnode.core.cid import CID_BYTES, BadContentId

#: Seconds after which an unconfirmed list is forgotten: many probe periods, so only a member that is gone for
#: good or has stopped talking loses its entry.
LIFE_S = 600.0

DIGEST_BYTES = 32
#: The digest of no shards at all.
NOTHING = bytes(DIGEST_BYTES)
_MODULUS = 1 << (8 * DIGEST_BYTES)


def holdings_digest(cids: Iterable[bytes]) -> bytes:
    """The 32-byte digest of a set of content ids (each named once)."""
    return (sum(_term(cid) for cid in cids) % _MODULUS).to_bytes(DIGEST_BYTES, "big")


def pack_holdings(cids: Iterable[bytes]) -> bytes:
    """A list as the health protocol carries it: the ids in order, 36 bytes each."""
    return b"".join(sorted(cids))


def unpack_holdings(payload: bytes) -> frozenset[bytes]:
    """The ids of a packed list. Raises BadContentId for a list that is cut off."""
    if len(payload) % CID_BYTES:
        raise BadContentId(f"a list of {len(payload)} bytes is not a whole number of content ids")
    return frozenset(payload[at : at + CID_BYTES] for at in range(0, len(payload), CID_BYTES))


@dataclass(slots=True)
class _Claim:
    cids: set[bytes] = field(default_factory=set)
    total: int = 0
    heard: float = 0.0


class Holdings:
    """The table. `now` is any monotonic clock in seconds, the same one for every call."""

    def __init__(self) -> None:
        self._claims: dict[str, _Claim] = {}
        #: No list expires before; it is asked for many times a second.
        self._confirmed_until = float("-inf")
        self._holders: dict[bytes, set[str]] = {}

    def update(self, peer_id: str, cids: Iterable[bytes], now: float) -> None:
        """`peer_id` says that it holds exactly these."""
        wanted = set(cids)
        claim = self._claims.setdefault(peer_id, _Claim())
        for cid in sorted(claim.cids - wanted):
            self.discard(peer_id, cid)
        for cid in sorted(wanted - claim.cids):
            self.add(peer_id, cid, now)
        claim.heard = now

    def add(self, peer_id: str, cid: bytes, now: float) -> None:
        """`peer_id` has shown that it holds `cid` (a receipt, a `have`)."""
        claim = self._claims.setdefault(peer_id, _Claim(heard=now))
        if cid not in claim.cids:
            claim.cids.add(cid)
            claim.total = (claim.total + _term(cid)) % _MODULUS
            self._holders.setdefault(cid, set()).add(peer_id)

    def discard(self, peer_id: str, cid: bytes) -> None:
        """`peer_id` was asked for `cid` and does not have it."""
        claim = self._claims.get(peer_id)
        if claim is None or cid not in claim.cids:
            return
        claim.cids.remove(cid)
        claim.total = (claim.total - _term(cid)) % _MODULUS
        holders = self._holders[cid]
        holders.remove(peer_id)
        if not holders:
            del self._holders[cid]

    def confirm(self, peer_id: str, digest: bytes, now: float) -> bool:
        """A ping carried `digest`: whether it is what we have; if not, its list must be asked for."""
        claim = self._claims.get(peer_id)
        if digest == NOTHING and (claim is None or claim.cids):
            self.update(peer_id, (), now)  # a list that is known without asking
        elif claim is None or self.digest(peer_id) != digest:
            return False
        else:
            claim.heard = now
        return True

    def forget(self, peer_id: str) -> None:
        """That peer is gone."""
        for cid in sorted(self.held_by(peer_id)):
            self.discard(peer_id, cid)
        self._claims.pop(peer_id, None)

    def expire(self, now: float) -> list[str]:
        """Forget every list that was not confirmed for LIFE_S; returns whose."""
        if now <= self._confirmed_until:
            return []
        silent = sorted(peer_id for peer_id, claim in self._claims.items() if now - claim.heard > LIFE_S)
        for peer_id in silent:
            self.forget(peer_id)
        self._confirmed_until = min((claim.heard for claim in self._claims.values()), default=now) + LIFE_S
        return silent

    def holders_of(self, cid: bytes) -> list[str]:
        """Peer ids that claim the shard, sorted."""
        return sorted(self._holders.get(cid, ()))

    def held_by(self, peer_id: str) -> frozenset[bytes]:
        """What that peer claims."""
        claim = self._claims.get(peer_id)
        return frozenset(claim.cids) if claim else frozenset()

    def digest(self, peer_id: str) -> bytes:
        """The digest of what we think that peer holds (of nothing, for a stranger)."""
        claim = self._claims.get(peer_id)
        return (claim.total if claim else 0).to_bytes(DIGEST_BYTES, "big")


def _term(cid: bytes) -> int:
    return int.from_bytes(blake3(cid).digest(), "big")
