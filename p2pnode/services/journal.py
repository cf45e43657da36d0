"""A node's own log for whoever asks: its events, new ones as they come, and whether it is whole.

Work on the file goes to a thread step by step: the loop is never held up, and a caller who hangs up stops it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import trio

from p2pnode.env import Env
from p2pnode.errors import Busy
from p2pnode.services.audit import Audit, Known, Report, Step
from p2pnode.services.history import Entry, History
from p2pnode.services.ledger import Ledger
from p2pnode.storage.log_reader import LogReader

#: Attempts to find a moment at which nothing is being written: a commit takes milliseconds, a look less.
MOMENTS = 1000
#: Passes of the loop until everyone who waited for a commit has run: the log's lock, its writer, the ledger.
TURNS = 3


class Journal:
    """One for each node."""

    def __init__(self, env: Env, path: Path, ledger: Ledger) -> None:
        self._env = env
        self._path = path
        self._ledger = ledger
        self._news = trio.Event()
        ledger.on_change(lambda _: self._ring())

    def _ring(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def entries(
        self, kinds: Sequence[str] = (), *, last: int | None = None, follow: bool = False
    ) -> AsyncGenerator[Sequence[Entry], None]:
        """Pages of events, oldest first; with `follow` what comes then, for ever. The caller closes it."""
        run = self._env.executor.run
        with await run(LogReader.of_running, self._env.disk, self._path) as reader:
            history = History(reader, kinds, last)
            pages = history.pages()
            while (page := await run(lambda: next(pages, None))) is not None:
                if page:
                    yield page
            while follow:
                # The bell is taken before the look: what rings in between is not missed.
                news = self._news
                page = await run(history.news)
                if page is None:
                    await news.wait()
                elif page:
                    yield page

    async def audit(self) -> AsyncGenerator[Step | Report, None]:
        """Steps, and at last the report. Compares with what this node knew when it began. The caller closes it."""
        run = self._env.executor.run
        with await run(LogReader.of_running, self._env.disk, self._path) as reader:
            audit = Audit(reader, await self._known(reader))
            steps = audit.steps()
            while (step := await run(lambda: next(steps, None))) is not None:
                yield step
            yield await run(audit.report)

    async def _known(self, reader: LogReader) -> Known | None:
        """What this node knows at a moment when just that is on disk; None while it belongs to no swarm.

        Raises Busy if it writes so much that there is no such moment.
        """
        ledger = self._ledger
        if ledger.genesis is None:
            return None
        for _ in range(MOMENTS):
            await ledger.settle()
            before = ledger.clock.fingerprint
            place = await self._env.executor.run(reader.last_place)
            for _ in range(TURNS):
                await trio.lowlevel.checkpoint()
            if ledger.settled and ledger.clock.fingerprint == before:
                return Known(place, len(ledger.clock), before, ledger.catalog.digest())
        raise Busy("This node writes too much to be compared with its log now.")
