"""A trio loop in virtual time: it never waits, and it does the same things in the same order every time.

The clock is MockClock(autojump_threshold=0) in every respect that a program can see: when nobody can run, time jumps
to the next deadline. It is one of our own because it also keeps the world's agenda (deliveries, work that ends): an
entry there costs a quarter of what a task that sleeps does, and a simulated swarm does little else.

trio's scheduler shuffles whoever can run at one moment. Here that is drawn from the seed, by trio's own private
means, which are asserted to be there: an equal digest does not prove that they work. Garbage is collected at set
virtual times only, so that what collecting does (ending abandoned generators) falls where it fell before.
"""

from __future__ import annotations

import gc
import heapq
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, MutableSequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from math import inf
from traceback import format_exc
from typing import Any, Protocol, TypeVar

import structlog
import trio

from p2pnode.env.together import telling
from simulations.world.chance import stream

T = TypeVar("T")

#: Virtual seconds between two collections of garbage; each takes as long as ten seconds of twenty calm nodes.
COLLECT_S = 100.0
#: So many looks at the clock at one moment take a moment. Whoever waits for a clock that runs slower than the timers
#: waits shorter and shorter, at last less than a float can tell: on a real machine time passes meanwhile.
LOOKS_MAX, LOOKS_S = 10_000, 1e-6
#: Logged errors kept, and lines of any level when they are wanted.
ERRORS_MAX, LINES_MAX = 100, 5_000

_ERROR, _DEBUG = 40, 10


class Stillness(RuntimeError):
    """Nothing is due and nobody can run: the world would stand still for ever."""


class VirtualClock(trio.abc.Clock):
    """Time that passes only when there is nothing left to do at the present moment. Starts at 0.0."""

    def __init__(self) -> None:
        self._now = 0.0
        self._agenda: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._entries = 0
        self._looked_at, self._looks = 0.0, 0
        #: Called when nothing is due and nobody can run.
        self.when_still: Callable[[], object] = _nothing

    def start_clock(self) -> None:
        """trio's loop begins. Nothing to do."""

    def current_time(self) -> float:
        if self._now == self._looked_at:
            self._looks += 1
            if self._looks > LOOKS_MAX:
                self._now += LOOKS_S
        else:
            self._looked_at, self._looks = self._now, 0
        return self._now

    def at(self, when: float, act: Callable[..., object], *args: Any) -> None:
        """Call `act(*args)`, which must not block, at that virtual time (now, if it is past), in order of entry."""
        self._entries += 1
        heapq.heappush(self._agenda, (when, self._entries, act, args))

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Asked by trio's loop when no task can run: jump to what is due first."""
        agenda = self._agenda
        if deadline == inf and all(act is _collect for _, _, act, _ in agenda):
            self.when_still()
            return 0.0
        if agenda and agenda[0][0] <= deadline:
            now = self._now = max(self._now, agenda[0][0])
            while agenda and agenda[0][0] <= now:
                _, _, act, args = heapq.heappop(agenda)
                act(*args)
        elif deadline > self._now:
            self._now = deadline
        return 0.0


@dataclass(slots=True)
class Logged:
    """What the program logged: (virtual time, host, event, fields). Errors always, the rest when it is wanted.

    The last words of the dead are not written down: a machine without power logs nothing.
    """

    verbose: bool
    errors: list[tuple[float, str, str, dict[str, Any]]] = field(default_factory=list)
    lines: deque[tuple[float, str, str, dict[str, Any]]] = field(default_factory=lambda: deque(maxlen=LINES_MAX))

    def take(self, _logger: object, level: str, fields: MutableMapping[str, Any]) -> Mapping[str, Any]:
        """structlog's last processor: keep it, write nothing."""
        speaker = SPEAKER.get()
        if speaker is not None and speaker.dead:
            raise structlog.DropEvent
        if fields.pop("exc_info", None):
            fields["traceback"] = format_exc()
        name = "" if speaker is None else speaker.name
        line = (trio.current_time(), name, str(fields.pop("event")), dict(fields))
        if level in ("error", "exception", "critical") and len(self.errors) < ERRORS_MAX:
            self.errors.append(line)
        if self.verbose:
            self.lines.append(line)
        raise structlog.DropEvent


class Speaker(Protocol):
    """Whose task it is that logs."""

    name: str
    dead: bool


#: The life that the present task belongs to, for the log.
SPEAKER: ContextVar[Speaker | None] = ContextVar("SPEAKER", default=None)
#: What is logged in this run.
LOGGED: ContextVar[Logged] = ContextVar("LOGGED")
#: This run's clock, for its agenda.
CLOCK: ContextVar[VirtualClock] = ContextVar("CLOCK")


def run_virtual(main: Callable[..., Awaitable[T]], *args: Any, seed: int, verbose: bool = False) -> T:
    """Run `main(*args)` in virtual time, from 0.0 on, its chance drawn from `seed`; what it returns.

    What it raises leaves as it was raised: of a group the most telling leaf. Raises Stillness when it waits for what
    cannot come. Nothing in it may use threads or sockets: time does not wait for them.
    """
    clock, logged = VirtualClock(), Logged(verbose)

    async def begin() -> T:
        CLOCK.set(clock)
        LOGGED.set(logged)
        clock.at(COLLECT_S, _collect, clock)
        with trio.CancelScope() as story:  # pyright: ignore[reportCallIssue]  # the stubs of an older trio
            clock.when_still = story.cancel
            try:
                return await main(*args)
            finally:
                clock.when_still = _nothing  # trio tidies up; it wakes itself through a socket
        raise Stillness("nothing is due and nobody can run")

    with _logging_to(logged), _seeded(seed), _collecting_by_hand():
        try:
            return trio.run(begin, clock=clock)
        except BaseExceptionGroup as group:
            raise telling(group) from group


def _nothing() -> None:
    """The loop begins or ends."""


@contextmanager
def _logging_to(logged: Logged) -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(
        processors=[logged.take],
        wrapper_class=structlog.make_filtering_bound_logger(_DEBUG if logged.verbose else _ERROR),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)


class _Scheduler(random.Random):
    """What trio shuffles with. Most of the time one task alone can run."""

    def shuffle(self, x: MutableSequence[Any]) -> None:
        if len(x) > 1:
            super().shuffle(x)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """trio's scheduler draws from the seed. There is no public way (python-trio/trio#2675)."""
    core = trio._core._run  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(core._r, random.Random)
    assert core._ALLOW_DETERMINISTIC_SCHEDULING in (True, False)
    chance, before = core._r, core._ALLOW_DETERMINISTIC_SCHEDULING
    core._r, core._ALLOW_DETERMINISTIC_SCHEDULING = _Scheduler(stream(seed, "scheduler").getrandbits(64)), True
    try:
        yield
    finally:
        core._r, core._ALLOW_DETERMINISTIC_SCHEDULING = chance, before


@contextmanager
def _collecting_by_hand() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    gc.freeze()  # what was there before is nobody's garbage now
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def _collect(clock: VirtualClock) -> None:
    gc.collect()
    clock.at(clock.current_time() + COLLECT_S, _collect, clock)
