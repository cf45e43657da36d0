"""How peers behave: a score per peer of everything that had to be refused, and the penalty that follows.

Each refusal has a `Reason`. A *lie* is what no honest peer of any version says (a bad signature, a forged height, bytes
that are no header): honest peers pass on only what they have checked. A *mistake* may come of a newer version, a race
or a retry, and weighs little. What weighs nothing is only counted. A leaky bucket per peer sums it up:

    level > PAUSE_LEVEL   it is paused: whatever it asks is answered `busy` until then, unread
    level > DROP_LEVEL    it went on all the same: it is dropped, disconnected and refused, longer each time

Counts stay, levels fade, nothing is for ever. Memory is bounded whatever peers do. Pure: `now` is given (seconds,
monotonic); who disconnects and writes the log is `p2pnode.net.blame`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

#: A lie weighs one, a mistake this much: eight mistakes a second are forgiven as fast as they come.
MISTAKE_WEIGHT = 1 / 16
#: Seconds in which one lie is forgiven.
FORGIVEN_S = 2.0
#: A peer above this is paused, for so many seconds …
PAUSE_LEVEL = 16.0
PAUSE_S = 30.0
#: … and one above this is dropped. One batch, however bad, pauses and no more: who is dropped has gone on.
DROP_LEVEL = 64.0
#: An event that overtook its past weighs this: where everybody passes on news, dozens arrive each second.
ORPHAN_WEIGHT = 1 / 256
#: The first drop lasts so long, each further one twice as long up to the most. That is shorter than the five minutes
#: after which a silent member is called down: conduct silences, whether a member is gone is for membership to say.
DROP_S = 30.0
DROP_S_MAX = 240.0
#: Seconds without a drop after which the next one is shorter by one degree again.
DEGREE_FORGIVEN_S = 600.0
#: The most that one note of mistakes weighs: a batch of them is one mistake made a thousand times.
MISTAKES_WEIGHT_MAX = 1.0
#: Events that a peer may push which are known here already: so many, and so many more for each one that was new to
#: this node since, for honest peers push, pass on and repeat each event a few times. So many are what two comparisons
#: at once push back at most (`syncing.PUSHED_BACK_MAX`), while the others of its half push the same.
REPLAYS_FREE = 2 * 8192
REPLAYS_PER_NEW = 8
#: Seconds between two log lines about one peer and reason; what happened between is in the next one's count.
LOG_EVERY_S = 10.0
#: Peers remembered; the one that was noted longest ago goes first, those that are dropped last.
PEERS_MAX = 4096


class Reason(StrEnum):
    """Why something was refused. The values are stable: logs and metrics name them."""

    # Frames. The first five are the codes of `protocols.errors`.
    BAD_HEADER = "bad_header"
    BAD_MESSAGE = "bad_message"
    HEADER_TOO_LARGE = "header_too_large"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    UNEXPECTED_MESSAGE = "unexpected_message"
    SILENT = "silent_stream"
    IMPATIENT = "asked_while_paused"
    # Requests.
    UNAUTHORIZED = "unauthorized"
    REFUSED = "refused_request"
    UNKNOWN_VERB = "unknown_verb"
    CROWDED = "too_much_at_once"
    # Events.
    BAD_BATCH = "bad_batch"
    MALFORMED = "malformed_event"
    OVERSIZED = "oversized_event"
    BAD_SIGNATURE = "bad_signature"
    FOREIGN = "event_of_another_swarm"
    FORGED_HEIGHT = "forged_height"
    FORGED_SEQUENCE = "forged_sequence"
    NOT_ENTITLED = "not_entitled"
    BAD_PAYLOAD = "bad_payload"
    NEWER = "event_of_a_newer_version"
    ORPHAN = "event_without_its_past"
    REPLAYED = "event_known_already"
    FALSE_BLOCK = "false_block"
    # This node's own.
    FAILED = "failed_here"

    @property
    def text(self) -> str:
        """As people read it."""
        return self.value.replace("_", " ")


_MISTAKES = frozenset(
    (
        Reason.SILENT,
        Reason.IMPATIENT,
        Reason.UNAUTHORIZED,
        Reason.REFUSED,
        Reason.BAD_PAYLOAD,
        Reason.NEWER,
        Reason.ORPHAN,
        Reason.REPLAYED,
        Reason.FALSE_BLOCK,
    )
)
#: Counted and no more: requests from the future, more at once than is served, this node's own faults.
_HARMLESS = frozenset((Reason.UNKNOWN_VERB, Reason.CROWDED, Reason.FAILED))


@dataclass(frozen=True, slots=True)
class Penalty:
    """What follows from a refusal. `tell`: how many of that peer and reason to log now, 0 for none."""

    tell: int = 0
    paused_s: float = 0.0
    dropped_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Offender:
    """One peer's record, for `doctor`: what was refused how often, the most frequent first."""

    peer_id: str
    counts: tuple[tuple[Reason, int], ...]
    paused_s: float
    dropped_s: float
    #: Seconds since the last refusal.
    since_s: float

    @property
    def guilt(self) -> list[tuple[Reason, int]]:
        """What is the peer's doing."""
        return [(reason, count) for reason, count in self.counts if reason not in _HARMLESS]

    @property
    def refused(self) -> int:
        """How often something was refused that is the peer's doing."""
        return sum(count for _, count in self.guilt)

    @property
    def failed(self) -> int:
        """How many of its requests failed by this node's own fault."""
        return dict(self.counts).get(Reason.FAILED, 0)


@dataclass(slots=True)
class _Record:
    level: float = 0.0
    noted_at: float = 0.0
    paused_until: float = float("-inf")
    dropped_until: float = float("-inf")
    degree: float = 0.0
    counts: Counter[Reason] = field(default_factory=Counter)
    told_at: dict[Reason, float] = field(default_factory=dict)
    untold: Counter[Reason] = field(default_factory=Counter)
    #: Known events that it may still push unblamed, as of `known` events here.
    replays: int = REPLAYS_FREE
    known: int = -1


class Conduct:
    """Every peer's record. A node has one; every part that refuses something notes it here."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}

    def note(self, peer_id: str, reason: Reason, count: int, now: float) -> Penalty:
        """`count` things from that peer were refused at once for that reason."""
        if not count:
            return Penalty()
        record = self._record(peer_id, now)
        record.counts[reason] += count
        record.level = max(0.0, record.level - (now - record.noted_at) / FORGIVEN_S) + _weight(reason, count)
        record.noted_at = now
        penalty = Penalty(tell=_tell(record, reason, count, now))
        if now < record.dropped_until:
            return penalty
        if record.level > DROP_LEVEL:
            dropped_s = self._drop(record, now)
            return Penalty(penalty.tell, dropped_s=dropped_s)
        if record.level > PAUSE_LEVEL and now >= record.paused_until:
            record.paused_until = now + PAUSE_S
            return Penalty(penalty.tell, paused_s=PAUSE_S)
        return penalty

    def pushed(self, peer_id: str, known: int, here: int, now: float) -> int:
        """A peer pushed `known` events that this node, which now has `here`, knew before.

        Returns how many of them are more than repeating honestly explains: those are to be noted as REPLAYED.
        """
        record = self._record(peer_id, now)
        grown = here - record.known if record.known >= 0 else 0
        record.known = here
        record.replays = min(REPLAYS_FREE, record.replays + REPLAYS_PER_NEW * max(0, grown)) - known
        excess = max(0, -record.replays)
        record.replays += excess
        return excess

    def pause_s(self, peer_id: str, now: float) -> float:
        """For how many seconds that peer's requests are refused; 0 for one in good standing."""
        record = self._records.get(peer_id)
        return max(0.0, record.paused_until - now, record.dropped_until - now) if record else 0.0

    def drop_s(self, peer_id: str, now: float) -> float:
        """For how many seconds this node has nothing to do with that peer; 0 for one that is not dropped."""
        record = self._records.get(peer_id)
        return max(0.0, record.dropped_until - now) if record else 0.0

    def counts(self, peer_id: str) -> dict[Reason, int]:
        """What was refused of that peer, by reason."""
        record = self._records.get(peer_id)
        return dict(record.counts) if record else {}

    def offenders(self, now: float) -> list[Offender]:
        """Every peer of which something was refused, the worst first."""
        found = [
            Offender(
                peer_id,
                tuple(sorted(record.counts.items(), key=lambda item: (-item[1], item[0]))),
                paused_s=max(0.0, record.paused_until - now),
                dropped_s=max(0.0, record.dropped_until - now),
                since_s=now - record.noted_at,
            )
            for peer_id, record in self._records.items()
            if record.counts
        ]
        return sorted(found, key=lambda one: (-one.dropped_s, -one.paused_s, -one.refused, one.peer_id))

    def _record(self, peer_id: str, now: float) -> _Record:
        record = self._records.pop(peer_id, None) or _Record(noted_at=now)
        self._records[peer_id] = record
        if len(self._records) > PEERS_MAX:
            spared = (peer for peer, other in self._records.items() if other.dropped_until <= now and peer != peer_id)
            del self._records[next(spared, next(iter(self._records)))]
        return record

    def _drop(self, record: _Record, now: float) -> float:
        # The time spent dropped is no good conduct.
        good_s = max(0.0, now - record.dropped_until) if record.degree else 0.0
        degree = max(0.0, record.degree - good_s / DEGREE_FORGIVEN_S)
        dropped_s = min(DROP_S_MAX, DROP_S * 2.0**degree)
        record.degree = degree + 1
        record.dropped_until = now + dropped_s
        # It comes back half forgiven: going on costs it the next drop sooner, and longer.
        record.level = DROP_LEVEL / 2 + dropped_s / FORGIVEN_S
        return dropped_s


def _weight(reason: Reason, count: int) -> float:
    if reason in _HARMLESS:
        return 0.0
    if reason in _MISTAKES:
        return min(MISTAKES_WEIGHT_MAX, count * (ORPHAN_WEIGHT if reason is Reason.ORPHAN else MISTAKE_WEIGHT))
    return min(PAUSE_LEVEL + 1, count)


def _tell(record: _Record, reason: Reason, count: int, now: float) -> int:
    """How many to tell the log of: all that it was not told of yet, at most every LOG_EVERY_S."""
    record.untold[reason] += count
    if now < record.told_at.get(reason, float("-inf")) + LOG_EVERY_S:
        return 0
    record.told_at[reason] = now
    return record.untold.pop(reason)
