"""A dataset's placement policy: the words a publisher chose, as a manifest keeps them and placement reads them.

Everything that later decides where a replica belongs is in the manifest, so that every peer computes the same holders
from the same version, long after the publisher is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from p2pnode.core.model import EVERYWHERE, Member
from p2pnode.core.placement import place_each
from p2pnode.core.receipts import quorum
from p2pnode.errors import Infeasible

#: Every shard on its R cheapest members, whatever else they hold.
CONSISTENT_HASH = "consistent_hash"
#: The same, with a bound on what one member may hold of a version.
BALANCED_LOAD = "balanced_load"


@dataclass(frozen=True, slots=True)
class Policy:
    """Where the replicas shall lie. `replicas` EVERYWHERE (0) is every storage member."""

    replicas: int = 3
    balanced: bool = False
    preferences: Mapping[str, float] = field(default_factory=dict)
    min_regions: int | None = None

    def as_document(self) -> dict[str, Any]:
        """The words kept in the manifest; absent ones have their default."""
        document: dict[str, Any] = {"strategy": BALANCED_LOAD if self.balanced else CONSISTENT_HASH}
        if self.preferences:
            document["preferences"] = dict(self.preferences)
        if self.min_regions:
            document["min_regions"] = self.min_regions
        return document

    @classmethod
    def of_document(cls, replicas: int, document: Mapping[str, Any]) -> Policy:
        """The policy that a manifest records."""
        return cls(
            replicas=replicas,
            balanced=document.get("strategy") == BALANCED_LOAD,
            preferences=document.get("preferences", {}),
            min_regions=document.get("min_regions"),
        )

    def place(self, cids: Sequence[bytes], members: Sequence[Member]) -> list[list[str]]:
        """Peer ids that should hold each shard of one version, best first."""
        return place_each(
            cids,
            members,
            self.replicas,
            balanced=self.balanced,
            preferences=self.preferences,
            min_regions=self.min_regions,
        )

    def refuse_the_impossible(self, members: Sequence[Member], alive: Callable[[str], bool]) -> None:
        """Raise Infeasible if no publish could succeed now: too few live storage members, or regions out of reach."""
        storing = [member for member in members if member.role.stores and not member.left]
        if not storing:
            raise Infeasible("No storage member in this swarm: nobody could hold a shard.")
        wanted = self.replicas if self.replicas != EVERYWHERE else len(storing)
        need, live = quorum(wanted), sum(alive(member.peer_id) for member in storing)
        if live < need:
            raise Infeasible(
                f"{wanted} replicas need at least {need} storage members to acknowledge; {live} are up.",
                replicas=wanted,
                alive=live,
            )
        self.place([b""], storing)
