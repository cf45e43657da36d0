"""What a run prints."""

from __future__ import annotations

from simulations.world.checks import Violation
from simulations.world.options import WorldOptions
from simulations.world.report import Report, replay_command


def test_the_line_of_a_seed() -> None:
    report = Report(WorldOptions(seed=4), 210, 110, 80, 93.25, 1.5, "ab12", (Violation("lost", "write 3"),))
    assert report.as_document() == {
        "seed": 4,
        "nodes": 20,
        "events": 210,
        "virtual_s": 93.25,
        "wall_s": 1.5,
        "digest": "ab12",
        "violations": ["lost: write 3"],
    }
    assert not report.ok


def test_the_command_that_has_it_again() -> None:
    assert replay_command(WorldOptions(seed=17)) == "p2pnode sim world --nodes 20 --seeds 17..17"
    made_small = WorldOptions(seed=17, nodes=5, faults=("loss", "slander"), drop=(3, 7))
    assert replay_command(made_small) == ("p2pnode sim world --nodes 5 --seeds 17..17 --faults loss,slander --drop 3,7")
    assert replay_command(WorldOptions(faults=())).endswith("--faults none")
