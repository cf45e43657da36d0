"""Which holder answers for which shard: a pure choice among those who are said to hold it.

Every shard has R holders; asking the same one for everything would make it the bottleneck, asking all of them for
a little would pay a round trip and a process's work each. The greedy rule below settles shards with the fewest choices
first and then gives each shard to the holder that would be done soonest, a holder not asked yet beginning with
HOLDER_COST_ROWS on its account; on a tie we prefer ourselves (no network). It refuses to know why somebody is not a
candidate: callers pass only those worth asking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: What asking one more holder costs, in rows scanned: a fragment of no rows takes about 4 ms of processor over both
#: ends, in which DuckDB aggregates some hundred thousand rows of Parquet.
HOLDER_COST_ROWS = 100_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """One shard of a scan: its place in the manifest, its content id, and how many rows reading it will cost."""

    index: int
    cid: bytes
    rows: int


@dataclass(frozen=True, slots=True)
class Routes:
    """`by_peer` names who reads what; `missing` has no candidate at all."""

    by_peer: Mapping[str, tuple[Wanted, ...]]
    missing: tuple[Wanted, ...]


def route(wanted: Sequence[Wanted], candidates: Mapping[bytes, Sequence[str]], *, me: str = "") -> Routes:
    """Assign each shard to one of its candidates.

    Args:
        wanted: shards to read; a content id may occur twice (its rows then count twice).
        candidates: peers worth asking, best first, by content id.
        me: our own peer id, preferred on equal load.

    Greedy list scheduling (Graham 1966), which is within 4/3 of the best balance for equal choices.
    """
    rows: dict[str, int] = {}
    chosen: dict[str, list[Wanted]] = {}
    missing: list[Wanted] = []
    by_choice = sorted(wanted, key=lambda shard: (len(candidates.get(shard.cid, ())), -shard.rows, shard.index))
    for shard in by_choice:
        peers = candidates.get(shard.cid, ())
        if not peers:
            missing.append(shard)
            continue
        _, _, _, best = min(
            (rows.get(peer, HOLDER_COST_ROWS), peer != me, rank, peer) for rank, peer in enumerate(peers)
        )
        rows[best] = rows.get(best, 0) + shard.rows
        chosen.setdefault(best, []).append(shard)
    return Routes(
        by_peer={peer: tuple(sorted(chosen[peer], key=lambda shard: shard.index)) for peer in sorted(chosen)},
        missing=tuple(sorted(missing, key=lambda shard: shard.index)),
    )
