"""The last look at a statement before DuckDB runs it: one SELECT that reads the given tables and nothing else.

The planner's check at the asker decides what a person may write; this one trusts nobody, since a holder receives the
text from another peer. It walks the tree that DuckDB's own parser made (json_serialize_sql), so there is no second
parser to disagree with. Kinds of nodes and functions that read tables are allow-lists, because every release adds
some; scalar functions are a deny-list of those that reach beyond their arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from p2pnode.errors import SqlRefused

#: Statements, table references and modifiers that only read. SHOW_REF would list settings; INSERT hides in WITH.
_NODES = frozenset(
    {
        "SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE",
        "EMPTY", "BASE_TABLE", "SUBQUERY", "JOIN", "TABLE_FUNCTION", "EXPRESSION_LIST", "PIVOT",
        "ORDER_MODIFIER", "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "DISTINCT_MODIFIER",
        "ORDER_DEFAULT", "ASCENDING", "DESCENDING",
    }
)  # fmt: skip

#: Table functions that make rows from their arguments.
_TABLE_FUNCTIONS = frozenset({"unnest", "range", "generate_series", "json_each", "json_tree", "repeat_row"})

#: Functions that reach beyond their arguments: settings, variables, logs, other statements, raw states in memory.
_FUNCTIONS_DENIED = frozenset(
    {
        "current_setting", "getvariable", "getenv", "in_search_path", "current_query", "current_schemas",
        "json_serialize_plan", "write_log", "parse_duckdb_log_message",
        "nextval", "currval", "setval", "setseed", "sleep_ms", "pg_sleep",
        "finalize", "combine", "combine_aggr", "to_aggregate_state", "invoke",
    }
)  # fmt: skip

#: Functions of DuckDB's own optimizer, which trust their arguments blindly.
_INTERNAL_PREFIX = "__internal"

#: A parser that recurses this deep is a weapon; no planner writes such a tree.
DEPTH_MAX = 2000


def admit(tree: dict[str, Any], tables: Iterable[str]) -> None:
    """Let a parsed statement pass, or raise SqlRefused saying what it may not do.

    `tree` is the document of json_serialize_sql, `tables` the names it may read (case does not matter, as in DuckDB).
    """
    if tree.get("error") or len(tree.get("statements", ())) != 1:
        raise SqlRefused("Not one SELECT statement.")
    known = {name.casefold() for name in tables}
    nodes = list(_nodes(tree))
    for name in _defined(nodes):
        # A name that is out of scope is looked up as a file, and every path to a shard has a slash.
        if "/" in name:
            raise SqlRefused(f"A name in WITH may not contain a slash: {name!r}.")
        known.add(name.casefold())
    for node in nodes:
        _check(node, known)


def _check(node: dict[str, Any], tables: set[str]) -> None:
    kind = node.get("type")
    if "class" not in node and isinstance(kind, str) and kind not in _NODES:
        raise SqlRefused(f"{kind} is not allowed in a query.")
    if kind == "BASE_TABLE":
        if node.get("schema_name") or node.get("catalog_name") or node["table_name"].casefold() not in tables:
            raise SqlRefused(f"No such table here: {node['table_name']!r}.")
    elif kind == "TABLE_FUNCTION":
        name = node["function"].get("function_name", "").casefold()
        if name not in _TABLE_FUNCTIONS:
            raise SqlRefused(f"The table function {name!r} is not allowed.")
    name = node.get("function_name", "").casefold()
    if name in _FUNCTIONS_DENIED or name.startswith(_INTERNAL_PREFIX):
        raise SqlRefused(f"The function {name!r} is not allowed.")


def _defined(nodes: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Names that the statement defines in WITH."""
    for node in nodes:
        if "cte_map" in node:
            for entry in node["cte_map"]["map"]:
                yield entry["key"]
        if node.get("type") in ("RECURSIVE_CTE_NODE", "CTE_NODE"):
            yield node["cte_name"]


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every map in the tree, in order, without recursion."""
    pending: list[tuple[Any, int]] = [(tree, 0)]
    while pending:
        node, depth = pending.pop()
        if depth > DEPTH_MAX:
            raise SqlRefused("The statement is nested too deeply.")
        if isinstance(node, dict):
            yield node
            pending += [(child, depth + 1) for child in reversed(node.values()) if isinstance(child, dict | list)]
        elif isinstance(node, list):
            pending += [(child, depth + 1) for child in reversed(node) if isinstance(child, dict | list)]
