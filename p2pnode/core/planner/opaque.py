"""The second way: SQL that only DuckDB's own parser reads, run as it is over whole gathered tables.

The caller had DuckDB serialise the statement (``json_serialize_sql``) in the fenced process; the tree that comes back
is checked against the same lists as sqlglot's. The text itself then runs at the asker, so nothing is lost between two
readings of it. Holders only ever get a plain SELECT of columns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from p2pnode.core.planner.allow import check_function
from p2pnode.core.planner.draft import VIEW
from p2pnode.core.planner.functions import ALLOWED, TABLE_FUNCTIONS, words
from p2pnode.core.planner.model import Plan, Resolve, Scan, TableInfo, folded
from p2pnode.core.planner.tables import not_found
from p2pnode.core.planner.transport import restored_sql, whole_sql
from p2pnode.errors import QueryError, SqlRefused

#: Kinds of FROM items that read nothing by themselves.
_SOURCES = frozenset(
    ("BASE_TABLE", "SUBQUERY", "JOIN", "TABLE_FUNCTION", "EMPTY", "EXPRESSION_LIST", "CTE", "PIVOT", "COLUMN_DATA")
)
_QUERY_NODES = frozenset(("SELECT_NODE", "SET_OPERATION_NODE", "CTE_NODE", "RECURSIVE_CTE_NODE"))
_OPERATORS = words("+ - * / // % ** ^ || & | << >> ~ @ ! -> ->> ~~ !~~ ~~* !~~* ~~~ ^@ && @> <@ <-> <=>")


def serialization_of(sql: str) -> str:
    """The statement by which DuckDB serialises `sql`: one row, one text; to be run in the fenced process."""
    return f"SELECT json_serialize_sql('{sql.replace(chr(39), chr(39) * 2)}')"


def plan_opaque(sql: str, serialized: str, resolve: Resolve) -> Plan:
    """Gather every dataset of `sql` whole and run its text at the asker.

    `serialized` is what `serialization_of(sql)` gave. Outputs are called like the tables, as the text expects.

    Raises QueryError with DuckDB's message and ``details["position"]`` (0-based character) when it is no SQL,
    SqlRefused when it does what no query may do, NotFound for a name in FROM that is no dataset.
    """
    try:
        document = json.loads(serialized)
    except RecursionError as error:
        raise QueryError("The statement nests too deep.") from error
    if document.get("error"):
        raise _no_query(document)
    statements = document["statements"]
    if len(statements) != 1:
        raise SqlRefused("One statement at a time: this text holds several.")
    found: dict[str, TableInfo] = {}
    for name in _tables(statements[0]["node"]):
        info = resolve(name)
        if info is None:
            raise not_found(name, [])
        found.setdefault(folded(name), info)
    scans, casts = [], []
    for name, info in found.items():
        restoring = restored_sql(info.columns, f"p_{name}")
        output = name if restoring is None else f"p_{name}"
        if restoring is not None:
            casts.append(f'"{name.replace(chr(34), chr(34) * 2)}" AS ({restoring})')
        shards = tuple(range(len(info.shards)))
        sql_of_holder = whole_sql(info.columns, VIEW)
        scans.append(Scan(info.name, VIEW, sql_of_holder, info.columns, shards, output, partial=False))
    by_name = {info.name: info for info in found.values()}
    return Plan(
        scans=tuple(scans),
        final=_with(casts, sql),
        pushed=False,
        tables=tuple(by_name),
        shards_total=sum(len(info.shards) for info in by_name.values()),
        notes=("DuckDB alone reads the statement: whole tables are gathered and it runs at the asker.",),
    )


def _with(casts: list[str], sql: str) -> str:
    """`sql` after common table expressions that give columns back the types they lost on the way."""
    if not casts:
        return sql
    begin = re.match(r"\s*WITH\s+(RECURSIVE\s+)?", sql, re.IGNORECASE)
    if begin is None:
        return f"WITH {', '.join(casts)} {sql}"
    return f"WITH {begin.group(1) or ''}{', '.join(casts)}, {sql[begin.end() :]}"


def _no_query(document: dict[str, Any]) -> QueryError | SqlRefused:
    message = str(document.get("error_message", "The statement cannot be read."))
    if document.get("error_type") == "not implemented":
        return SqlRefused("Only a SELECT is a query.", detail=message)
    position = str(document.get("position", ""))
    at = int(position) if position.isdigit() else None
    where = f" (character {at + 1})" if at is not None else ""
    return QueryError(f"{message[:1].upper()}{message[1:]}{where}.", position=at)


def _tables(statement: Any) -> Iterator[str]:
    """Names of base tables in `statement` that no CTE in sight defines; everything else is checked on the way."""
    pending: list[tuple[Any, frozenset[str]]] = [(statement, frozenset())]
    while pending:
        node, ctes = pending.pop()
        if isinstance(node, list):
            pending.extend((part, ctes) for part in node)
        if not isinstance(node, dict):
            continue
        kind = str(node.get("type", ""))
        if "cte_map" in node:
            # Wider than DuckDB's own rule (a CTE sees only those before it), so a dataset that a later CTE shadows is
            # not found, and DuckDB says so: an error, never another table's rows.
            ctes |= {folded(str(entry["key"])) for entry in node["cte_map"]["map"]}
        if kind in ("CTE_NODE", "RECURSIVE_CTE_NODE"):
            ctes |= {folded(str(node.get("cte_name", "")))}
        if kind == "BASE_TABLE":
            yield from _base_table(node, ctes)
        _check(node, kind)
        pending.extend((part, ctes) for key, part in node.items() if key != "type")


def _base_table(node: dict[str, Any], ctes: frozenset[str]) -> Iterator[str]:
    name = str(node["table_name"])
    if node.get("at_clause"):
        raise SqlRefused(f"{name} AT … is not how a version is asked for.")
    if node.get("schema_name") or node.get("catalog_name"):
        raise SqlRefused(f"{name} is named with a schema; a table is a dataset's name alone.")
    if folded(name) not in ctes:
        yield name


def _check(node: dict[str, Any], kind: str) -> None:
    if kind.endswith("_NODE") and kind not in _QUERY_NODES:
        raise SqlRefused(f"{kind.removesuffix('_NODE')} is not a SELECT.")
    if "from_table" in node and node["from_table"] and node["from_table"].get("type") not in _SOURCES:
        raise SqlRefused(f"{node['from_table'].get('type')} cannot be read from.")
    if kind in ("SHOW_REF", "TABLE_REF") or node.get("class") == "PARAMETER":
        raise SqlRefused("Parameters and descriptions of the engine have no place in a query here.")
    if "function_name" in node and not node.get("is_operator"):
        name = str(node["function_name"])
        if node.get("schema") or node.get("catalog"):
            raise SqlRefused(f"The function {name}() is named with a schema.")
        if name not in _OPERATORS:
            check_function(name, ALLOWED | TABLE_FUNCTIONS)
