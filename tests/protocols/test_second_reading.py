"""The event vectors read by a second implementation, written from protocols/SPEC.md and from nothing else.

It reads every golden event, refuses everything that must be refused, admits sets, and folds them to the recorded
digests.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey

from simulations.world import second_reader
from simulations.world.second_reader import (
    Bad,
    Event,
    Fold,
    Swarm,
    check_payload,
    check_signature,
    key_of,
    link_of,
    read_form,
    write,
)

VECTORS = Path(__file__).parents[2] / "protocols" / "vectors"


def recorded(name: str) -> dict[str, Any]:
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


def golden() -> list[Event]:
    return [read_form(bytes.fromhex(vector["wire"])) for vector in recorded("events")["events"]]


def test_this_reader_has_nothing_of_ours():
    imported = [
        line for line in Path(second_reader.__file__).read_text().splitlines() if line.startswith(("import ", "from "))
    ]
    assert not [
        line for line in imported if line.split()[1].split(".")[0] in ("p2pnode", "protocols", "bootstrap", "libipld")
    ]


def test_keys_follow_from_their_seeds():
    for key in recorded("events")["keys"]:
        assert key_of(key["peer_id"]) == bytes(SigningKey(bytes.fromhex(key["seed"])).verify_key)


@pytest.mark.parametrize("vector", recorded("events")["events"], ids=lambda vector: vector["what"])
def test_an_event_reads_and_is_written_again(vector):
    wire = bytes.fromhex(vector["wire"])
    event = read_form(wire)
    check_signature(event)
    check_payload(event)
    assert (event.id.text, event.k, event.a) == (vector["id"], vector["kind"], vector["author"])
    again = write(event.fields)
    (seed,) = [key["seed"] for key in recorded("events")["keys"] if key["peer_id"] == event.a]
    signature = SigningKey(bytes.fromhex(seed)).sign(b"p2pnode/event/1\0" + again).signature
    assert again + signature == wire


@pytest.mark.parametrize("vector", recorded("events")["refused"], ids=lambda vector: vector["what"])
def test_what_must_be_refused_is(vector):
    wire = bytes.fromhex(vector["wire"])
    if vector["shows"] == "form":
        with pytest.raises(Bad):
            read_form(wire)
        return
    event = read_form(wire)
    if vector["shows"] == "signature":
        with pytest.raises(Bad, match="signature"):
            check_signature(event)
        return
    check_signature(event)
    before = golden()[:5]
    swarm = Swarm(before[0].id, before, {})
    assert len(swarm.events) == 5
    with pytest.raises(Bad):
        swarm.check(event)


@pytest.mark.parametrize("vector", recorded("folds")["folds"], ids=lambda vector: vector["what"])
def test_a_set_amounts_to_what_is_recorded(vector):
    events = [read_form(bytes.fromhex(wire)) for wire in vector["events"]]
    for event in events:
        check_signature(event)
    blocks = {link_of(bytes.fromhex(block)): bytes.fromhex(block) for block in vector["blocks"]}
    swarm = Swarm(next(event.id for event in events if event.k == "genesis"), events, blocks)
    fold = Fold(swarm)
    found = {
        "genesis": swarm.genesis.text,
        "outside": sorted(event.id.text for event in events if event.id not in swarm.events),
        "heads": [head.text for head in swarm.heads],
        "height": max(event.h for event in swarm.events.values()),
        "fingerprint": swarm.fingerprint.hex(),
        "forks": [
            [author, session.hex(), sequence, [event_id.text for event_id in ids]]
            for (author, session, sequence), ids in swarm.forks.items()
        ],
        "ignored": sorted(event_id.text for event_id in swarm.events.keys() - swarm.counted()),
        "members": [
            {
                "peer_id": one["peer_id"],
                "node_id": one["up"].b["node_id"],
                "role": one["up"].b["role"],
                "left": one["left"],
                "down": one["down"],
            }
            for one in fold.members
        ],
        "datasets": [
            {
                "dataset_id": one["id"],
                "name": one["said"]["name"],
                "owns_its_name": fold.names[one["said"]["name"]] == one["id"],
                "version": one["version"] and one["version"].text,
                "shards": [shard[0].text for shard in one["manifest"]["shards"]] if one["manifest"] else [],
                "siblings": [sibling.text for sibling in one["siblings"]],
            }
            for one in fold.datasets
        ],
        "digest": fold.digest.hex(),
    }
    assert found == {name: vector[name] for name in found}
