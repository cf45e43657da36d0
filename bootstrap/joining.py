"""Whom to dial next: the way into the swarm, and back to members that were lost.

A sans-IO state machine (in the manner of etcd's raft: events in, commands out). The shell asks
`next_dials(now)`, performs them, and reports each outcome; `next_at()` says how long it may sleep. A
bootstrap peer is retried for ever, a member that was lost for `MEMBER_RETRY_S`, both with capped exponential
backoff and jitter ("equal jitter": half of the delay is fixed, half is drawn), so that a swarm whose hub
restarts does not dial it in step. It never sleeps, never reads a clock, and draws chance only from the
generator that it is given.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bootstrap.address import PeerAddress

#: Delay before the second try, seconds; each further one doubles it.
BACKOFF_FIRST_S = 0.5
#: No two tries of one peer lie further apart than this: a node that comes back is found within half a minute.
BACKOFF_MAX_S = 30.0
#: How long a lost member that is no bootstrap peer is dialed before we leave it to gossip to bring it back.
MEMBER_RETRY_S = 600.0


@dataclass(frozen=True, slots=True)
class Dial:
    """A command: connect to that peer at one of these addresses (none: at whatever the address book has)."""

    peer_id: str
    addresses: tuple[str, ...] = ()


@dataclass(slots=True)
class _Target:
    addresses: tuple[str, ...] = ()
    is_bootstrap: bool = False
    connected: bool = False
    dialing: bool = False
    #: The connection stands, but it was no use; it is tried again.
    unanswered: bool = False
    failures: int = 0
    due_at: float = 0.0
    lost_at: float = field(default=0.0)


class Joining:
    """The plan of one node: whom it dials, and when. Whether it has joined is for whoever greets to say."""

    def __init__(self, own_peer_id: str, bootstrap: Sequence[PeerAddress], rng: random.Random) -> None:
        self._own_peer_id = own_peer_id
        self._rng = rng
        self._targets: dict[str, _Target] = {}
        for peer in bootstrap:
            if peer.peer_id == own_peer_id:
                continue
            target = self._targets.setdefault(peer.peer_id, _Target(is_bootstrap=True))
            address = str(peer.endpoint)
            if address not in target.addresses:
                target.addresses = (*target.addresses, address)

    def is_bootstrap(self, peer_id: str) -> bool:
        """Whether the user named that peer."""
        target = self._targets.get(peer_id)
        return target is not None and target.is_bootstrap

    def is_dialing(self, peer_id: str) -> bool:
        """Whether a dial to that peer is under way."""
        target = self._targets.get(peer_id)
        return target is not None and target.dialing

    def next_dials(self, now: float) -> list[Dial]:
        """The dials that are due; each counts as under way until `failed` or `connected` is told."""
        due: list[Dial] = []
        for peer_id, target in sorted(self._targets.items()):
            if _is_wanted(target) and target.due_at <= now:
                target.dialing = True
                due.append(Dial(peer_id, target.addresses))
        return due

    def next_at(self) -> float | None:
        """When `next_dials` will have something, or None if only an event can bring that about."""
        waiting = [target.due_at for target in self._targets.values() if _is_wanted(target)]
        return min(waiting, default=None)

    def connected(self, peer_id: str) -> None:
        """There is a connection to that peer, whoever dialed."""
        if peer_id == self._own_peer_id:
            return
        target = self._targets.setdefault(peer_id, _Target())
        target.connected, target.dialing, target.unanswered, target.failures = True, False, False, 0

    def failed(self, peer_id: str, now: float) -> None:
        """The dial failed, or whoever was reached did not answer. The peer is tried again after a delay, unless it has
        been lost for too long.
        """
        target = self._targets.get(peer_id)
        if target is None:
            return
        target.dialing, target.unanswered = False, target.connected
        target.failures += 1
        target.due_at = now + self._delay(target.failures)
        if not (target.is_bootstrap or target.connected) and target.due_at - target.lost_at > MEMBER_RETRY_S:
            del self._targets[peer_id]

    def refused(self, peer_id: str, now: float) -> None:
        """It answered, and will not have us: nothing more is said on this connection."""
        self.failed(peer_id, now)
        target = self._targets.get(peer_id)
        if target is not None:
            target.unanswered = False

    def lost(self, peer_id: str, now: float) -> None:
        """The last connection to that peer went. It is dialed again, the first time after a short random
        delay.
        """
        target = self._targets.get(peer_id)
        if target is None or not target.connected:
            return
        target.connected, target.dialing, target.unanswered, target.failures = False, False, False, 0
        target.lost_at = now
        target.due_at = now + self._delay(1)

    def want(self, peer_ids: Iterable[str], now: float) -> None:
        """Members that we should be connected to and may not be: dialed at once, at their addresses in the
        book.
        """
        for peer_id in peer_ids:
            if peer_id != self._own_peer_id and peer_id not in self._targets:
                self._targets[peer_id] = _Target(due_at=now, lost_at=now)

    def forget(self, peer_id: str) -> None:
        """That peer left for good. A bootstrap peer stays wanted, because the user named it."""
        target = self._targets.get(peer_id)
        if target is not None and not target.is_bootstrap:
            del self._targets[peer_id]

    def _delay(self, failures: int) -> float:
        # The exponent is capped before the power is taken: a bootstrap peer dead for a month must not
        # overflow.
        full = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 16))
        return full / 2 + self._rng.random() * full / 2


def _is_wanted(target: _Target) -> bool:
    return not target.dialing and (target.unanswered or not target.connected)
