"""Feeds every parser with accidents, and says which it did not stand.

A case is its target, its seed and its number: `python -m tests.fuzz --target event --seed 0 --case 4711` runs that one
again, with a traceback. One case in STREAMS_SHARE goes through a whole node instead (target `streams`). A run prints
one JSON line with its figures and fails if anything but a parser's own refusal left it, if a case took more than
CASE_CPU_S of processor time, if memory grew after the first fifth, or if the node's loop was not free.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import gc
import json
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import psutil

from tests.fuzz import streams
from tests.fuzz.targets import TARGETS, Target

#: Processor seconds for one case: a thousand times what any takes. Not wall time, which others on the machine spend.
CASE_CPU_S = 5.0
#: Seconds after which a case that no signal reaches (inside C) ends the process with every stack.
HANG_S = 120.0
#: Memory may grow by this much after the first fifth of the cases.
GROWTH_MAX = 0.05
#: One case in so many is told to a whole node.
STREAMS_SHARE = 50
STREAMS = "streams"
#: The node's loop must be free again after so long, for 99 of 100 steps. Lag reads as death to peers.
STEP_P99_S = 0.05
#: Cases of one target in a row, so that each has its turn early.
TURN = 200
#: Failures of one target that are told; the rest are likely the same ones.
TOLD_MAX = 3
CORPUS = Path(__file__).with_name("corpus.jsonl")


class Hang(BaseException):
    """A case that goes on and on. No parser catches it by mistake."""


@dataclass
class Tally:
    """What a run found."""

    cases: int = 0
    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    slowest: str = ""
    warm_bytes: int = 0
    end_bytes: int = 0


def case_of(target: Target, seed: int, number: int) -> bytes:
    """The bytes of one case."""
    return target.make(Random(f"{seed}/{target.name}/{number}"))


def judge(target: Target, data: bytes) -> tuple[bool, str]:
    """Whether the parser took it, and what it must never have said ("" if nothing)."""
    try:
        target.read(data)
    except target.refusals:
        return False, ""
    except (Exception, Hang) as error:  # noqa: BLE001  # this is the oracle
        return False, f"{type(error).__name__}: {str(error)[:200]}"
    return True, ""


def corpus() -> Iterator[tuple[Target, str, bytes]]:
    """Cases that once failed, with what was wrong."""
    by_name = {target.name: target for target in TARGETS}
    for line in CORPUS.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        yield by_name[entry["target"]], entry["why"], bytes.fromhex(entry["hex"])


def run(seed: int, cases: int, targets: Iterable[Target] = TARGETS) -> Tally:
    """So many cases, shared out among the targets."""
    chosen = list(targets)
    total = sum(target.share for target in chosen)
    left = {target.name: max(1, int(cases * target.share / total)) for target in chosen}
    numbers: Counter[str] = Counter()
    tally = Tally()
    warm_at = sum(left.values()) // 5
    before = signal.signal(signal.SIGVTALRM, _too_long)
    try:
        while any(left.values()):
            for target in chosen:
                faulthandler.dump_traceback_later(HANG_S, exit=True)
                for _ in range(min(TURN, left[target.name])):
                    _one(target, seed, numbers[target.name], tally)
                    numbers[target.name] += 1
                    left[target.name] -= 1
            if not tally.warm_bytes and tally.cases >= warm_at:
                tally.warm_bytes = memory()
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGVTALRM, before)
    tally.end_bytes = memory()
    return tally


def _one(target: Target, seed: int, number: int, tally: Tally) -> None:
    data = case_of(target, seed, number)
    started = time.process_time()
    signal.setitimer(signal.ITIMER_VIRTUAL, CASE_CPU_S)
    accepted, failure = judge(target, data)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    took_s = time.process_time() - started
    tally.cases += 1
    (tally.accepted if accepted else tally.refused)[target.name] += 1
    if took_s > tally.slowest_s:
        tally.slowest_s, tally.slowest = took_s, f"{target.name}/{number}"
    if failure:
        tally.failed[target.name] += 1
    if failure and tally.failed[target.name] <= TOLD_MAX:
        again = f"python -m tests.fuzz --target {target.name!r} --seed {seed} --case {number}"
        tally.failures.append(f"{target.name}: {failure}\n    {again}")


def _too_long(number: int, frame: FrameType | None) -> None:
    raise Hang(f"more than {CASE_CPU_S:g} s of processor time")


def memory() -> int:
    """Resident bytes, with what nobody uses given back."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss


def main(argv: list[str] | None = None) -> int:
    arguments = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    arguments.add_argument("--cases", type=int, default=10_000)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--target", choices=[*(target.name for target in TARGETS), STREAMS])
    arguments.add_argument("--case", type=int)
    wanted = arguments.parse_args(argv)
    chosen = [target for target in TARGETS if wanted.target in (None, target.name)]
    if wanted.case is not None and chosen:
        return _again(chosen[0], wanted.seed, wanted.case)
    started = time.perf_counter()
    report: dict[str, Any] = {"ok": True, "seed": wanted.seed, "cases": 0, "failures": []}
    if chosen:
        _add(report, _parsers(wanted.seed, wanted.cases, chosen))
    if wanted.target in (None, STREAMS):
        count = 1 if wanted.case is not None else max(10, wanted.cases // (STREAMS_SHARE if chosen else 1))
        _add(report, _streams(wanted.seed, wanted.case or 0, count))
    report |= {
        "ok": not report["failures"],
        "seconds": round(time.perf_counter() - started, 1),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }
    print(json.dumps(report))
    for failure in report["failures"]:
        print(failure, file=sys.stderr)
    return 0 if report["ok"] else 1


def _add(report: dict[str, Any], part: dict[str, Any]) -> None:
    summed = {"cases": report["cases"] + part["cases"], "failures": report["failures"] + part["failures"]}
    report |= {**part, **summed}


def _parsers(seed: int, cases: int, chosen: list[Target]) -> dict[str, Any]:
    tally = run(seed, cases, chosen)
    growth = tally.end_bytes / tally.warm_bytes - 1
    return {
        "cases": tally.cases,
        "failures": tally.failures + _grown("the parsers", tally.warm_bytes, tally.end_bytes),
        "accepted": sum(tally.accepted.values()),
        "refused": sum(tally.refused.values()),
        "slowest_cpu_s": round(tally.slowest_s, 3),
        "slowest": tally.slowest,
        "memory_growth": round(growth, 4),
        "accepted_by_target": dict(tally.accepted),
    }


def _streams(seed: int, first: int, count: int) -> dict[str, Any]:
    warm = streams.run(seed, first, -(-count // 5))
    before = memory()
    rest = streams.run(seed, first + warm.cases, count - warm.cases)
    after = memory()
    again = f"\n    python -m tests.fuzz --target {STREAMS} --seed {seed} --case …"
    steps = warm.steps + rest.steps
    most_s = (max(steps) + 1) * streams.STEP_S
    p99_s = (_rank(steps, 0.99) + 1) * streams.STEP_S
    failures = [failure + again for failure in [*warm.failures, *rest.failures]] + _grown("the node", before, after)
    if p99_s > STEP_P99_S:
        failures.append(f"the loop was not free for {p99_s:.3f} s in one step of a hundred")
    return {
        "cases": warm.cases + rest.cases,
        "failures": failures,
        "stream_cases": warm.cases + rest.cases,
        "stream_answers": warm.answered + rest.answered,
        "stream_refusals": sum(warm.blamed.values()) + sum(rest.blamed.values()),
        "stream_memory_growth": round(after / before - 1, 4),
        "loop_step_p99_ms": round(p99_s * 1000, 3),
        "loop_step_max_ms": round(most_s * 1000, 1),
    }


def _rank(counted: Counter[int], share: float) -> int:
    """The value that this share of what was counted does not exceed."""
    left = counted.total() * share
    for value, count in sorted(counted.items()):
        left -= count
        if left <= 0:
            return value
    raise AssertionError("nothing was counted")


def _grown(who: str, before: int, after: int) -> list[str]:
    growth = after / before - 1
    return [f"{who}: memory grew by {growth:.1%}, from {before} to {after} bytes"] if growth > GROWTH_MAX else []


def _again(target: Target, seed: int, number: int) -> int:
    data = case_of(target, seed, number)
    print(json.dumps({"target": target.name, "hex": data.hex() if len(data) < 4096 else f"{len(data)} bytes"}))
    try:
        target.read(data)
    except target.refusals as refusal:
        print(f"refused: {refusal}")
    except Exception:  # noqa: BLE001  # shown, which is what this is for
        traceback.print_exc()
        return 1
    return 0
