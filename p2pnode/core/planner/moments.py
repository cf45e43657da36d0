"""now(), current_date and their kin become literals: one statement has one moment, the asker's, on every machine."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlglot import exp

from p2pnode.core.planner.dialect import Verbatim
from p2pnode.core.planner.functions import MOMENTS
from p2pnode.core.planner.names import written
from p2pnode.core.planner.parse import Unsure
from p2pnode.core.planner.tables import Reference

#: Those that may stand without parentheses.
_BARE = frozenset("current_date current_time current_timestamp localtime localtimestamp".split())

_DATES = frozenset(("current_date", "today"))
_LOCAL_TIMES = frozenset(("current_localtime", "localtime"))
_ZONED_TIMES = frozenset(("current_time", "get_current_time"))
_LOCAL_TIMESTAMPS = frozenset(("current_localtimestamp", "localtimestamp"))


def freeze(query: exp.Query, found: list[Reference], now: datetime) -> None:
    """Put the literals of `now` in place of every such call in `query`; a select item keeps its column name.

    Raises Unsure when the name of a select item that holds one cannot be foretold.
    """
    moment = now.astimezone(UTC) if now.tzinfo else now.replace(tzinfo=UTC)
    taken = {column.name.lower() for reference in found for column in reference.info.columns}
    taken.update(node.alias.lower() for node in query.find_all(exp.Alias))
    calls = [(node, name) for node in query.find_all(exp.Anonymous, exp.Column) if (name := _moment(node, taken))]
    for item in {id(item): item for node, _ in calls if (item := _item_of(node)) is not None}.values():
        name = written(item) if not isinstance(item, exp.Column) else item.name
        if name is None:
            raise Unsure("The column name of an expression over now() is left to DuckDB.", position=None)
        item.replace(exp.alias_(item.copy(), name, quoted=True))
    for node in list(query.find_all(exp.Anonymous, exp.Column)):
        name = _moment(node, taken)
        if name is not None:
            node.replace(_literal(name, moment))


def _moment(node: exp.Expr, taken: set[str]) -> str | None:
    name = node.name.lower()
    if isinstance(node, exp.Anonymous):
        return name if name in MOMENTS and not node.expressions else None
    bare = isinstance(node, exp.Column) and not node.table and isinstance(node.this, exp.Identifier)
    return name if bare and not node.this.quoted and name in _BARE - taken else None


def _item_of(node: exp.Expr) -> exp.Expr | None:
    """The unaliased select item that holds `node`, if it stands in one directly and not in a nested query."""
    child = node
    while child.parent is not None:
        if isinstance(child.parent, exp.Alias):
            return None
        if isinstance(child.parent, exp.Select):
            return child if child.arg_key == "expressions" else None
        child = child.parent
    return None


def _literal(name: str, moment: datetime) -> exp.Expr:
    if name in _DATES:
        return _cast(f"{moment:%Y-%m-%d}", "DATE")
    if name in _LOCAL_TIMES:
        return _cast(f"{moment:%H:%M:%S.%f}", "TIME")
    if name in _ZONED_TIMES:
        return _cast(f"{moment:%H:%M:%S.%f}+00", "TIMETZ")
    if name in _LOCAL_TIMESTAMPS:
        return _cast(f"{moment:%Y-%m-%d %H:%M:%S.%f}", "TIMESTAMP")
    return _cast(f"{moment:%Y-%m-%d %H:%M:%S.%f}+00", "TIMESTAMPTZ")


def _cast(text: str, type_: str) -> exp.Expr:
    parsed = exp.maybe_parse(f"CAST('{text}' AS {type_})", dialect=Verbatim)
    assert isinstance(parsed, exp.Expr)
    return parsed
