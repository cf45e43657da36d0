"""One run of one node on one machine: it lives until it is stopped, fails, or the power goes.

When it dies its env dies with it, at once and before any of its code can run again: whatever its tasks still do while
they are cancelled (farewells, finally blocks, shielded writes) finds a disk, a network and threads that refuse and
change nothing. A crash that let the dying clean up would be a shutdown.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import trio

from simulations.world.loop import VirtualClock


class Dead(OSError):
    """The machine that this code ran on has no power any more."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "this machine is dead")


class Life:
    """Who must hear of a death registers with `on_death`; waiting that a death cuts short goes through `rest`."""

    def __init__(self, name: str, number: int, clock: VirtualClock) -> None:
        self.name = name
        self.number = number
        self.clock = clock
        self.dead = False
        self.scope = trio.CancelScope()  # pyright: ignore[reportCallIssue]  # the stubs of an older trio
        #: Until when its process stands still.
        self.resumes_at = 0.0
        self._on_death: list[Callable[[], None]] = []
        self._resting: dict[trio.lowlevel.Task, None] = {}

    def on_death(self, callback: Callable[[], None]) -> None:
        """Call that, which must not block, when this life ends, however it ends."""
        self._on_death.append(callback)

    def die(self) -> None:
        """From here on nothing that this life does has any effect. Again is no harm."""
        if self.dead:
            return
        self.dead = True
        for callback in self._on_death:
            callback()
        resting, self._resting = self._resting, {}
        for task in resting:
            trio.lowlevel.reschedule(task)
        self.scope.cancel()

    def pause(self, seconds: float) -> None:
        """No task of this life runs for so long: whatever would wake one is put off until then.

        Deadlines are found through trio's private tree of cancel scopes; there is no public way to its leaves.
        """
        now = self.clock.current_time()
        self.resumes_at = max(self.resumes_at, now + seconds)
        self.clock.at(now, self._put_off)  # when whoever runs at this moment has set its last timer

    def _put_off(self) -> None:
        statuses = [self.scope._cancel_status]  # pyright: ignore[reportAttributeAccessIssue]
        while statuses and (status := statuses.pop()) is not None:
            statuses.extend(status._children)  # a set, but all of them get the same
            if status._scope.deadline < self.resumes_at:
                status._scope.deadline = self.resumes_at

    def check(self) -> None:
        """Raises Dead."""
        if self.dead:
            raise Dead

    async def rest(self, seconds: float) -> None:
        """Let that much time pass, deaf to cancellation: a thread is not interrupted. Raises Dead, at once."""
        if self.dead:
            await trio.lowlevel.checkpoint()
            raise Dead
        task = trio.lowlevel.current_task()
        self._resting[task] = None
        self.clock.at(self.clock.current_time() + seconds, self._wake, task)
        await trio.lowlevel.wait_task_rescheduled(_deaf)
        if self.dead:
            raise Dead

    def _wake(self, task: trio.lowlevel.Task) -> None:
        if self.resumes_at > self.clock.current_time():
            self.clock.at(self.resumes_at, self._wake, task)
        elif self._resting.pop(task, self) is None:
            trio.lowlevel.reschedule(task)


def _deaf(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED
