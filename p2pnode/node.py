"""One node, whole: which parts it has, and in which order they start and stop.

    home lock → identity → event log → shard store → SQL runner → transport → guard → join → `up` event → ready

This is the composition root: it builds every part with what it needs, owns the one nursery, and hands the parts'
deeds on to `api`. It decides nothing itself; a method here is at most a look into two parts. Everything that runs in
the background is a child of the nursery and dies with it, within 3 s.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import structlog
import trio

from bootstrap.address import PeerAddress, parse_bootstrap
from bootstrap.identity import Identity
from bootstrap.joining import Joining
from p2pnode.core.cid import parse_cid
from p2pnode.core.collection import Collection
from p2pnode.core.holdings import Holdings
from p2pnode.core.membership import ABSENT, RELAYS, THERE, Detector, State
from p2pnode.core.model import DatasetRecord, Member, NodeRole
from p2pnode.core.records import read_readmit
from p2pnode.core.settings import Settings
from p2pnode.env import Env
from p2pnode.env.net import Transport
from p2pnode.env.together import together
from p2pnode.errors import AddressError, NotFound, P2PNodeError, SwarmUnreachable, UsageError
from p2pnode.net.guard import Guard
from p2pnode.net.peers import Peers
from p2pnode.query.runner import SqlRunner
from p2pnode.services.ask import Asker
from p2pnode.services.datasets import Datasets, Published
from p2pnode.services.doctor import Findings
from p2pnode.services.fetch import Fetcher
from p2pnode.services.gather import Gatherer
from p2pnode.services.health import HealthService
from p2pnode.services.joining import JoiningService
from p2pnode.services.journal import Journal
from p2pnode.services.locate import Locator
from p2pnode.services.metadata import MetadataService
from p2pnode.services.patience import Patient
from p2pnode.services.proposals import Proposals
from p2pnode.services.publish import Publisher
from p2pnode.services.query import FragmentService
from p2pnode.services.shard_transfer import ShardTransferService
from p2pnode.services.sweep import keep_sweeping
from p2pnode.services.upkeep import Upkeep
from p2pnode.services.vitals import Vitals
from p2pnode.services.wishes import Wishes
from p2pnode.storage.event_log import EventLog
from p2pnode.storage.home_lock import hold_home
from p2pnode.storage.identity_file import load_or_create
from p2pnode.storage.listen_port import keep_ports, kept_listen
from p2pnode.storage.shard_store import ShardStore
from protocols.health import HEALTH
from protocols.metadata import METADATA
from protocols.query import QUERY
from protocols.shard_transfer import SHARD_TRANSFER

log = structlog.get_logger(__name__)

#: Seconds for saying good-bye when the node stops; the rest of the 3 s is the transport's.
FAREWELL_S = 0.5
#: Seconds that a node which knows its swarm from before waits for anybody of it, before it is ready alone.
REJOIN_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class PeerView:
    """A member or a connected client, as this node sees it."""

    node_id: str
    peer_id: str
    role: str
    state: str
    addresses: tuple[str, ...]
    region: str
    rtt_ms: float | None


#: (32-byte seed of the identity, addresses to listen on, swarm key) -> the running transport
OpenTransport = Callable[[bytes, Sequence[str], str], AbstractAsyncContextManager[Transport]]


def open_transport(seed: bytes, listen: Sequence[str], swarm_key: str) -> AbstractAsyncContextManager[Transport]:
    """The real network. Loaded when it is wanted: libp2p takes a second, and another network needs none of it."""
    from p2pnode.net.host import open_transport

    return open_transport(seed, listen, swarm_key)


@dataclass(frozen=True, slots=True)
class Readmitted:
    """A member that was forgiven: the event that says so, and the events that proved its forks."""

    node_id: str
    peer_id: str
    event: bytes
    forgiven: tuple[bytes, ...]


@asynccontextmanager
async def open_node(
    settings: Settings,
    env: Env | None = None,
    *,
    transport: OpenTransport = open_transport,
    runner: type[SqlRunner] = SqlRunner,
) -> AsyncIterator[Node]:
    """A running node that has joined its swarm (or begun one); it leaves when the block ends.

    A node with bootstrap peers waits for one of them for `settings.join_timeout_s` seconds (for ever if that is
    None); one whose home knows the swarm already waits REJOIN_WAIT_S and then goes on alone, still dialing.

    `env`, `transport` and `runner` are this machine's own unless another world supplies them.

    Raises:
        AddressError, ConfigError: naming the setting that is wrong.
        HomeInUse: another node runs on this home.
        GenesisMismatch, NodeIdTaken: the swarm refuses this node.
        SwarmUnreachable: no bootstrap peer answered in time.
        StorageFailed: the disk cannot be written.
    """
    env = env or Env()
    home = settings.home
    bootstrap = _checked_bootstrap(settings)
    async with AsyncExitStack() as stack:
        stack.enter_context(hold_home(env.disk, home))
        identity = await env.executor.run(load_or_create, env.disk, home / "identity.key", env.rng.token)
        events = await EventLog.open(env, home / "catalog.db", anew=bool(bootstrap))
        stack.push_async_callback(events.close)
        store = await ShardStore.open(home, env)
        stack.callback(store.close)
        sql = await stack.enter_async_context(
            runner(
                env,
                home / "shards",
                home / "spill",
                memory_bytes=settings.query_memory_bytes,
                workers=settings.query_workers,
                timeout_s=settings.query_timeout_s,
                allow_unfenced=settings.allow_unfenced_sql,
            )
        )
        listen = kept_listen(env.disk, home, settings.listen)
        door = await stack.enter_async_context(transport(identity.seed, listen, settings.swarm_key))
        keep_ports(env.disk, home, settings.listen, door.addresses())
        nursery = await stack.enter_async_context(together())
        node = Node(settings, env, identity, door, events, store, sql, bootstrap)
        try:
            await node.start(nursery)
            yield node
        finally:
            with trio.move_on_after(FAREWELL_S) as scope:
                scope.shield = True
                await node.farewell()
            nursery.cancel_scope.cancel()


class Node:
    """The parts of one node and what they do together. Made by `open_node`."""

    def __init__(
        self,
        settings: Settings,
        env: Env,
        identity: Identity,
        transport: Transport,
        events: EventLog,
        store: ShardStore,
        runner: SqlRunner,
        bootstrap: Sequence[PeerAddress],
    ) -> None:
        self.settings = settings
        self.env = env
        self._identity = identity
        self._transport = transport
        self._store = store
        self._runner = runner
        self._has_bootstrap = bool(bootstrap)
        self._net = Peers(transport, env)
        self._holdings = Holdings()
        self._vitals = Vitals(env, settings.home)
        self._metadata = MetadataService(self._net, events, identity, env, settings)
        #: Its own log, told: `entries` and `audit`.
        self.journal = Journal(env, settings.home / "catalog.db", self._metadata.ledger)
        self._health = self._build_health()
        self._upkeep = Upkeep(identity.peer_id, self._metadata, self._health, settings.down_after_s)
        self._wishes = Wishes(identity, settings.role, self._metadata, self._net, alive=self._is_alive)
        self._datasets = Datasets(
            env, settings.role, self._metadata, self._wishes, self._holdings, alive=self._is_alive
        )
        self._proposals = Proposals(env, identity, settings.role, self._metadata, self._datasets)
        self._collection = Collection()
        self._transfer = ShardTransferService(
            self._net,
            store,
            env,
            identity,
            check_ticket=self._proposals.check_ticket,
            promised=self._collection.promised,
            transfers_max=settings.transfers_max,
            stores=settings.role.stores,
        )
        self._locator = Locator(
            env,
            identity.peer_id,
            self._holdings,
            self._transfer,
            mine=store.has,
            storing=self._datasets.storing,
            alive=self._is_alive,
        )
        self._fragments = FragmentService(store, runner, queries_max=settings.queries_max)
        holders = Patient(env, self._transfer, settings, alive=self._is_alive)
        self._publisher = Publisher(
            env, settings, self._datasets, self._wishes, holders, settings.home / "cutting", alive=self._is_alive
        )
        #: Deeds that are wholly one part's; see there.
        self.publish = self._publisher.publish
        asker = self._build_asker()
        self.query, self.explain = asker.query, asker.explain
        self._fetcher = Fetcher(env, self._transfer, self._locator)
        self._joining = JoiningService(
            env,
            self._net,
            Joining(identity.peer_id, bootstrap, env.rng),
            greet=self._metadata.greet,
            wanted=self._wanted_peers,
        )

    def _build_health(self) -> HealthService:
        relays = RELAYS if self.role.is_member else 0  # members do not ping for a client
        return HealthService(
            self._net,
            Detector(self.peer_id, self.env.rng, probe_s=self.settings.probe_s, relays=relays),
            self._holdings,
            self.env,
            self.settings,
            self._vitals,
            my_digest=lambda: self._store.digest,
            my_cids=self._store.cids,
            held_bytes=lambda: self._store.bytes,
            members=lambda: self._metadata.catalog.members(),
        )

    def _build_asker(self) -> Asker:
        gatherer = Gatherer(
            self.env,
            self._net,
            self.peer_id,
            self._fragments,
            candidates=self._locator.candidates,
            ask_everyone=self._locator.ask_everyone,
            until_doubtful=self._health.until_doubtful,
            until_dead=self._health.until_dead,
            node_id_of=self._datasets.node_id_of,
        )
        return Asker(
            self.env,
            self._datasets,
            gatherer,
            self._runner,
            manifest_of=self._datasets.manifest,
            timeout_s=self.settings.query_timeout_s,
        )

    # -- starting and stopping -------------------------------------------------------------------------------

    async def start(self, nursery: trio.Nursery) -> None:
        """Serve, join (or begin) the swarm, and record that this node is up. For `open_node`."""
        await self._publisher.clear()
        await self._metadata.open(self.addresses)
        self._metadata.answer_with(self._proposals.answer, self._proposals.issue_ticket)
        self._transport.on_change(self._health.connection_changed)
        self._metadata.on_change(lambda _: self._health.members_changed())
        self._health.on_change(self._notice)
        self._transport.on_change(self._joining.connection_changed)
        guard = Guard(self._transport, self._metadata.authorise, self._net.blame)
        guard.serve(METADATA, self._metadata.handlers())
        guard.serve(HEALTH, self._health.handlers())
        guard.serve(SHARD_TRANSFER, self._transfer.handlers())
        if self.role.stores:
            guard.serve(QUERY, self._fragments.handlers())
        await self._vitals.start(nursery)
        knew_swarm = self._metadata.genesis is not None
        if not knew_swarm and not self._has_bootstrap:
            await self._begin_swarm()
        for task in (self._metadata.run, self._health.run, self._joining.run):
            nursery.start_soon(task)
        nursery.start_soon(keep_sweeping, self.env, self._store, self._datasets, self._collection)
        nursery.start_soon(self._warm_up)
        if self._has_bootstrap or knew_swarm:
            await self._until_joined(knew_swarm)
        if self.role.is_member:
            await self._metadata.announce()
            nursery.start_soon(self._upkeep.run)

    async def _warm_up(self) -> None:
        """Start the first SQL process now: the first query should not pay for it."""
        try:
            await self._runner.warm()
        except P2PNodeError as error:
            log.warning("sql_not_warm", why=str(error))  # the first query will say so again, to somebody

    async def _begin_swarm(self) -> None:
        if not self.role.is_member:
            raise UsageError(
                "A client begins no swarm.", advice="Give it --bootstrap with the address of a node that is up."
            )
        await self._metadata.found(self.node_id)

    async def _until_joined(self, knew_swarm: bool) -> None:
        limit = REJOIN_WAIT_S if knew_swarm else self.settings.join_timeout_s
        with trio.move_on_after(float("inf") if limit is None else limit):
            await self._joining.settled.wait()
        if self._joining.refusal is not None:
            raise self._joining.refusal
        if not self._joining.settled.is_set() and not knew_swarm:
            why = f" The last attempt: {self._joining.last_failure}." if self._joining.last_failure else ""
            raise SwarmUnreachable(f"No bootstrap peer answered within {limit:g} s.{why}")

    async def farewell(self) -> None:
        """Tell some members that this node stops on purpose."""
        await self._health.leave()

    def _wanted_peers(self) -> Iterable[str]:
        """Members that this node keeps a connection to: everybody, as long as swarms are small."""
        return [
            member.peer_id
            for member in self._metadata.catalog.members()
            if member.peer_id != self.peer_id and self._health.state_of(member.peer_id) is not State.DEAD
        ]

    def _notice(self, peer_id: str, was: State, state: State) -> None:
        """Somebody's health is another: who came back may know what we do not."""
        if was in ABSENT and state is State.ALIVE:
            self._metadata.returned(peer_id)

    def _is_alive(self, peer_id: str) -> bool:
        return self._health.state_of(peer_id) in THERE

    # -- what it is ------------------------------------------------------------------------------------------

    @property
    def node_id(self) -> str:
        return self.settings.node_id

    @property
    def peer_id(self) -> str:
        return self._identity.peer_id

    @property
    def role(self) -> NodeRole:
        return self.settings.role

    @property
    def home(self) -> Path:
        return self.settings.home

    @property
    def addresses(self) -> list[str]:
        """Where this node can be dialed: full multiaddrs with /p2p/, loopback included."""
        return self._transport.addresses()

    # -- peers -----------------------------------------------------------------------------------------------

    def connected(self) -> list[str]:
        """Peer ids with a live connection, sorted."""
        return self._net.connected()

    def peers(self) -> list[PeerView]:
        """Every known member and connected client, this node included, by node id."""
        views = {self.peer_id: self._own_view()}
        for member in self._metadata.catalog.everyone():
            views.setdefault(member.peer_id, self._member_view(member))
        connected = set(self._net.connected())
        for record in self._net.known():
            if record.peer_id in connected and record.peer_id not in views:
                views[record.peer_id] = PeerView(
                    record.node_id,
                    record.peer_id,
                    str(record.role),
                    State.ALIVE.value,
                    tuple(record.addresses),
                    "",
                    self._rtt_ms(record.peer_id),
                )
        return sorted(views.values(), key=lambda view: (view.node_id, view.peer_id))

    def _own_view(self) -> PeerView:
        settings = self.settings
        return PeerView(
            self.node_id, self.peer_id, self.role.value, State.ALIVE.value, tuple(self.addresses), settings.region, None
        )

    def _member_view(self, member: Member) -> PeerView:
        state = State.LEFT if member.left else self._health.state_of(member.peer_id)
        return PeerView(
            member.node_id,
            member.peer_id,
            member.role.value,
            state.value,
            member.addresses,
            member.region,
            self._rtt_ms(member.peer_id),
        )

    def _rtt_ms(self, peer_id: str) -> float | None:
        rtt = self._net.rtt_s(peer_id)
        return None if rtt is None else round(rtt * 1000, 3)

    # -- datasets --------------------------------------------------------------------------------------------

    def define_locally(
        self, name: str, description: str = "", schema: pa.Schema | None = None, *, dataset_id: str | None = None
    ) -> DatasetRecord:
        """A new dataset, known here at once and to the swarm with the first publish. Raises RoleError, UsageError."""
        return self._datasets.define_locally(name, description, schema, dataset_id)

    async def dataset(self, name_or_id: str) -> DatasetRecord:
        """The dataset; one round of sync before NotFound."""
        return await self._datasets.find(name_or_id)

    async def datasets(self) -> list[DatasetRecord]:
        """Every dataset known here, by name."""
        return self._datasets.all()

    async def placed(self, name_or_id: str) -> Published:
        """The dataset with the verified live holders of each shard: every live storage member is asked."""
        record = await self._datasets.find(name_or_id)
        cids = [shard.cid for shard in record.manifest.shards] if record.manifest else []
        return self._datasets.placed(record, await self._locator.ask_everyone(cids))

    async def should_hold(self, name_or_id: str) -> list[list[str]]:
        """Node ids that placement names for each shard of the dataset now, best first."""
        record = await self._datasets.find(name_or_id)
        named = self._datasets.should_hold(record.manifest) if record.manifest else []
        return [[self._datasets.node_id_of(peer_id) for peer_id in peers] for peers in named]

    async def delete(self, name_or_id: str) -> None:
        """Take a dataset away; a client asks a coordinator to."""
        await self._datasets.delete(name_or_id)

    async def providers(self, name_or_id: str) -> list[str]:
        """Node ids of live nodes that hold at least one shard of it, asked if nobody has told."""
        record = await self._datasets.find(name_or_id)
        cids = [shard.cid for shard in record.manifest.shards] if record.manifest else []
        found = await self._locator.holders(cids)
        return sorted({self._datasets.node_id_of(peer) for peers in found.values() for peer in peers})

    async def fetch_shard(self, shard_id: str, node_id: str | None = None) -> bytes:
        """A shard's bytes, verified; from that node if one is named. Raises NotFound, ShardUnavailable."""
        return await self._fetcher.fetch(shard_id, self._peer_named(node_id))

    async def fetch_shard_to(self, shard_id: str, path: Path) -> int:
        """Stream a shard into a file, verified; the bytes written. Raises NotFound, ShardUnavailable."""
        return await self._fetcher.fetch_to(shard_id, path)

    def _peer_named(self, node_id: str | None) -> str | None:
        if node_id is None:
            return None
        member = self._metadata.catalog.member_named(node_id)
        if member is None:
            raise NotFound(f"There is no node {node_id!r}.")
        return member.peer_id

    # -- members ---------------------------------------------------------------------------------------------

    async def readmit(self, node: str, keep: str | None = None) -> Readmitted:
        """Let a member (node id or peer id) that forked count again, and what it said up to the event `keep`.

        Raises NotFound, RoleError, NotDurable, BadContentId.
        """
        member = self._metadata.catalog.member_named(node)
        peer_id = node if member is None else member.peer_id
        event = await self._metadata.readmit(peer_id, None if keep is None else parse_cid(keep))
        return Readmitted(self._datasets.node_id_of(peer_id), peer_id, event.id, read_readmit(event).forks)

    # -- health ----------------------------------------------------------------------------------------------

    async def health(self, node_id: str) -> dict[str, Any]:
        """One node's state and vital signs. Raises NotFound."""
        peer_id = self.peer_id if node_id == self.node_id else self._peer_named(node_id)
        assert peer_id is not None
        return await self._health.status_of(peer_id)

    async def health_all(self) -> dict[str, dict[str, Any]]:
        """Every member's, the dead ones' included, by node id."""
        return await self._health.all_statuses()

    def _told(self, record: DatasetRecord) -> dict[bytes, list[str]]:
        """Who holds which shard of it, as far as is known here; this node's own are looked up."""
        shards = record.manifest.shards if record.manifest else ()
        return {shard.cid: self._locator.told(shard.cid) for shard in shards}

    async def doctor(self) -> list[dict[str, Any]]:
        """What is wrong and what to do about it."""
        sample = self._vitals.latest
        findings = Findings(
            me=self.peer_id,
            addresses=self.addresses,
            connected=self.connected(),
            members=[(m, self._health.state_of(m.peer_id)) for m in self._metadata.catalog.members()],
            placed=[
                self._datasets.placed(record, self._told(record)) for record in self._datasets.all() if record.manifest
            ],
            fence=self._runner.fence,
            disk_usage=sample.disk_usage,
            loop_lag_ms=self._vitals.lag_s * 1000,
            bootstrap_failure=self._joining.last_failure,
            offenders=self._net.blame.offenders(),
            forked=[self._datasets.node_id_of(peer_id) for peer_id in self._metadata.forked()],
            incomplete=self._metadata.ledger.incomplete,
        )
        return [finding.as_document() for finding in findings.diagnose()]


def _checked_bootstrap(settings: Settings) -> tuple[PeerAddress, ...]:
    try:
        return parse_bootstrap(settings.bootstrap, "bootstrap_peers")
    except ValueError as error:
        raise AddressError(str(error)) from error
