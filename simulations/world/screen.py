"""`sim world` for its reader: a line of JSON for each seed, a bar meanwhile, and how to repeat what failed.

stdout carries the lines and nothing else; the bar and the words for people go to stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from p2pnode.api import output
from p2pnode.errors import UsageError
from simulations.world.options import WorldOptions
from simulations.world.plan import plan
from simulations.world.report import Report, replay_command
from simulations.world.run import make_small, run_many, run_seed

#: Seeds of one go: some days of one machine. And characters of two numbers and what is between them.
SEEDS_MAX, SEEDS_CHARS_MAX = 100_000, 38


def show_worlds(worlds: Sequence[WorldOptions], *, verbose: bool = False) -> bool:
    """Run them all; whether every promise was kept in each. `verbose` tells the end of a single one, step by step."""
    failing: list[Report] = []
    _check(worlds)
    console = Console(file=sys.stderr, highlight=False)
    with _bar(console) as bar:
        task = bar.add_task("seeds", total=len(worlds))
        told = verbose and len(worlds) == 1
        for report in [run_seed(worlds[0], tell=output.note)] if told else run_many(worlds):
            bar.advance(task)
            with _above(bar):
                output.document(report.as_document())
                if not report.ok:
                    failing.append(report)
                    _explain(report)
    if len(worlds) == 1:
        _describe(worlds[0])
    if failing:
        output.note(f"{output.counted(len(failing), 'seed')} of {len(worlds)} failed.")
    return not failing


def show_smallest(world: WorldOptions) -> bool:
    """Make one failing seed small; whether it did not fail at all."""

    _check([world])

    def told(report: Report) -> None:
        left = len(plan(report.options))
        output.note(f"  {output.counted(left, 'fault')}: {'passes' if report.ok else 'fails'} in {report.wall_s:.1f} s")
        if not report.ok:  # whoever grows impatient has what was found so far
            output.note(f"    {replay_command(report.options)}")

    smallest = make_small(world, told)
    (report,) = run_many([smallest])
    output.document(report.as_document())
    if report.ok:
        output.note("It does not fail.")
    else:
        _explain(report)
        _describe(smallest)
    return report.ok


def seeds(text: str) -> range:
    """`A..B`, both inclusive, or one. Raises UsageError."""
    first, dots, last = text.partition("..")
    if not first.isdecimal() or (dots and not last.isdecimal()) or len(text) > SEEDS_CHARS_MAX:
        raise UsageError(f"--seeds {text[:SEEDS_CHARS_MAX]!r} is no range", advice="For example 1..40, or 17.")
    found = range(int(first), int(last or first) + 1)
    if not found:
        raise UsageError(f"--seeds {text} is empty", advice="The smaller one comes first.")
    if len(found) > SEEDS_MAX:
        raise UsageError(f"--seeds {text} are {len(found):,}", advice=f"Up to {SEEDS_MAX:,} are run in one go.")
    return found


def _check(worlds: Sequence[WorldOptions]) -> None:
    """Raises UsageError for a fault that does not exist, before the first seed is run."""
    everything = plan(replace(worlds[0], drop=()))
    if not worlds[0].drop:
        return
    if len(worlds) > 1:
        raise UsageError("--drop takes one seed: each has faults of its own", advice="For example --seeds 17.")
    if missing := set(worlds[0].drop) - {fault.number for fault in everything}:
        numbers = ", ".join(map(str, sorted(missing)))
        advice = f"Seed {worlds[0].seed} has 1 to {len(everything)}."
        raise UsageError(f"--drop: there is no fault {numbers}", advice=advice)


def _explain(report: Report) -> None:
    output.note(f"seed {report.options.seed} failed:")
    for violation in report.violations:
        output.note(f"  {violation}")
    output.note(f"  again: {replay_command(report.options)}")


def _describe(world: WorldOptions) -> None:
    """Everything that went wrong in it, by number: what --drop takes."""
    for fault in plan(world):
        output.note(f"  {fault}")


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@contextmanager
def _above(bar: Progress) -> Iterator[None]:
    """What is printed here stands above the bar, also where one terminal shows both."""
    if bar.disable:
        yield
        return
    bar.stop()
    yield
    bar.start()
