"""Where each peer was last met: several addresses a peer, ranked, bounded, with their ages.

Addresses are hearsay until a dial proves them. A recent success ranks first, the untried follow in the order
in which the peer names them, and the ones that failed most come last; nothing is thrown away for failing,
because a machine that sleeps comes back at the same place. Pure: every method takes `now` (seconds,
monotonic).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

#: Peers remembered: a swarm of a thousand with plenty of room; the longest unheard-of goes first.
PEERS_MAX = 4096
#: Addresses of one peer: interfaces × transports, generously (the wire's bound is the same).
ADDRESSES_MAX = 16


@dataclass(slots=True)
class AddressRecord:
    """One address of one peer. Times are `now` values; None means never."""

    address: str
    learned_at: float
    succeeded_at: float | None = None
    failures: int = 0

    def rank(self) -> tuple[int, float]:
        """Smaller is better."""
        if self.failures:
            return (2, float(self.failures))
        if self.succeeded_at is not None:
            return (0, -self.succeeded_at)
        return (1, 0.0)


class AddressBook:
    """Peer id -> addresses. A method costs the addresses of one peer, or a scan when the book is full."""

    def __init__(self, peers_max: int = PEERS_MAX, addresses_max: int = ADDRESSES_MAX) -> None:
        self._peers_max = peers_max
        self._addresses_max = addresses_max
        self._records: dict[str, dict[str, AddressRecord]] = {}
        self._heard_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, peer_id: str) -> bool:
        return peer_id in self._records

    def learn(self, peer_id: str, addresses: Iterable[str], now: float) -> None:
        """Remember that the peer is said to be at these addresses. What is known of them stays known."""
        if peer_id not in self._records and len(self._records) >= self._peers_max:
            self.forget(min(self._heard_at, key=lambda peer: (self._heard_at[peer], peer)))
        records = self._records.setdefault(peer_id, {})
        self._heard_at[peer_id] = now
        for address in addresses:
            record = records.get(address)
            if record is None:
                records[address] = AddressRecord(address, learned_at=now)
            else:
                record.learned_at = now
        while len(records) > self._addresses_max:
            worst = max(records.values(), key=lambda r: (r.rank(), -r.learned_at, r.address))
            del records[worst.address]

    def succeeded(self, peer_id: str, address: str, now: float) -> None:
        """A dial to that address proved the peer."""
        self.learn(peer_id, (address,), now)
        record = self._records[peer_id].get(address)
        if record is not None:
            record.succeeded_at, record.failures = now, 0

    def failed(self, peer_id: str, address: str) -> None:
        """A dial to that address did not. Unknown ones are ignored: a failure is no reason to remember."""
        record = self._records.get(peer_id, {}).get(address)
        if record is not None:
            record.failures += 1

    def ranked(self, peer_id: str) -> list[str]:
        """The peer's addresses, the one most likely to work first."""
        return [record.address for record in sorted(self._records.get(peer_id, {}).values(), key=AddressRecord.rank)]

    def peers(self) -> list[str]:
        return sorted(self._records)

    def forget(self, peer_id: str) -> None:
        self._records.pop(peer_id, None)
        self._heard_at.pop(peer_id, None)
