"""From SQL text to a `Plan` that is always right.

Each SELECT over one dataset is cut by `rows` or `groups` where that is safe; every other reference to a dataset is
gathered: its holders send the columns that the statement may read, of the rows that it may keep, and the statement
itself runs at the asker.
"""

from __future__ import annotations

from datetime import datetime

from sqlglot import exp

from p2pnode.core.planner import allow, moments
from p2pnode.core.planner.draft import Draft
from p2pnode.core.planner.filters import both, conjuncts, early
from p2pnode.core.planner.groups import split_groups
from p2pnode.core.planner.leaf import Leaf, NotALeaf, read_leaf
from p2pnode.core.planner.model import Plan, Resolve
from p2pnode.core.planner.parse import parse
from p2pnode.core.planner.pin import pin_names
from p2pnode.core.planner.prune import prune
from p2pnode.core.planner.rows import split_rows
from p2pnode.core.planner.spelling import check_spelling
from p2pnode.core.planner.tables import Reference, needed_columns, references


def plan(sql: str, resolve: Resolve, now: datetime) -> Plan:
    """Cut `sql` (DuckDB's dialect) in work for the holders and work for the asker.

    `now` (aware, or UTC if naive) is what now(), current_date and their kin mean in this statement.

    Raises:
        Unsure: DuckDB's own parser must be asked; go on with `plan_opaque`.
        SqlRefused: the statement does something that no query may do.
        QueryError: it is empty, too long or nested too deep.
        NotFound: a name in FROM is no dataset.
    """
    query = parse(sql)
    allow.check(query)
    check_spelling(sql, query)
    # The cut replaces nodes in their parents, so the statement itself gets one.
    root = exp.Subquery(this=query)
    found = references(root, resolve)
    taken = moments.names_taken(root, found)
    pin_names(root, found, taken)
    moments.freeze(root, taken, now)
    draft = Draft.of(root, found)
    homes = {id(reference): _home(reference) for reference in found}
    for reference in found:
        home = homes[id(reference)]
        beside = [other for other in found if other is not reference and homes[id(other)] is home is not None]
        try:
            _cut(home, reference, draft)
        except NotALeaf as reason:
            _gather(root, home, reference, beside, draft, str(reason))
    return draft.finish(root)


def _home(reference: Reference) -> exp.Select | None:
    """The SELECT in whose FROM or JOIN `reference` stands directly."""
    clause = reference.node.parent
    select = clause.parent if isinstance(clause, (exp.From, exp.Join)) else None
    return select if isinstance(select, exp.Select) else None


def _cut(home: exp.Select | None, reference: Reference, draft: Draft) -> None:
    if home is None or home.args.get("joins") or home.args.get("laterals"):
        raise NotALeaf("joins are finished at the asker")
    leaf = read_leaf(home, reference)
    shards = prune(conjuncts(leaf.where), reference.info)
    _note_pruning(reference, shards, draft)
    if not shards:
        draft.gather(reference, needed_columns(home, reference), shards=())
    elif leaf.aggregated:
        _cut_groups(leaf, draft, shards)
        _note_filter(leaf, draft)
    else:
        split_rows(leaf, draft, shards)
        _note_filter(leaf, draft)


def _cut_groups(leaf: Leaf, draft: Draft, shards: tuple[int, ...]) -> None:
    name = leaf.reference.info.name
    try:
        split_groups(leaf, draft, shards)
        draft.notes.append(f"{name}: groups are computed in parts by the holders.")
    except NotALeaf as reason:
        draft.gathered = True
        draft.notes.append(f"{name}: gathered, because {reason}.")
        # Rows are still met by the same WHERE, only elsewhere.
        leaf.select.set("where", None)
        draft.gather(leaf.reference, needed_columns(leaf.select, leaf.reference), where=leaf.where, shards=shards)


def _gather(
    root: exp.Expr, home: exp.Select | None, reference: Reference, beside: list[Reference], draft: Draft, reason: str
) -> None:
    conditions = early(home, reference, beside) if home is not None else []
    shards = prune(conditions, reference.info)
    draft.gathered = True
    draft.notes.append(f"{reference.info.name}: gathered, because {reason}.")
    if conditions:
        draft.notes.append(f"{reference.info.name}: {len(conditions)} conditions are applied by the holders.")
    _note_pruning(reference, shards, draft)
    columns = needed_columns(home or root, reference)
    draft.gather(reference, columns, where=both(conditions), shards=shards)


def _note_filter(leaf: Leaf, draft: Draft) -> None:
    if leaf.where is not None:
        draft.notes.append(f"{leaf.reference.info.name}: WHERE is applied by the holders.")


def _note_pruning(reference: Reference, shards: tuple[int, ...], draft: Draft) -> None:
    left_out = len(reference.info.shards) - len(shards)
    if left_out:
        draft.notes.append(
            f"{reference.info.name}: {left_out} of {len(reference.info.shards)} shards left out by their statistics."
        )
