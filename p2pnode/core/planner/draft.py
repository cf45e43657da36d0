"""A plan while it is being made: scans so far, the names they use, and why things were done.

It rewrites the statement's tree in place: a dataset in FROM becomes the output of its scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlglot import exp

from p2pnode.core.model import Column
from p2pnode.core.planner.dialect import render
from p2pnode.core.planner.model import Plan, Scan, TableInfo
from p2pnode.core.planner.tables import Reference
from p2pnode.core.planner.transport import carried_sql, plainly, restored

#: The relation that a scan reads at a holder.
VIEW = "shard_rows"


@dataclass(slots=True)
class Draft:
    """Collects scans and notes; `prefix` begins every name of ours and no name of the statement."""

    prefix: str
    found: list[Reference]
    scans: list[Scan] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    gathered: bool = False

    @classmethod
    def of(cls, query: exp.Expr, found: list[Reference]) -> Draft:
        words = {node.name.lower() for node in query.find_all(exp.Identifier)}
        words.update(column.name.lower() for reference in found for column in reference.info.columns)
        prefix = "p_"
        while any(word.startswith(prefix) for word in words):
            prefix = f"p{prefix}"
        return cls(prefix, found)

    def scan(
        self,
        info: TableInfo,
        columns: tuple[Column, ...],
        sql: str,
        shards: tuple[int, ...],
        *,
        partial: bool,
    ) -> str:
        """Add a scan (or find the equal one) and give the name of its output."""
        for known in self.scans:
            if (known.table, known.sql, known.shards, known.columns) == (info.name, sql, shards, columns):
                return known.output
        output = f"{self.prefix}output_{len(self.scans)}"
        self.scans.append(Scan(info.name, VIEW, sql, columns, shards, output, partial))
        return output

    def gather(
        self,
        reference: Reference,
        columns: tuple[Column, ...],
        *,
        where: exp.Expr | None = None,
        shards: tuple[int, ...] | None = None,
        order: exp.Order | None = None,
        limit: int | None = None,
        distinct: bool = False,
    ) -> None:
        """Let the holders send `columns` (of the rows that pass `where`), and put the output in the table's place."""
        partial = distinct or limit is not None
        kept = tuple(range(len(reference.info.shards))) if shards is None else shards
        read = self.view_columns(reference.info, [where, order], columns) if kept else columns
        select = exp.Select(expressions=[plainly(column) for column in columns]).from_(exp.to_table(VIEW))
        if distinct:
            select = select.distinct()
        if where is not None:
            select = select.where(where.copy())
        if order is not None:
            select.set("order", order.copy())
        if limit is not None:
            select = select.limit(limit)
        output = self.scan(reference.info, read, carried_sql(columns, select), kept, partial=partial)
        self.read(reference, output, columns)

    def read(self, reference: Reference, output: str, columns: Sequence[Column]) -> None:
        """Replace the dataset in FROM by `output`, giving back the types that the way from the holders loses."""
        node = reference.node
        alias = node.args.get("alias") or exp.TableAlias(this=exp.to_identifier(reference.alias, quoted=True))
        source: exp.Expr = exp.to_table(output)
        if any(restored(column) is not None for column in columns):
            items = [restored(column) or exp.column(column.name, quoted=True) for column in columns]
            source = exp.Subquery(this=exp.Select(expressions=items).from_(source))
        if isinstance(source, exp.Subquery):
            source.set("pivots", node.args.get("pivots"))
            source.set("joins", node.args.get("joins"))
            source.set("alias", alias.copy())
            node.replace(source)
        else:
            node.set("this", source.this)
            node.set("alias", alias.copy())

    @staticmethod
    def view_columns(
        info: TableInfo, nodes: Sequence[exp.Expr | None], columns: tuple[Column, ...] = ()
    ) -> tuple[Column, ...]:
        """`columns` and those that stand in `nodes`, in table order; none if only the rows are counted."""
        words = {column.name for column in columns}
        for node in nodes:
            words.update(column.name for column in (node.find_all(exp.Column) if node is not None else ()))
        return tuple(column for column in info.columns if column.name in words)

    def finish(self, root: exp.Subquery) -> Plan:
        tables = tuple(dict.fromkeys(reference.info.name for reference in self.found))
        totals = {reference.info.name: len(reference.info.shards) for reference in self.found}
        return Plan(
            scans=tuple(self.scans),
            final=render(root.this),
            pushed=not self.gathered,
            tables=tables,
            shards_total=sum(totals.values()),
            notes=tuple(self.notes),
        )
