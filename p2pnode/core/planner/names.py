"""The name that DuckDB gives a result column without an alias.

DuckDB names a column after its expression, written in a canonical form: ``SUM(a)+1`` is ``(sum(a) + 1)``. A split
computes the expression from partial results, so it must say that name itself. `column_name` gives it, or None for an
expression whose form is not known here for certain; such a statement is not split.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from sqlglot import exp

from p2pnode.core.planner.dialect import SPELLING, Caret, DoubleStar
from p2pnode.core.planner.functions import words
from p2pnode.core.planner.keywords import KEYWORDS
from p2pnode.core.planner.model import TableInfo

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_INFIX: dict[type[exp.Expr], str] = {
    exp.Add: "+",
    exp.Sub: "-",
    exp.Mul: "*",
    exp.Div: "/",
    exp.IntDiv: "//",
    exp.Mod: "%",
    exp.DPipe: "||",
    Caret: "^",
    DoubleStar: "**",
    exp.EQ: "=",
    exp.NEQ: "!=",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.NullSafeNEQ: "IS DISTINCT FROM",
    exp.NullSafeEQ: "IS NOT DISTINCT FROM",
}

#: Types that the grammar knows by keyword get one spelling; every other type keeps the writer's.
_TYPE_WORDS = {
    **dict.fromkeys(("INT", "INTEGER"), "INTEGER"),
    **{word: word for word in ("BIGINT", "SMALLINT", "VARCHAR", "BOOLEAN", "TIMESTAMP", "FLOAT", "TIME")},
    "REAL": "FLOAT",
}
_DECIMAL = re.compile(r"(?:DECIMAL|NUMERIC|DEC) \( (\d+)(?: , (\d+))? \)", re.IGNORECASE)


class _Unknown(Exception):
    """An expression whose written form is not certain."""


def column_name(item: exp.Expr, table: TableInfo) -> str | None:
    """The result column's name for the select item `item` over `table`, or None if that is not certain."""
    if isinstance(item, exp.Alias):
        return item.alias
    bare = item.unnest()
    if isinstance(bare, exp.Column):
        column = table.column(bare.name)
        return column.name if column is not None and isinstance(bare.this, exp.Identifier) else None
    return written(item)


def written(expression: exp.Expr) -> str | None:
    """DuckDB's canonical form of `expression`, or None if it is not certain."""
    try:
        return _write(expression)
    except _Unknown:
        return None


def _write(node: exp.Expr) -> str:
    node = node.unnest()
    sign = _INFIX.get(type(node))
    if sign is not None:
        return f"({_write(node.this)} {sign} {_write(node.expression)})"
    writer = _WRITERS.get(type(node))
    if writer is None:
        raise _Unknown
    return writer(node)


def _identifier(name: str) -> str:
    if _PLAIN.fullmatch(name) and name.lower() not in KEYWORDS:
        return name
    return '"' + name.replace('"', '""') + '"'


def _column(node: exp.Expr) -> str:
    parts = node.parts if isinstance(node, exp.Column) else []
    if not all(isinstance(part, exp.Identifier) for part in parts):
        raise _Unknown
    return ".".join(_identifier(part.name) for part in parts)


def _literal(node: exp.Expr) -> str:
    return "'" + node.name.replace("'", "''") + "'" if node.is_string else node.name


def _neg(node: exp.Expr) -> str:
    inner = node.this
    if isinstance(inner, exp.Literal) and not inner.is_string:
        return f"-{inner.name}"
    return f"(-({_write(inner)}))"


def _chain(node: exp.Expr, word: str) -> str:
    kind = type(node)
    return "(" + f" {word} ".join(_write(part) for part in _flat(node, kind)) + ")"


def _flat(node: exp.Expr, kind: type[exp.Expr]) -> list[exp.Expr]:
    bare = node.unnest()
    if type(bare) is not kind:
        return [bare]
    return [*_flat(bare.this, kind), *_flat(bare.args["expression"], kind)]


def _not(node: exp.Expr) -> str:
    inner = node.this
    if node.meta.get(SPELLING) == "infix" and isinstance(inner, exp.Is):
        return _is(inner, "IS NOT")
    return f"(NOT {_write(inner)})"


def _is(node: exp.Expr, word: str = "IS") -> str:
    if not isinstance(node.args["expression"], exp.Null):
        raise _Unknown
    return f"({_write(node.this)} {word} NULL)"


def _like(node: exp.Expr, sign: str) -> str:
    return f"({_write(node.this)} {'!' if node.args.get('negate') else ''}{sign} {_write(node.args['expression'])})"


def _in(node: exp.Expr) -> str:
    query = node.args.get("query")
    if query is not None:
        return f"({_write(node.this)} = ANY({_query(query.unnest())}))"
    if node.args.get("unnest") or node.args.get("field"):
        raise _Unknown
    return f"({_write(node.this)} IN ({', '.join(map(_write, node.expressions))}))"


def _between(node: exp.Expr) -> str:
    if node.args.get("symmetric"):
        raise _Unknown
    return f"({_write(node.this)} BETWEEN {_write(node.args['low'])} AND {_write(node.args['high'])})"


def _case(node: exp.Expr) -> str:
    subject = _write(node.this) if node.this else None
    arms = []
    for arm in node.args["ifs"]:
        when = _write(arm.this) if subject is None else f"({subject} = {_write(arm.this)})"
        arms.append(f" WHEN ({when}) THEN ({_write(arm.args['true'])})")
    default = node.args.get("default")
    return f"CASE {''.join(arms)} ELSE {_write(default) if default else 'NULL'} END"


def _cast(node: exp.Expr) -> str:
    spelling = node.args["to"].meta.get(SPELLING)
    if spelling is None:
        raise _Unknown
    decimal = _DECIMAL.fullmatch(spelling)
    if decimal:
        kind = f"DECIMAL({', '.join(part for part in decimal.groups() if part)})"
    elif _PLAIN.fullmatch(spelling):
        kind = _TYPE_WORDS.get(spelling.upper()) or _identifier_of_type(spelling)
    else:
        raise _Unknown
    return f"{'TRY_' if isinstance(node, exp.TryCast) else ''}CAST({_write(node.this)} AS {kind})"


def _identifier_of_type(spelling: str) -> str:
    if spelling.lower() in KEYWORDS and spelling.lower() not in ("double", "text"):
        raise _Unknown
    return spelling


def _call(node: exp.Expr) -> str:
    name = node.name.lower()
    arguments = node.expressions
    if name in ("columns", "try", "unnest"):
        raise _Unknown
    if name == "count" and (not arguments or isinstance(arguments[0], exp.Star)):
        return "count_star()"
    if name in ("coalesce", "ifnull"):
        return f"COALESCE({', '.join(map(_write, arguments))})"
    distinct = ""
    if len(arguments) == 1 and isinstance(arguments[0], exp.Distinct):
        distinct, arguments = "DISTINCT ", arguments[0].expressions
    return f"{_identifier(name)}({distinct}{', '.join(map(_write, arguments))})"


def _filter(node: exp.Expr) -> str:
    return f"{_write(node.this)} FILTER (WHERE {_write(node.args['expression'].this)})"


def _extract(node: exp.Expr) -> str:
    return f"date_part('{node.this.name.upper()}', {_write(node.args['expression'])})"


_QUERY_CLAUSES = words("expressions from_ where order limit distinct kind")


def _query(node: exp.Expr) -> str:
    """A nested query of the plain form ``SELECT … FROM t WHERE … ORDER BY … LIMIT n``."""
    if not isinstance(node, exp.Select) or any(node.args[arg] for arg in set(node.args) - _QUERY_CLAUSES):
        raise _Unknown
    distinct = node.args.get("distinct")
    if distinct is not None and distinct.args.get("on"):
        raise _Unknown
    text = f"SELECT {'DISTINCT ' if distinct is not None else ''}{', '.join(map(_query_item, node.expressions))}"
    source, where = node.args.get("from_"), node.args.get("where")
    order, limit = node.args.get("order"), node.args.get("limit")
    text += f" FROM {_source(source.this)}" if source is not None else ""
    text += f" WHERE {_write(where.this)}" if where is not None else ""
    text += f" ORDER BY {', '.join(map(_order_term, order.expressions))}" if order is not None else ""
    if limit is not None and not isinstance(limit.args.get("expression"), exp.Literal):
        raise _Unknown
    return text + (f" LIMIT {_write(limit.args['expression'])}" if limit is not None else "")


def _query_item(item: exp.Expr) -> str:
    if isinstance(item, exp.Alias):
        return f"{_write(item.this)} AS {_identifier(item.alias)}"
    return "*" if type(item) is exp.Star and not any(item.args.values()) else _write(item)


def _source(table: exp.Expr) -> str:
    extra = any(value for arg, value in table.args.items() if arg not in ("this", "alias"))
    if not isinstance(table, exp.Table) or extra or not isinstance(table.this, exp.Identifier):
        raise _Unknown
    alias = table.args.get("alias")
    if alias is not None and alias.args.get("columns"):
        raise _Unknown
    return _identifier(table.name) + (f" AS {_identifier(table.alias)}" if table.alias else "")


def _order_term(term: exp.Expr) -> str:
    if not isinstance(term, exp.Ordered) or term.args.get("nulls_first") or term.meta.get(SPELLING):
        raise _Unknown
    desc = term.args.get("desc")
    return _write(term.this) + (" DESC" if desc else "" if desc is None else " ASC")


_WRITERS: dict[type[exp.Expr], Callable[[exp.Expr], str]] = {
    exp.Column: _column,
    exp.Literal: _literal,
    exp.Null: lambda node: "NULL",
    exp.Boolean: lambda node: "true" if node.this else "false",
    exp.Neg: _neg,
    exp.And: lambda node: _chain(node, "AND"),
    exp.Or: lambda node: _chain(node, "OR"),
    exp.Not: _not,
    exp.Is: _is,
    exp.Like: lambda node: _like(node, "~~"),
    exp.ILike: lambda node: _like(node, "~~*"),
    exp.In: _in,
    exp.Between: _between,
    exp.Case: _case,
    exp.Cast: _cast,
    exp.TryCast: _cast,
    exp.Anonymous: _call,
    exp.Filter: _filter,
    exp.Extract: _extract,
    exp.Select: lambda node: f"({_query(node)})",
    exp.Exists: lambda node: f"EXISTS({_query(node.this.unnest())})",
}
