"""The gate: which parts of SQL may run at all. Everything not named is refused or left to DuckDB's own parser.

The tree is walked whole. A node of a kind that is known to be written out again faithfully passes; one that is not is
`Unsure`, and the statement takes the opaque way. A function outside the lists, a statement that writes, a parameter
or a name with a schema is refused for good.
"""

from __future__ import annotations

import difflib

from sqlglot import exp

from p2pnode.core.planner import functions
from p2pnode.core.planner.dialect import Caret, DoubleStar, UnaryPlus
from p2pnode.core.planner.functions import words
from p2pnode.core.planner.parse import Unsure
from p2pnode.errors import SqlRefused


def _kinds(names: str) -> frozenset[type[exp.Expr]]:
    return frozenset(getattr(exp, name) for name in words(names))


#: Every kind of node that `render` writes as DuckDB reads it (tests compare names and types on both texts).
_FAITHFUL = _kinds(
    """
    Select From Where Group Having Order Ordered Limit Offset LimitOptions Fetch Distinct Qualify Window WindowSpec
    Join Lateral Unnest Values With CTE Subquery Union Intersect Except Table TableAlias Pivot UnpivotColumns
    Rollup Cube GroupingSets Column Identifier PositionalColumn Star Alias Paren Tuple Literal Null Boolean Var
    Cast TryCast DataType DataTypeParam Interval Extract Anonymous Filter IgnoreNulls RespectNulls Collate AtTimeZone
    Add Sub Mul Div IntDiv Mod Neg DPipe BitwiseAnd BitwiseOr BitwiseNot BitwiseLeftShift BitwiseRightShift
    EQ NEQ LT LTE GT GTE NullSafeEQ NullSafeNEQ Is In Between Like ILike Escape SimilarTo Glob RegexpLike And Or Not
    Case If Exists Any All Bracket Slice Struct PropertyEQ ToMap Map Lambda Dot
    """
) | {Caret, DoubleStar, UnaryPlus}

#: Statements and clauses that write, lock, look at the engine or take values from outside the text.
_REFUSED = tuple(
    _kinds(
        """
        Insert Update Delete Merge Create Drop Alter Copy Command Attach Detach Pragma Set Show Describe Use
        Into Lock Placeholder Parameter HistoricalData
        """
    )
)

_REFUSED_CLAUSES = (
    "into",
    "locks",
    "hint",
    "prewhere",
    "connect",
    "match",
    "cluster",
    "distribute",
    "sort",
    "settings",
)


def check(query: exp.Expr) -> None:
    """Raise SqlRefused for what may not run, Unsure for what cannot be vouched for."""
    doubt: str | None = None
    for node in query.walk():
        if isinstance(node, exp.Query):
            _check_query(node)
        elif isinstance(node, _REFUSED):
            raise SqlRefused(f"{node.key.upper()} has no place in a query here.")
        if isinstance(node, exp.Anonymous):
            in_from = isinstance(node.parent, exp.Table)
            check_function(node.name, functions.TABLE_FUNCTIONS if in_from else functions.ALLOWED)
        elif isinstance(node, exp.Table):
            _check_table(node)
        elif isinstance(node, exp.Pivot):
            _check_pivot(node)
        if type(node) not in _FAITHFUL or _written_otherwise(node):
            doubt = doubt or node.key
    if doubt is not None:
        raise Unsure(f"{doubt.upper()} is left to DuckDB's own parser.")


def check_function(name: str, allowed: frozenset[str]) -> None:
    """Raise SqlRefused unless `name` is one of the `allowed` functions."""
    if name.lower() not in allowed:
        near = difflib.get_close_matches(name.lower(), allowed, n=3)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise SqlRefused(f"{name}() is not one of the functions allowed here.{hint}", function=name)


def _check_query(node: exp.Query) -> None:
    for clause in _REFUSED_CLAUSES:
        if node.args.get(clause):
            raise SqlRefused(f"{clause.upper()} has no place in a query here.")


def _check_table(node: exp.Table) -> None:
    if isinstance(node.this, exp.Anonymous):
        return
    if node.args.get("db") or node.args.get("catalog"):
        raise SqlRefused(
            f"{node.sql()} names a schema; a table is a dataset's name alone.",
            advice="Write the dataset's name without schema or catalog; quote it if it holds a dot.",
        )
    if not isinstance(node.this, exp.Identifier):
        raise SqlRefused(f"{node.sql()} is no dataset.")


def _check_pivot(node: exp.Pivot) -> None:
    """``PIVOT t ON x`` makes a type from the values it finds, which the fenced process may not do."""
    statement = node.this is not None and not node.args.get("unpivot")
    if statement and any(type(on) is not exp.In for on in node.expressions):
        raise SqlRefused(
            "PIVOT without the values it makes columns of is not a SELECT.",
            advice="List the values: PIVOT t ON x IN ('a', 'b') USING sum(y).",
        )


def _written_otherwise(node: exp.Expr) -> bool:
    """Nodes of a faithful kind in a form that is not."""
    if isinstance(node, exp.Extract):
        return not isinstance(node.this, exp.Var)
    if isinstance(node, (exp.Table, exp.Subquery)):
        return bool(node.args.get("sample") or node.args.get("version") or node.args.get("only"))
    return False
