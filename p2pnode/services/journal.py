"""A node's own log, told to whoever asks: its events, its news as they come, and whether it is whole.

Work on the file goes to a thread step by step, so that the loop breathes and a caller who hangs up stops it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import trio

from p2pnode.env import Env
from p2pnode.services.audit import Audit, Known, Report, Step
from p2pnode.services.history import Entry, History
from p2pnode.services.ledger import Ledger
from p2pnode.storage.log_reader import LogReader


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
        known = await self._known()
        with await run(LogReader.of_running, self._env.disk, self._path) as reader:
            audit = Audit(reader, known)
            steps = audit.steps()
            while (step := await run(lambda: next(steps, None))) is not None:
                yield step
            yield await run(audit.report)

    async def _known(self) -> Known | None:
        """What this node knows, at a moment when all of it is on disk; None while it belongs to no swarm."""
        ledger = self._ledger
        if ledger.genesis is None:
            return None
        await ledger.settle()
        while not ledger.settled:
            await trio.lowlevel.checkpoint()
            await ledger.settle()
        return Known(len(ledger.clock), ledger.clock.fingerprint, ledger.catalog.digest())
