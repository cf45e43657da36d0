"""What is written while things go wrong: planned beforehand, done through real nodes, and every outcome noted.

A deed is one write as a user would ask for it: a dataset defined, a small table published or appended (cut, pushed to
its holders, signed), a version of a manifest alone, a dataset deleted, a member's record renewed. Each host does its
deeds one after another, so that the events of a deed are known: what the host recorded meanwhile. A deed ends in one
of three ways, as for any user of a network: *acknowledged* is a promise that the checks hold the swarm to, *failed*
says that nothing was recorded, *unknown* says neither.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa
import trio

from p2pnode.core import records
from p2pnode.core.cid import BLAKE3, DIGEST_BYTES, RAW, make_cid, record_cid
from p2pnode.core.event import Event
from p2pnode.core.model import Manifest, ShardEntry
from p2pnode.env.together import together
from p2pnode.errors import NotFound, P2PNodeError
from p2pnode.node import Node
from simulations.world.chance import stream
from simulations.world.host import Host
from simulations.world.inside import define, ledger_of, metadata_of, session_of
from simulations.world.options import WorldOptions
from simulations.world.plan import cast

#: Datasets that the deeds are about: few, so that they meet, and concurrent writes with them.
DATASETS = 12
#: In each storm so many further datasets are written together: defined, given a version, and then appended to by two
#: hosts at one moment, so that there are unions. It is begun early, while no host is behind with its deeds.
MEETINGS = 2
MEETING_BEGINS_S = 0.5
MEETING_STEP_S = 0.6
#: Their deeds are numbered from here on.
MEETING_NUMBERS = 3_000_000
#: Rows of a published table and of one of its shards: some tables are one shard, some are several.
ROWS_MAX = 30
SHARD_ROWS = 12
#: What is left over by publishing and appending falls to these, in these shares.
CHEAP = {"define": 5, "version": 4, "up": 2, "delete": 1}

#: Virtual seconds between two looks whether a host is up again.
LOOK_S = 0.1

Kind = Literal["define", "publish", "append", "version", "delete", "up"]
Outcome = Literal["acknowledged", "failed", "unknown"]


@dataclass(frozen=True, slots=True)
class Deed:
    """One write to come. `at_s` is seconds after its storm begins."""

    number: int
    kind: Kind
    round: int
    at_s: float
    host: int
    #: Which dataset, by number.
    dataset: int
    rows: int = 1

    @property
    def name(self) -> str:
        return f"set_{self.dataset}"

    @property
    def mark(self) -> str:
        """What tells its event from every other one's."""
        return f"deed-{self.number}"


def deeds(options: WorldOptions) -> tuple[Deed, ...]:
    """Everything that is written in this world, in the order of beginning within each storm."""
    rng = stream(options.seed, "deeds")
    honest = cast(options).honest
    writers = [host for host in honest if options.roles[host].defines]
    meetings = _meetings(options, writers)
    each = -(-(options.writes - len(meetings)) // options.rounds)
    planned: list[Deed] = []
    for number in range(options.rounds):
        times = sorted(rng.uniform(0, options.storm_s) for _ in range(each))
        for at_s in times:
            kind = _kind(rng.random(), rng.random(), options)
            host = rng.choice(honest if kind == "up" else writers)
            deed = Deed(len(planned) + 1, kind, number, at_s, host, rng.randrange(DATASETS), rng.randint(1, ROWS_MAX))
            planned.append(deed)
    return (*planned, *meetings)


def _meetings(options: WorldOptions, writers: Sequence[int]) -> list[Deed]:
    """Two hosts append to one version at once, wherever the two then are."""
    rng = stream(options.seed, "meetings")
    planned: list[Deed] = []
    for number in range(options.rounds if len(writers) > 1 else 0):
        for meeting in range(MEETINGS):
            one, other = rng.sample(writers, 2)
            at_s, dataset = rng.uniform(0, MEETING_BEGINS_S), DATASETS + number * MEETINGS + meeting
            first = MEETING_NUMBERS + len(planned)
            # A version with an even number of rows appends, one with an odd number takes the place of what was.
            planned += [
                Deed(first, "define", number, at_s, one, dataset),
                Deed(first + 1, "version", number, at_s + MEETING_STEP_S, one, dataset, 1),
                Deed(first + 2, "version", number, at_s + 2 * MEETING_STEP_S, one, dataset, 2),
                Deed(first + 3, "version", number, at_s + 2 * MEETING_STEP_S, other, dataset, 2),
            ]
    return planned


def _kind(chance: float, among: float, options: WorldOptions) -> Kind:
    if chance < options.publish_share:
        return "publish"
    if chance < options.publish_share + options.append_share:
        return "append"
    wanted = among * sum(CHEAP.values())
    for kind, share in CHEAP.items():
        wanted -= share
        if wanted < 0:
            return kind  # type: ignore[return-value]  # the keys are kinds
    return "up"


@dataclass(slots=True)
class Written:
    """One write that was begun, and what came of it."""

    deed: Deed
    host: str
    began_s: float
    outcome: Outcome = "unknown"
    events: tuple[bytes, ...] = ()
    #: Members, and those of them that hold shards, as the author of an acknowledgement saw them.
    present: int = 0
    storing: int = 0
    #: What it put on holders' disks.
    shards: tuple[ShardEntry, ...] = ()
    why: str = ""
    ended: bool = False


class Writer:
    """One host's deeds, one after another, whatever happens to the host meanwhile."""

    def __init__(self, host: Host, acknowledged: Callable[[Written], None], unhandled: Callable[[str], None]) -> None:
        """`acknowledged` is called at the very moment; `unhandled` with what should never leave a deed."""
        self._host = host
        self._acknowledged = acknowledged
        self._unhandled = unhandled
        self._turn = trio.Lock()
        self._heard_of: Node | None = None
        self._session = b""
        self._own: list[Event] = []
        self._closed = False
        self.written: list[Written] = []

    async def close(self) -> None:
        """Nothing is written here any more; returns when what is under way has ended."""
        async with self._turn:
            self._closed = True

    async def write(self, deed: Deed) -> Written | None:
        """Do it as soon as the host is up and has done what came before; None if nothing is written there any more."""
        async with self._turn:
            if self._closed:
                return None
            node = await _node_of(self._host)
            written = Written(deed, self._host.name, trio.current_time())
            self.written.append(written)
            self._listen(node)
            before = ledger_of(node).catalog.present()
            try:
                done = await _in_one_life(self._host, node, self._perform, node, deed)
            except P2PNodeError as error:
                written.outcome = "unknown" if self._events(deed) else "failed"
                written.why = f"{error.code}: {error}"
            except Exception as error:  # noqa: BLE001  # whatever it is, it is reported
                written.why = f"{type(error).__name__}: {error}"
                self._unhandled(f"write {deed.number} ({deed.kind}) of {self._host.name} raised {written.why}")
            else:
                if done:
                    after = ledger_of(node).catalog.present()
                    written.present = min(len(before), len(after))
                    written.storing = min(sum(m.role.stores for m in members) for members in (before, after))
                    written.shards = self._shards(node)
                    written.outcome, written.events = "acknowledged", self._events(deed)
                    self._acknowledged(written)
                else:
                    written.why = "the host went down"
            written.ended = True
            return written

    def _listen(self, node: Node) -> None:
        """What this life records from now on is the deed's."""
        self._own = []
        if node is not self._heard_of:
            self._heard_of, self._session = node, session_of(node)
            ledger_of(node).on_change(self._heard)

    def _heard(self, events: Sequence[Event]) -> None:
        """What an earlier life said may come back from others meanwhile."""
        self._own += [e for e in events if e.author == self._host.peer_id and e.session == self._session]

    def _events(self, deed: Deed) -> tuple[bytes, ...]:
        """Its node may have said unasked, meanwhile, that it is up: that is no part of a deed."""
        if deed.kind == "up":
            return tuple(e.id for e in self._own if e.kind == records.UP and e.body["capabilities"] == [deed.mark])
        return tuple(e.id for e in self._own if e.kind in (records.DEFINE, records.VERSION, records.DELETE))

    def _shards(self, node: Node) -> tuple[ShardEntry, ...]:
        """Those that the versions recorded meanwhile brought to holders' disks: new, and with a holder's statistics."""
        manifest_of = ledger_of(node).manifest
        brought: list[ShardEntry] = []
        for version in (records.read_version(event) for event in self._own if event.kind == records.VERSION):
            manifest, base = manifest_of(version.manifest), version.base and manifest_of(version.base)
            old = {shard.cid for shard in base.shards} if base else set[bytes]()
            if manifest is not None:
                brought += [shard for shard in manifest.shards if shard.stats and shard.cid not in old]
        return tuple(brought)

    async def _perform(self, node: Node, deed: Deed) -> None:
        if deed.kind in ("publish", "append"):
            table = pa.table({"deed": [deed.number] * deed.rows, "row": list(range(deed.rows))})
            append = deed.kind == "append"
            await node.publish(deed.name, table, create=True, append=append, shard_rows=SHARD_ROWS)
        elif deed.kind == "define":
            await define(node, deed.name, f"by write {deed.number}")
        elif deed.kind == "delete":
            await node.delete(deed.name)
        elif deed.kind == "version":
            await _record_version(node, deed)
        else:
            await _renew(node, deed)


async def _node_of(host: Host) -> Node:
    """The host's node as soon as there is one."""
    while host.node is None:  # noqa: ASYNC110  # virtual time: looking costs nothing
        await trio.sleep(LOOK_S)
    return host.node


def _lives(host: Host, node: Node) -> bool:
    return host.node is node and host._life is not None and not host._life.dead


async def _in_one_life(host: Host, node: Node, work: Callable[..., Awaitable[None]], *args: Any) -> bool:
    """Do it; whether the host lived to see the end of it. Raises what it raises while the host lives."""
    done = False

    async def end_with_it(scope: trio.CancelScope) -> None:
        await host.until_down()
        scope.cancel()

    try:
        async with together() as nursery:
            nursery.start_soon(end_with_it, nursery.cancel_scope)
            await work(*args)
            done = _lives(host, node)
            nursery.cancel_scope.cancel()
    except Exception:
        if _lives(host, node):
            raise
        done = False  # what the dying say is nobody's business
    return done


async def _record_version(node: Node, deed: Deed) -> None:
    """A version whose shards nobody holds: what the clock has to carry of a publish, without its bytes."""
    catalog = ledger_of(node).catalog
    record = catalog.dataset(deed.name)
    if record is None:
        raise NotFound(f"There is no dataset {deed.name!r}.")
    digest = deed.number.to_bytes(DIGEST_BYTES, "big")
    append = deed.rows % 2 == 0
    shard = ShardEntry(make_cid(RAW, BLAKE3, digest), deed.rows, 100 * deed.rows)
    old = record.manifest.shards if append and record.manifest else ()
    block = records.encode_manifest(Manifest(record.dataset_id, "parquet", b"", (), (*old, shard), base=record.version))
    version = records.Version(record_cid(block), record.version, append, catalog.tips(record.dataset_id), deed.mark)
    await metadata_of(node).author(records.VERSION, record.dataset_id, records.version_body(version), blocks=(block,))


async def _renew(node: Node, deed: Deed) -> None:
    """This member's record, with something in it that was not there before."""
    known = ledger_of(node).catalog.member(node.peer_id)
    if known is None:
        raise NotFound("This node has no record yet.")
    renewed = replace(known, capabilities=(deed.mark,))
    await metadata_of(node).author(records.UP, node.peer_id, records.up_body(renewed))
