"""A grouped SELECT over one dataset: partial groups at the holders, merged groups at the asker.

    SELECT y, sum(a) / count(*) AS q FROM t WHERE w GROUP BY y HAVING count(*) > 1 ORDER BY 2
    holders:  SELECT y AS key_0, sum(a) AS part_0, count(*) AS part_1 FROM shard_rows WHERE w GROUP BY 1
    asker:    SELECT key_0 AS y, agg_0 / agg_1 AS q
              FROM (SELECT key_0, sum(part_0) AS agg_0, sum(part_1) AS agg_1 FROM output GROUP BY key_0)
              WHERE agg_1 > 1 ORDER BY agg_0 / agg_1

The outer SELECT evaluates the statement's own expressions, so windows over groups, QUALIFY and DISTINCT just work.
"""

from __future__ import annotations

from sqlglot import exp

from p2pnode.core.planner.aggregates import Parts, merge, parsed
from p2pnode.core.planner.dialect import render
from p2pnode.core.planner.draft import VIEW, Draft
from p2pnode.core.planner.kinds import PLAIN, kind_of
from p2pnode.core.planner.leaf import Leaf, NotALeaf, aggregates_in


class _Groups:
    """The keys and aggregates of one SELECT with the names they get on the way."""

    def __init__(self, leaf: Leaf, prefix: str) -> None:
        self.leaf = leaf
        self.prefix = prefix
        self.table = leaf.reference.info
        self.keys: dict[str, str] = {}
        self.merges: dict[str, str] = {}
        self.parts = Parts(prefix, self.table)
        for key in leaf.keys:
            bare = key.unnest()
            if not bare.find(exp.Column) or aggregates_in(bare) or bare.find(exp.Star, exp.Window):
                raise NotALeaf(f"GROUP BY {render(key)} is unusual")
            if kind_of(bare, self.table) not in PLAIN:
                raise NotALeaf(f"the type of the key {render(key)} is not certain")
            self.keys.setdefault(render(bare), f"{prefix}key_{len(self.keys)}")

    def over_groups(self, node: exp.Expr) -> exp.Expr:
        """`node` with keys and aggregates replaced by the columns of the merged groups. Raises NotALeaf."""
        bare = node.unnest()
        if isinstance(bare, (exp.Identifier, exp.DataType, exp.Var)):
            # A field's or a type's name, whatever the columns are called.
            return node.copy()
        key = self.keys.get(render(bare))
        if key is not None:
            return exp.column(key, quoted=True)
        if any(found is bare for found in aggregates_in(bare)):
            return exp.column(self._merged(bare), quoted=True)
        if isinstance(bare, (exp.Column, exp.Star)):
            raise NotALeaf(f"{render(bare)} is neither grouped by nor aggregated")
        copy = node.copy()
        for child, original in zip(list(copy.iter_expressions()), list(node.iter_expressions()), strict=True):
            if isinstance(node, exp.Window) and original is node.this:
                self._inside_call(child, original)
            else:
                child.replace(self.over_groups(original))
        return copy

    def _inside_call(self, copy: exp.Expr, original: exp.Expr) -> None:
        """A window function's own call is no aggregate; only its arguments are over groups."""
        for child, inner in zip(list(copy.iter_expressions()), list(original.iter_expressions()), strict=True):
            if isinstance(inner, exp.Star):
                continue
            if isinstance(original, (exp.Filter, exp.IgnoreNulls, exp.RespectNulls)) and inner is original.this:
                self._inside_call(child, inner)
            else:
                child.replace(self.over_groups(inner))

    def _merged(self, aggregate: exp.Expr) -> str:
        for argument in aggregate.find_all(exp.Window):
            raise NotALeaf(f"{render(argument)} stands in an aggregate")
        sql = merge(aggregate, self.parts)
        return self.merges.setdefault(sql, f"{self.prefix}agg_{len(self.merges)}")

    def holder_sql(self) -> str:
        items = [f'{sql} AS "{name}"' for sql, name in (*self.keys.items(), *self.parts.extra.items())]
        grouped = len(items)
        items += [f'{sql} AS "{name}"' for sql, name in self.parts.columns.items()]
        where = f" WHERE {render(self.leaf.where)}" if self.leaf.where is not None else ""
        # By position: a column of the table may bear any name, but never ours.
        group = f" GROUP BY {', '.join(str(index + 1) for index in range(grouped))}" if grouped else ""
        return f'SELECT {", ".join(items)} FROM "{VIEW}"{where}{group}'

    def merged_sql(self, output: str) -> str:
        keys = [f'"{name}"' for name in self.keys.values()]
        items = [*keys, *(f'{sql} AS "{name}"' for sql, name in self.merges.items())]
        group = f" GROUP BY {', '.join(keys)}" if keys else ""
        return f"SELECT {', '.join(items)} FROM {self._with_means(output, keys)}{group}"

    def _with_means(self, output: str, keys: list[str]) -> str:
        """The output with the mean of each whole group beside the means of its parts.

        Means are taken from the least one upwards, so that equal parts give exactly their own value.
        """
        source = f'"{output}"'
        if not self.parts.means:
            return source
        over = f"OVER (PARTITION BY {', '.join(keys)})" if keys else "OVER ()"
        least = [
            f'min({mean}) {over} AS "{self.prefix}least_{index}"' for index, (_, mean) in enumerate(self.parts.means)
        ]
        means = [
            f'"{self.prefix}least_{index}" + sum({count} * ({mean} - "{self.prefix}least_{index}")) {over}'
            f' / sum({count}) {over} AS "{name}"'
            for index, ((count, mean), name) in enumerate(self.parts.means.items())
        ]
        inner = f'(SELECT *, {", ".join(least)} FROM {source}) AS "{self.prefix}least"'
        return f'(SELECT *, {", ".join(means)} FROM {inner}) AS "{self.prefix}mean"'


def split_groups(leaf: Leaf, draft: Draft, shards: tuple[int, ...]) -> None:
    """Put the merged form of `leaf` in its place and add its scan. Raises NotALeaf, and then has changed nothing."""
    groups = _Groups(leaf, draft.prefix)
    items = [
        exp.alias_(groups.over_groups(item), name or "", quoted=True)
        for item, name in zip(leaf.items, leaf.names, strict=True)
    ]
    having = groups.over_groups(leaf.having) if leaf.having is not None else None
    qualify = groups.over_groups(leaf.qualify) if leaf.qualify is not None else None
    order = [_ordered(term, groups) for term in leaf.order]
    if any(name is None for name in leaf.names):
        raise NotALeaf("DuckDB's name for a column of it is not certain (an alias helps)")
    if leaf.select.args.get("windows"):
        raise NotALeaf("named windows are not cut")
    if not groups.keys and not groups.parts.columns and not groups.parts.extra:
        raise NotALeaf("nothing is left to compute at the holders")
    sql = groups.holder_sql()
    columns = draft.view_columns(leaf.reference.info, [leaf.where, *leaf.outputs()])
    output = draft.scan(leaf.reference.info, columns, sql, shards, partial=True)
    inner = exp.Subquery(
        this=parsed(groups.merged_sql(output)),
        alias=exp.TableAlias(this=exp.to_identifier(f"{draft.prefix}groups", quoted=True)),
    )
    outer = exp.Select(expressions=items).from_(inner, copy=False)
    outer.set("where", exp.Where(this=having) if having is not None else None)
    outer.set("qualify", exp.Qualify(this=qualify) if qualify is not None else None)
    outer.set("order", exp.Order(expressions=order) if order else None)
    for clause in ("limit", "offset", "distinct", "with_"):
        outer.set(clause, leaf.select.args.get(clause))
    leaf.select.replace(outer)


def _ordered(term: exp.Ordered, groups: _Groups) -> exp.Ordered:
    copy = term.copy()
    copy.set("this", groups.over_groups(term.this))
    return copy
