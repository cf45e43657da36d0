"""The log as people and programs read it: an event's document, one line that says what it means, and an audit's."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from p2pnode.core import records
from p2pnode.core.cid import cid_text
from p2pnode.core.event import Event, is_link

if TYPE_CHECKING:
    from p2pnode.services.audit import Report, Step
    from p2pnode.services.history import Entry

#: Last characters of a content id or peer id that tell one from another on a line for people.
SHORT = 8


def entry(found: Entry) -> dict[str, Any]:
    """One event of the log."""
    event = found.event
    return {
        "id": cid_text(event.id),
        "height": event.height,
        "time": _time(event),
        "author": event.author,
        "node_id": found.author_name,
        "session": event.session.hex(),
        "sequence": event.sequence,
        "previous": None if event.previous is None else cid_text(event.previous),
        "parents": [cid_text(parent) for parent in event.parents],
        "kind": event.kind,
        "object": event.object_id,
        "text": meaning(found),
        "body": _plain(event.body),
    }


def audited(found: Step | Report) -> dict[str, Any]:
    """A line of an audit: how far it is, or at last what it found."""
    from p2pnode.services.audit import Step

    if isinstance(found, Step):
        return {"event": "progress", "stage": found.stage, "done": found.done, "total": found.total}
    return {"event": "done", "document": report(found)}


def report(found: Report) -> dict[str, Any]:
    """What an audit found."""
    return {
        "ok": found.ok,
        "running": found.running,
        "genesis": None if found.genesis is None else cid_text(found.genesis),
        "events": found.events,
        "blocks": found.blocks,
        "height": found.height,
        "heads": [cid_text(head) for head in found.heads],
        "fingerprint": found.fingerprint.hex(),
        "digest": found.digest.hex(),
        "forks": [
            {
                "author": fork.author,
                "session": fork.session.hex(),
                "sequence": fork.sequence,
                "events": [cid_text(event_id) for event_id in fork.events],
            }
            for fork in found.forks
        ],
        "damaged": [
            {"check": one.check, "place": one.place or None, "id": cid_text(one.id) if one.id else None, "why": one.why}
            for one in found.damaged
        ],
        "checks": [{"check": check.name, "ok": check.ok, "detail": check.detail} for check in found.checks],
    }


def short(identity: str) -> str:
    """An id as people tell it from others."""
    return f"…{identity[-SHORT:]}"


def meaning(found: Entry) -> str:
    """What it says, in a line. Bodies were checked when they entered the log; a damaged log's may be anything."""
    event, body = found.event, found.event.body
    name = found.object_name or (short(event.object_id) if event.object_id else "")
    match event.kind:
        case records.GENESIS:
            return f"the swarm {body.get('name')} begins"
        case records.UP:
            again = f", readmitted by {_short(body['readmit'])}" if "readmit" in body else ""
            return f"{body.get('node_id')} is up as {body.get('role')}{_at(body)}{again}"
        case records.LEAVE:
            return f"{name} leaves"
        case records.DOWN:
            return f"saw {name} go down, whose up was {_short(body.get('up'))}"
        case records.MERGE:
            return f"ties {len(event.parents)} heads together"
        case records.READMIT:
            keep = body.get("keep")
            return f"readmits {name}, keeping {'nothing after its fork' if keep is None else f'up to {_short(keep)}'}"
        case records.DEFINE:
            return f"defines dataset {body.get('name')}"
        case records.VERSION:
            return f"{'adds to' if body.get('append') else 'publishes'} {name}: manifest {_short(body.get('manifest'))}"
        case records.DELETE:
            return f"deletes {name}"
    return "a kind of a newer p2pnode"


def _at(body: dict[str, Any]) -> str:
    addresses = body.get("addresses")
    return f" at {str(addresses[0]).partition('/p2p/')[0]}" if isinstance(addresses, list) and addresses else ""


def _short(value: object) -> str:
    return short(cid_text(value)) if isinstance(value, bytes) else "?"


def _time(event: Event) -> str:
    """What its author's clock said, to the millisecond: for display, decides nothing."""
    said = datetime.datetime.fromtimestamp((event.time >> 16) / 1000, datetime.UTC)  # 47 bits end in the year 6429
    return said.isoformat(timespec="milliseconds")


def _plain(value: Any) -> Any:
    """A body with its links as text."""
    if is_link(value):
        return cid_text(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value
