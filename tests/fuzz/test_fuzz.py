"""A hundred thousand accidents (`make fuzz` has a million): no parser says more than its own no."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from p2pnode.services.health import HealthService
from tests.fuzz import mutate, run, streams
from tests.fuzz.targets import TARGETS, Target, same

ROOT = Path(__file__).parents[2]


def fuzzed(cases: int, seed: int) -> dict[str, Any]:
    """The report of a run in a process of its own, whose memory nobody else uses."""
    command = [sys.executable, "-m", "tests.fuzz", "--cases", str(cases), "--seed", str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    print(done.stdout, end="")
    report = json.loads(done.stdout)
    assert report["failures"] == [], done.stderr
    return report


@pytest.mark.timeout(400)
def test_a_hundred_thousand_accidents():
    report = fuzzed(98_500, seed=0)
    assert report["cases"] >= 100_000
    assert report["stream_answers"] > report["stream_cases"] / 4
    assert report["stream_refusals"] > report["stream_cases"] / 4
    # Accidents that nobody notices test nothing, and neither do those that never get past the first check.
    assert 0.1 < report["accepted"] / (report["accepted"] + report["refused"]) < 0.9
    never = {target.name for target in TARGETS} - set(report["accepted_by_target"])
    assert never == set(), "targets of which nothing was ever accepted"


CORPUS = [pytest.param(target, data, id=f"{target.name}: {why}") for target, why, data in run.corpus()]


@pytest.mark.parametrize(("target", "data"), CORPUS)
def test_what_once_failed(target: Target, data: bytes):
    assert run.judge(target, data)[1] == ""


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_case_is_its_seed_and_number(target: Target):
    cases = [run.case_of(target, 7, number) for number in range(20)]
    assert cases == [run.case_of(target, 7, number) for number in range(20)]
    assert len(set(cases)) > 10


@pytest.mark.parametrize("form", [mutate.CBOR, mutate.MSGPACK], ids=["cbor", "msgpack"])
@pytest.mark.parametrize("value", mutate.EDGES)
def test_heads_are_found_as_they_are_written(form: mutate.Format, value: int):
    for major in (mutate.UINT, mutate.LIST, mutate.MAP):
        width = len(form.head(major, value, 0))
        (head, *_) = form.heads(form.head(major, value, 0) + bytes(8))
        assert (head.start, head.end, head.major) == (0, width, major)
        assert form is mutate.MSGPACK or head.value == value


def test_the_oracle_sees_what_must_not_be():
    """A parser that lets an exception of its own out, and one that accepts what it changes."""

    def crashes(data: bytes) -> None:
        raise IndexError("a bug")

    def changes(data: bytes) -> None:
        same(data.lower(), data)

    def refuses(data: bytes) -> None:
        raise ValueError("no")

    def target(read: Any) -> Target:
        return Target("planted", 1, lambda rng: rng.randbytes(8), read, (ValueError,))

    assert "IndexError" in run.judge(target(crashes), b"x")[1]
    assert "not the same" in run.judge(target(changes), b"X")[1]
    assert run.judge(target(refuses), b"x") == (False, "")
    tally = run.run(0, 3, [target(crashes)])
    assert len(tally.failures) == 3
    assert "--case 2" in tally.failures[2]


def test_a_case_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run, "CASE_CPU_S", 0.05)

    def spins(data: bytes) -> None:
        while True:
            pass

    tally = run.run(0, 1, [Target("spinning", 1, lambda rng: b"x", spins, ())])
    assert "Hang" in tally.failures[0]


def test_a_handler_that_fails_is_seen(monkeypatch: pytest.MonkeyPatch):
    async def fails(*_: object) -> None:
        raise KeyError("planted")

    monkeypatch.setattr(HealthService, "_on_ping", fails)
    failures = streams.run(0, 0, 60).failures
    assert any("a handler failed by case" in failure for failure in failures)
    assert any("planted" in failure for failure in failures)


def test_every_mutation_is_reached():
    rng = Random(0)
    sample = mutate.cbor_head(mutate.MAP, 2) + b"\x61a\x01\x61b\x82\x02\x03"
    seen = {mutate.mutate(rng, sample, sample, mutate.CBOR) for _ in range(2000)}
    assert len(seen) > 1000
    assert any(len(one) > 10_000 for one in seen), "deep"
