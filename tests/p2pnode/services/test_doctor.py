from __future__ import annotations

from dataclasses import replace

import pytest

from bootstrap.identity import Identity
from p2pnode.core.conduct import PAUSE_S, Conduct, Reason
from p2pnode.core.membership import State
from p2pnode.core.model import Member, NodeRole
from p2pnode.query.fence import FenceReport
from p2pnode.services.doctor import NEWS_S, Findings

ME = Identity.from_seed(bytes(32)).peer_id
LIAR = Member("12D3KooWLiar", "mallory", NodeRole.WORKER)

WELL = Findings(
    me=ME,
    addresses=[f"/ip4/192.0.2.7/tcp/4001/p2p/{ME}"],
    connected=[LIAR.peer_id],
    members=[(Member(ME, "me", NodeRole.HYBRID), State.ALIVE), (LIAR, State.ALIVE)],
    placed=[],
    fence=FenceReport(True, 7, "on"),
    disk_usage=10,
    loop_lag_ms=1,
    bootstrap_failure="",
    offenders=[],
    forked=[],
    incomplete=0,
)


def found(check, now=0.0, *, conduct=None, **what):
    offenders = conduct.offenders(now) if conduct else []
    findings = {finding.check: finding for finding in replace(WELL, offenders=offenders, **what).diagnose()}
    return findings[check]


def test_a_node_that_is_well_has_nothing_to_fix():
    assert [finding for finding in WELL.diagnose() if not finding.ok] == []


@pytest.mark.parametrize(
    ("check", "what"),
    [
        ("listening", {"addresses": []}),
        ("swarm", {"connected": []}),
        ("members", {"members": [*WELL.members[:1], (LIAR, State.DEAD)]}),
        ("coordinators", {"members": [(LIAR, State.ALIVE)]}),
        ("forks", {"forked": ["mallory"]}),
        ("disk", {"disk_usage": 97}),
        ("event log", {"incomplete": 3}),
        ("loop lag", {"loop_lag_ms": 900}),
        ("sql fence", {"fence": FenceReport(False, 0, "no Landlock")}),
    ],
)
def test_what_is_wrong_is_found_with_a_next_step(check, what):
    finding = found(check, **what)
    assert not finding.ok
    assert finding.fix


def test_who_is_paused_or_dropped_is_named_with_what_it_did():
    conduct = Conduct()
    conduct.note(LIAR.peer_id, Reason.BAD_SIGNATURE, 40, now=0)
    conduct.note(LIAR.peer_id, Reason.FORGED_HEIGHT, 1, now=0)
    conduct.note("12D3KooWClient", Reason.UNAUTHORIZED, 2, now=0)
    finding = found("bad input", now=5, conduct=conduct)
    assert not finding.ok
    assert finding.fix
    assert finding.detail == (
        "refused of mallory (12D3KooWLiar): bad signature 40, forged height 1; "
        f"it is paused for {PAUSE_S - 5:.0f} s; refused of 12D3KooWClient: unauthorized 2"
    )
    while not conduct.drop_s(LIAR.peer_id, now=5):
        conduct.note(LIAR.peer_id, Reason.BAD_SIGNATURE, 1, now=5)
    assert "it is dropped for 30 s" in found("bad input", now=5, conduct=conduct).detail


def test_a_few_refusals_are_told_and_nothing_to_act_on():
    conduct = Conduct()
    for number in range(5):
        conduct.note(f"12D3KooW{number}", Reason.UNAUTHORIZED, 1, now=0)
    finding = found("bad input", now=1, conduct=conduct)
    assert finding.ok
    assert finding.detail.endswith("and 2 more peers")
    late = found("bad input", now=NEWS_S, conduct=conduct)
    assert late.ok
    assert "5 earlier refusals" in late.detail


def test_requests_from_the_future_are_no_bad_input_and_own_faults_are_told_apart():
    conduct = Conduct()
    conduct.note(LIAR.peer_id, Reason.UNKNOWN_VERB, 500, now=0)
    assert found("own faults", conduct=conduct).ok
    conduct.note(LIAR.peer_id, Reason.FAILED, 3, now=0)
    assert "nothing was refused" in found("bad input", conduct=conduct).detail
    finding = found("own faults", conduct=conduct)
    assert (finding.ok, finding.detail.split()[0]) == (False, "3")
