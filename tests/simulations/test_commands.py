"""`sim local up`: how many nodes of which role; `sim world`: what cannot be is told before the first seed runs."""

from __future__ import annotations

import pytest

from p2pnode.api.cli import run
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


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--seeds", "1", "--faults", "bogus,crash"], "no such fault: bogus"),
        (["--seeds", "1", "--drop", "3,x"], "'x' is no number"),
        (["--seeds", "1", "--drop", "²"], "'²' is no number"),
        (["--seeds", "1", "--drop", "9" * 5000], "is no number"),
        (["--seeds", "1", "--drop", "1,999"], "there is no fault 999"),
        (["--seeds", "1", "--drop", "999", "--shrink"], "there is no fault 999"),
        (["--seeds", "1..2", "--drop", "1"], "--drop takes one seed"),
        (["--seeds", "1..2", "--shrink"], "--shrink takes one seed"),
        (["--seeds", "1..1000000000000"], "Up to 100,000"),
        (["--seeds", "²"], "is no range"),
    ],
)
def test_worlds_that_cannot_be(words: list[str], told: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["sim", "world", "--nodes", "3", *words]) == 2
    out, err = capfd.readouterr()
    assert (out, told in err, "→" in err) == ("", True, True), err
