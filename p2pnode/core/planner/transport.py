"""Columns whose DuckDB type the Arrow stream between holder and asker does not keep.

A 128-bit integer arrives as a decimal, a UUID, an enum or JSON as text, a bit string as a blob. Such a column travels
as text and is cast back at the asker, so that the final statement sees the declared type.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlglot import exp
from sqlglot.errors import SqlglotError

from p2pnode.core.model import Column
from p2pnode.core.planner.dialect import render
from p2pnode.errors import QueryError

_LOST = re.compile(
    r"\b(U?HUGEINT|UUID|JSON|BIT|BITSTRING|ENUM|BIGNUM|VARINT|TIME WITH TIME ZONE|TIMETZ)\b", re.IGNORECASE
)


def plainly(column: Column) -> exp.Expr:
    """`column` itself."""
    return exp.column(column.name, quoted=True)


def carried_sql(columns: Sequence[Column], select: exp.Select) -> str:
    """The SQL by which a holder sends `columns`, which `select` selects under their names."""
    if not any(_goes_as_text(column) for column in columns):
        return render(select)
    # Around it, so that a filter or an order inside still meets the columns with their own types.
    inner = exp.Subquery(this=select, alias=exp.TableAlias(this=exp.to_identifier("plain", quoted=True)))
    return render(exp.Select(expressions=[_carried(column) for column in columns]).from_(inner))


def _carried(column: Column) -> exp.Expr:
    if not _goes_as_text(column):
        return plainly(column)
    text = exp.Cast(this=plainly(column), to=exp.DataType.build("VARCHAR", dialect="duckdb"))
    return exp.alias_(text, column.name, quoted=True)


def _goes_as_text(column: Column) -> bool:
    """Lists and structs go as they are: Arrow loses the types inside them in a way that a cast repairs."""
    return _LOST.match(column.type) is not None and not column.type.endswith("]")


def restored(column: Column) -> exp.Expr | None:
    """How the asker turns it back, or None when nothing was lost. Raises QueryError for a type that is none."""
    if not _LOST.search(column.type):
        return None
    try:
        type_ = exp.DataType.build(column.type, dialect="duckdb")
    except SqlglotError as error:
        # The type's text came from another peer; only what parses as a type goes into a statement.
        raise QueryError(f"The type {column.type!r} of column {column.name!r} is unknown.") from error
    cast = exp.Cast(this=plainly(column), to=type_)
    return exp.alias_(cast, column.name, quoted=True)


def whole_sql(columns: Sequence[Column], view: str) -> str:
    """The SQL by which a holder sends `columns` of all rows of `view`."""
    return carried_sql(columns, exp.Select(expressions=[*map(plainly, columns)]).from_(exp.to_table(view)))


def restored_sql(columns: Sequence[Column], relation: str) -> str | None:
    """The SELECT that gives all types back, or None when nothing was lost."""
    items = [restored(column) for column in columns]
    if not any(items):
        return None
    names = map(plainly, columns)
    both = [item or name for item, name in zip(items, names, strict=True)]
    return render(exp.Select(expressions=both).from_(exp.Table(this=exp.to_identifier(relation, quoted=True))))
