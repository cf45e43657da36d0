"""Queries, cut in two: what the holders of the shards do, and what the asker does with their answers.

`plan` reads SQL with sqlglot, checks it against an allow-list and splits it; `plan_opaque` is the second way, for SQL
that only DuckDB's own parser reads. Nothing here runs SQL.
"""

from p2pnode.core.planner.model import Plan, Resolve, Scan, TableInfo
from p2pnode.core.planner.opaque import plan_opaque, serialization_of
from p2pnode.core.planner.parse import Unsure
from p2pnode.core.planner.plan import plan

__all__ = ["Plan", "Resolve", "Scan", "TableInfo", "Unsure", "plan", "plan_opaque", "serialization_of"]
