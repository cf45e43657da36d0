"""How each aggregate is computed in parts: what a holder computes, and how the parts are merged.

An aggregate stands here only if the merge gives DuckDB's value and DuckDB's type: exactly for integers, decimals, text
and moments, up to the order of additions for floats. The others (medians, lists, first, string_agg, …) depend on all
rows at once or on their order, and are computed by the asker.

Variances are merged from count, mean and sum of squared deviations (Chan, Golub, LeVeque: "Updating Formulae and a
Pairwise Algorithm for Computing Sample Variances", 1979), since sums of squares would lose the digits that matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sqlglot import exp

from p2pnode.core.planner.dialect import Verbatim, render
from p2pnode.core.planner.kinds import NUMBERS, PLAIN, Kind, kind_of
from p2pnode.core.planner.leaf import NotALeaf
from p2pnode.core.planner.model import TableInfo

_COUNTS = frozenset(("count", "count_if", "countif"))
_SELF_MERGING = frozenset(("bool_and", "bool_or"))
_BITWISE = frozenset(("bit_and", "bit_or", "bit_xor"))
_SPREADS = {
    **dict.fromkeys(("var_samp", "variance"), "CASE WHEN {n} > 1 THEN {m2} / ({n} - 1) END"),
    **dict.fromkeys(("stddev_samp", "stddev"), "CASE WHEN {n} > 1 THEN sqrt({m2} / ({n} - 1)) END"),
    "var_pop": "CASE WHEN {n} > 0 THEN {m2} / {n} END",
    "stddev_pop": "CASE WHEN {n} > 0 THEN sqrt({m2} / {n}) END",
}


@dataclass(slots=True)
class Parts:
    """What the holders compute for all aggregates of one SELECT, and what the merges need.

    `columns` maps a holder's expression to its column in the output, `extra` are values to group by beside the keys
    (for DISTINCT), `means` are columns (n, mean) whose common mean must be known before merging.
    """

    prefix: str
    table: TableInfo
    columns: dict[str, str] = field(default_factory=dict)
    extra: dict[str, str] = field(default_factory=dict)
    means: dict[tuple[str, str], str] = field(default_factory=dict)

    def part(self, sql: str) -> str:
        return f'"{self.columns.setdefault(sql, f"{self.prefix}part_{len(self.columns)}")}"'

    def value(self, sql: str) -> str:
        return f'"{self.extra.setdefault(sql, f"{self.prefix}value_{len(self.extra)}")}"'

    def mean(self, count: str, mean: str) -> str:
        return f'"{self.means.setdefault((count, mean), f"{self.prefix}mean_{len(self.means)}")}"'


def merge(aggregate: exp.Expr, parts: Parts) -> str:
    """Register what the holders must compute for `aggregate` and give the SQL that merges it. Raises NotALeaf."""
    call, condition = (
        (aggregate.this, aggregate.args["expression"].this) if isinstance(aggregate, exp.Filter) else (aggregate, None)
    )
    if not isinstance(call, exp.Anonymous):
        raise NotALeaf(f"{render(aggregate)} is not an aggregate that is known in parts")
    name, arguments = call.name.lower(), call.expressions
    if any(argument.find(exp.Order, exp.Limit, exp.IgnoreNulls, exp.RespectNulls) for argument in arguments):
        raise NotALeaf(f"{name}() depends on the order of rows")
    filtered = f" FILTER (WHERE {render(condition)})" if condition is not None else ""
    if arguments and isinstance(arguments[0], exp.Distinct):
        return _distinct(name, arguments, condition, parts)
    if name == "count" and (not arguments or isinstance(arguments[0], exp.Star)):
        return f"CAST(coalesce(sum({parts.part(f'count(*){filtered}')}), 0) AS BIGINT)"
    if len(arguments) != 1:
        raise NotALeaf(f"{name}() with {len(arguments)} arguments is not known in parts")
    return _plain(name, arguments[0], filtered, parts)


def _plain(name: str, argument: exp.Expr, filtered: str, parts: Parts) -> str:
    kind, value = kind_of(argument, parts.table), render(argument)
    if name in _COUNTS:
        part = parts.part(f"{name}({value}){filtered}")
        return f"CAST(coalesce(sum({part}), 0) AS BIGINT)" if name == "count" else f"CAST(sum({part}) AS HUGEINT)"
    merged = _MERGES.get(name)
    if merged is None:
        raise NotALeaf(f"{name}() needs all rows in one place")
    found = merged(name, value, kind, filtered, parts)
    if found is None:
        raise NotALeaf(f"the type of {name}({value}) is not certain")
    return found


def _sum(name: str, value: str, kind: Kind | None, filtered: str, parts: Parts) -> str | None:
    if kind not in NUMBERS and kind != Kind.BOOL:
        return None
    part = parts.part(f"sum({value}){filtered}")
    return f"CAST(sum({part}) AS HUGEINT)" if kind in (Kind.INT, Kind.BOOL) else f"sum({part})"


def _average(name: str, value: str, kind: Kind | None, filtered: str, parts: Parts) -> str | None:
    if kind not in NUMBERS:
        return None
    total, count = parts.part(f"sum({value}){filtered}"), parts.part(f"count({value}){filtered}")
    return f"CAST(sum({total}) AS DOUBLE) / sum({count})"


def _extreme(name: str, value: str, kind: Kind | None, filtered: str, parts: Parts) -> str | None:
    return f"{name}({parts.part(f'{name}({value}){filtered}')})" if kind in PLAIN else None


def _same(name: str, value: str, kind: Kind | None, filtered: str, parts: Parts) -> str | None:
    wanted = Kind.BOOL if name in _SELF_MERGING else Kind.INT
    return f"{name}({parts.part(f'{name}({value}){filtered}')})" if kind == wanted else None


def _spread(name: str, value: str, kind: Kind | None, filtered: str, parts: Parts) -> str | None:
    if kind not in NUMBERS:
        return None
    count = parts.part(f"count({value}){filtered}")
    mean = parts.part(f"avg({value}){filtered}")
    squares = parts.part(f"var_pop({value}){filtered} * count({value}){filtered}")
    away = f"({mean} - {parts.mean(count, mean)})"
    return _SPREADS[name].format(n=f"sum({count})", m2=f"sum({squares} + {count} * {away} * {away})")


_MERGES: dict[str, Callable[[str, str, Kind | None, str, Parts], str | None]] = {
    "sum": _sum,
    **dict.fromkeys(("avg", "mean"), _average),
    **dict.fromkeys(("min", "max"), _extreme),
    **dict.fromkeys((*_SELF_MERGING, *_BITWISE), _same),
    **dict.fromkeys(_SPREADS, _spread),
}


def _distinct(name: str, arguments: list[exp.Expr], condition: exp.Expr | None, parts: Parts) -> str:
    """DISTINCT values are grouped by at the holders and made distinct again at the asker."""
    values = arguments[0].expressions
    if len(arguments) != 1 or len(values) != 1 or name not in ("count", "sum", "avg", "min", "max"):
        raise NotALeaf(f"{name}(DISTINCT …) needs all rows in one place")
    kind = kind_of(values[0], parts.table)
    numeric = kind in NUMBERS
    if kind not in PLAIN or (name in ("sum", "avg") and not numeric):
        raise NotALeaf(f"the type of {name}(DISTINCT {render(values[0])}) is not certain")
    sql = render(values[0])
    if condition is not None:
        sql = f"CASE WHEN {render(condition)} THEN {sql} END"
    return f"{name}(DISTINCT {parts.value(sql)})"


def parsed(sql: str) -> exp.Expr:
    """An expression of ours as a tree."""
    tree = exp.maybe_parse(sql, dialect=Verbatim)
    assert isinstance(tree, exp.Expr)
    return tree
