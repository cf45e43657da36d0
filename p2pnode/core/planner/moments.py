"""now(), current_date and their kin become literals: one statement has one moment, the asker's, on every machine."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlglot import exp

from p2pnode.core.planner.dialect import Verbatim
from p2pnode.core.planner.functions import MOMENTS, words
from p2pnode.core.planner.parse import Unsure
from p2pnode.core.planner.tables import Reference

#: Those that may stand without parentheses.
_BARE = words("current_date current_time current_timestamp localtime localtimestamp")

_DATES = frozenset(("current_date", "today"))
_LOCAL_TIMES = frozenset(("current_localtime", "localtime"))
_ZONED_TIMES = frozenset(("current_time", "get_current_time"))
_LOCAL_TIMESTAMPS = frozenset(("current_localtimestamp", "localtimestamp"))


def freeze(query: exp.Expr, taken: set[str], now: datetime) -> None:
    """Put the literals of `now` in place of every such call in `query`; `taken` is from `names_taken`."""
    moment = now.astimezone(UTC) if now.tzinfo else now.replace(tzinfo=UTC)
    for node in list(query.find_all(exp.Anonymous, exp.Column)):
        name = moment_called(node, taken)
        if name is not None:
            node.replace(_literal(name, moment))


def names_taken(query: exp.Expr, found: list[Reference]) -> set[str]:
    """Names that stand for a column, so that they are no call without parentheses. Raises Unsure for aliases."""
    for node in query.find_all(exp.Identifier):
        if node.name.lower() in _BARE and not isinstance(node.parent, exp.Column):
            raise Unsure(f"{node.name} is used as a name.")
    return {column.name.lower() for reference in found for column in reference.info.columns}


def moment_called(node: exp.Expr, taken: set[str]) -> str | None:
    """The name of the moment that `node` calls, if it calls one."""
    name = node.name.lower()
    if isinstance(node, exp.Anonymous):
        return name if name in MOMENTS and not node.expressions else None
    bare = isinstance(node, exp.Column) and not node.table and isinstance(node.this, exp.Identifier)
    return name if bare and not node.this.quoted and name in _BARE - taken else None


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
