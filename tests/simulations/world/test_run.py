"""Whole worlds: every promise is kept in the first seeds and in those that failed once, and a run can be had again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from p2pnode.errors import UsageError
from simulations.world.corpus import Case, read_corpus
from simulations.world.options import WorldOptions
from simulations.world.report import replay_command
from simulations.world.run import run_many, run_seed
from simulations.world.screen import seeds

CORPUS = read_corpus(Path(__file__).with_name("corpus.jsonl"))
#: Seeds of twenty nodes that every test run tells; `p2pnode sim world` tells as many as one likes.
SEEDS = range(1, 7)
SMALL = WorldOptions(seed=3, nodes=5, rounds=1, storm_s=10.0, rest_s=0.0, writes=40)

AGAIN = """
from simulations.world.options import WorldOptions
from simulations.world.run import run_seed
report = run_seed(WorldOptions(seed=3, nodes=5, rounds=1, storm_s=10.0, rest_s=0.0, writes=40))
print(report.digest, report.virtual_s, report.events)
"""


@pytest.mark.timeout(600)
def test_the_first_seeds_keep_every_promise() -> None:
    reports = list(run_many([WorldOptions(seed=seed) for seed in SEEDS]))
    assert [report.options.seed for report in reports] == list(SEEDS)
    broken = {replay_command(report.options): report.violations for report in reports if not report.ok}
    assert broken == {}
    # And they were no idle worlds: most of what was written was acknowledged, storms and all.
    assert all(report.writes >= 100 for report in reports)
    assert sum(report.acknowledged for report in reports) > 0.5 * sum(report.writes for report in reports)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("case", CORPUS, ids=lambda case: f"{case.options.seed}-{case.options.nodes}")
def test_what_failed_once_does_not_fail_again(case: Case) -> None:
    assert run_seed(case.options).violations == (), case.why


def test_a_seed_does_the_same_whatever_the_order_of_sets_and_whatever_ran_before() -> None:
    run_seed(WorldOptions(**{**vars_of(SMALL), "seed": 9}))
    report = run_seed(SMALL)
    told = {f"{report.digest} {report.virtual_s} {report.events}\n"}
    for number in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": number}
        run = subprocess.run([sys.executable, "-c", AGAIN], env=environment, capture_output=True, text=True, check=True)
        told.add(run.stdout)
    assert len(told) == 1


def test_another_seed_does_something_else() -> None:
    digests = {run_seed(world).digest for world in (SMALL, SMALL, WorldOptions(**{**vars_of(SMALL), "seed": 4}))}
    assert len(digests) == 2


def vars_of(options: WorldOptions) -> dict[str, object]:
    return {"seed": options.seed, "nodes": options.nodes, **options.changed()}


def test_a_mistake_of_the_world_is_told_and_is_one_seed_s(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(*_: object) -> None:
        raise ZeroDivisionError("the world's own")

    monkeypatch.setattr("simulations.world.story.Story.tell", stumble)
    (violation,) = run_seed(SMALL).violations
    assert violation.kind == "the world broke"
    assert "the world's own" in violation.text


def test_the_command_prints_a_line_a_seed_and_says_how_to_have_it_again() -> None:
    command = [sys.executable, "-m", "p2pnode", "sim", "world", "--nodes", "3", "--seeds", "1..2", "--faults", "none"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert [line["seed"] for line in lines] == [1, 2]
    assert list(lines[0]) == ["seed", "nodes", "events", "virtual_s", "wall_s", "digest", "violations"]
    assert run.returncode == any(line["violations"] for line in lines)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("text", ["", "a..b", "3..1", "1..", "..4", "-1"])
def test_what_is_no_range_of_seeds(text: str) -> None:
    with pytest.raises(UsageError):
        seeds(text)


def test_seeds_are_both_inclusive() -> None:
    assert list(seeds("3..5")) == [3, 4, 5]
    assert list(seeds("17")) == [17]
