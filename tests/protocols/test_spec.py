"""SPEC.md says what the code does: every message, field, bound and code stands in it, with its value."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import libipld
import msgspec
import pytest

import protocols
from p2pnode.core import event, records
from p2pnode.core.model import Manifest
from p2pnode.errors import P2PNodeError
from protocols import codec, errors, frame, health, machine, message, metadata, query, shard_transfer
from protocols.table import table_of

SPEC = (Path(protocols.__file__).parent / "SPEC.md").read_text(encoding="utf-8")
UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
LIMITS = {
    name: (int(number.replace(",", "")) * UNITS[unit])
    for name, number, unit in re.findall(r"^\| `(\w+)` \| ([\d,]+) ?(\w*) \|", SPEC, re.MULTILINE)
}
EVENTS = SPEC.split("## Events")[1].split("\n## ")[0]
MODULES = (codec, frame, machine, message, metadata, shard_transfer, query, health)


def section(protocol_id: str) -> str:
    return SPEC.split(f"`{protocol_id}`")[1].split("\n## ")[0]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_limit_has_its_value(module: ModuleType) -> None:
    own = {name: value for name, value in vars(module).items() if re.fullmatch(r"\w+_(MAX|BYTES)", name)}
    public = {name: value for name, value in own.items() if name != "PREFIX_BYTES_MAX"}
    assert {name: LIMITS.get(name) for name in public} == public


@pytest.mark.parametrize(
    "spec",
    [metadata.METADATA, shard_transfer.SHARD_TRANSFER, query.QUERY, health.HEALTH],
    ids=lambda spec: spec.name,
)
def test_every_message_has_a_row_with_its_fields(spec: message.ProtocolSpec) -> None:
    rows = dict(re.findall(r"^\| \**(\w+)\b(.*)$", section(spec.protocol_id), re.MULTILINE))
    words = dict(table_of(spec).words)
    del words["error"]
    rows.pop("Message")
    assert set(rows) == set(words)
    for verb, kind in words.items():
        row = rows[verb] + (rows["hello"] if verb == "welcome" else "")
        for field in msgspec.structs.fields(kind):
            name = field.name if field.required else field.name + "?"
            assert re.search(rf"`{re.escape(name)}[:`]", row), (verb, name)


@pytest.mark.parametrize(
    "spec",
    [metadata.METADATA, shard_transfer.SHARD_TRANSFER, query.QUERY, health.HEALTH],
    ids=lambda spec: spec.name,
)
def test_every_request_is_bold_and_names_its_answers(spec: message.ProtocolSpec) -> None:
    text = section(spec.protocol_id)
    for verb in spec.verbs:
        row = re.search(rf"^\| \*\*{verb.request.verb()}\*\* → ([^|]*)\|", text, re.MULTILINE)
        assert row is not None
        for kind in (*verb.replies, *verb.uploads, *verb.final):
            assert kind.verb() in row[1]


def test_every_bound_of_an_event_has_its_value() -> None:
    bounds = {name: value for name, value in vars(event).items() if re.fullmatch(r"\w+_MAX|SESSION_BYTES", name)}
    public = {name: value for name, value in bounds.items() if name[0] != "_" and name != "ENVELOPE_BYTES_MAX"}
    assert len(public) > 5
    assert {name: LIMITS.get(name) for name in public} == public


def test_every_kind_of_event_has_a_row_with_its_fields_and_their_bounds() -> None:
    table = EVENTS.split("### Kinds")[1].split("\n### ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)$", table, re.MULTILINE))
    kinds = {value for name, value in vars(records).items() if name.isupper() and type(value) is str}
    assert set(rows) == kinds
    golden = json.loads((Path(protocols.__file__).parent / "vectors" / "events.json").read_text(encoding="utf-8"))
    for vector in golden["events"]:
        said = event.parse(bytes.fromhex(vector["wire"]))
        for name in said.body if said.kind in kinds else ():
            assert re.search(rf"`{name}\??:", rows[said.kind]), (said.kind, name)
    bounds = {name: value for name, value in vars(records).items() if re.fullmatch(r"[A-Z]\w+_MAX", name)}
    assert {name for name, value in bounds.items() if not re.search(rf"\b{value:,}\b|\b{value}\b", table)} == set()


def test_every_field_of_an_event_and_of_a_manifest_has_a_row() -> None:
    fields = EVENTS.split("### Bytes")[1].split("\n### ")[0]
    assert set(re.findall(r"^\| `([a-z]+)` \|", fields, re.MULTILINE)) == event._FIELDS
    block = records.encode_manifest(Manifest("ds", "parquet", b"", (), ()))
    keys = EVENTS.split("### The manifest block")[1].split("\n### ")[0]
    assert {"v", *re.findall(r"^\| `([a-z]+)` \|", keys, re.MULTILINE)} == set(libipld.decode_dag_cbor(block))


def test_every_code_of_misbehaviour_is_explained() -> None:
    codes = {value for name, value in vars(errors).items() if name.isupper()}
    table = SPEC.split("## Misbehaviour")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == codes


def test_every_error_code_is_listed_with_its_retry() -> None:
    table = SPEC.split("## Error codes")[1].split("\n## ")[0]
    listed = {
        code: row.rstrip().endswith("| yes |")
        for row in table.splitlines()
        for code in re.findall(r"`(\w+)`", row.split("|")[1] if row.startswith("| `") else "")
    }
    pending, codes = [P2PNodeError], dict[str, bool]()
    while pending:
        kind = pending.pop()
        if kind.__module__ == P2PNodeError.__module__:
            codes[kind.code] = kind.retryable
        pending.extend(kind.__subclasses__())
    assert listed == codes
