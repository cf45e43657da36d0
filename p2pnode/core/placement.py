"""Who should hold a shard: weighted rendezvous hashing, in integers, the same on every peer.

For each (shard, member) a 64-bit hash h stands for a uniform u = (2h+1)/2^65, and the member's price is
-log2(u) / weight; the R lowest prices hold the shard. A price knows nothing of other members, so a join or a
leave moves only the shards that the joiner wins or the leaver held, and shares are proportional to weights
(the minimum of exponential variables). Floats differ between libraries, so the logarithm is the integer ⌊2^32
· -log2(u)⌋: any implementation of enough precision gets the same holders, and the tests pin vectors from one
with 60 digits.

Two rules beyond the price: holders span two declared regions whenever two are declared (`min_regions` asks
for more), and preferences scale weights. This file refuses to know who is alive: a writer skips the dead, the
function does not, or every blink of a node would move data.

Sources: Thaler & Ravishankar 1998 (rendezvous hashing); Schindelhauer & Schomaker 2005 (logarithmic weights);
Mirrokni, Thorup & Zadimoghaddam 2018 (the (1+ε) bound of `balanced`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from blake3 import blake3

from p2pnode.core.model import EVERYWHERE, Member
from p2pnode.errors import Infeasible, UsageError

#: Regions that holders span without being asked, as far as members declare them.
REGIONS_WANTED = 2
#: `balanced`: no member takes more than this many thousandths of its fair share of one publish (1 + ε, ε =
#: 0.05).
BALANCED_SHARE = 1050
#: A preference of 0.5 leaves a weight as it is; 0 halves it, 1 makes it half as much again.
NEUTRAL_PREFERENCE = 0.5

_FRACTION_BITS = 32
#: Squaring doubles the error of truncation each time, so 32 squarings need far more than 32 bits.
_MANTISSA_BITS = 160


def place(
    cid: bytes,
    members: Sequence[Member],
    replicas: int,
    *,
    min_regions: int | None = None,
    regions: Mapping[str, str] | None = None,
    preferences: Mapping[str, float] | None = None,
) -> list[str]:
    """Peer ids that should hold the shard `cid`, cheapest first, all distinct.

    `replicas` of them, or fewer when there are fewer storage members; EVERYWHERE (0) means all. `preferences`
    maps node_id to 0–1 (see NEUTRAL_PREFERENCE), `regions` maps it to the region that counts instead of the
    declared one. Raises Infeasible when nobody stores or `min_regions` cannot be met.
    """
    return place_each([cid], members, replicas, min_regions=min_regions, regions=regions, preferences=preferences)[0]


def place_each(
    cids: Sequence[bytes],
    members: Sequence[Member],
    replicas: int,
    *,
    min_regions: int | None = None,
    regions: Mapping[str, str] | None = None,
    preferences: Mapping[str, float] | None = None,
    balanced: bool = False,
) -> list[list[str]]:
    """`place` for every shard of one version, in its order.

    With `balanced`, no member takes more than (1+ε) of its share of these shards: one that is full is passed
    over in favour of the next. The bound is per version, so one dataset never moves another; it yields when
    it would leave a shard with fewer holders than it can have.
    """
    weights = _weights(members, preferences or {})
    named = regions or {}
    storing = sorted(
        (replace(m, region=named.get(m.node_id, m.region)) for m in members if m.peer_id in weights),
        key=lambda m: m.peer_id,
    )
    if not storing:
        raise Infeasible("no member stores shards", advice="Start a worker or a hybrid and publish again.")
    wanted = len(storing) if replicas == EVERYWHERE else min(replicas, len(storing))
    spanned = _regions_needed(storing, replicas, wanted, min_regions)
    room = _room(len(set(cids)) * wanted, weights) if balanced else None
    placed: dict[bytes, list[str]] = {}
    for cid in cids:
        if cid not in placed:
            placed[cid] = _place_one(cid, storing, weights, wanted, spanned, room)
    return [placed[cid] for cid in cids]


def check_preferences(preferences: Mapping[str, float], members: Sequence[Member]) -> None:
    """Raise UsageError for a preference outside 0–1 or for a node that is no member; for the one who
    publishes.

    Later readers of the same policy must not fail when a named node has left, so `place` itself takes
    anything.
    """
    known = {member.node_id for member in members if not member.left}
    for node_id, preference in preferences.items():
        if not 0.0 <= preference <= 1.0:
            raise UsageError(f"the preference of {node_id!r} is {preference}; it must lie between 0 and 1")
        if node_id not in known:
            raise UsageError(
                f"a preference names {node_id!r}, which is no member",
                advice="`p2pnode peers` lists the members; use their node_id.",
            )


def minus_log2(hash64: int) -> int:
    """⌊2^32 · -log2((2h+1)/2^65)⌋ for a 64-bit h, by squaring the mantissa and noting each time it passes
    two.
    """
    odd = 2 * hash64 + 1
    exponent = odd.bit_length() - 1
    mantissa = odd << (_MANTISSA_BITS - exponent)
    fraction = 0
    for _ in range(_FRACTION_BITS):
        mantissa = mantissa * mantissa >> _MANTISSA_BITS
        fraction <<= 1
        if mantissa >> (_MANTISSA_BITS + 1):
            mantissa >>= 1
            fraction |= 1
    whole = (65 << _FRACTION_BITS) - (exponent << _FRACTION_BITS) - fraction
    # `fraction` was rounded down, so the difference is rounded up unless the logarithm is exact (odd = 1).
    return whole - 1 if odd > 1 else whole


def _price(cid: bytes, peer_id: str, weight: int) -> tuple[int, int, str]:
    """Sorts members for one shard; equal prices fall to the greater hash, then to the peer id."""
    hash64 = int.from_bytes(blake3(b"place/" + cid + peer_id.encode()).digest(8), "big")
    return (minus_log2(hash64) << _FRACTION_BITS) // weight, -hash64, peer_id


def _weights(members: Sequence[Member], preferences: Mapping[str, float]) -> dict[str, int]:
    """Peer id to weight for everyone who may hold shards; a weight of zero holds none."""
    weights = {}
    for member in members:
        if member.left or not member.role.stores or member.weight <= 0:
            continue
        preference = preferences.get(member.node_id, NEUTRAL_PREFERENCE)
        thousandths = round(1000 * min(1.0, max(0.0, preference)))
        weights[member.peer_id] = max(1, member.weight * (500 + thousandths) // 1000)
    return weights


def _regions_needed(storing: Sequence[Member], replicas: int, wanted: int, min_regions: int | None) -> int:
    declared = len({member.region for member in storing if member.region})
    if min_regions is None:
        return min(REGIONS_WANTED, declared, wanted)
    if replicas != EVERYWHERE and min_regions > replicas:
        raise Infeasible(f"{replicas} replicas cannot span {min_regions} regions", advice="Ask for more replicas.")
    if min_regions > 1 and min_regions > min(declared, wanted):
        raise Infeasible(f"{min_regions} regions are asked for; {len(storing)} storage members declare {declared}")
    return min(max(min_regions, REGIONS_WANTED), declared, wanted)


def _room(placements: int, weights: Mapping[str, int]) -> dict[str, int]:
    """How many of one version's replicas each member may take when balanced: ⌈(1+ε) · its share⌉."""
    total = sum(weights.values())
    return {peer_id: -(-placements * weight * BALANCED_SHARE // (1000 * total)) for peer_id, weight in weights.items()}


def _place_one(
    cid: bytes,
    storing: Sequence[Member],
    weights: Mapping[str, int],
    wanted: int,
    regions: int,
    room: dict[str, int] | None,
) -> list[str]:
    ranking = sorted(storing, key=lambda m: _price(cid, m.peer_id, weights[m.peer_id]))
    if room is not None:
        ranking.sort(key=lambda m: room[m.peer_id] <= 0)  # stable: the full ones go last, in their order
    chosen = _choose(ranking, wanted, regions)
    if room is not None:
        for peer_id in chosen:
            room[peer_id] -= 1
    return chosen


def _choose(ranking: Sequence[Member], wanted: int, regions: int) -> list[str]:
    """The first `wanted`, except that the best member of each of the first `regions` regions always has a
    seat.
    """
    seated: dict[str, str] = {}
    for member in ranking:
        if member.region and len(seated) < regions:
            seated.setdefault(member.region, member.peer_id)
    must = set(seated.values())
    free = wanted - len(must)
    chosen = []
    for member in ranking:
        if member.peer_id in must:
            chosen.append(member.peer_id)
        elif free > 0:
            chosen.append(member.peer_id)
            free -= 1
    return chosen
