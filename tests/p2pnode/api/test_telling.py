"""Every kind of event has words for people, and no event is too odd to be told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import protocols
from p2pnode.api.json import encode
from p2pnode.api.telling import entry, meaning
from p2pnode.core import records
from p2pnode.core.event import Event, parse
from p2pnode.services.history import Entry

VECTORS = json.loads((Path(protocols.__file__).parent / "vectors" / "events.json").read_text(encoding="utf-8"))[
    "events"
]
EVENTS = [pytest.param(parse(bytes.fromhex(vector["wire"])), id=vector["what"]) for vector in VECTORS]
KINDS = {value for name, value in vars(records).items() if name.isupper() and type(value) is str}


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_has_a_line_and_a_document(event: Event) -> None:
    said = meaning(Entry(event, "bob", "trips"))
    assert (said != "a kind of a newer p2pnode") == (event.kind in KINDS)
    assert "?" not in said
    document = json.loads(encode(entry(Entry(event, "bob", "trips"))))
    assert (document["kind"], document["node_id"], document["text"]) == (event.kind, "bob", said)
    assert document["time"].startswith("2026-01-01T00:00:")
    assert all(parent.startswith("bafyrei") for parent in document["parents"])


@pytest.mark.parametrize("event", EVENTS)
def test_no_event_is_too_odd(event: Event) -> None:
    for kind in (*sorted(KINDS), "later"):
        odd = replace(event, kind=kind, body={"readmit": 1, "addresses": [7], "keep": "x"}, time=(1 << 63) - 1)
        document = entry(Entry(odd, "", ""))
        assert document["text"]
        assert document["time"].startswith("6429-")
        assert encode(document)
