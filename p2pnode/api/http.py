"""The node over HTTP: every command of the command line is one call here.

Routes only: each reads its request, makes one call on the node and answers a document of `documents`. Failures are
the `P2PNodeError` documents with their status, never a traceback. Who may call at all, and how much, stands in
`http_guard`; the server itself in `server`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pyarrow as pa
import structlog
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute, APIRouter
from pydantic import BaseModel, ConfigDict, Field

from p2pnode import __version__
from p2pnode.api import documents, telling
from p2pnode.api.home import FETCHED_PREFIX
from p2pnode.api.http_streams import FileAnswer, LinesAnswer, PublishAnswer
from p2pnode.api.json import encode, jsonable
from p2pnode.core.cid import cid_text
from p2pnode.core.model import EVERYWHERE
from p2pnode.env import Env
from p2pnode.env.together import one_failure
from p2pnode.errors import NotFound, P2PNodeError, UsageError

if TYPE_CHECKING:
    from p2pnode.node import Node

log = structlog.get_logger(__name__)

ARROW_STREAM = "application/vnd.apache.arrow.stream"
#: Paths of one publish.
PATHS_MAX = 10_000
#: Kinds that one look at the log picks.
KINDS_MAX = 64
#: Characters of one statement.
SQL_CHARS_MAX = 1_000_000


class PublishRequest(BaseModel):
    """Paths are read by the node, on its machine."""

    model_config = ConfigDict(extra="forbid")
    paths: Annotated[list[str], Field(min_length=1, max_length=PATHS_MAX)]
    name: str
    append: bool = False
    shard_rows: Annotated[int, Field(ge=1)] | None = None
    replicas: Annotated[int, Field(ge=1)] | Literal["all"] | None = None
    format: Literal["parquet", "arrow"] = "parquet"
    strategy: Literal["consistent_hash", "balanced_load"] | None = None
    min_regions: Annotated[int, Field(ge=1)] | None = None


class ReadmitRequest(BaseModel):
    """`keep` is the content id of an event."""

    model_config = ConfigDict(extra="forbid")
    keep: str | None = None


class QueryRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    sql: Annotated[str, Field(max_length=SQL_CHARS_MAX)]
    dataset: str | None = None
    on_missing: Literal["error", "partial"] = "error"
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] | None = None
    at: str | None = None
    explain: bool = False


class Document(Response):
    """A document by the encoding rules of `json`."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return content if isinstance(content, bytes) else encode(content)


class NamedFailures(APIRoute):
    """A route whose failures become error documents."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                with one_failure():
                    return await handler(request)
            except P2PNodeError as error:
                return failure(error)
            except RequestValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in first["loc"])
                return failure(UsageError(f"{where}: {first['msg']}", advice="See /openapi.json."))
            except Exception:
                log.exception("http_call_failed", path=request.url.path)
                return failure(P2PNodeError("the node failed inside", advice="Its log says more."))

        return handle


def failure(error: P2PNodeError) -> Response:
    """An error as its document, with its HTTP status."""
    return Document(error.as_document(), status_code=error.http_status)


def build_app(node: Node, env: Env, url: str) -> FastAPI:
    """The routes of one node, which is served at `url`."""
    app = FastAPI(title="p2pnode", version=__version__, docs_url=None, redoc_url=None)
    router = APIRouter(route_class=NamedFailures, prefix="/v1")
    _node_routes(router, node, url)
    _log_routes(router, node)
    _dataset_routes(router, node, env)
    _query_route(router, node, env)
    app.include_router(router)
    return app


def _node_routes(router: APIRouter, node: Node, url: str) -> None:
    @router.get("/id")
    async def identity() -> Response:
        return Document(documents.identity(node, url))

    @router.get("/peers")
    async def peers() -> Response:
        return Document(documents.peers(node))

    @router.get("/health")
    async def health_all() -> Response:
        return Document(await node.health_all())

    @router.get("/health/{node_id:path}")
    async def health(node_id: str) -> Response:
        return Document({node_id: await node.health(node_id)})

    @router.get("/doctor")
    async def doctor() -> Response:
        return Document(await node.doctor())

    @router.post("/nodes/{node_id:path}/readmit")
    async def readmit(node_id: str, wanted: ReadmitRequest) -> Response:
        return Document(documents.readmission(await node.readmit(node_id, wanted.keep)))


def _log_routes(router: APIRouter, node: Node) -> None:
    @router.get("/log")
    async def log_(
        kind: Annotated[list[str], Query(max_length=KINDS_MAX)] = [],  # noqa: B006  # read only
        last: Annotated[int, Query(ge=0)] | None = None,
        follow: bool = False,
    ) -> Response:
        async def pages() -> AsyncGenerator[list[dict[str, Any]], None]:
            async with aclosing(node.journal.entries(kind, last=last, follow=follow)) as entries:
                async for page in entries:
                    yield [telling.entry(entry) for entry in page]

        return LinesAnswer(pages())

    @router.get("/log/verify")
    async def verify() -> Response:
        async def pages() -> AsyncGenerator[list[dict[str, Any]], None]:
            async with aclosing(node.journal.audit()) as found:
                async for step in found:
                    yield [telling.audited(step)]

        return LinesAnswer(pages())


def _dataset_routes(router: APIRouter, node: Node, env: Env) -> None:
    @router.get("/datasets")
    async def datasets() -> Response:
        return Document([documents.dataset(record) for record in await node.datasets()])

    @router.post("/datasets")
    async def publish(wanted: PublishRequest) -> Response:
        return PublishAnswer(
            lambda progress: node.publish(
                wanted.name,
                wanted.paths[0] if len(wanted.paths) == 1 else wanted.paths,
                create=True,
                format=wanted.format,
                shard_rows=wanted.shard_rows,
                replicas=EVERYWHERE if wanted.replicas == "all" else wanted.replicas,
                strategy=wanted.strategy,
                min_regions=wanted.min_regions,
                append=wanted.append,
                progress=progress,
            )
        )

    @router.get("/datasets/{name:path}")
    async def show(name: str, explain: bool = False) -> Response:
        found = await node.placed(name)
        if explain:
            return Document(documents.explained(found, await node.should_hold(name)))
        return Document(documents.published(found))

    @router.delete("/datasets/{name:path}")
    async def delete(name: str) -> Response:
        record = await node.dataset(name)
        await node.delete(record.dataset_id)
        return Document({"deleted": record.name, "dataset_id": record.dataset_id})

    @router.get("/shards/{shard_id}")
    async def shard(shard_id: str, dataset: str) -> Response:
        record = await node.dataset(dataset)
        entries = record.manifest.shards if record.manifest else ()
        if shard_id not in {cid_text(entry.cid) for entry in entries}:
            raise NotFound(
                f"dataset {record.name!r} has no shard {shard_id!r}",
                advice=f"`p2pnode dataset show {shlex.quote(dataset)}` lists them.",
            )
        path = node.home / f"{FETCHED_PREFIX}{env.rng.token(8).hex()}"
        try:
            await node.fetch_shard_to(shard_id, path)
        except BaseException:
            env.disk.unlink(path)
            raise
        return FileAnswer(path, env)


def _query_route(router: APIRouter, node: Node, env: Env) -> None:
    @router.post("/query")
    async def query(wanted: QueryRequest, request: Request) -> Response:
        if wanted.explain:
            return Document(await node.explain(wanted.sql, dataset=wanted.dataset))
        found = await node.query(
            wanted.sql,
            dataset=wanted.dataset,
            on_missing=wanted.on_missing,
            timeout_s=wanted.timeout_s,
            at=wanted.at,
        )
        if ARROW_STREAM in request.headers.get("accept", ""):
            stats = json.dumps(jsonable({**found.stats, "coverage": found.coverage}))  # a header is ASCII
            body = await env.executor.run(_arrow, found.table)
            return Response(body, media_type=ARROW_STREAM, headers={"x-p2pnode-stats": stats})
        return Document(await env.executor.run(lambda: encode(documents.answer(found))))


def _arrow(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
