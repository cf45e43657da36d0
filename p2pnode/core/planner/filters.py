"""Which conditions may run at the holders, before everything else.

Two rules. A leaf's WHERE may go whole: each row meets the same expression either way. In a statement that is finished
at the asker a condition may go ahead of the others only if it cannot fail (a division or cast could meet rows that
another condition keeps away) and, under an outer join, only if it is never true of NULLs: the statement's own WHERE
runs again at the asker and drops the rows that lost their partner.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

from p2pnode.core.planner.kinds import NUMBERS, Kind, kind_of
from p2pnode.core.planner.model import TableInfo, folded
from p2pnode.core.planner.tables import Reference

_COMPARISONS = (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE)

#: Join kinds under which dropping rows that WHERE would drop anyway is the same.
_PLAIN_KINDS = frozenset(("", "INNER", "CROSS", "OUTER", "SEMI", "ANTI"))


def conjuncts(condition: exp.Expr | None) -> Iterator[exp.Expr]:
    """The parts of `condition` that are joined by AND."""
    if condition is None:
        return
    bare = condition.unnest()
    if isinstance(bare, exp.And):
        yield from conjuncts(bare.this)
        yield from conjuncts(bare.args["expression"])
    else:
        yield bare


def both(conditions: list[exp.Expr]) -> exp.Expr | None:
    """All of `conditions` at once."""
    if not conditions:
        return None
    return exp.and_(*(exp.Paren(this=condition.copy()) for condition in conditions), copy=False)


def early(select: exp.Select, reference: Reference, beside: list[Reference]) -> list[exp.Expr]:
    """The conjuncts of `select`'s WHERE that `reference`'s holders may apply, over bare column names.

    `beside` are the other datasets in the same FROM.
    """
    where = select.args.get("where")
    joins = select.args.get("joins") or []
    alias = reference.node.args.get("alias")
    renamed = alias is not None and alias.args.get("columns")
    if where is None or renamed or reference.node.args.get("pivots") or not all(_is_plain(join) for join in joins):
        return []
    others_known = len(beside) == len(joins)
    inner_only = not any(join.side for join in joins)
    found: list[exp.Expr] = []
    for condition in conjuncts(where.this):
        bare = _over(condition, reference, beside, others_known=others_known)
        if bare is not None and cannot_fail(bare, reference.info) and (inner_only or rejects_null(bare)):
            found.append(bare)
    return found


def _is_plain(join: exp.Join) -> bool:
    return not join.method and join.kind.upper() in _PLAIN_KINDS and not join.args.get("nearest")


def _over(condition: exp.Expr, reference: Reference, beside: list[Reference], *, others_known: bool) -> exp.Expr | None:
    """`condition` over bare columns if it reads nothing but `reference`'s columns for certain."""
    if condition.find(exp.Query) is not None:
        return None
    root = exp.Paren(this=condition.copy())
    columns = list(root.find_all(exp.Column))
    for column in columns:
        base = reference.info.column(column.name) if isinstance(column.this, exp.Identifier) else None
        if base is None or column.args.get("db"):
            return None
        if column.table:
            if folded(column.table) != folded(reference.alias):
                return None
        elif not others_known or any(other.info.column(column.name) for other in beside):
            return None
        column.replace(exp.column(base.name, quoted=True))
    return root.this if columns else None


def cannot_fail(node: exp.Expr, table: TableInfo) -> bool:
    """Whether `node` is a condition that no row can make raise an error."""
    node = node.unnest()
    if isinstance(node, (exp.And, exp.Or)):
        return cannot_fail(node.this, table) and cannot_fail(node.args["expression"], table)
    if isinstance(node, exp.Not):
        return cannot_fail(node.this, table)
    if isinstance(node, exp.Is):
        return isinstance(node.this.unnest(), exp.Column) and isinstance(node.args["expression"], exp.Null)
    if isinstance(node, _COMPARISONS):
        return _comparable([node.this, node.args["expression"]], table)
    if isinstance(node, exp.Between):
        return not node.args.get("symmetric") and _comparable([node.this, node.args["low"], node.args["high"]], table)
    if isinstance(node, exp.In):
        values = node.expressions
        return bool(values) and _comparable([node.this, *values], table)
    if isinstance(node, (exp.Like, exp.ILike)):
        return {kind_of(part, table) for part in (node.this, node.args["expression"])} == {Kind.TEXT} and (
            isinstance(node.args["expression"].unnest(), exp.Literal)
        )
    return isinstance(node, exp.Column) and kind_of(node, table) == Kind.BOOL


def _comparable(values: list[exp.Expr], table: TableInfo) -> bool:
    if not all(_is_simple(value) for value in values):
        return False
    columns = {kind_of(value, table) for value in values if value.find(exp.Column)}
    constants = [value for value in values if not value.find(exp.Column)]
    if len(columns) != 1 and not columns <= NUMBERS:
        return False
    kind = next(iter(columns), None)
    if kind is None or not all(isinstance(column, Kind) for column in columns):
        return False
    # A text constant takes the column's type before any row is read; a number would turn a text column into numbers.
    kinds = {kind_of(value, table) for value in constants} - {Kind.NULL, Kind.TEXT, kind}
    return not kinds or (kind in NUMBERS and kinds <= NUMBERS)


def _is_simple(value: exp.Expr) -> bool:
    """A column, a literal, a signed number or a typed literal such as DATE '2020-01-01'."""
    bare = value.unnest()
    if isinstance(bare, exp.Neg):
        bare = bare.this
    if isinstance(bare, exp.Cast):
        return isinstance(bare.this, exp.Literal)
    return isinstance(bare, (exp.Column, exp.Literal, exp.Boolean))


def rejects_null(node: exp.Expr) -> bool:
    """Whether `node` (one that `cannot_fail`) is never true when all its columns are NULL."""
    node = node.unnest()
    if isinstance(node, exp.And):
        return rejects_null(node.this) or rejects_null(node.args["expression"])
    if isinstance(node, exp.Or):
        return rejects_null(node.this) and rejects_null(node.args["expression"])
    if isinstance(node, exp.Not):
        inner = node.this.unnest()
        return isinstance(inner, (exp.Is, exp.In, exp.Between, exp.Like, exp.ILike, exp.Column, *_COMPARISONS))
    return not isinstance(node, exp.Is)
