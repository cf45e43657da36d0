"""Which shards cannot hold a row that a condition lets through, by their minima and maxima.

A shard is left out only when its statistics prove it; anything unusual (a cast, a 32-bit float, a type without bounds,
text where a date is expected) keeps it. Numbers are compared both exactly and as doubles, because DuckDB does either.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction

from sqlglot import exp

from p2pnode.core.model import ColumnStats, Scalar, ShardEntry
from p2pnode.core.planner.kinds import Kind, kind_of_type
from p2pnode.core.planner.model import TableInfo

_FLIPPED: dict[type[exp.Expr], type[exp.Expr]] = {
    exp.EQ: exp.EQ,
    exp.LT: exp.GT,
    exp.LTE: exp.GTE,
    exp.GT: exp.LT,
    exp.GTE: exp.LTE,
}

#: A value with its order: numbers as fractions, text as UTF-8 bytes, dates and timestamps in microseconds.
Ordered = Fraction | bytes | int

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIMESTAMP = re.compile(r"\d{4}-\d{2}-\d{2}[ T]\d{2}:\d{2}:\d{2}(\.\d{1,6})?")
_EPOCH = datetime(1970, 1, 1)


def prune(conditions: Iterable[exp.Expr], table: TableInfo) -> tuple[int, ...]:
    """Indexes of the shards of `table` that may hold a row for which all `conditions` (over bare columns) are true."""
    wanted = list(conditions)
    return tuple(
        index
        for index, shard in enumerate(table.shards)
        if all(_may_hold(condition, table, shard) for condition in wanted)
    )


def _may_hold(node: exp.Expr, table: TableInfo, shard: ShardEntry) -> bool:
    node = node.unnest()
    if isinstance(node, exp.And):
        return _may_hold(node.this, table, shard) and _may_hold(node.args["expression"], table, shard)
    if isinstance(node, exp.Or):
        return _may_hold(node.this, table, shard) or _may_hold(node.args["expression"], table, shard)
    if isinstance(node, exp.Not):
        inner = node.this.unnest()
        return not isinstance(inner, exp.Is) or _nulls(inner, table, shard, wanted=False)
    if isinstance(node, exp.Is):
        return _nulls(node, table, shard, wanted=True)
    if isinstance(node, exp.Between):
        if node.args.get("symmetric"):
            return True
        low = exp.GTE(this=node.this.copy(), expression=node.args["low"].copy())
        high = exp.LTE(this=node.this.copy(), expression=node.args["high"].copy())
        return _may_hold(low, table, shard) and _may_hold(high, table, shard)
    if isinstance(node, exp.In):
        values = node.expressions
        equal = (exp.EQ(this=node.this.copy(), expression=value.copy()) for value in values)
        return not values or any(_may_hold(each, table, shard) for each in equal)
    if isinstance(node, exp.Like):
        return bool(node.args.get("negate")) or _starts_like(node, table, shard)
    return _compares(node, table, shard)


def _nulls(node: exp.Expr, table: TableInfo, shard: ShardEntry, *, wanted: bool) -> bool:
    column = _column_stats(node.this, table, shard)
    if column is None or not isinstance(node.args["expression"], exp.Null):
        return True
    _, stats = column
    return stats.nulls > 0 if wanted else stats.nulls < shard.rows


def _compares(node: exp.Expr, table: TableInfo, shard: ShardEntry) -> bool:
    kind = type(node)
    if kind not in _FLIPPED:
        return True
    left, right = node.this, node.args["expression"]
    if not isinstance(left.unnest(), exp.Column):
        left, right, kind = right, left, _FLIPPED[kind]
    column = _column_stats(left, table, shard)
    if column is None:
        return True
    type_, stats = column
    constant = _constant(right, type_)
    if constant is None:
        return True
    if stats.nulls >= shard.rows:
        return False
    return _in_bounds(kind, constant, _bound(stats.low, type_), _bound(stats.high, type_))


def _in_bounds(kind: type[exp.Expr], constant: Ordered, low: Ordered | None, high: Ordered | None) -> bool:
    from_below = low is None or _reaches(low, constant, or_equal=kind is not exp.LT)
    from_above = high is None or _reaches(constant, high, or_equal=kind is not exp.GT)
    if kind in (exp.LT, exp.LTE):
        return from_below
    if kind in (exp.GT, exp.GTE):
        return from_above
    return from_below and from_above


def _reaches(lesser: Ordered, greater: Ordered, *, or_equal: bool) -> bool:
    if isinstance(lesser, Fraction) and isinstance(greater, Fraction):
        try:
            rounded = (float(lesser), float(greater))
        except OverflowError:
            return True
        exactly = lesser < greater or (or_equal and lesser == greater)
        return exactly or rounded[0] < rounded[1] or (or_equal and rounded[0] == rounded[1])
    if isinstance(lesser, bytes) and isinstance(greater, bytes):
        return lesser < greater or (or_equal and lesser == greater)
    if isinstance(lesser, int) and isinstance(greater, int):
        return lesser < greater or (or_equal and lesser == greater)
    return True


def _starts_like(node: exp.Expr, table: TableInfo, shard: ShardEntry) -> bool:
    """``x LIKE 'abc%'``: some value must begin with what stands before the first wildcard."""
    column = _column_stats(node.this, table, shard)
    pattern = node.args["expression"].unnest()
    if column is None or not isinstance(pattern, exp.Literal) or not pattern.is_string:
        return True
    type_, stats = column
    prefix = re.split(r"[%_\\]", pattern.name, maxsplit=1)[0].encode()
    low, high = _bound(stats.low, type_), _bound(stats.high, type_)
    if stats.nulls >= shard.rows:
        return False
    below = not isinstance(low, bytes) or low[: len(prefix)] <= prefix
    above = not isinstance(high, bytes) or high[: len(prefix)] >= prefix
    return below and above


def _column_stats(node: exp.Expr, table: TableInfo, shard: ShardEntry) -> tuple[str, ColumnStats] | None:
    bare = node.unnest()
    if not isinstance(bare, exp.Column) or bare.table:
        return None
    column = table.column(bare.name)
    stats = shard.stats.get(column.name) if column is not None else None
    if column is None or stats is None or column.type.upper() in ("FLOAT", "REAL"):
        return None
    return column.type, stats


def _bound(value: Scalar, type_: str) -> Ordered | None:
    """A minimum or maximum from the statistics in the order of the column's type, or None if that is in doubt."""
    kind = kind_of_type(type_)
    if kind in (Kind.INT, Kind.UBIG, Kind.FLOAT):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
        return Fraction(value)
    if kind == Kind.BOOL:
        return int(value) if isinstance(value, bool) else None
    if not isinstance(value, str):
        return None
    if kind == Kind.TEXT:
        return value.encode()
    return _moment(value) if kind in (Kind.DATE, Kind.TIMESTAMP) else None


def _constant(node: exp.Expr, type_: str) -> Ordered | None:
    """A literal as it is compared with a column of `type_`, or None if that is in doubt."""
    kind = kind_of_type(type_)
    bare = node.unnest()
    if kind in (Kind.INT, Kind.UBIG, Kind.FLOAT):
        return _number(bare)
    if kind == Kind.BOOL:
        return int(bare.this) if isinstance(bare, exp.Boolean) else None
    if kind == Kind.TEXT:
        return bare.name.encode() if isinstance(bare, exp.Literal) and bare.is_string else None
    if kind not in (Kind.DATE, Kind.TIMESTAMP):
        return None
    if isinstance(bare, exp.Cast) and not isinstance(bare, exp.TryCast):
        to = kind_of_type(bare.args["to"].sql(dialect="duckdb"))
        inner = bare.this
        if to not in (Kind.DATE, Kind.TIMESTAMP) or not isinstance(inner, exp.Literal) or not inner.is_string:
            return None
        # DATE '2020-01-01 10:00:00' would lose its time of day.
        return _moment(inner.name) if to == Kind.TIMESTAMP or _DATE.fullmatch(inner.name) else None
    if not isinstance(bare, exp.Literal) or not bare.is_string:
        return None
    return _moment(bare.name) if kind == Kind.TIMESTAMP or _DATE.fullmatch(bare.name) else None


def _number(node: exp.Expr) -> Fraction | None:
    if isinstance(node, exp.Neg):
        inner = _number(node.this.unnest())
        return -inner if inner is not None else None
    if not isinstance(node, exp.Literal) or node.is_string:
        return None
    try:
        value = Decimal(node.name)
    except ArithmeticError:
        return None
    # A huge exponent would cost more to expand than pruning can save.
    return Fraction(value) if value.is_finite() and abs(value.adjusted()) < 400 else None


def _moment(text: str) -> int | None:
    """Microseconds since 1970 of an ISO date or timestamp without zone."""
    try:
        if _DATE.fullmatch(text):
            day = date.fromisoformat(text)
            moment = datetime(day.year, day.month, day.day)
        elif _TIMESTAMP.fullmatch(text):
            moment = datetime.fromisoformat(text)
        else:
            return None
    except ValueError:
        return None
    past = moment - _EPOCH
    return (past.days * 86_400 + past.seconds) * 1_000_000 + past.microseconds
