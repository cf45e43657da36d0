"""Which holder answers for which shard: a pure choice among those who are said to hold it.

Every shard has R holders; asking the same one for everything would make it the bottleneck, asking all of them for
a little would pay a round trip and a process's work each. The greedy rule below settles shards with the fewest choices
first and then gives each shard to the holder that would be done soonest, a holder not asked yet beginning with
HOLDER_COST_CELLS on its account; on a tie we prefer ourselves (no network). It refuses to know why somebody is not a
candidate: callers pass only those worth asking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: Work is counted in cells read (rows × columns). What asking one more holder costs: a fragment that reads nothing
#: takes about 4 ms of processor over both ends, in which DuckDB reads some two hundred thousand cells of Parquet.
HOLDER_COST_CELLS = 200_000
#: What opening one file costs before a cell is read: its footer, about 0.1 ms.
SHARD_COST_CELLS = 5_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """One shard of a scan: its place in the manifest, its content id, its rows, and what reading it costs in cells."""

    index: int
    cid: bytes
    rows: int
    columns: int = 1

    @property
    def cost(self) -> int:
        return SHARD_COST_CELLS + self.rows * self.columns


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
    busy: dict[str, int] = {}
    chosen: dict[str, list[Wanted]] = {}
    missing: list[Wanted] = []
    by_choice = sorted(wanted, key=lambda shard: (len(candidates.get(shard.cid, ())), -shard.cost, shard.index))
    for shard in by_choice:
        peers = candidates.get(shard.cid, ())
        if not peers:
            missing.append(shard)
            continue
        _, _, _, best = min(
            (busy.get(peer, HOLDER_COST_CELLS), peer != me, rank, peer) for rank, peer in enumerate(peers)
        )
        busy[best] = busy.get(best, 0) + shard.cost
        chosen.setdefault(best, []).append(shard)
    return Routes(
        by_peer={peer: tuple(sorted(chosen[peer], key=lambda shard: shard.index)) for peer in sorted(chosen)},
        missing=tuple(sorted(missing, key=lambda shard: shard.index)),
    )
