"""Which names in FROM are datasets, and which of their columns a statement can possibly read.

Both answers err on the safe side: a column is needed as soon as anything in the statement bears its name, and every
column is needed where a star, a pivot, a natural join or a whole-row reference might reach it.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from sqlglot import exp

from p2pnode.core.model import Column
from p2pnode.core.planner.model import Resolve, TableInfo, folded
from p2pnode.errors import NotFound


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """One place in FROM where a dataset stands. `alias` is the name by which columns may be qualified."""

    node: exp.Table
    info: TableInfo
    alias: str


def references(query: exp.Expr, resolve: Resolve) -> list[Reference]:
    """Every dataset in `query`, in the order of the text. Raises NotFound for a name that is nothing."""
    found: list[Reference] = []
    for node in query.find_all(exp.Table, bfs=False):
        if not isinstance(node.this, exp.Identifier) or _is_cte(node):
            continue
        info = resolve(node.name)
        if info is None:
            raise not_found(node.name, [cte.alias for cte in query.find_all(exp.CTE)])
        found.append(Reference(node, info, node.alias or node.name))
    return found


def needed_columns(query: exp.Expr, reference: Reference) -> tuple[Column, ...]:
    """A superset of the columns of `reference` that `query` reads, in table order; at least one."""
    if _reads_whole_rows(query, reference):
        return reference.info.columns
    words = {folded(node.name) for node in query.find_all(exp.Identifier)}
    columns = tuple(column for column in reference.info.columns if folded(column.name) in words)
    return columns or (narrowest(reference.info.columns),)


def narrowest(columns: tuple[Column, ...]) -> Column:
    """The cheapest column to read when only the number of rows matters."""
    return min(columns, key=lambda column: _COST.get(column.type.split("(")[0].upper(), 16))


#: Bytes a value, for the choice of a column to count; everything else counts as 16.
_COST = {
    **dict.fromkeys(("BOOLEAN", "TINYINT", "UTINYINT"), 1),
    **dict.fromkeys(("SMALLINT", "USMALLINT"), 2),
    **dict.fromkeys(("INTEGER", "UINTEGER", "FLOAT", "DATE"), 4),
    **dict.fromkeys(("BIGINT", "UBIGINT", "DOUBLE", "TIMESTAMP", "TIME", "DECIMAL"), 8),
}


def _is_cte(table: exp.Table) -> bool:
    """Whether an enclosing WITH defines the name of `table` where it stands."""
    name = folded(table.name)
    child: exp.Expr = table
    while child.parent is not None:
        parent = child.parent
        with_ = child if isinstance(child, exp.With) else parent.args.get("with_")
        if isinstance(with_, exp.With) and _defines(with_, name, inside=table):
            return True
        child = parent
    return False


def _defines(with_: exp.With, name: str, inside: exp.Table) -> bool:
    around = {id(node) for node in _ancestors(inside)}
    for cte in with_.expressions:
        if id(cte) in around:
            # A CTE sees those before it, and itself only when recursive.
            return bool(with_.recursive) and folded(cte.alias) == name
        if folded(cte.alias) == name:
            return True
    return False


def _ancestors(node: exp.Expr) -> list[exp.Expr]:
    found: list[exp.Expr] = []
    parent = node.parent
    while parent is not None:
        found.append(parent)
        parent = parent.parent
    return found


def _reads_whole_rows(query: exp.Expr, reference: Reference) -> bool:
    alias = folded(reference.alias)
    table_alias = reference.node.args.get("alias")
    if reference.node.args.get("pivots") or (table_alias is not None and table_alias.args.get("columns")):
        return True
    for node in query.walk():
        if isinstance(node, (exp.PositionalColumn, exp.Pivot)):
            return True
        if isinstance(node, exp.Anonymous) and node.name.lower() == "columns":
            return True
        if isinstance(node, exp.Join) and (node.method or "").upper() == "NATURAL":
            return True
        if isinstance(node, exp.Star) and _star_reaches(node, reference):
            return True
        if isinstance(node, exp.Column) and folded(node.name) == alias and reference.info.column(alias) is None:
            return True
    return False


def _star_reaches(star: exp.Star, reference: Reference) -> bool:
    """`count(*)` reaches nothing; `x.*` only what is called x; a bare star what its own FROM holds."""
    parent = star.parent
    if isinstance(parent, exp.Anonymous):
        return parent.name.lower() != "count"
    if isinstance(parent, exp.Column) and parent.table and folded(parent.table) != folded(reference.alias):
        return False
    select = star.find_ancestor(exp.Select)
    home = reference.node.find_ancestor(exp.Select)
    return select is None or home is None or select is home or isinstance(parent, exp.Column)


def not_found(name: str, near_to: list[str]) -> NotFound:
    """The error for a name in FROM that is nothing; `near_to` are names it may have been meant for."""
    near = difflib.get_close_matches(name, near_to, n=3)
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    return NotFound(f"There is no dataset called {name!r}.{hint}", dataset=name, near=near)
