"""A user's question, from text to table.

Resolve names in the catalog → plan → gather each scan from its holders → finish in a fenced process here. The stats
say what it cost: shards read and pruned, bytes scanned where they lie against bytes moved, each holder's part. What is
missing is an error by default; asked for a partial answer, the statement is planned anew over the shards that are
there, so that a partial answer is an exact answer about less, with its coverage on it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import structlog
import trio

from p2pnode.core.cid import BadContentId, cid_text, parse_cid
from p2pnode.core.model import DatasetRecord, Manifest
from p2pnode.core.planner import Plan, Scan, TableInfo, Unsure, plan, plan_opaque, serialization_of
from p2pnode.core.routing import Wanted
from p2pnode.core.schema import columns_of, schema_of_bytes
from p2pnode.env import Env
from p2pnode.env.together import together
from p2pnode.errors import NotFound, QueryError, ShardUnavailable, Timeout, UsageError
from p2pnode.query.runner import SqlRunner
from p2pnode.query.spool import Spool
from p2pnode.query.tables import Relation
from p2pnode.services.datasets import Datasets
from p2pnode.services.gather import Gatherer, ScanAnswer

log = structlog.get_logger(__name__)

#: The name by which a question about one dataset may call it.
THE_DATASET = "dataset"
#: Shard ids that an error message spells out; the rest stand in its details.
NAMED_MAX = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer, or an exact one about `coverage` (0–1, by rows) of the data."""

    table: pa.Table
    stats: dict[str, Any]
    coverage: float


@dataclass(frozen=True, slots=True)
class _Question:
    """One statement with everything that stays the same while it is being answered."""

    sql: str
    dataset: DatasetRecord | None
    at: Manifest | None
    now: datetime
    #: The swarm was asked once for what is not known here.
    asked: bool = False


class Asker:
    """Answers statements through this node.

    Args:
        manifest_of: a manifest by content id (for `at`). Raises NotFound.
    """

    def __init__(
        self,
        env: Env,
        datasets: Datasets,
        gatherer: Gatherer,
        runner: SqlRunner,
        *,
        manifest_of: Callable[[bytes], Awaitable[Manifest]],
        timeout_s: float,
    ) -> None:
        self._env = env
        self._datasets = datasets
        self._gatherer = gatherer
        self._runner = runner
        self._manifest_of = manifest_of
        self._timeout_s = timeout_s

    async def query(
        self,
        sql: str,
        *,
        dataset: str | None = None,
        on_missing: str = "error",
        timeout_s: float | None = None,
        at: str | None = None,
    ) -> Answer:
        """The answer to one SELECT; tables are dataset names, `dataset` is the one named by `dataset`.

        Raises:
            QueryError, SqlRefused: the statement is at fault.
            NotFound: a table that no one knows.
            ShardUnavailable: not every shard has a live holder (unless `on_missing` is "partial").
            Timeout: it took longer than `timeout_s` (default: the configured one).
        """
        if on_missing not in ("error", "partial"):
            raise UsageError(f"on_missing is 'error' or 'partial', not {on_missing!r}.")
        limit = self._timeout_s if timeout_s is None else timeout_s
        started = self._env.clock.now()
        with trio.move_on_after(limit) as scope:
            question = await self._question(sql, dataset, at)
            return await self._answer(question, on_missing == "partial", started, limit)
        assert scope.cancelled_caught
        raise Timeout(f"The query took longer than {limit:g} s.")

    async def explain(self, sql: str, *, dataset: str | None = None) -> dict[str, Any]:
        """How the statement would be answered, without asking any holder."""
        question = await self._question(sql, dataset, None)
        question, made = await self._plan(question, frozenset())
        tables = {name: self._table(question, name, frozenset()) for name in made.tables}
        return {
            "pushed": made.pushed,
            "tables": list(made.tables),
            "shards_total": made.shards_total,
            "shards_scanned": sum(len(scan.shards) for scan in made.scans),
            "scans": [
                {
                    "table": scan.table,
                    "sql": scan.sql,
                    "columns": [column.name for column in scan.columns],
                    "shards": len(scan.shards),
                    "shards_pruned": len(_required(tables, scan.table).shards) - len(scan.shards),
                    "partial": scan.partial,
                }
                for scan in made.scans
            ],
            "final": made.final,
            "notes": list(made.notes),
        }

    # -- planning --------------------------------------------------------------------------------------------

    async def _question(self, sql: str, dataset: str | None, at: str | None) -> _Question:
        record = None if dataset is None else await self._datasets.find(dataset)
        manifest = None
        if at is not None:
            try:
                manifest = await self._manifest_of(parse_cid(at))
            except BadContentId as error:
                raise UsageError(
                    f"{at!r} is no version", advice="A publish and `p2pnode dataset show -o json` tell it: bafyrei…"
                ) from error
        return _Question(sql, record, manifest, datetime.fromtimestamp(self._env.clock.wall(), UTC))

    async def _plan(self, question: _Question, without: frozenset[bytes]) -> tuple[_Question, Plan]:
        """Plan; a table of which nothing is known here is asked for once round the swarm before it is an error."""
        try:
            return question, await self._plan_as_known(question, without)
        except NotFound:
            await self._datasets.refresh()
        dataset = question.dataset and self._datasets.known(question.dataset.dataset_id)
        question = replace(question, asked=True, dataset=dataset)
        try:
            return question, await self._plan_as_known(question, without)
        except NotFound as error:
            if error.details.get("near") or "dataset" not in error.details:
                raise
            raise self._datasets.unknown(error.details["dataset"]) from None

    async def _plan_as_known(self, question: _Question, without: frozenset[bytes]) -> Plan:
        def resolve(name: str) -> TableInfo | None:
            return self._table(question, name, without)

        try:
            return plan(question.sql, resolve, question.now)
        except Unsure as unsure:
            log.debug("opaque_statement", why=str(unsure))
            return plan_opaque(question.sql, await self._serialized(question.sql), resolve)

    async def _serialized(self, sql: str) -> str:
        """The statement's tree as DuckDB's own parser has it, from a fenced process."""
        table = await self._run_here(serialization_of(sql), (), self._timeout_s)
        return table.column(0)[0].as_py()

    def _record(self, question: _Question, name: str) -> DatasetRecord | None:
        return question.dataset if name.lower() == THE_DATASET and question.dataset else self._datasets.known(name)

    def _table(self, question: _Question, name: str, without: frozenset[bytes]) -> TableInfo | None:
        record = self._record(question, name)
        if record is None:
            return None
        manifest = record.manifest
        if question.at is not None and question.at.dataset_id == record.dataset_id:
            manifest = question.at
        if manifest is None and not question.asked:
            return None  # its first version may be on its way to here
        if manifest is None:
            if not record.schema:
                raise QueryError(f"Nothing was published to {record.name!r} yet, and it declares no schema.")
            return TableInfo(name, columns_of(schema_of_bytes(record.schema)), ())
        shards = manifest.shards
        if without:
            shards = tuple(shard for shard in shards if shard.cid not in without)
        return TableInfo(name, manifest.columns, shards, manifest.format)

    # -- answering -------------------------------------------------------------------------------------------

    async def _answer(self, question: _Question, partial: bool, started: float, limit: float) -> Answer:
        deadline = started + limit
        question, made = await self._plan(question, frozenset())
        read = [self._record(question, name) for name in made.tables]
        if question.at is not None and not any(
            record and record.dataset_id == question.at.dataset_id for record in read
        ):
            raise UsageError("`at` is a version of a dataset that the statement does not read.")
        tables = {name: _required_table(self._table(question, name, frozenset()), name) for name in made.tables}
        total = sum(shard.rows for table in tables.values() for shard in table.shards)
        gone: set[bytes] = set()
        while True:
            spools: list[Spool] = []
            try:
                answers = await self._gather(made, tables, deadline, spools)
                missing = [shard for answer in answers for shard in answer.missing]
                if not missing:
                    table = await self._finish(made, answers, deadline)
                    break
            finally:
                for spool in spools:
                    spool.close()
            gone.update(shard.cid for shard in missing)
            if not partial:
                raise _unavailable(missing, total)
            without = frozenset(gone)
            _, made = await self._plan(question, without)
            tables = {name: _required_table(self._table(question, name, without), name) for name in made.tables}
        left = sum(shard.rows for table_ in tables.values() for shard in table_.shards)
        coverage = left / total if total else 1.0
        elapsed_ms = (self._env.clock.now() - started) * 1000
        return Answer(table, _stats(made, answers, coverage, elapsed_ms), coverage)

    async def _gather(
        self, made: Plan, tables: Mapping[str, TableInfo], deadline: float, spools: list[Spool]
    ) -> list[ScanAnswer]:
        """All scans at once, in the plan's order. Spools are noted as they are made, so that none is left open."""

        def new_spool() -> Spool:
            spool = self._runner.spool()
            spools.append(spool)
            return spool

        answers: dict[int, ScanAnswer] = {}

        async def one(place: int, scan: Scan) -> None:
            answers[place] = await self._gatherer.scan(scan, tables[scan.table], deadline, new_spool)

        async with together() as nursery:
            for place, scan in enumerate(made.scans):
                nursery.start_soon(one, place, scan)
        return [answers[place] for place in range(len(made.scans))]

    async def _finish(self, made: Plan, answers: Sequence[ScanAnswer], deadline: float) -> pa.Table:
        """The final statement over the gathered relations, in a fenced process of this node."""
        relations = [
            Relation(scan.output, tuple(answer.spools), scan.columns)
            for scan, answer in zip(made.scans, answers, strict=True)
        ]
        return await self._run_here(made.final, relations, max(0.0, deadline - self._env.clock.now()))

    async def _run_here(self, sql: str, relations: Sequence[Relation], timeout_s: float) -> pa.Table:
        async with self._runner.run(sql, (), relations, timeout_s=timeout_s, own=True) as run:
            pieces = [bytes(piece) async for piece in run.batches()]
        return pa.ipc.open_stream(pa.py_buffer(b"".join(pieces))).read_all()


def _required(tables: Mapping[str, TableInfo | None], name: str) -> TableInfo:
    return _required_table(tables[name], name)


def _required_table(table: TableInfo | None, name: str) -> TableInfo:
    if table is None:
        raise NotFound(f"There is no dataset {name!r} any more.")
    return table


def _unavailable(missing: Sequence[Wanted], total: int) -> ShardUnavailable:
    ids = sorted({cid_text(shard.cid) for shard in missing})
    rows = sum(shard.rows for shard in {shard.index: shard for shard in missing}.values())
    named = ", ".join(ids[:NAMED_MAX]) + (f" and {len(ids) - NAMED_MAX} more" if len(ids) > NAMED_MAX else "")
    return ShardUnavailable(
        f"{len(ids)} shards have no live holder: {named}.",
        coverage=max(0.0, 1 - rows / total) if total else 0.0,
        missing=tuple(ids),
    )


def _stats(made: Plan, answers: Sequence[ScanAnswer], coverage: float, elapsed_ms: float) -> dict[str, Any]:
    reports = [report for answer in answers for report in answer.reports]
    return {
        "shards_total": made.shards_total,
        "shards_scanned": sum(len(scan.shards) for scan in made.scans),
        "bytes_scanned": sum(report.bytes_scanned for report in reports),
        "bytes_moved": sum(report.bytes_moved for report in reports),
        "fragments": [report.as_document() for report in reports],
        "elapsed_ms": round(elapsed_ms, 3),
        "coverage": coverage,
        "pushed": made.pushed,
        "retries": sum(answer.retries for answer in answers),
        "notes": list(made.notes),
    }
