"""The metadata protocol: say hello, know the same facts as everybody else, make one's own facts durable.

Events spread in three ways: their author pushes them to the members it is connected to, whoever hears news passes it on
to a few others, and everybody compares notes with a random peer every few seconds. The first two are for speed, the
third is the guarantee. What this node knows is `ledger`'s, what it records and how that becomes durable `authoring`'s,
outboxes are `spreading`'s, comparing is `syncing`'s; a client's wishes go to callables that the node supplies
(`answer_with`). This file refuses to decide who is alive.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import structlog
import trio

from bootstrap.identity import Identity
from p2pnode.core import records, roles
from p2pnode.core.catalog import Catalog
from p2pnode.core.clock import MerkleClock
from p2pnode.core.event import Event
from p2pnode.core.model import Member, NodeRole
from p2pnode.core.settings import Settings
from p2pnode.env import Env
from p2pnode.errors import (
    Busy,
    GenesisMismatch,
    NodeIdTaken,
    NotDurable,
    NotFound,
    P2PNodeError,
    Refused,
    RoleError,
    Unauthorized,
)
from p2pnode.net.exchange import Exchange, expect
from p2pnode.net.guard import Handler
from p2pnode.net.peers import Peers
from p2pnode.services.authoring import DURABLE_S, Authoring
from p2pnode.services.ledger import Ledger, OnChange
from p2pnode.services.spreading import Rumours
from p2pnode.services.syncing import ANSWER_S, Syncer
from p2pnode.storage.event_log import EventLog
from protocols import metadata as words
from protocols.message import Message

log = structlog.get_logger(__name__)

#: (peer id, kind, DAG-CBOR body, signature) -> DAG-CBOR answer
Proposals = Callable[[str, str, bytes, bytes], Awaitable[bytes]]
#: (peer id, dataset id, content ids, bytes) -> signed ticket
Tickets = Callable[[str, str, Sequence[bytes], int], Awaitable[bytes]]

AGENT = "p2pnode"
#: Seconds that a node which comes up waits for others to have noted it.
ANNOUNCED_S = 3.0
#: Seconds between two comparisons with a random peer, ± JITTER of it so that nodes do not march in step.
ANTI_ENTROPY_S = 5.0
JITTER = 0.3
#: Seconds for the sync before a name is called unknown.
REFRESH_S = 5.0
#: Peers asked by one `refresh` before it gives up.
REFRESH_PEERS = 2
#: Bytes of peer records in a welcome, half of what a header may have: guests choose how long theirs are.
TOLD_BYTES_MAX = 512 << 10
#: Peers that said hello and are no members (clients, newcomers); the oldest go first.
GUESTS_MAX = 4096


class MetadataService:
    """One node's part in the swarm's memory. `open`, then `found` or `greet` somebody; `run` until cancelled."""

    def __init__(self, peers: Peers, event_log: EventLog, identity: Identity, env: Env, settings: Settings) -> None:
        self._peers = peers
        self._identity = identity
        self._env = env
        self._settings = settings
        self._ledger = Ledger(env, event_log, identity)
        self._ledger.on_change(self._learn_members)
        self._authoring = Authoring(
            identity.peer_id, settings.role, self._ledger, peers, push=self._push, role_of=self.role_of
        )
        #: Deeds that are wholly the author's; see there.
        self.author, self.confirm, self.expose = self._authoring.author, self._authoring.confirm, self._authoring.expose
        self._rumours = Rumours(env.rng, self._authoring.connected, self._pass_on, self._synced)
        self._syncer = Syncer(
            self._ledger,
            peers,
            env,
            settings.home / "staging.db",
            pushes_back=settings.role.is_member,
            on_news=self._heard,
            on_ahead=self._ahead,
        )
        self._returned: dict[str, None] = {}
        self._somebody_returned = trio.Event()
        self._guests: dict[str, NodeRole] = {}
        self._addresses: tuple[str, ...] = ()
        #: This node said that it goes for good, or is saying so.
        self.leaving = False
        self._proposals: Proposals = _refuse_wishes
        self._tickets: Tickets = _refuse_wishes

    # -- what is known ---------------------------------------------------------------------------------------

    @property
    def genesis(self) -> bytes | None:
        """The swarm's name; None until one was founded or adopted."""
        return self._ledger.genesis

    @property
    def catalog(self) -> Catalog:
        """The fold as of now. Ask anew after every await: a fork replaces it."""
        return self._ledger.catalog

    @property
    def clock(self) -> MerkleClock:
        """Only once `genesis` is known."""
        return self._ledger.clock

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    def on_change(self, callback: OnChange) -> None:
        """Call back with every batch of events that became durable here and count now."""
        self._ledger.on_change(callback)

    def role_of(self, peer_id: str) -> NodeRole | None:
        """What a member's `up` says, else what the peer said in its hello, else what it was before it left, for it may
        have to say again that it did; else None.
        """
        member = self.catalog.member(peer_id)
        if member is not None and not member.left:
            return member.role
        return self._guests.get(peer_id, member.role if member else None)

    def authorise(self, peer_id: str, protocol: str, verb: str) -> None:
        """The guard's question. Raises Unauthorized."""
        roles.check(self.role_of(peer_id), protocol, verb)

    # -- beginning and ending --------------------------------------------------------------------------------

    async def open(self, addresses: Iterable[str] = ()) -> None:
        """Replay the log; `addresses` are where this node can be dialed. Raises IntegrityError, StorageFailed."""
        self._addresses = tuple(addresses)[: words.ADDRESSES_MAX]
        await self._ledger.open(others=bool(self._settings.bootstrap))
        await self._syncer.open()
        self._learn_members()

    async def found(self, name: str = "") -> None:
        """Begin a swarm. Only for a node with a new home and no bootstrap peer.

        Raises RoleError for a client, UsageError if this home belongs to a swarm already.
        """
        if not self._settings.role.is_member:
            raise RoleError("A client begins no swarm.", advice="Give it --bootstrap, or another role.")
        await self._ledger.found(name, open_swarm=self._settings.open_swarm)

    async def announce(self, readmit: bytes | None = None) -> None:
        """Record that this node is up with its present settings and addresses, unless that is known already and nobody
        says otherwise. `readmit` is a readmission that it takes up.

        Waits up to ANNOUNCED_S for others to have it on their disks, so that whoever acts on our being ready finds us
        in the catalog; a swarm that is mostly down does not keep us from starting. Raises NodeIdTaken, StorageFailed.
        """
        self.leaving = False
        self._check_own_name()
        settings = self._settings
        wanted = Member(
            peer_id=self._identity.peer_id,
            node_id=settings.node_id,
            role=settings.role,
            addresses=self._addresses,
            region=settings.region,
            weight=max(1, round(settings.weight * 1000)),
            capabilities=tuple(settings.capabilities),
        )
        known = self.catalog.member(wanted.peer_id)
        stands = known is not None and not known.left and records.up_body(known) == records.up_body(wanted)
        if stands and not self.catalog.witnesses(wanted.peer_id) and readmit is None:
            return
        try:
            await self.author(records.UP, wanted.peer_id, records.up_body(wanted, readmit), timeout_s=ANNOUNCED_S)
        except NotDurable as error:
            log.info("announced_to_few", why=error.message)

    def forked(self) -> list[str]:
        """Authors who forked their chain and do not count since; sorted."""
        clock = self.clock
        return [author for author in clock.accused() if not clock.is_heard(author)]

    def check_heard(self) -> None:
        """Raises Refused if this node's own chain forked, so that nothing counts that it says."""
        if self._identity.peer_id in self.forked():
            raise Refused(
                f"{self._settings.node_id} signed two events in one place, and what it says counts no more.",
                advice="Find out who else has its key. Then run `p2pnode node readmit NODE` at another coordinator or "
                "hybrid, or start this node on a new home.",
            )

    async def readmit(self, peer_id: str, keep: bytes | None = None) -> Event:
        """Forgive every fork of that author that is known here, so that what it says from now on counts again, and what
        it said up to the event `keep`. It has to take this up itself, which it does as soon as it learns of it.

        Raises:
            NotFound: it counts already, or `keep` is no event of its own.
            RoleError: only a node that defines datasets may.
            NotDurable: as `author`.
        """
        if not self._settings.role.defines:
            raise RoleError(f"A {self._settings.role.value} readmits nobody.", advice="Ask a coordinator to.")
        forks = {event_id for fork in self.clock.forks(peer_id) for event_id in fork.events}
        if not forks or (keep is None and self.clock.is_heard(peer_id)):
            raise self._heard_already(peer_id)
        kept = None if keep is None else self.clock.get(keep)
        if keep is not None and (kept is None or kept.author != peer_id):
            raise NotFound(
                "The event to keep is none of that node's.",
                advice="`p2pnode -o json log` shows who wrote which, with whole ids.",
            )
        return await self.author(
            records.READMIT, peer_id, records.readmit_body(records.Readmission(tuple(forks), keep))
        )

    def _heard_already(self, peer_id: str) -> NotFound:
        member = self.catalog.member(peer_id)
        if member is None:
            return NotFound(
                f"There is no member {peer_id[: records.NAME_CHARS_MAX]!r}.",
                advice="`p2pnode peers` lists them, by node id and by peer id.",
            )
        return NotFound(
            f"{member.node_id} counts, as far as is known here: there is no fork of it to forgive.",
            advice="`p2pnode doctor` names the members that do not count.",
        )

    async def leave(self, timeout_s: float = DURABLE_S) -> None:
        """Record that this node left for good; it does not come back because others call it down.

        Raises NotDurable if too few others heard it; asking again brings the same word to them, no second one.
        """
        self.leaving = True
        me = self.catalog.member(self._identity.peer_id)
        if me is None or not me.left:
            await self.author(records.LEAVE, self._identity.peer_id, {}, timeout_s=timeout_s)
        for event_id in self.clock.leaves(self._identity.peer_id):
            await self.confirm(event_id, timeout_s)

    async def run(self) -> None:
        """Push what is authored and compare notes, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ledger.run)
            nursery.start_soon(self._authoring.run)
            nursery.start_soon(self._rumours.run)
            nursery.start_soon(self._anti_entropy)
            nursery.start_soon(self._meet_returned)

    # -- other peers -----------------------------------------------------------------------------------------

    async def greet(self, peer_id: str) -> None:
        """Say hello to a peer, adopt its swarm if this node has none, and bring both up to date.

        Raises:
            GenesisMismatch: it belongs to another swarm.
            NodeIdTaken: another member has this node's node_id.
            P2PNodeError: it cannot be reached.
        """
        hello = words.Hello(
            node_id=self._settings.node_id,
            role=self._settings.role.value,
            agent=AGENT,
            genesis=self.genesis or b"",
            addresses=list(self._addresses),
        )
        answer, _ = await self._peers.ask(peer_id, words.METADATA, hello, timeout_s=ANSWER_S)
        welcome = expect(answer, words.Welcome)
        self._check_genesis(welcome.genesis)
        self._welcome(peer_id, welcome.node_id, welcome.role, welcome.addresses)
        self._learn(welcome.peers)
        if welcome.genesis:
            await self._ledger.adopt(welcome.genesis)
            await self._syncer.sync_with(peer_id)
            self._check_own_name()

    def _check_genesis(self, theirs: bytes) -> None:
        if theirs and self.genesis and theirs != self.genesis:
            raise GenesisMismatch(
                f"The other node belongs to swarm {theirs[-4:].hex()}, this one to {self.genesis[-4:].hex()}."
            )

    def _check_own_name(self) -> None:
        if self._settings.role.is_member:
            self._check_name(self._identity.peer_id, self._settings.node_id)

    def _check_name(self, peer_id: str, node_id: str) -> None:
        owner = self.catalog.member_named(node_id)
        if owner is not None and owner.peer_id != peer_id:
            raise NodeIdTaken(f"node_id {node_id!r} belongs to peer {owner.peer_id}.", peer=owner.peer_id)

    def _welcome(self, peer_id: str, node_id: str, role: str, addresses: Sequence[str]) -> NodeRole:
        """Remember what a peer said of itself."""
        try:
            known = NodeRole(role)
        except ValueError:
            # A newer version's role: it may look and ask.
            known = NodeRole.CLIENT
        self._guests.pop(peer_id, None)
        self._guests[peer_id] = known
        while len(self._guests) > GUESTS_MAX:
            del self._guests[next(iter(self._guests))]
        self._peers.learn(peer_id, node_id, known, addresses)
        return known

    def _learn(self, records_: Iterable[words.PeerRecord]) -> None:
        """Remember hearsay about peers that we do not know better ourselves."""
        for record in records_:
            known = record.peer_id == self._identity.peer_id or self._peers.role_of(record.peer_id) is not None
            if not known and record.role in set(NodeRole):
                self._peers.learn(record.peer_id, record.node_id, NodeRole(record.role), record.addresses)

    def _learn_members(self, events: Sequence[Event] | None = None) -> None:
        """Pass on what members say of themselves, all of it or what these events changed."""
        told = None if events is None else {event.author for event in events if event.kind == records.UP}
        for member in self.catalog.members() if told != set() else ():
            if (told is None or member.peer_id in told) and member.peer_id != self._identity.peer_id:
                self._peers.learn(member.peer_id, member.node_id, member.role, member.addresses)

    # -- passing on ------------------------------------------------------------------------------------------

    async def _push(self, peer_id: str, events: Sequence[Event], *, wide: bool = True) -> Iterable[bytes]:
        try:
            try:
                stored = await self._syncer.push(peer_id, events, wide=wide)
            except Unauthorized:
                if peer_id in self._guests:
                    raise
                # A connection was there before a word: it has never heard of this node. That is no end of a push.
                await self.greet(peer_id)
                stored = await self._syncer.push(peer_id, events, wide=wide)
            if stored.waiting:
                # It lacks what these stand on: compare notes, which brings that, and ask once more.
                await self._syncer.sync_with(peer_id)
                stored = await self._syncer.push(peer_id, events, wide=wide)
        except Busy:
            raise
        except P2PNodeError as error:
            log.info("push_failed", peer=peer_id, why=str(error), events=len(events))
            return ()
        return stored.durable

    async def _pass_on(self, peer_id: str, events: Sequence[Event]) -> Iterable[bytes]:
        return await self._push(peer_id, events, wide=False)

    def _heard(self, events: Sequence[Event], source: str) -> None:
        """Pass on what was new here; a client only listens."""
        if self._settings.role.is_member:
            self._rumours.heard(events, source)

    # -- comparing notes -------------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """One round of sync with some other member, if any can be reached within REFRESH_S. Never raises
        for peers.
        """
        if self.genesis is None:
            return
        connected = self._authoring.connected()
        others = [peer_id for peer_id in self._authoring.others() if peer_id not in connected]
        candidates = [*self._shuffled(connected), *self._shuffled(others)]
        with trio.move_on_after(REFRESH_S):
            for peer_id in candidates[:REFRESH_PEERS]:
                if await self._synced(peer_id):
                    return

    async def catch_up(self, peer_id: str) -> None:
        """Know what that peer knows now; when it has gone, what some other member knows."""
        if not await self._synced(peer_id):
            await self.refresh()

    async def _anti_entropy(self) -> None:
        while True:
            await trio.sleep(ANTI_ENTROPY_S * (1 - JITTER + 2 * JITTER * self._env.rng.random()))
            connected = self._authoring.connected()
            if self.genesis is not None and connected:
                await self._synced(self._env.rng.choice(connected))

    def returned(self, peer_id: str) -> None:
        """That member was held for dead and has answered: know what it knows, soon."""
        self._returned[peer_id] = None
        self._somebody_returned.set()

    def _ahead(self, peer_id: str) -> None:
        role = self.role_of(peer_id)
        if role is not None and role.is_member:
            self.returned(peer_id)

    async def _meet_returned(self) -> None:
        # One by one: after a partition the first of the other half knows what all of it knows.
        while True:
            self._somebody_returned = trio.Event()
            while self._returned:
                peer_id = next(iter(self._returned))
                del self._returned[peer_id]
                if self.genesis is not None:
                    await self._synced(peer_id)
            await self._somebody_returned.wait()

    async def _synced(self, peer_id: str) -> bool:
        try:
            await self._syncer.sync_with(peer_id)
        except P2PNodeError as error:
            log.info("sync_failed", peer=peer_id, why=str(error))
            return False
        return True

    def _shuffled(self, peer_ids: Sequence[str]) -> list[str]:
        return self._env.rng.sample(peer_ids, len(peer_ids))

    # -- answering -------------------------------------------------------------------------------------------

    def handlers(self) -> Mapping[type[Message], Handler]:
        """For the guard to serve METADATA with."""
        return {
            **self._syncer.handlers(),
            words.Hello: self._answer_hello,
            words.Propose: self._answer_propose,
            words.AskTicket: self._answer_ask_ticket,
        }

    def answer_with(self, proposals: Proposals, tickets: Tickets) -> None:
        """Let these answer clients' wishes; until then every wish gets RoleError."""
        self._proposals, self._tickets = proposals, tickets

    async def _answer_hello(self, peer_id: str, request: Message, exchange: Exchange) -> None:
        hello = expect(request, words.Hello)
        self._check_genesis(hello.genesis)
        if hello.role != NodeRole.CLIENT:
            self._check_name(peer_id, hello.node_id)
        self._welcome(peer_id, hello.node_id, hello.role, hello.addresses)
        await exchange.send(
            words.Welcome(
                node_id=self._settings.node_id,
                role=self._settings.role.value,
                agent=AGENT,
                genesis=self.genesis or b"",
                addresses=list(self._addresses),
                # A member has the catalog; telling each of a thousand of all the others would take gigabytes.
                peers=[] if hello.genesis and self.catalog.member(peer_id) else self._worth_telling(peer_id),
            )
        )

    def _worth_telling(self, to: str) -> list[words.PeerRecord]:
        """Peers for a newcomer to meet, members before guests, as many as fit one message."""
        members = {member.peer_id for member in self.catalog.members()}
        known = [record for record in self._peers.known() if record.peer_id != to]
        told: list[words.PeerRecord] = []
        room = TOLD_BYTES_MAX
        for record in sorted(known, key=lambda record: record.peer_id not in members)[: words.PEERS_MAX]:
            room -= len(msgspec.msgpack.encode(record))
            if room < 0:
                break
            told.append(record)
        return told

    async def _answer_propose(self, peer_id: str, request: Message, exchange: Exchange) -> None:
        wish = expect(request, words.Propose)
        body = await exchange.payload_all(words.BLOCK_BYTES_MAX)
        answer = await self._proposals(peer_id, wish.kind, body, wish.signature)
        await exchange.send(words.Accepted(), answer)

    async def _answer_ask_ticket(self, peer_id: str, request: Message, exchange: Exchange) -> None:
        wish = expect(request, words.AskTicket)
        ticket = await self._tickets(peer_id, wish.dataset_id, wish.cids, wish.bytes)
        await exchange.send(words.Ticket(ticket=ticket))


async def _refuse_wishes(*_: object) -> Any:
    raise RoleError("This node carries out no client's wishes; ask a coordinator.")
