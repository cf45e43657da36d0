"""Column names that would change with the statement are written down as aliases before anything is rewritten.

``SELECT now()`` becomes a literal and ``SELECT (SELECT max(x) FROM t)`` reads another relation than t; DuckDB would
name the column after what we made of it.
"""

from __future__ import annotations

from sqlglot import exp

from p2pnode.core.planner.moments import moment_called
from p2pnode.core.planner.names import written
from p2pnode.core.planner.parse import Unsure
from p2pnode.core.planner.tables import Reference

#: Parents under which a nested SELECT gives its column names to somebody.
_NAMED_BY = (exp.From, exp.Join, exp.Lateral, exp.CTE, exp.SetOperation)


def pin_names(root: exp.Expr, found: list[Reference], taken: set[str]) -> None:
    """Alias the select items of `root` whose text is going to change. Raises Unsure if such a name is not certain."""
    tables = {id(reference.node) for reference in found}
    pinned: list[tuple[exp.Expr, str]] = []
    for select in root.find_all(exp.Select):
        for item in select.expressions if _gives_names(select) else []:
            if isinstance(item, exp.Alias) or not _changes(item, tables, taken):
                continue
            name = item.name if isinstance(item, exp.Column) else written(item)
            if name is None:
                raise Unsure("The name of a column is left to DuckDB (an alias helps).")
            pinned.append((item, name))
    for item, name in pinned:
        # The item itself moves, not a copy: its tables are known by identity.
        alias = exp.Alias(alias=exp.to_identifier(name, quoted=True))
        item.replace(alias)
        alias.set("this", item)


def _gives_names(select: exp.Select) -> bool:
    holder = select.parent
    while isinstance(holder, exp.Subquery) and holder.parent is not None:
        holder = holder.parent
    return isinstance(holder, (*_NAMED_BY, exp.Subquery))


def _changes(item: exp.Expr, tables: set[int], taken: set[str]) -> bool:
    return any(id(node) in tables or moment_called(node, taken) is not None for node in item.walk())
