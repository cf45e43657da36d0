"""What is wrong with this node and its swarm, and what to do about it.

Each finding is one line a person can act on: what was looked at, whether it is fine, what was seen, the next step.
It looks only at what this node knows already, so that it also answers when nobody else does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bootstrap.address import is_loopback
from p2pnode.core.conduct import Offender
from p2pnode.core.membership import State
from p2pnode.core.model import Member
from p2pnode.query.fence import FenceReport
from p2pnode.services.datasets import Published

#: Free space below which a holder soon refuses shards, as a share of the disk.
DISK_USAGE_HIGH = 90.0
#: Loop lag that peers begin to notice, in milliseconds.
LAG_HIGH_MS = 200.0
#: Refusals are news for so many seconds; after that they are only counted.
NEWS_S = 600.0
#: Names that one line spells out, and peers of which it tells what they did.
_NAMED_MAX = 5
_OFFENDERS_MAX = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `p2pnode doctor`."""

    check: str
    ok: bool
    detail: str
    fix: str = ""

    def as_document(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Findings:
    """What a node knows of itself when it is asked how it is."""

    me: str
    addresses: Sequence[str]
    connected: Sequence[str]
    members: Sequence[tuple[Member, State]]
    placed: Sequence[Published]
    fence: FenceReport
    disk_usage: float
    loop_lag_ms: float
    bootstrap_failure: str
    #: Peers of which something was refused, the worst first.
    offenders: Sequence[Offender]
    #: Node ids of members that signed two events in one place and do not count since.
    forked: Sequence[str]
    #: Events damaged on this disk, or standing on damaged ones, that no peer has given back yet.
    incomplete: int

    def diagnose(self) -> list[Finding]:
        """Every check, the fine ones included."""
        return [
            self._listening(),
            self._swarm(),
            self._members(),
            self._coordinators(),
            self._replicas(),
            self._disk(),
            self._log(),
            self._lag(),
            self._bad_input(),
            self._forks(),
            self._own_faults(),
            Finding(
                "sql fence",
                self.fence.ok,
                self.fence.detail,
                "" if self.fence.ok else "Use Linux with Landlock; until then SQL from other peers is refused here.",
            ),
        ]

    def _listening(self) -> Finding:
        beyond = [address for address in self.addresses if not is_loopback(address)]
        if not self.addresses:
            return Finding("listening", False, "on no address", "Give --listen /ip4/0.0.0.0/tcp/4001.")
        if not beyond:
            where = "on loopback: only this machine can reach it"
            return Finding("listening", True, where, "For other machines: --listen /ip4/0.0.0.0/tcp/4001 --open.")
        return Finding("listening", True, f"on {', '.join(self.addresses[:_NAMED_MAX])}")

    def _swarm(self) -> Finding:
        others = [member for member, _ in self.members if member.peer_id != self.me]
        if not others:
            return Finding("swarm", True, "this node is alone", "Start others with --bootstrap and an address above.")
        if not self.connected:
            why = f" ({self.bootstrap_failure})" if self.bootstrap_failure else ""
            return Finding(
                "swarm",
                False,
                f"no connection to any of {len(others)} members{why}",
                "Check the network and addresses.",
            )
        return Finding("swarm", True, f"peers connected: {len(self.connected)}, other members known: {len(others)}")

    def _members(self) -> Finding:
        gone = [
            f"{member.node_id} (down)" if member.down else member.node_id
            for member, state in self.members
            if member.down or state in (State.DEAD, State.SUSPECT)
        ]
        if gone:
            fix = "Start them again. Who is gone for good is recorded as down by itself, and then not waited for."
            return Finding("members", False, f"not answering: {_names(gone)}", fix)
        return Finding("members", True, "all known members answer")

    def _coordinators(self) -> Finding:
        if any(member.role.defines and state is State.ALIVE for member, state in self.members):
            return Finding("coordinators", True, "datasets can be defined")
        return Finding(
            "coordinators", False, "no coordinator answers: queries go on, defining waits", "Start a coordinator."
        )

    def _replicas(self) -> Finding:
        short = [placed.dataset.name for placed in self.placed if placed.short]
        lost = [p.dataset.name for p in self.placed if any(not shard.holders for shard in p.shards)]
        if lost:
            return Finding("replicas", False, f"shards without any live holder: {_names(lost)}", "Start their holders.")
        if short:
            return Finding(
                "replicas",
                False,
                f"fewer live replicas than asked for: {_names(short)}",
                "Start the workers that are down; where there are too few, start more and publish again.",
            )
        return Finding("replicas", True, f"datasets: {len(self.placed)}, every shard on all its holders")

    def _disk(self) -> Finding:
        seen = f"{self.disk_usage:.0f} % used"
        fix = "Free space: a full holder refuses new shards."
        return Finding(
            "disk", self.disk_usage < DISK_USAGE_HIGH, seen, "" if self.disk_usage < DISK_USAGE_HIGH else fix
        )

    def _log(self) -> Finding:
        if not self.incomplete:
            return Finding("event log", True, "whole, as far as it was read")
        return Finding(
            "event log",
            False,
            f"events damaged on this disk, or standing on damaged ones, and not back yet: {self.incomplete}",
            "They come back by themselves from any member; start one that has them, and look at this disk.",
        )

    def _lag(self) -> Finding:
        seen = f"the loop is up to {self.loop_lag_ms:.0f} ms late"
        fix = "Give the node more processor: a late loop looks dead to its peers."
        return Finding("loop lag", self.loop_lag_ms < LAG_HIGH_MS, seen, "" if self.loop_lag_ms < LAG_HIGH_MS else fix)

    def _bad_input(self) -> Finding:
        guilty = [one for one in self.offenders if one.refused]
        news = [one for one in guilty if one.since_s < NEWS_S]
        if not news:
            seen = f"; {sum(one.refused for one in guilty)} earlier refusals" if guilty else ""
            return Finding("bad input", True, f"nothing was refused in the last {NEWS_S / 60:.0f} minutes{seen}")
        told = "; ".join(self._offence(one) for one in news[:_OFFENDERS_MAX])
        more = f"; and {len(news) - _OFFENDERS_MAX} more peers" if len(news) > _OFFENDERS_MAX else ""
        if not any(one.paused_s or one.dropped_s for one in news):
            return Finding("bad input", True, told + more)
        return Finding(
            "bad input",
            False,
            told + more,
            "Look at that node: other software, a damaged disk, a stranger. Stop it, upgrade it, or give it a "
            "new home; it is heard again by itself once it stops.",
        )

    def _offence(self, one: Offender) -> str:
        """What one peer did, and what it costs it now."""
        named = {member.peer_id: member.node_id for member, _ in self.members}.get(one.peer_id)
        who = f"{named} ({one.peer_id})" if named else one.peer_id
        what = ", ".join(f"{reason.text} {count}" for reason, count in one.guilt)
        now = ""
        if one.dropped_s:
            now = f"; it is dropped for {one.dropped_s:.0f} s"
        elif one.paused_s:
            now = f"; it is paused for {one.paused_s:.0f} s"
        return f"refused of {who}: {what}{now}"

    def _forks(self) -> Finding:
        if not self.forked:
            return Finding("forks", True, "no member signed two events in one place")
        return Finding(
            "forks",
            False,
            f"signed two events in one place, and do not count since: {_names(self.forked)}",
            "Find out who else has its key. Then `p2pnode node readmit NODE`, or start it on a new home.",
        )

    def _own_faults(self) -> Finding:
        failed = sum(one.failed for one in self.offenders)
        if not failed:
            return Finding("own faults", True, "every request was handled")
        return Finding(
            "own faults",
            False,
            f"{failed} requests of peers failed here by a fault of this program",
            "The log says where (`handler failed`); please report it.",
        )


def _names(names: Sequence[str]) -> str:
    more = len(names) - _NAMED_MAX
    return ", ".join(sorted(names)[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
