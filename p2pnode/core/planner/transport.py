"""Columns whose DuckDB type the Arrow stream between holder and asker does not keep.

A 128-bit integer arrives as a decimal, a UUID, an enum or JSON as text, a bit string as a blob. Such a column travels
as text and is cast back at the asker, so that the final statement sees the declared type.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlglot import exp

from p2pnode.core.model import Column
from p2pnode.core.planner.dialect import render

_LOST = re.compile(
    r"\b(U?HUGEINT|UUID|JSON|BIT|BITSTRING|ENUM|BIGNUM|VARINT|TIME WITH TIME ZONE|TIMETZ)\b", re.IGNORECASE
)


def carried(column: Column) -> exp.Expr:
    """How a holder selects `column`."""
    name = exp.column(column.name, quoted=True)
    if _LOST.match(column.type) and not column.type.endswith("]"):
        text = exp.Cast(this=name, to=exp.DataType.build("VARCHAR", dialect="duckdb"))
        return exp.alias_(text, column.name, quoted=True)
    return name


def restored(column: Column) -> exp.Expr | None:
    """How the asker turns it back, or None when nothing was lost."""
    if not _LOST.search(column.type):
        return None
    cast = exp.Cast(this=exp.column(column.name, quoted=True), to=exp.DataType.build(column.type, dialect="duckdb"))
    return exp.alias_(cast, column.name, quoted=True)


def carried_sql(columns: Sequence[Column], view: str) -> str:
    """The SELECT by which a holder sends `columns` of `view`."""
    return render(exp.Select(expressions=[carried(column) for column in columns]).from_(exp.to_table(view)))


def restored_sql(columns: Sequence[Column], relation: str) -> str | None:
    """The SELECT that gives all types back, or None when nothing was lost."""
    items = [restored(column) for column in columns]
    if not any(items):
        return None
    names = [exp.column(column.name, quoted=True) for column in columns]
    both = [item or name for item, name in zip(items, names, strict=True)]
    return render(exp.Select(expressions=both).from_(exp.to_table(relation, quoted=True)))
