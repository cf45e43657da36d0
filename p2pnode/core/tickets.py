"""Tickets: a coordinator's signed leave for a client to push shards straight to their holders.

A client authors no events, so a holder would refuse its shards. The ticket names the client, the dataset, the
content ids, their bytes together and an expiry; any holder can check it alone. It grants no more than storage for an
hour: the shards count only once a coordinator signs the version, and unreferenced ones are collected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import libipld

from p2pnode.errors import Unauthorized

#: Seconds a ticket stays good: long enough to push 64 MiB over a poor line, short enough to be no standing right.
TICKET_LIFE_S = 3600
#: Machines' wall clocks may differ by this much before an honest ticket is refused.
CLOCK_SLACK_S = 600
_SIGNATURE_BYTES = 64
_DOMAIN = b"p2pnode-ticket-1\0"


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a ticket says. `expires` is in Unix seconds of the coordinator's wall clock."""

    dataset_id: str
    client: str
    coordinator: str
    cids: tuple[bytes, ...]
    bytes: int
    expires: int

    def body(self) -> bytes:
        return libipld.encode_dag_cbor(
            {
                "d": self.dataset_id,
                "c": self.client,
                "by": self.coordinator,
                "s": list(self.cids),
                "n": self.bytes,
                "x": self.expires,
            }
        )


def issue(
    *,
    dataset_id: str,
    client: str,
    coordinator: str,
    cids: Sequence[bytes],
    size: int,
    wall: float,
    sign: Callable[[bytes], bytes],
) -> bytes:
    """A signed ticket, as it travels: the DAG-CBOR body and the coordinator's Ed25519 signature after it."""
    ticket = Ticket(dataset_id, client, coordinator, tuple(sorted(set(cids))), size, int(wall) + TICKET_LIFE_S)
    body = ticket.body()
    return body + sign(_DOMAIN + body)


def check(
    wire: bytes,
    *,
    client: str,
    cid: bytes,
    wall: float,
    verify: Callable[[str, bytes, bytes], bool],
    may_define: Callable[[str], bool],
) -> Ticket:
    """The ticket, if it lets `client` push the shard `cid` now.

    Args:
        verify: (peer id, message, signature) -> whether that peer signed it.
        may_define: whether that peer is a coordinator or hybrid of this swarm.

    Raises:
        Unauthorized: naming what is wrong with it.
    """
    ticket = _parse(wire)
    if not verify(ticket.coordinator, _DOMAIN + wire[:-_SIGNATURE_BYTES], wire[-_SIGNATURE_BYTES:]):
        raise Unauthorized("The ticket's signature is not its coordinator's.")
    if not may_define(ticket.coordinator):
        raise Unauthorized("The ticket was signed by a peer that may not define datasets.")
    if ticket.client != client:
        raise Unauthorized("The ticket was made out to another client.")
    if wall > ticket.expires + CLOCK_SLACK_S:
        raise Unauthorized("The ticket has expired.", advice="Publish again; a new ticket is asked for each time.")
    if cid not in ticket.cids:
        raise Unauthorized("The ticket does not name this shard.")
    return ticket


def _parse(wire: bytes) -> Ticket:
    try:
        body = libipld.decode_dag_cbor(wire[:-_SIGNATURE_BYTES])
        ticket = Ticket(body["d"], body["c"], body["by"], tuple(body["s"]), body["n"], body["x"])
        texts = (ticket.dataset_id, ticket.client, ticket.coordinator)
        well_formed = all(isinstance(text, str) for text in texts) and all(
            isinstance(cid, bytes) for cid in ticket.cids
        )
        if not well_formed or not isinstance(ticket.expires, int) or ticket.body() != wire[:-_SIGNATURE_BYTES]:
            raise ValueError("not canonical")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Unauthorized("The ticket cannot be read.") from error
    return ticket
