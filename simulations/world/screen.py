"""`sim world` for its reader: a line of JSON for each seed, a bar meanwhile, and how to have again what failed.

stdout carries the lines and nothing else; the bar and the words for people go to stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from p2pnode.api import output
from p2pnode.errors import UsageError
from simulations.world.options import WorldOptions
from simulations.world.plan import plan
from simulations.world.report import Report, replay_command
from simulations.world.run import make_small, run_many, run_seed


def show_worlds(worlds: Sequence[WorldOptions], *, verbose: bool = False) -> bool:
    """Run them all; whether every promise was kept in each. `verbose` tells the end of a single one, step by step."""
    failing: list[Report] = []
    for world in worlds:
        plan(world)  # a fault that does not exist is an error before the first seed is run
    console = Console(file=sys.stderr, highlight=False)
    with _bar(console) as bar:
        task = bar.add_task("seeds", total=len(worlds))
        told = verbose and len(worlds) == 1
        for report in [run_seed(worlds[0], tell=output.note)] if told else run_many(worlds):
            output.document(report.as_document())
            bar.advance(task)
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

    def told(report: Report) -> None:
        left = len(plan(report.options))
        output.note(f"  {left} faults: {'passes' if report.ok else 'fails'} in {report.wall_s:.1f} s")

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
    if not first.isdigit() or (dots and not last.isdigit()):
        raise UsageError(f"--seeds {text} is no range", advice="For example 1..40, or 17.")
    found = range(int(first), int(last or first) + 1)
    if not found:
        raise UsageError(f"--seeds {text} is empty", advice="The smaller one comes first.")
    return found


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
