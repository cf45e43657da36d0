"""The merkle clock a second time, written from protocols/SPEC.md and from nothing else.

Nothing of the node is imported here: SHA-256, Ed25519 and this page's own CBOR are all that it takes. It reads events,
refuses what must be refused, admits sets, and folds them. It is plain rather than quick: the fold is computed as the
specification defines it, from whole sets. The world asks it for a second opinion on what nodes made of their events,
and the golden vectors prove that it reads the specification as we do.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# pyright: reportOperatorIssue=false, reportOptionalIterable=false, reportOptionalMemberAccess=false
# pyright: reportOptionalSubscript=false, reportReturnType=false
# (fields are whatever CBOR holds until `need` has looked at them, which no type tells)
from __future__ import annotations

import base64
import hashlib
import math
import struct
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey


class Bad(Exception):
    """Not what the specification allows."""


def need(holds: object, why: str) -> None:
    """Raises Bad."""
    if not holds:
        raise Bad(why)


# -- CBOR, as far as events use it ---------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Link:
    """A content id of this swarm: 36 bytes."""

    cid: bytes

    def __post_init__(self) -> None:
        version, codec, code, length = struct.unpack_from("4B", self.cid.ljust(4, b"\0"))
        shaped = len(self.cid) == 36 and (version, length) == (1, 32)
        need(shaped and codec in (0x55, 0x70, 0x71) and code in (0x12, 0x1E), "a link of another shape")

    @property
    def is_record(self) -> bool:
        return self.cid[:4] == b"\x01\x71\x12\x20"

    @property
    def text(self) -> str:
        return "b" + base64.b32encode(self.cid).decode().rstrip("=").lower()


def link_of(data: bytes) -> Link:
    return Link(b"\x01\x71\x12\x20" + hashlib.sha256(data).digest())


class Reader:
    """One value and nothing after it, in the one spelling that is allowed."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    @classmethod
    def whole(cls, data: bytes) -> Any:
        reader = cls(data)
        value = reader.value(0)
        need(reader.at == len(data), "something follows")
        return value

    def take(self, count: int) -> bytes:
        need(self.at + count <= len(self.data), "cut off")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, info: int) -> int:
        if info < 24:
            return info
        need(info <= 27, "of no definite length")
        size = 1 << (info - 24)
        value = int.from_bytes(self.take(size), "big")
        need(value >= (24 if size == 1 else 1 << (4 * size)), "longer than it need be")
        return value

    def value(self, depth: int) -> Any:
        need(depth <= 40, "deeper than any event")
        major, info = divmod(self.take(1)[0], 32)
        if major == 7:
            return self.simple(info)
        number = self.number(info)
        match major:
            case 0:
                return number
            case 1:
                return -1 - number
            case 2:
                data = self.take(number)
                looks = data[:1] == b"\x01" or (len(data) == 34 and data[:2] == b"\x12\x20")
                need(not looks, "bytes that could be taken for a link")
                return data
            case 3:
                try:
                    return self.take(number).decode("utf-8")
                except UnicodeDecodeError as error:
                    raise Bad("no UTF-8") from error
            case 4:
                return [self.value(depth + 1) for _ in range(number)]
            case 5:
                return self.map(number, depth)
        need(number == 42 and self.take(1)[0] == 0x58 and self.take(2) == b"\x25\x00", "no link")
        return Link(self.take(36))

    def map(self, count: int, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        before = b""
        for _ in range(count):
            at = self.at
            key = self.value(depth + 1)
            need(type(key) is str, "a key that is no text")
            spelt = self.data[at : self.at]
            need((len(spelt), spelt) > (len(before), before), "keys out of order")
            before = spelt
            found[key] = self.value(depth + 1)
        return found

    def simple(self, info: int) -> Any:
        if info == 27:
            value = struct.unpack(">d", self.take(8))[0]
            need(math.isfinite(value) and (value or math.copysign(1, value) > 0), "a number that is none")
            return value
        need(info in (20, 21, 22), "a value that DAG-CBOR has not")
        return {20: False, 21: True, 22: None}[info]


def write(value: Any) -> bytes:
    match value:
        case None | False | True:
            return {None: b"\xf6", False: b"\xf4", True: b"\xf5"}[value]
        case int():
            return head(0, value) if value >= 0 else head(1, -1 - value)
        case float():
            return b"\xfb" + struct.pack(">d", value)
        case bytes():
            return head(2, len(value)) + value
        case str():
            return head(3, len(value.encode())) + value.encode()
        case Link():
            return b"\xd8\x2a\x58\x25\x00" + value.cid
        case list() | tuple():
            return head(4, len(value)) + b"".join(map(write, value))
    keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
    return head(5, len(keys)) + b"".join(write(key) + write(value[key]) for key in keys)


def head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    size = next(size for size in (1, 2, 4, 8) if number < 1 << (8 * size))
    return bytes([major << 5 | 24 + size.bit_length() - 1]) + number.to_bytes(size, "big")


# -- an event --------------------------------------------------------------------------------------------------------


def key_of(peer_id: str) -> bytes:
    number = 0
    for letter in peer_id:
        need(letter in ALPHABET, "no base58")
        number = number * 58 + ALPHABET.index(letter)
    need(len(peer_id) == 52 and peer_id.startswith("12D3Koo"), "no Ed25519 peer id")
    raw = number.to_bytes(37, "big")  # the leading 1 is a zero byte
    need(raw[:5] == bytes.fromhex("2408011220"), "no Ed25519 peer id")
    return raw[5:]


ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
KNOWN = ("genesis", "up", "leave", "down", "merge", "readmit", "define", "version", "delete")


@dataclass(frozen=True)
class Event:
    id: Link
    fields: dict[str, Any]
    encoded: bytes
    signature: bytes

    def __getattr__(self, name: str) -> Any:
        return self.fields[name]

    def __hash__(self) -> int:
        return hash(self.id)

    @cached_property
    def past(self) -> set[Link]:
        return set(self.p) | ({self.pa} - {None})

    @property
    def order(self) -> tuple[int, bytes]:
        return self.h, self.id.cid


def read_form(wire: bytes) -> Event:
    need(64 < len(wire) <= 65_536 + 2_048 + 64, "size")
    encoded, signature = wire[:-64], wire[-64:]
    fields = Reader.whole(encoded)
    need(type(fields) is dict and set(fields) == {*"asqpvhtkob", "ns", "pa"}, "the keys of an event")
    need(type(fields["v"]) is int and fields["v"] == 1, "v")
    for name in "qht":
        need(type(fields[name]) is int and 0 <= fields[name] < 1 << 63, name)
    for name in ("ns", "pa"):
        need(fields[name] is None or is_record(fields[name]), name)
    need(type(fields["k"]) is str and 1 <= len(fields["k"]) <= 32, "k")
    need(type(fields["o"]) is str and len(fields["o"]) <= 128, "o")
    session = fields["s"]
    need(type(session) is bytes and len(session) == 16 and session[0] & 0x80, "s")
    parents = fields["p"]
    need(type(parents) is list and len(parents) <= 16 and all(map(is_record, parents)), "p")
    need(parents == sorted(set(parents)), "p is sorted and unique")
    need(type(fields["a"]) is str and key_of(fields["a"]), "a")
    need(type(fields["b"]) is dict, "b")
    need(len(write(fields["b"])) <= 65_536, "the payload's size")
    need(levels(fields["b"]) <= 32, "the payload's depth")
    return Event(link_of(encoded), fields, encoded, signature)


def check_signature(event: Event) -> None:
    try:
        VerifyKey(key_of(event.a)).verify(b"p2pnode/event/1\0" + event.encoded, event.signature)
    except BadSignatureError as error:
        raise Bad("signature") from error


def is_record(value: Any) -> bool:
    return isinstance(value, Link) and value.is_record


def levels(value: Any) -> int:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max(map(levels, inner), default=0)
    return 0


# -- payloads ----------------------------------------------------------------------------------------------------------


def text(body: dict[str, Any], name: str, most: int, least: int = 0) -> str:
    value = body.get(name)
    need(type(value) is str and least <= len(value) <= most, name)
    return value


def texts(body: dict[str, Any], name: str, count: int, most: int) -> list[str]:
    values = body.get(name)
    need(type(values) is list and len(values) <= count, name)
    need(all(type(value) is str and len(value) <= most for value in values), name)
    return values


def events_named(body: dict[str, Any], name: str) -> list[Link]:
    values = body.get(name)
    need(type(values) is list and len(values) <= 1024 and all(map(is_record, values)), name)
    need(values == sorted(set(values)), f"{name} is sorted and unique")
    return values


def check_payload(event: Event) -> None:
    body = event.b
    match event.k:
        case "genesis":
            text(body, "name", 128)
            need(type(body.get("open")) is bool, "open")
        case "up":
            text(body, "node_id", 128, 1)
            text(body, "region", 128)
            need(body.get("role") in ("coordinator", "worker", "hybrid"), "role")
            need(type(body.get("weight")) is int and 1 <= body["weight"] <= 1_000_000, "weight")
            texts(body, "addresses", 16, 512)
            texts(body, "capabilities", 64, 128)
            need("readmit" not in body or is_record(body["readmit"]), "readmit")
        case "down":
            need(is_record(body.get("up")), "up")
            need(event.o != event.a, "nobody witnesses its own end")
        case "readmit":
            need(len(events_named(body, "forks")) >= 2, "forks")
            need(body.get("keep") is None or is_record(body["keep"]), "keep")
            need(event.o != event.a, "nobody readmits itself")
        case "define":
            text(body, "name", 128, 1)
            text(body, "description", 4096)
            need(type(body.get("schema")) is bytes, "schema")
        case "version":
            need(is_record(body.get("manifest")), "manifest")
            need(body.get("base") is None or is_record(body["base"]), "base")
            need(type(body.get("append")) is bool, "append")
            events_named(body, "over")
            need("publish" not in body or text(body, "publish", 64) is not None, "publish")
        case "delete":
            events_named(body, "versions")


# -- the set -----------------------------------------------------------------------------------------------------------


class Swarm:
    """The events that may be, each checked against its causal past alone."""

    def __init__(self, genesis: Link, events: list[Event], blocks: dict[Link, bytes]) -> None:
        self.genesis = genesis
        self.blocks = blocks
        self.events: dict[Link, Event] = {}
        pending = list(events)
        while admitted := [event for event in pending if self.complete(event) and self.valid(event)]:
            self.events.update((event.id, event) for event in admitted)
            pending = [event for event in pending if event.id not in self.events]

    def complete(self, event: Event) -> bool:
        waits = event.past | ({event.b["readmit"]} if event.k == "up" and "readmit" in event.b else set())
        return waits <= self.events.keys() and (event.k != "version" or event.b.get("manifest") in self.blocks)

    def valid(self, event: Event) -> bool:
        try:
            self.check(event)
        except Bad:
            return False
        return True

    def check(self, event: Event) -> None:
        check_payload(event)
        if event.k == "genesis":
            alone = (event.ns, event.pa, event.p, event.q, event.h) == (None, None, [], 0, 1)
            need(event.id == self.genesis and alone, "another genesis")
            return
        need(event.ns == self.genesis, "another swarm")
        need(event.p, "no parents")
        need(event.h == 1 + max(self.events[past].h for past in event.past), "height")
        previous = self.events[event.pa] if event.pa else None
        need(previous is None or previous.a == event.a, "another author's previous event")
        follows = previous is not None and previous.s == event.s
        need(event.q == (previous.q + 1 if follows else 0), "sequence")
        if event.k in ("up", "leave"):
            need(event.o == event.a, "only for oneself")
        if event.k == "up":
            if "readmit" in event.b:
                readmit = self.events[event.b["readmit"]]
                need((readmit.k, readmit.o) == ("readmit", event.a), "no readmission of its author")
            return
        role = self.standing(previous)
        need(role is not None, "no member")
        if event.k in ("define", "version", "delete", "readmit"):
            need(role in ("coordinator", "hybrid"), "its role")

    def standing(self, event: Event | None) -> str | None:
        for step in self.chain(event):
            if step.k in ("up", "leave"):
                return step.b["role"] if step.k == "up" else None
        return None

    def chain(self, event: Event | None) -> list[Event]:
        """The event and its author's earlier ones, newest first."""
        found = []
        while event is not None:
            found.append(event)
            event = self.events[event.pa] if event.pa else None
        return found

    @property
    def heads(self) -> list[Link]:
        return sorted(self.events.keys() - {past for event in self.events.values() for past in event.past})

    @property
    def fingerprint(self) -> bytes:
        total = sum(int.from_bytes(event_id.cid[4:], "big") for event_id in self.events)
        return (total % (1 << 256)).to_bytes(32, "big")

    # -- forks ------------------------------------------------------------------------------------------------------

    @cached_property
    def forks(self) -> dict[tuple[str, bytes, int], list[Link]]:
        slots: dict[tuple[str, bytes, int], list[Link]] = {}
        for event in self.events.values():
            slots.setdefault((event.a, event.s, event.q), []).append(event.id)
        return {slot: sorted(ids) for slot, ids in sorted(slots.items()) if len(ids) > 1}

    def counted(self) -> set[Link]:
        """What the fold takes: the least fixed point over the readmissions that are heard."""
        heard: set[Link] = set()
        while True:
            counted = {event.id for event in self.events.values() if self.counts(event, heard)}
            now = {event_id for event_id in counted if self.events[event_id].k == "readmit"}
            if now == heard:
                return counted
            heard = now

    def counts(self, event: Event, heard: set[Link]) -> bool:
        return all(self.survives(event, ids, heard) for (author, _, _), ids in self.forks.items() if author == event.a)

    def survives(self, event: Event, fork: list[Link], heard: set[Link]) -> bool:
        branches = [self.events[event_id] for event_id in fork]
        if all(event in self.chain(branch)[1:] for branch in branches):
            return True
        forgiving = [
            self.events[readmit]
            for readmit in heard
            if self.events[readmit].o == event.a and set(fork) <= set(self.events[readmit].b["forks"])
        ]
        for readmit in forgiving:
            kept = self.events.get(readmit.b.get("keep"))
            if kept is not None and kept.a == event.a and event in self.chain(kept):
                return True
        taken_up = {step.b.get("readmit") for step in self.chain(event) if step.k == "up"}
        return any(readmit.id in taken_up for readmit in forgiving)


# -- the fold ----------------------------------------------------------------------------------------------------------


class Fold:
    """What the counted events of a swarm amount to."""

    def __init__(self, swarm: Swarm) -> None:
        self.swarm = swarm
        counted = swarm.counted()
        self.events = sorted((event for event in swarm.events.values() if event.id in counted), key=lambda e: e.order)

    def of(self, *kinds: str) -> list[Event]:
        return [event for event in self.events if event.k in kinds]

    # -- members ----------------------------------------------------------------------------------------------------

    @cached_property
    def members(self) -> list[dict[str, Any]]:
        found = []
        for peer_id in sorted({event.a for event in self.of("up")}):
            own = [event for event in self.of("up", "leave") if event.a == peer_id]
            up = [event for event in own if event.k == "up"][-1]
            found.append({"peer_id": peer_id, "up": up, "left": own[-1].k == "leave", "own": own})
        needed = 2 if sum(not one["left"] for one in found) >= 3 else 1
        for one in found:
            said = (event for event in self.of("down") if event.o == one["peer_id"] and event.b["up"] == one["up"].id)
            one["down"] = not one["left"] and len({event.a for event in said}) >= needed
        return found

    # -- datasets -----------------------------------------------------------------------------------------------------

    @cached_property
    def datasets(self) -> list[dict[str, Any]]:
        found = []
        for dataset_id in sorted({event.o for event in self.of("define")}):
            deleted = {name for event in self.of("delete") if event.o == dataset_id for name in event.b["versions"]}
            defines = [event for event in self.of("define") if event.o == dataset_id]
            live = [event for event in defines if event.id not in deleted]
            history = History(dataset_id, [e for e in self.of("version") if e.o == dataset_id], self.swarm.blocks)
            tips = [tip for tip in history.standing if tip not in deleted]
            if not live and not tips:
                continue
            said = (live or defines)[-1].b
            since = next(event.order for event in live or defines if event.b["name"] == said["name"])
            found.append({"id": dataset_id, "said": said, "since": since, "tips": tips, **history.fold(tips)})
        return sorted(found, key=lambda one: (one["said"]["name"], one["id"]))

    @cached_property
    def names(self) -> dict[str, str]:
        claims: dict[str, list[tuple[tuple[int, bytes], str]]] = {}
        for one in self.datasets:
            claims.setdefault(one["said"]["name"], []).append((one["since"], one["id"]))
        return {name: min(claimed)[1] for name, claimed in sorted(claims.items())}

    @property
    def digest(self) -> bytes:
        members = [
            [
                one["peer_id"],
                *(one["up"].b[name] for name in ("node_id", "role", "region", "weight")),
                one["left"],
                one["down"],
                one["up"].id,
                *(one["up"].b[name] for name in ("addresses", "capabilities")),
            ]
            for one in self.members
        ]
        names = [[name, dataset_id] for name, dataset_id in self.names.items()]
        datasets = [
            [
                one["id"],
                *(one["said"][name] for name in ("name", "description", "schema")),
                one["version"],
                one["siblings"],
                one["tips"],
            ]
            for one in self.datasets
        ]
        return hashlib.sha256(write([members, names, datasets])).digest()


class History:
    """The versions of one dataset."""

    def __init__(self, dataset_id: str, versions: list[Event], blocks: dict[Link, bytes]) -> None:
        self.dataset_id = dataset_id
        self.versions = {event.id: event for event in versions}
        self.blocks = blocks

    @property
    def standing(self) -> list[Link]:
        return sorted(self.versions.keys() - {name for event in self.versions.values() for name in event.b["over"]})

    def manifest(self, version: Link) -> dict[str, Any] | None:
        if version not in self.versions:
            return None
        try:
            read = read_manifest(self.blocks[self.versions[version].b["manifest"]])
        except Bad:
            return None
        return read if read["dataset"] == self.dataset_id else None

    def fold(self, tips: list[Link]) -> dict[str, Any]:
        """The version that these tips amount to, its manifest, and the manifests that lost."""
        readable = sorted((tip for tip in tips if self.manifest(tip)), key=self.order)
        if not readable:
            return {"version": None, "manifest": None, "siblings": []}
        winner = readable.pop()
        others = [tip for tip in readable if self.unites(tip, winner)]
        siblings = sorted(self.versions[tip].b["manifest"] for tip in readable if tip not in others)
        manifest = self.manifest(winner)
        if not others:
            return {"version": self.versions[winner].b["manifest"], "manifest": manifest, "siblings": siblings}
        shards = list(manifest["shards"])
        done = self.lineage(winner)
        carried_out = {self.publish(version) for version in done}
        for other in others:
            for version in sorted(self.lineage(other) - done, key=self.order):
                if not self.publish(version) or self.publish(version) not in carried_out:
                    shards += self.added(version)
                done.add(version)
                carried_out.add(self.publish(version))
        names = ("v", "dataset", "format", "schema", "columns", "replicas", "policy", "base")
        union = {name: manifest[name] for name in names} | {"shards": shards}
        return {"version": link_of(write(union)), "manifest": union, "siblings": siblings}

    def order(self, version: Link) -> tuple[int, bytes]:
        return self.versions[version].order

    def publish(self, version: Link) -> str:
        return self.versions[version].b.get("publish", "")

    def unites(self, tip: Link, winner: Link) -> bool:
        ours, theirs = self.manifest(tip), self.manifest(winner)
        alike = all(ours[name] == theirs[name] for name in ("format", "columns"))
        return alike and self.versions[tip].b["append"] and self.roots(tip) == self.roots(winner)

    def walk(self, version: Link) -> set[Link]:
        """The version and all that it appended to, through appends."""
        seen: set[Link] = set()
        pending = [version]
        while pending:
            step = pending.pop()
            if step not in seen:
                seen.add(step)
                if self.appends(step):
                    pending += self.versions[step].b["over"]
        return seen

    def appends(self, version: Link) -> bool:
        return version in self.versions and self.versions[version].b["append"]

    def lineage(self, version: Link) -> set[Link]:
        return {step for step in self.walk(version) if self.appends(step)}

    def roots(self, version: Link) -> set[Link | None]:
        walked = self.walk(version)
        nothing = {None for step in walked if self.appends(step) and not self.versions[step].b["over"]}
        return {step for step in walked if not self.appends(step)} | nothing

    def added(self, version: Link) -> list[Any]:
        manifest = self.manifest(version)
        ground = self.fold(self.versions[version].b["over"])["manifest"]
        present = Counter(shard[0] for shard in ground["shards"]) if ground else Counter()
        added = []
        for shard in manifest["shards"] if manifest else []:
            if present[shard[0]]:
                present[shard[0]] -= 1
            else:
                added.append(shard)
        return added


def read_manifest(block: bytes) -> dict[str, Any]:
    fields = Reader.whole(block)
    need(type(fields) is dict and is_count(fields.get("v")) and fields["v"] == 1, "v")
    need(all(levels(value) < 32 for name, value in fields.items() if name != "shards"), "depth")
    text(fields, "dataset", 128, 1)
    text(fields, "format", 16, 1)
    need(type(fields.get("schema")) is bytes and type(fields.get("policy")) is dict, "schema, policy")
    need(is_count(fields.get("replicas")), "replicas")
    need(fields.get("base", "") is None or isinstance(fields.get("base"), Link), "base")
    need(all(type(fields.get(name)) is list for name in ("columns", "shards")), "columns, shards")
    for column in fields["columns"]:
        need(type(column) is list and len(column) == 2 and all(type(one) is str for one in column), "column")
    for shard in fields["shards"]:
        need(type(shard) is list and len(shard) == 4 and isinstance(shard[0], Link), "shard")
        need(is_count(shard[1]) and is_count(shard[2]) and type(shard[3]) is dict, "shard")
        for found in shard[3].values():
            need(type(found) is list and len(found) == 3 and is_count(found[0]), "statistics")
            need(all(one is None or type(one) in (int, float, str, bool) for one in found[1:]), "bounds")
    return fields


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63
