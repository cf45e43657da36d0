"""From SQL text to a `Plan` that is always right.

Each SELECT over one dataset is cut by `rows` or `groups` where that is safe; every other reference to a dataset is
gathered: its holders send the columns that the statement may read, and the statement itself runs at the asker.
"""

from __future__ import annotations

from datetime import datetime


from p2pnode.core.planner import allow
from p2pnode.core.planner.draft import Draft
from p2pnode.core.planner.model import Plan, Resolve
from p2pnode.core.planner.parse import parse
from p2pnode.core.planner.tables import needed_columns, references


def plan(sql: str, resolve: Resolve, now: datetime) -> Plan:
    """Cut `sql` (DuckDB's dialect) in work for the holders and work for the asker.

    `now` (aware, or UTC if naive) is what now(), current_date and their kin mean in this statement.

    Raises:
        Unsure: DuckDB's own parser must be asked; go on with `opaque.plan_opaque`.
        SqlRefused: the statement does something that no query may do.
        QueryError: it is empty or too long.
        NotFound: a name in FROM is no dataset.
    """
    query = parse(sql)
    allow.check(query)
    found = references(query, resolve)
    draft = Draft.of(query, found)
    for reference in found:
        draft.gather(reference, needed_columns(query, reference))
    return draft.finish(query)
