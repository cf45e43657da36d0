"""What kind of value an expression has, as far as a split must know.

Partial results travel as Arrow and are merged by another statement; only where the kind is certain can the merge be
given the type that DuckDB gives the whole. An answer of None means: not certain, do not split.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from enum import StrEnum

from sqlglot import exp

from p2pnode.core.planner.dialect import SPELLING, Caret, DoubleStar, UnaryPlus
from p2pnode.core.planner.functions import words
from p2pnode.core.planner.model import TableInfo


class Kind(StrEnum):
    """Families of DuckDB types. INT holds those that fit in 64 signed bits, so sums of theirs are HUGEINT."""

    INT = "int"
    UBIG = "ubig"
    FLOAT = "float"
    DECIMAL = "decimal"
    TEXT = "text"
    BOOL = "bool"
    DATE = "date"
    TIMESTAMP = "timestamp"
    TIMESTAMPTZ = "timestamptz"
    TIME = "time"
    INTERVAL = "interval"
    NULL = "null"


NUMBERS = frozenset({Kind.INT, Kind.FLOAT, Kind.DECIMAL})

#: Kinds whose type and whose equality survive the way from holder to asker: they may be grouped and compared.
PLAIN = frozenset(Kind) - {Kind.INTERVAL, Kind.NULL}

_BY_TYPE = {
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "INT", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"), Kind.INT),
    **dict.fromkeys(("INT1", "INT2", "INT4", "INT8", "LONG", "SHORT", "SIGNED"), Kind.INT),
    "UBIGINT": Kind.UBIG,
    **dict.fromkeys(("FLOAT", "DOUBLE", "REAL", "FLOAT4", "FLOAT8"), Kind.FLOAT),
    **dict.fromkeys(("DECIMAL", "NUMERIC"), Kind.DECIMAL),
    **dict.fromkeys(("VARCHAR", "TEXT", "STRING", "CHAR"), Kind.TEXT),
    **dict.fromkeys(("BOOLEAN", "BOOL", "LOGICAL"), Kind.BOOL),
    "DATE": Kind.DATE,
    **dict.fromkeys(("TIMESTAMP", "DATETIME"), Kind.TIMESTAMP),
    **dict.fromkeys(("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ"), Kind.TIMESTAMPTZ),
    "TIME": Kind.TIME,
    "INTERVAL": Kind.INTERVAL,
}

_INT_FUNCTIONS = words(
    """
    length len strlen char_length character_length year month day hour minute second quarter week isodow dayofweek
    dayofmonth dayofyear weekday weekofyear isoyear yearweek datediff date_diff strpos instr ascii unicode ord
    bit_length octet_length millisecond microsecond
    """
)
_TEXT_FUNCTIONS = words(
    """
    upper lower ucase lcase trim ltrim rtrim substr substring left right replace concat concat_ws lpad rpad
    reverse strftime dayname monthname md5 split_part regexp_replace regexp_extract repeat translate chr
    """
)
_FLOAT_FUNCTIONS = words(
    """
    sqrt cbrt ln log log2 log10 exp sin cos tan asin acos atan atan2 radians degrees pow power pi
    """
)
_BOOL_FUNCTIONS = words(
    """
    starts_with ends_with contains prefix suffix regexp_matches regexp_full_match isnan isinf isfinite
    """
)
_SAME_AS_ALL = words("coalesce ifnull greatest least")
_INT_PARTS = words(
    """
    year month day hour minute second quarter week isodow dow doy dayofweek dayofmonth dayofyear decade century
    millennium weekday isoyear yearweek
    """
)
_BOOLEAN_NODES = (exp.Predicate, exp.And, exp.Or, exp.Not, exp.Is, exp.In, exp.Between, exp.Like, exp.ILike)


def kind_of_type(type_: str) -> Kind | None:
    """The kind of a DuckDB type name such as ``DECIMAL(12,2)``."""
    return _BY_TYPE.get(re.sub(r"\s*\(.*\)$", "", type_).strip().upper())


def kind_of(node: exp.Expr, table: TableInfo) -> Kind | None:
    """The kind of `node`, whose columns are those of `table`."""
    node = node.unnest()
    if isinstance(node, exp.Column):
        column = table.column(node.name)
        return kind_of_type(column.type) if column is not None else None
    reader = next((read for kind, read in _READERS if isinstance(node, kind)), None)
    return reader(node, table) if reader is not None else None


def unify(kinds: Iterable[Kind | None]) -> Kind | None:
    """The kind of a value that is one of several (CASE, COALESCE), if DuckDB's common type is certain."""
    found = set(kinds) - {Kind.NULL}
    if len(found) == 1:
        return next(iter(found))
    if found and found <= NUMBERS:
        return Kind.FLOAT if Kind.FLOAT in found else Kind.DECIMAL
    return None


def _literal(node: exp.Expr, table: TableInfo) -> Kind | None:
    if node.is_string:
        return Kind.TEXT
    if "e" in node.name.lower():
        return Kind.FLOAT
    if "." in node.name:
        return Kind.DECIMAL
    return Kind.INT if node.name.isdigit() and int(node.name) < 2**63 else None


def _arithmetic(node: exp.Expr, table: TableInfo) -> Kind | None:
    left, right = kind_of(node.this, table), kind_of(node.args["expression"], table)
    if isinstance(node, exp.Div):
        return Kind.FLOAT if {left, right} <= NUMBERS else None
    if isinstance(node, exp.IntDiv):
        return Kind.INT if left == right == Kind.INT else None
    if isinstance(node, (exp.Add, exp.Sub)) and left in (Kind.DATE, Kind.TIMESTAMP):
        return _moment_arithmetic(node, left, right)
    return unify((left, right)) if {left, right} <= NUMBERS else None


def _moment_arithmetic(node: exp.Expr, left: Kind | None, right: Kind | None) -> Kind | None:
    if right == Kind.INTERVAL:
        return Kind.TIMESTAMP
    if left == Kind.DATE and right == Kind.INT:
        return Kind.DATE
    if left == right == Kind.DATE and isinstance(node, exp.Sub):
        return Kind.INT
    return None


def _same(node: exp.Expr, table: TableInfo) -> Kind | None:
    kind = kind_of(node.this, table)
    return kind if kind in NUMBERS else None


def _case(node: exp.Expr, table: TableInfo) -> Kind | None:
    values = [arm.args["true"] for arm in node.args["ifs"]]
    default = node.args.get("default")
    return unify(kind_of(value, table) for value in (*values, *([default] if default is not None else [])))


def _cast(node: exp.Expr, table: TableInfo) -> Kind | None:
    spelling = node.args["to"].meta.get(SPELLING)
    return kind_of_type(spelling) if spelling is not None else None


def _extract(node: exp.Expr, table: TableInfo) -> Kind | None:
    return Kind.INT if node.this.name.lower() in _INT_PARTS else None


def _concat(node: exp.Expr, table: TableInfo) -> Kind | None:
    sides = {kind_of(node.this, table), kind_of(node.args["expression"], table)}
    return Kind.TEXT if sides == {Kind.TEXT} else None


def _call(node: exp.Expr, table: TableInfo) -> Kind | None:
    name, arguments = node.name.lower(), node.expressions
    for names, kind in ((_INT_FUNCTIONS, Kind.INT), (_FLOAT_FUNCTIONS, Kind.FLOAT), (_BOOL_FUNCTIONS, Kind.BOOL)):
        if name in names:
            return kind
    kinds = [kind_of(argument, table) for argument in arguments]
    if name in _TEXT_FUNCTIONS:
        # concat() and repeat() of a list give a list.
        return None if None in kinds else Kind.TEXT
    if name in _SAME_AS_ALL:
        return unify(kinds)
    if name == "if" and len(kinds) == 3:
        return unify(kinds[1:])
    if name == "nullif" and len(kinds) == 2:
        return kinds[0] if kinds[0] == kinds[1] else None
    return _call_by_first(name, arguments, kinds)


def _call_by_first(name: str, arguments: list[exp.Expr], kinds: list[Kind | None]) -> Kind | None:
    if name == "abs" and len(kinds) == 1:
        return kinds[0] if kinds[0] in NUMBERS else None
    if name in ("round", "floor", "ceil", "ceiling", "trunc") and kinds:
        return kinds[0] if kinds[0] in (Kind.FLOAT, Kind.DECIMAL) else None
    if name == "mod" and len(kinds) == 2:
        return unify(kinds) if set(kinds) <= NUMBERS else None
    if name in ("date_trunc", "datetrunc") and len(kinds) == 2:
        return Kind.TIMESTAMP if kinds[1] in (Kind.DATE, Kind.TIMESTAMP) else None
    if name in ("date_part", "datepart") and arguments and isinstance(arguments[0], exp.Literal):
        return Kind.INT if arguments[0].name.lower() in _INT_PARTS else None
    return None


_READERS: tuple[tuple[type[exp.Expr] | tuple[type[exp.Expr], ...], Callable[[exp.Expr, TableInfo], Kind | None]], ...]
_READERS = (
    (exp.Literal, _literal),
    (exp.Null, lambda node, table: Kind.NULL),
    (exp.Boolean, lambda node, table: Kind.BOOL),
    (exp.Interval, lambda node, table: Kind.INTERVAL),
    ((Caret, DoubleStar), lambda node, table: Kind.FLOAT),
    ((exp.Add, exp.Sub, exp.Mul, exp.Div, exp.IntDiv, exp.Mod), _arithmetic),
    ((exp.Neg, UnaryPlus), _same),
    (exp.DPipe, _concat),
    (exp.Case, _case),
    (exp.Cast, _cast),
    (exp.Extract, _extract),
    (exp.Anonymous, _call),
    (_BOOLEAN_NODES, lambda node, table: Kind.BOOL),
)
