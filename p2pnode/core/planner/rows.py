"""A SELECT of plain rows over one dataset: filter, projection, top rows and distinct rows at the holders.

The asker runs the statement itself, without its WHERE, over what the holders sent; so names, types and the order of
evaluation are DuckDB's own, and the holders only leave out rows and columns that cannot matter.
"""

from __future__ import annotations

from sqlglot import exp

from p2pnode.core.planner.draft import Draft
from p2pnode.core.planner.kinds import Kind, kind_of_type
from p2pnode.core.planner.leaf import Leaf
from p2pnode.core.planner.tables import needed_columns

#: Beyond that a holder would send whole shards anyway, and sorting them there only costs time.
TOP_ROWS_MAX = 1_000_000

#: Kinds in which equal values are the same value; 0.0 and -0.0 are equal floats that print differently.
_EQUAL_IS_SAME = frozenset((Kind.INT, Kind.UBIG, Kind.DECIMAL, Kind.TEXT, Kind.BOOL, Kind.DATE, Kind.TIMESTAMP))


def split_rows(leaf: Leaf, draft: Draft, shards: tuple[int, ...]) -> None:
    """Let the holders of `shards` filter, and cut to distinct or top rows where that is the same."""
    select = leaf.select
    select.set("where", None)
    columns = needed_columns(select, leaf.reference)
    distinct = select.args.get("distinct") is not None
    order, limit = None, None
    if distinct:
        distinct = not leaf.windowed and all(_same_when_equal(item, leaf) for item in leaf.items)
        if not distinct:
            draft.gathered = True
            draft.notes.append(f"{leaf.reference.info.name}: DISTINCT is finished at the asker.")
    elif leaf.windowed:
        draft.gathered = True
        draft.notes.append(f"{leaf.reference.info.name}: window functions need all rows at the asker.")
    elif leaf.limit is not None and leaf.limit + leaf.offset <= TOP_ROWS_MAX:
        limit = leaf.limit + leaf.offset
        order = exp.Order(expressions=[term.copy() for term in leaf.order]) if leaf.order else None
    if limit is not None:
        draft.notes.append(
            f"{leaf.reference.info.name}: the {'top' if order else 'first'} {limit} rows of each holder."
        )
    elif distinct:
        draft.notes.append(f"{leaf.reference.info.name}: distinct rows of each holder.")
    draft.gather(leaf.reference, columns, where=leaf.where, shards=shards, order=order, limit=limit, distinct=distinct)


def _same_when_equal(item: exp.Expr, leaf: Leaf) -> bool:
    if isinstance(item.unnest(), exp.Column) or (type(item) is exp.Star and not any(item.args.values())):
        return True
    columns = [leaf.reference.info.column(column.name) for column in item.find_all(exp.Column)]
    return not item.find(exp.Star) and all(
        column is not None and kind_of_type(column.type) in _EQUAL_IS_SAME for column in columns
    )
