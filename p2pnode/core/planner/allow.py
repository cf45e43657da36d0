"""The gate: which parts of SQL may run at all. Everything not named is refused or left to DuckDB's own parser.

The tree is walked whole. A node of a kind that is known to be written out again faithfully passes; one that is not is
`Unsure`, and the statement takes the opaque way. A function outside the lists, a statement that writes, a parameter
or a name with a schema is refused for good.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlglot import exp

from p2pnode.core.planner import functions
from p2pnode.core.planner.dialect import Caret, DoubleStar, UnaryPlus
from p2pnode.core.planner.parse import Unsure
from p2pnode.errors import SqlRefused

#: Every kind of node that `render` writes as DuckDB reads it (tests compare names and types on both texts).
_FAITHFUL = frozenset(
    {
        *(
            exp.Select,
            exp.From,
            exp.Where,
            exp.Group,
            exp.Having,
            exp.Order,
            exp.Ordered,
            exp.Limit,
            exp.Offset,
        ),
        *(
            exp.Distinct,
            exp.Qualify,
            exp.Window,
            exp.WindowSpec,
            exp.Join,
            exp.Lateral,
            exp.Unnest,
            exp.Values,
        ),
        *(exp.With, exp.CTE, exp.Subquery, exp.Union, exp.Intersect, exp.Except, exp.Table, exp.TableAlias),
        *(exp.Rollup, exp.Cube, exp.GroupingSets, exp.LimitOptions, exp.Fetch, exp.Pivot, exp.UnpivotColumns),
        *(
            exp.Column,
            exp.Identifier,
            exp.Star,
            exp.Alias,
            exp.Paren,
            exp.Tuple,
            exp.Literal,
            exp.Null,
            exp.Boolean,
        ),
        *(
            exp.Cast,
            exp.TryCast,
            exp.DataType,
            exp.DataTypeParam,
            exp.Interval,
            exp.Var,
            exp.Extract,
            exp.Anonymous,
        ),
        *(
            exp.Add,
            exp.Sub,
            exp.Mul,
            exp.Div,
            exp.IntDiv,
            exp.Mod,
            exp.Neg,
            exp.DPipe,
            Caret,
            DoubleStar,
            UnaryPlus,
        ),
        *(exp.BitwiseAnd, exp.BitwiseOr, exp.BitwiseNot, exp.BitwiseLeftShift, exp.BitwiseRightShift),
        *(exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.NullSafeEQ, exp.NullSafeNEQ, exp.Is, exp.In),
        *(
            exp.Between,
            exp.Like,
            exp.ILike,
            exp.Escape,
            exp.SimilarTo,
            exp.Glob,
            exp.RegexpLike,
            exp.And,
            exp.Or,
        ),
        *(
            exp.Not,
            exp.Case,
            exp.If,
            exp.Exists,
            exp.Any,
            exp.All,
            exp.Filter,
            exp.IgnoreNulls,
            exp.RespectNulls,
        ),
        *(
            exp.Bracket,
            exp.Slice,
            exp.Struct,
            exp.PropertyEQ,
            exp.Lambda,
            exp.Dot,
            exp.Collate,
            exp.AtTimeZone,
        ),
        *(exp.PositionalColumn, exp.ToMap, exp.Map),
    }
)

#: Statements and clauses that write, lock, look at the engine or take values from outside the text.
_REFUSED = (
    exp.DML,
    exp.DDL,
    exp.Command,
    exp.Into,
    exp.Lock,
    exp.Placeholder,
    exp.Parameter,
    exp.HistoricalData,
)


def check(query: exp.Query) -> None:
    """Raise SqlRefused for what may not run, Unsure for what cannot be vouched for."""
    doubt: str | None = None
    for node in query.walk():
        if isinstance(node, exp.Query):
            _check_query(node)
        elif isinstance(node, _REFUSED):
            raise SqlRefused(f"{node.key.upper()} has no place in a query here.")
        if isinstance(node, exp.Anonymous):
            check_function(node.name, in_from=isinstance(node.parent, exp.Table))
        elif isinstance(node, exp.Table):
            _check_table(node)
        if type(node) not in _FAITHFUL or _written_otherwise(node):
            doubt = doubt or node.key
    if doubt is not None:
        raise Unsure(f"{doubt.upper()} is left to DuckDB's own parser.", position=None)


def check_function(name: str, *, in_from: bool) -> None:
    """Raise SqlRefused unless a function called `name` may stand there."""
    lowered = name.lower()
    allowed: Iterable[str] = functions.TABLE_FUNCTIONS if in_from else functions.ALLOWED
    if lowered not in allowed:
        where = "in FROM" if in_from else "in a query"
        raise SqlRefused(f"The function {name}() is not one of those allowed {where}.", function=name)


def _check_query(node: exp.Query) -> None:
    for clause in (
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
    ):
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


def _written_otherwise(node: exp.Expr) -> bool:
    """Nodes of a faithful kind in a form that is not."""
    if isinstance(node, exp.Extract):
        return not isinstance(node.this, exp.Var)
    if isinstance(node, exp.Literal):
        return node.is_string and any(ord(char) < 32 or char == "\\" for char in node.name)
    if isinstance(node, (exp.Table, exp.Subquery)):
        return bool(node.args.get("sample") or node.args.get("version") or node.args.get("only"))
    return False
