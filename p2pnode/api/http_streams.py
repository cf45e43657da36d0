"""Answers that take a while: a publish that tells how far it is, a log of a million lines, and a shard too big to hold.

Progress is told at most every `PROGRESS_EVERY_S`, and only the newest; a page of lines is made when the one before was
taken: a slow reader slows nothing and nothing piles up.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from p2pnode.api import documents
from p2pnode.api.json import encode
from p2pnode.env import Env
from p2pnode.env.together import telling
from p2pnode.errors import P2PNodeError

if TYPE_CHECKING:
    from p2pnode.services.publish import Progress, Published

log = structlog.get_logger(__name__)

#: Seconds between two lines of progress: faster than anybody reads, slow enough to cost nothing.
PROGRESS_EVERY_S = 0.05
#: Bytes of a file sent at once.
PIECE_BYTES = 1 << 20


class PublishAnswer(Response):
    """JSON lines: progress, then one line with `event` "done" and the document, or "error" and the error's document."""

    def __init__(self, publish: Callable[[Callable[[Progress], None]], Awaitable[Published]]) -> None:
        self.status_code = 200
        self.background = None
        self._publish = publish
        self._newest: Progress | None = None
        self._news = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def line(document: dict[str, Any], *, more: bool) -> None:
            await send({"type": "http.response.body", "body": encode(document) + b"\n", "more_body": more})

        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/jsonl")]})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell, line)
            last = await self._outcome()
            nursery.cancel_scope.cancel()
        await line(last, more=False)

    async def _outcome(self) -> dict[str, Any]:
        try:
            found = await self._publish(self._hear)
        except (P2PNodeError, ExceptionGroup) as error:
            leaf = telling(error)
            if not isinstance(leaf, P2PNodeError):
                raise
            return {"event": "error", **leaf.as_document()}
        return {"event": "done", "document": documents.published(found)}

    def _hear(self, step: Progress) -> None:
        self._newest = step
        self._news.set()

    async def _tell(self, line: Callable[..., Awaitable[None]]) -> None:
        while True:
            await self._news.wait()
            self._news = trio.Event()
            assert self._newest is not None
            await line(documents.progress(self._newest), more=True)
            await trio.sleep(PROGRESS_EVERY_S)


class LinesAnswer(Response):
    """JSON lines, a page at a time; what fails halfway is the last line, with `event` "error"."""

    def __init__(self, pages: AsyncGenerator[Iterable[dict[str, Any]], None]) -> None:
        self.status_code = 200
        self.background = None
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def lines(documents: Iterable[dict[str, Any]], *, more: bool) -> None:
            body = b"".join(encode(document) + b"\n" for document in documents)
            await send({"type": "http.response.body", "body": body, "more_body": more})

        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/jsonl")]})
        last: list[dict[str, Any]] = []
        try:
            async with aclosing(self._pages):
                async for page in self._pages:
                    await lines(page, more=True)
        except P2PNodeError as error:
            last = [{"event": "error", **error.as_document()}]
        except Exception:  # the outermost shell of an answer that has begun
            log.exception("http_call_failed", path=scope["path"])
            failed = P2PNodeError("the node failed inside", advice="Its log says more.")
            last = [{"event": "error", **failed.as_document()}]
        await lines(last, more=False)


class FileAnswer(Response):
    """A temporary file's bytes; the file goes when they are sent, or when nobody wants them."""

    def __init__(self, path: Path, env: Env) -> None:
        self.status_code = 200
        self.background = None
        self._path = path
        self._env = env

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        disk, run = self._env.disk, self._env.executor.run
        file = await run(disk.open, self._path, "rb")
        await run(disk.unlink, self._path)
        try:
            size = await run(lambda: file.seek(0, 2))
            file.seek(0)
            headers = [
                (b"content-type", b"application/octet-stream"),
                (b"content-length", str(size).encode()),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while piece := await run(file.read, PIECE_BYTES):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            file.close()
