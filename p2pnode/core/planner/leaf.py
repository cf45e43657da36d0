"""A SELECT over one dataset, laid out for cutting.

Aliases, ordinals and ALL are replaced by what they stand for, and columns by their bare names, so that `rows` and
`groups` see plain expressions over the table. What has no certain reading is no leaf; it is gathered instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlglot import exp

from p2pnode.core.planner import functions
from p2pnode.core.planner.functions import words
from p2pnode.core.planner.model import folded
from p2pnode.core.planner.names import column_name
from p2pnode.core.planner.tables import Reference

#: The clauses that a leaf may have; any other makes it none.
_CLAUSES = words("with_ expressions from_ where group having qualify order limit offset distinct windows")

#: Calls that are evaluated per result row in a way that no holder can foresee.
_UNSPLITTABLE = words("grouping grouping_id columns unnest alias") | functions.VOLATILE


class NotALeaf(Exception):
    """Says in words why a SELECT is gathered."""


@dataclass(slots=True)
class Leaf:
    """`items` without aliases, `names` as DuckDB will call them (None: not certain), `keys` of GROUP BY."""

    select: exp.Select
    reference: Reference
    items: list[exp.Expr]
    names: list[str | None]
    where: exp.Expr | None
    keys: list[exp.Expr]
    having: exp.Expr | None
    qualify: exp.Expr | None
    order: list[exp.Ordered]
    limit: int | None
    offset: int

    @property
    def aggregated(self) -> bool:
        group = self.select.args.get("group")
        outputs = [*self.items, self.having, self.qualify, *self.order]
        return (
            group is not None
            or self.having is not None
            or any(part is not None and aggregates_in(part) for part in outputs)
        )

    @property
    def windowed(self) -> bool:
        return self.qualify is not None or any(part.find(exp.Window) for part in (*self.items, *self.order))

    def outputs(self) -> list[exp.Expr]:
        """Every expression that is evaluated after WHERE."""
        parts = [*self.items, *self.keys, self.having, self.qualify, *self.order]
        return [part for part in parts if part is not None]


def aggregates_in(node: exp.Expr) -> list[exp.Expr]:
    """The aggregate calls of `node` (with their FILTER), outermost only, without those that are window functions."""
    if isinstance(node, exp.Window):
        call = node.this
        while isinstance(call, (exp.Filter, exp.IgnoreNulls, exp.RespectNulls)):
            call = call.this
        inside = [*call.iter_expressions(), *(part for part in node.iter_expressions() if part is not node.this)]
        return [found for part in inside for found in aggregates_in(part)]
    if isinstance(node, exp.Filter):
        return [node]
    if isinstance(node, exp.Anonymous) and node.name.lower() in functions.AGGREGATES:
        return [node]
    return [found for part in node.iter_expressions() for found in aggregates_in(part)]


def read_leaf(select: exp.Select, reference: Reference) -> Leaf:
    """Lay out `select`, whose FROM is `reference` alone. Raises NotALeaf."""
    _check_clauses(select, reference)
    reader = _Reader(select, reference)
    items = [reader.plain(_unaliased(item)) for item in select.expressions]
    names = [column_name(item, reference.info) for item in select.expressions]
    limit, offset = _count(select, "limit"), _count(select, "offset")
    return Leaf(
        select=select,
        reference=reference,
        items=items,
        names=names,
        where=reader.clause("where"),
        keys=reader.keys(items),
        having=reader.clause("having", strict=True),
        qualify=reader.clause("qualify", strict=True),
        order=reader.order(items),
        limit=limit,
        offset=offset or 0,
    )


def _check_clauses(select: exp.Select, reference: Reference) -> None:
    for name, value in select.args.items():
        if value and name not in _CLAUSES and name != "kind":
            raise NotALeaf(f"{name} is not cut")
    node = reference.node
    alias = node.args.get("alias")
    if node.args.get("pivots") or node.args.get("joins") or (alias is not None and alias.args.get("columns")):
        raise NotALeaf("a pivot or renamed columns need the whole table")
    distinct = select.args.get("distinct")
    if distinct is not None and distinct.args.get("on"):
        raise NotALeaf("DISTINCT ON needs all rows in one place")
    for part in select.iter_expressions():
        if isinstance(part, exp.With):
            continue
        for inner in part.walk():
            if isinstance(inner, (exp.Query, exp.PositionalColumn)):
                raise NotALeaf("it holds a subquery")
            if isinstance(inner, exp.Dot):
                # Its left side is a bare name that may or may not be a column.
                raise NotALeaf("a chained call or a field is read by the asker alone")
            if isinstance(inner, exp.Anonymous) and inner.name.lower() in _UNSPLITTABLE:
                raise NotALeaf(f"{inner.name.lower()}() is evaluated by the asker alone")


def _unaliased(item: exp.Expr) -> exp.Expr:
    return item.this if isinstance(item, exp.Alias) else item


def _count(select: exp.Select, clause: str) -> int | None:
    node = select.args.get(clause)
    if node is None:
        return None
    value = node.args.get("expression")
    plain = type(node) in (exp.Limit, exp.Offset) and not node.args.get("limit_options")
    if not plain or not isinstance(value, exp.Literal) or value.is_string or not value.name.isdigit():
        raise NotALeaf(f"{clause.upper()} is not a plain number")
    return int(value.name)


class _Reader:
    """Resolves the names in one SELECT."""

    def __init__(self, select: exp.Select, reference: Reference) -> None:
        self._select = select
        self._reference = reference
        aliases = [(folded(item.alias), item.this) for item in select.expressions if isinstance(item, exp.Alias)]
        self._aliases = dict(aliases)
        if len(self._aliases) < len(aliases):
            raise NotALeaf("two of its columns have one alias")

    def plain(self, node: exp.Expr, *, strict: bool = False, depth: int = 0) -> exp.Expr:
        """A copy of `node` over bare columns. `strict`: a name that is both column and alias is not certain."""
        if depth > 20:
            raise NotALeaf("its aliases refer to each other")
        copy = node.copy()
        root = exp.Paren(this=copy)
        for column in list(root.find_all(exp.Column)):
            column.replace(self._resolve(column, strict=strict, depth=depth))
        return root.this

    def _resolve(self, column: exp.Column, *, strict: bool, depth: int) -> exp.Expr:
        if isinstance(column.this, exp.Star):
            return column.copy()
        base = self._reference.info.column(column.name)
        if column.args.get("db") or (column.table and folded(column.table) != folded(self._reference.alias)):
            raise NotALeaf(f"{column.sql()} is a field of a column, or another table's")
        alias = self._aliases.get(folded(column.name)) if not column.table else None
        if base is not None:
            if strict and alias is not None and not _same_column(alias, column.name):
                raise NotALeaf(f"{column.name} is both a column and an alias")
            return exp.column(base.name, quoted=True)
        if alias is None:
            raise NotALeaf(f"{column.name} is not a column of {self._reference.info.name}")
        return exp.Paren(this=self.plain(alias, strict=strict, depth=depth + 1))

    def clause(self, name: str, *, strict: bool = False) -> exp.Expr | None:
        node = self._select.args.get(name)
        return self.plain(node.this, strict=strict) if node is not None else None

    def keys(self, items: list[exp.Expr]) -> list[exp.Expr]:
        group = self._select.args.get("group")
        if group is None:
            return []
        if any(group.args.get(kind) for kind in ("rollup", "cube", "grouping_sets", "totals")):
            raise NotALeaf("several grouping sets need all rows in one place")
        if group.args.get("all"):
            return [item for item in items if not aggregates_in(item)]
        return [self._ordinal(term, items) or self.plain(term, strict=True) for term in group.expressions]

    def order(self, items: list[exp.Expr]) -> list[exp.Ordered]:
        clause = self._select.args.get("order")
        terms: list[exp.Ordered] = []
        for term in clause.expressions if clause is not None else []:
            if not isinstance(term, exp.Ordered):
                raise NotALeaf("ORDER BY has an unusual term")
            for value in self._order_values(term.this, items):
                copy = term.copy()
                copy.set("this", value)
                terms.append(copy)
        return terms

    def _order_values(self, term: exp.Expr, items: list[exp.Expr]) -> list[exp.Expr]:
        if isinstance(term, exp.Var):
            return [item.copy() for item in items]
        ordinal = self._ordinal(term, items)
        if ordinal is not None:
            return [ordinal]
        bare = term.unnest()
        if isinstance(bare, exp.Column) and not bare.table and folded(bare.name) in self._aliases:
            return [self.plain(self._aliases[folded(bare.name)])]
        return [self.plain(term, strict=True)]

    @staticmethod
    def _ordinal(term: exp.Expr, items: list[exp.Expr]) -> exp.Expr | None:
        if not isinstance(term, exp.Literal) or term.is_string:
            return None
        position = int(term.name) if term.name.isdigit() else 0
        if not 1 <= position <= len(items) or any(
            item.find(exp.Star) and not item.find(exp.Anonymous) for item in items
        ):
            raise NotALeaf(f"ordinal {term.name} cannot be told")
        return items[position - 1].copy()


def _same_column(alias: exp.Expr, name: str) -> bool:
    bare = alias.unnest()
    return isinstance(bare, exp.Column) and folded(bare.name) == folded(name)
