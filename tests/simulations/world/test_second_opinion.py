"""The second opinion agrees with the recorded folds, and with nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simulations.world.second_opinion import second_opinion
from simulations.world.second_reader import link_of

FOLDS = json.loads((Path(__file__).parents[3] / "protocols" / "vectors" / "folds.json").read_text())["folds"]
OTHER_STATE = bytes(32)


def asked(vector: dict[str, Any], **changes: Any) -> list[str]:
    wires = {link_of(bytes.fromhex(wire)[:-64]).text: bytes.fromhex(wire) for wire in vector["events"]}
    cids = {text: link_of(wire[:-64]).cid for text, wire in wires.items()}
    said = {
        "genesis": cids[vector["genesis"]],
        "wires": [wire for text, wire in wires.items() if text not in vector["outside"]],
        "blocks": [bytes.fromhex(block) for block in vector["blocks"]],
        "heads": [cids[head] for head in vector["heads"]],
        "state": bytes.fromhex(vector["digest"]),
    }
    return [violation.text for violation in second_opinion("ada", **{**said, **changes})]


@pytest.mark.parametrize("vector", FOLDS, ids=lambda vector: vector["what"])
def test_it_agrees_with_what_is_recorded_and_with_nothing_else(vector: dict[str, Any]) -> None:
    assert asked(vector) == []
    (other,) = asked(vector, state=OTHER_STATE)
    assert "another state" in other
    (fewer,) = asked(vector, heads=[])
    assert "0 heads" in fewer
    everything = [bytes.fromhex(wire) for wire in vector["events"]]
    spoilt = [everything[0][:-1] + bytes((everything[0][-1] ^ 1,)), *everything[1:]]
    (none,) = asked(vector, wires=spoilt)
    assert "is none: signature" in none
    if vector["outside"]:
        (admitted,) = asked(vector, wires=everything)
        assert admitted.startswith(f"ada admitted {len(vector['outside'])} events")


def test_some_of_them_hold_events_that_may_not_be() -> None:
    assert any(vector["outside"] for vector in FOLDS)
