"""Who may ask what: role × protocol × verb, deny by default.

A member's role comes from its `up` event; a peer that only said hello counts as the role it asserted, and
one that said nothing counts as a client, who may look and ask. In an open swarm roles guard against
mistakes, not attackers; in both kinds of swarm what is *written* is guarded again where it lands: events by
their signatures and causal past, shards by their content ids and tickets, proposals by their signatures.
"""

from __future__ import annotations

from p2pnode.core.model import NodeRole
from p2pnode.errors import Unauthorized

_ANYONE = frozenset(NodeRole)
_MEMBERS = frozenset(role for role in NodeRole if role.is_member)

#: (protocol, verb) -> the roles that may ask it. What is not here, nobody may ask.
ALLOWED: dict[tuple[str, str], frozenset[NodeRole]] = {
    ("metadata", "hello"): _ANYONE,
    ("metadata", "sync"): _ANYONE,
    ("metadata", "compare"): _ANYONE,
    ("metadata", "want_events"): _ANYONE,
    ("metadata", "want_band"): _ANYONE,
    ("metadata", "push"): _MEMBERS,
    ("metadata", "want_block"): _ANYONE,
    ("metadata", "propose"): _ANYONE,
    ("metadata", "ask_ticket"): _ANYONE,
    ("shard-transfer", "have"): _ANYONE,
    ("shard-transfer", "ask_outline"): _ANYONE,
    ("shard-transfer", "get"): _ANYONE,
    # A client's put carries a ticket, which the holder checks.
    ("shard-transfer", "put"): _ANYONE,
    ("query", "run"): _ANYONE,
    ("health", "ping"): _ANYONE,
    ("health", "probe"): _MEMBERS,
    ("health", "ask_status"): _ANYONE,
    ("health", "ask_holdings"): _ANYONE,
}


def allowed(role: NodeRole | None, protocol: str, verb: str) -> bool:
    """Whether a peer of that role (None: it has not said) may ask `verb` of `protocol`."""
    return (role or NodeRole.CLIENT) in ALLOWED.get((protocol, verb), frozenset())


def check(role: NodeRole | None, protocol: str, verb: str) -> None:
    """Raise Unauthorized, naming the role and the verb, if `allowed` says no."""
    if not allowed(role, protocol, verb):
        said = role.value if role else "peer that has not said hello"
        raise Unauthorized(f"A {said} may not ask {verb} of {protocol}.")
