"""`sim local up`: how many nodes of which role."""

from __future__ import annotations

import pytest

from p2pnode.errors import UsageError
from simulations.commands import counted
from simulations.local import LocalSwarm


def test_counts_and_roles() -> None:
    assert counted(None, None) == {"coordinator": 1, "worker": 3}
    assert counted(6, None) == {"coordinator": 1, "worker": 5}
    assert counted(1, None) == {"hybrid": 1}
    assert counted(None, "coordinator, worker=3,client=1") == {"coordinator": 1, "worker": 3, "client": 1}
    assert counted(2, "hybrid=1,hybrid=1") == {"hybrid": 2}


@pytest.mark.parametrize(("count", "roles"), [(3, "worker=2"), (None, "boss=1"), (None, "worker=many"), (None, "")])
def test_what_cannot_be(count: int | None, roles: str) -> None:
    with pytest.raises(UsageError):
        counted(count, roles)


def test_a_swarm_needs_a_member(tmp_path: object) -> None:
    with pytest.raises(UsageError):
        LocalSwarm(coordinators=0, workers=0, clients=2, base_dir=str(tmp_path))
