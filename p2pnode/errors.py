"""Every failure that p2pnode names, in one tree.

    P2PNodeError
    ├── UsageError ............ the caller asked for something that cannot be (exit 2)
    │   ├── ConfigError ....... a key, a type, an address in the configuration
    │   ├── AddressError ...... a multiaddr or peer id that does not parse
    │   ├── SchemaMismatch .... data that does not fit the dataset's schema
    │   ├── EmptyData ......... nothing to publish
    │   ├── QueryError ........ SQL that does not parse, bind or run
    │   └── MissingExtra ...... an optional library is needed; the pip line says which
    ├── Refused ............... the swarm said no, and would say no again (exit 4)
    │   ├── Unauthorized ...... this peer may not do that
    │   ├── RoleError ......... this role does not do that
    │   ├── SqlRefused ........ SQL outside the fence
    │   ├── NodeIdTaken ....... another peer has this node_id
    │   ├── GenesisMismatch ... two swarms met
    │   └── HomeInUse ......... a second node on one home
    ├── NotFound .............. no such dataset, shard or node, after asking the swarm (exit 1)
    ├── Infeasible ............ a placement policy that the members cannot meet (exit 1)
    ├── SwarmUnreachable ...... no node answers (exit 3)
    ├── PeerLost .............. one peer stopped answering in the middle (retry elsewhere)
    ├── Timeout ............... a deadline passed
    ├── Busy .................. a bound was hit; retry after `retry_after_s`
    ├── NotDurable ............ fewer disks than promised have it; nothing was acknowledged
    ├── ShardUnavailable ...... some shards have no live holder; `coverage` says which (exit 5)
    ├── IntegrityError ........ bytes that do not match their content id (exit 1)
    └── StorageFailed ......... this machine's disk failed or is full

Names say whose fault it is; `code` is stable and travels on the wire; `advice` says what to do next;
`retryable` says whether the same call may succeed later. A user's mistake never shows a traceback: the command
line and the HTTP API turn these into one line and an exit code or status.
"""

from __future__ import annotations

from typing import Any, ClassVar


class P2PNodeError(Exception):
    """The root. ``str(error)`` is the sentence, ``advice`` the next step."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    default_advice: ClassVar[str] = ""

    def __init__(self, message: str = "", *, advice: str | None = None, **details: Any) -> None:
        super().__init__(message or self.code)
        self.message = message or self.code
        self.advice = self.default_advice if advice is None else advice
        self.details = details
        if self.advice:
            self.add_note(f"→ {self.advice}")  # where Python shows the error, the next step stands below it

    def as_document(self) -> dict[str, Any]:
        """The JSON form that the HTTP API and ``-o json`` show."""
        return {
            "error": self.code,
            "message": self.message,
            "advice": self.advice,
            "retryable": self.retryable,
            "details": self.details,
        }


class UsageError(P2PNodeError):
    code, exit_code, http_status = "usage", 2, 400


class ConfigError(UsageError):
    code = "config"
    default_advice = "Correct the key and start again; `p2pnode config show --origin` tells where each value came from."


class AddressError(UsageError):
    code = "address"
    default_advice = "An address looks like /ip4/192.0.2.7/tcp/4001/p2p/12D3Koo…; copy one from `p2pnode id`."


class SchemaMismatch(UsageError):
    code = "schema_mismatch"
    default_advice = "Make the data fit the dataset's schema, or publish it under another name."


class EmptyData(UsageError):
    code = "empty_data"
    default_advice = "Give data with at least one row and one column."


class QueryError(UsageError):
    code = "query"
    default_advice = "Correct the statement; the dialect is DuckDB's and tables are dataset names."


class MissingExtra(UsageError):
    code = "missing_extra"


class Refused(P2PNodeError):
    code, exit_code, http_status = "refused", 4, 403


class Unauthorized(Refused):
    code = "unauthorized"
    default_advice = "Ask a node whose role allows it."


class RoleError(Refused):
    code = "role"
    default_advice = "Coordinators and hybrids define datasets; workers and hybrids hold shards; clients only ask."


class SqlRefused(Refused):
    code = "sql_refused"
    default_advice = "Only one SELECT over datasets is allowed, with functions that touch neither files nor settings."


class NodeIdTaken(Refused):
    code = "node_id_taken"
    default_advice = "Start with another --node-id, or stop the node that has this one."


class GenesisMismatch(Refused):
    code = "genesis_mismatch"
    default_advice = "The two nodes belong to different swarms; start with an empty home to join this one."


class HomeInUse(Refused):
    code = "home_in_use"
    default_advice = "Stop the node that runs on this home, or give another --home."


class NotFound(P2PNodeError):
    code, http_status = "not_found", 404
    default_advice = "`p2pnode dataset ls` and `p2pnode peers` list what there is."


class Infeasible(P2PNodeError):
    code, http_status = "infeasible", 409
    default_advice = "Start more workers or hybrids, or ask for fewer replicas or regions."


class SwarmUnreachable(P2PNodeError):
    code, retryable, exit_code, http_status = "swarm_unreachable", True, 3, 503
    default_advice = "Check that a node is up and that its address is reachable from here."


class PeerLost(P2PNodeError):
    code, retryable, http_status = "peer_lost", True, 503


class Timeout(P2PNodeError):
    code, retryable, http_status = "timeout", True, 504
    default_advice = "Try again, or give a longer timeout."


class Busy(P2PNodeError):
    """A bound was hit. ``retry_after_s`` is the earliest sensible moment to try again."""

    code, retryable, http_status = "busy", True, 429

    def __init__(
        self, message: str = "", *, retry_after_s: float = 1.0, advice: str | None = None, **details: Any
    ) -> None:
        super().__init__(message, advice=advice or f"Try again in {retry_after_s:g} s.", **details)
        self.retry_after_s = retry_after_s


class NotDurable(P2PNodeError):
    code, retryable, http_status = "not_durable", True, 503
    default_advice = "Bring more members up and repeat the call; it is safe to repeat."


class ShardUnavailable(P2PNodeError):
    """``coverage`` is the answered fraction (0–1), ``missing`` the shard ids that no live peer holds."""

    code, retryable, exit_code, http_status = "shard_unavailable", True, 5, 503
    default_advice = "Start a node that holds the missing shards, or ask with --on-missing partial."

    def __init__(
        self, message: str = "", *, coverage: float = 0.0, missing: tuple[str, ...] = (), advice: str | None = None
    ) -> None:
        super().__init__(message, advice=advice, coverage=coverage, missing=list(missing))
        self.coverage = coverage
        self.missing = missing


class IntegrityError(P2PNodeError):
    code = "integrity"
    default_advice = "The bad copy is refused; another replica is used where there is one."


class StorageFailed(P2PNodeError):
    code, http_status = "storage_failed", 507
    default_advice = "Free or replace the disk; the node goes on serving what it can still read."


def by_code() -> dict[str, type[P2PNodeError]]:
    """Every class of the tree by its wire code."""
    found: dict[str, type[P2PNodeError]] = {}
    pending: list[type[P2PNodeError]] = [P2PNodeError]
    while pending:
        kind = pending.pop()
        found[kind.code] = kind
        pending.extend(kind.__subclasses__())
    return found


def from_wire(code: str, message: str, details: dict[str, Any] | None = None) -> P2PNodeError:
    """The error that a peer or the local HTTP API named by ``code``; an unknown code becomes the root class."""
    kind = by_code().get(code, P2PNodeError)
    if kind is ShardUnavailable:
        details = details or {}
        return ShardUnavailable(
            message, coverage=float(details.get("coverage", 0.0)), missing=tuple(details.get("missing", ()))
        )
    if kind is Busy:
        return Busy(message, retry_after_s=float((details or {}).get("retry_after_s", 1.0)))
    return kind(message, **(details or {}))
