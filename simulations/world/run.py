"""Seeds, run: one here, many over the machine's cores, a failing one made small.

A seed's run depends on its options alone, so that processes share nothing and the order of running is nobody's
concern. Wall time is measured here, outside the world.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import trio

from simulations.world.checks import Violation
from simulations.world.loop import LOGGED, run_virtual
from simulations.world.narrow import narrowed
from simulations.world.options import WorldOptions
from simulations.world.plan import cast, plan
from simulations.world.report import Report
from simulations.world.shrink import shrink
from simulations.world.story import Story
from simulations.world.world import open_world

#: Virtual seconds after which a story that goes on is not worth waiting for: ten times what one takes.
STORY_S = 1200.0
#: Errors that any node may log in a world like this: a liar was found out.
EXPECTED_ERRORS = ("author_forked",)
#: And those whose disk rots or fails.
EXPECTED_OF_DISKS = ("events_damaged", "block_damaged", "blocks_damaged", "log_moved_aside", "log_unreadable")
#: Logged errors that a report lists.
LOGGED_MAX = 5

#: Is given lines for people.
Tell = Callable[[str], None]


def run_seed(options: WorldOptions, *, tell: Tell | None = None) -> Report:
    """One seed from beginning to end. Whatever goes wrong is in the report, mistakes of the world itself included.

    `tell` is given the last of what happened and of what the nodes logged, line by line, when all is over.
    """
    began = time.perf_counter()
    try:
        with narrowed(any(fault.kind == "narrow" for fault in plan(options))):
            report = run_virtual(_run, options, tell, seed=options.seed, verbose=tell is not None)
    except Exception:  # noqa: BLE001  # the other seeds shall run
        broken = Violation("the world broke", traceback.format_exc())
        report = Report(options, 0, 0, 0, 0.0, 0.0, "", (broken,))
    return replace(report, wall_s=time.perf_counter() - began)


async def _run(options: WorldOptions, tell: Tell | None) -> Report:
    async with open_world(options.seed, libp2p=options.libp2p) as world:
        story = Story(world, options)
        with trio.move_on_after(STORY_S) as limit:
            await story.tell()
        if limit.cancelled_caught:
            story.violations.append(Violation("stuck", f"the story is not over after {STORY_S:g} s"))
        violations = [*story.violations, *_logged(story)]
        if tell is not None:
            logged = (f"{at_s:12.6f}  {host:<10} {event} {fields}" for at_s, host, event, fields in LOGGED.get().lines)
            for line in sorted((*world.trace.lines(), *logged)):
                tell(line)
        return Report(
            options=options,
            events=story.events,
            writes=len(story.written),
            acknowledged=len(story.acks),
            virtual_s=world.now,
            wall_s=0.0,
            digest=world.trace.digest(),
            violations=tuple(dict.fromkeys(violations)),
            converged_s=tuple(story.converged_s),
        )


def _logged(story: Story) -> list[Violation]:
    """Errors that some node logged: an exception that nobody handled, a task that died."""
    failing = [fault.hosts for fault in plan(story.options) if fault.kind == "disk_error"]
    disks = {story.swarm.hosts[index].name for hosts in (cast(story.options).fragile, *failing) for index in hosts}

    def expected(host: str, event: str, fields: dict[str, Any]) -> bool:
        if event in EXPECTED_ERRORS or (host in disks and event in EXPECTED_OF_DISKS):
            return True
        return "life.Dead" in fields.get("traceback", "")  # what the dying say

    found = [
        Violation("logged error", f"{at_s:.3f} s, {host}: {event} {fields}")
        for at_s, host, event, fields in LOGGED.get().errors
        if not expected(host, event, fields)
    ]
    return found[:LOGGED_MAX]


def run_many(worlds: Sequence[WorldOptions]) -> Iterator[Report]:
    """Each world's report, in their order, over as many processes as there are cores."""
    processes = min(len(worlds), os.cpu_count() or 1)
    if processes <= 1:
        yield from map(run_seed, worlds)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(run_seed, worlds)


def make_small(options: WorldOptions, tell: Callable[[Report], None]) -> WorldOptions:
    """The failing seed with as few faults as it fails with. `tell` is given every run on the way."""
    everything = [fault.number for fault in plan(options)]

    def without_the_others(part: Sequence[int]) -> WorldOptions:
        left_out = [number for number in everything if number not in part]
        return replace(options, drop=tuple(sorted((*options.drop, *left_out))))

    def fails(part: Sequence[int]) -> bool:
        report = run_seed(without_the_others(part))
        tell(report)
        return not report.ok

    return without_the_others(shrink(everything, fails))
