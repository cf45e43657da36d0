"""A policy that cannot be met is refused before anything is cut, with the numbers that say why."""

import pytest

from p2pnode.core.model import EVERYWHERE, Member, NodeRole
from p2pnode.core.policy import Policy
from p2pnode.errors import Infeasible

WORKERS = [Member(f"peer-{place}", f"worker-{place}", NodeRole.WORKER) for place in range(5)]
COORDINATOR = Member("peer-c", "coordinator", NodeRole.COORDINATOR)


@pytest.mark.parametrize(("replicas", "alive"), [(1, 1), (3, 2), (3, 5), (5, 3), (EVERYWHERE, 3)])
def test_a_live_majority_is_enough(replicas: int, alive: int) -> None:
    up = {member.peer_id for member in WORKERS[:alive]}
    Policy(replicas).refuse_the_impossible([COORDINATOR, *WORKERS], up.__contains__)


@pytest.mark.parametrize(("replicas", "alive", "need"), [(3, 1, 2), (5, 2, 3), (EVERYWHERE, 2, 3), (1, 0, 1)])
def test_less_is_infeasible(replicas: int, alive: int, need: int) -> None:
    up = {member.peer_id for member in WORKERS[:alive]}
    with pytest.raises(Infeasible, match=f"at least {need} storage members to acknowledge; {alive} are up"):
        Policy(replicas).refuse_the_impossible(WORKERS, up.__contains__)


def test_nobody_stores() -> None:
    with pytest.raises(Infeasible, match="No storage member"):
        Policy(1).refuse_the_impossible([COORDINATOR], lambda peer: True)


def test_regions_out_of_reach() -> None:
    with pytest.raises(Infeasible, match="region"):
        Policy(3, min_regions=2).refuse_the_impossible(WORKERS, lambda peer: True)


def test_a_policy_survives_its_document() -> None:
    policy = Policy(3, balanced=True, preferences={"worker-1": 0.8}, min_regions=2)
    assert Policy.of_document(3, policy.as_document()) == policy
