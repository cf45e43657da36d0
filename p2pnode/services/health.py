"""The health protocol's deeds: ping, be pinged, ask how others are and what they hold.

The decisions are `core.membership`'s; this shell performs them and reports each outcome as the next event.
Every ping carries gossip and the digest of the holdings both ways, so one small message a second does for
failure detection, member news and holdings. This file refuses to act on what it learns: whoever must
(routing, repair) registers with `on_change`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import trio

from p2pnode.core.cid import BadContentId
from p2pnode.core.holdings import Holdings, pack_holdings, unpack_holdings
from p2pnode.core.membership import ABSENT, THERE, Changed, Command, Detector, SendPing, SendRelay, State
from p2pnode.core.model import Member
from p2pnode.core.settings import Settings
from p2pnode.env import Env
from p2pnode.errors import P2PNodeError, PeerLost, SwarmUnreachable, Timeout
from p2pnode.net.exchange import Exchange
from p2pnode.net.guard import Handler
from p2pnode.net.peers import Peers
from p2pnode.services.vitals import Vitals
from protocols import health as words
from protocols.message import Message

#: (peer id, its state until now, its state from now on)
OnChange = Callable[[str, State, State], None]

#: The shortest nap between two looks at the detector, in seconds, whatever it wants: two clocks may differ in rate.
NAP_MIN_S = 0.001
#: Longest that we ping on another's behalf, in seconds, whatever it asks for.
RELAY_TIMEOUT_MAX_S = 10.0
#: What a relay's answer may take beyond the ping it makes for us, as a multiple of that ping's timeout.
RELAY_ANSWER_FACTOR = 1.5
#: Wait for another node's status, in seconds: `health` of a whole swarm answers within this.
STATUS_TIMEOUT_S = 2.0
#: Wait for a list of holdings, in seconds, and how many are fetched at once: a million ids are 36 MB.
HOLDINGS_TIMEOUT_S = 30.0
HOLDINGS_FETCHES_MAX = 4

_UNKNOWN = dict.fromkeys(("cpu_usage", "memory_usage", "disk_usage", "network_usage", "loop_lag_ms"))


class HealthService:
    """One node's health: `run` until cancelled, `handlers` for the guard.

    `members` gives the catalog's member records, this node's included; `my_cids` the content ids of what this node
    holds, `my_digest` their digest (asked for every ping), `held_bytes` their size on disk.
    """

    def __init__(
        self,
        peers: Peers,
        detector: Detector,
        holdings: Holdings,
        env: Env,
        settings: Settings,
        vitals: Vitals,
        my_digest: Callable[[], bytes],
        my_cids: Callable[[], list[bytes]],
        held_bytes: Callable[[], int],
        members: Callable[[], Sequence[Member]],
    ) -> None:
        self._peers = peers
        self._detector = detector
        self._holdings = holdings
        self._env = env
        self._settings = settings
        self._vitals = vitals
        self._my_digest = my_digest
        self._my_cids = my_cids
        self._held_bytes = held_bytes
        self._members = members
        self._callbacks: list[OnChange] = []
        self._fetching: set[str] = set()
        self._nursery: trio.Nursery | None = None
        self._nap: trio.CancelScope | None = None
        self._watched: tuple[str, ...] = ()
        #: Set, and replaced by a new one, whenever a member's state becomes another.
        self._changed = trio.Event()

    def handlers(self) -> Mapping[type[Message], Handler]:
        """For the guard to serve HEALTH with."""
        return {
            words.Ping: self._on_ping,
            words.Probe: self._on_probe,
            words.AskStatus: self._on_ask_status,
            words.AskHoldings: self._on_ask_holdings,
        }

    # -- what is known

    def state_of(self, peer_id: str) -> State:
        """A member's state, alive until found otherwise; of anybody else, alive means connected."""
        state = self._detector.state_of(peer_id)
        if peer_id == self._detector.me:
            return State.ALIVE
        if state is not None:
            return state
        for member in self._members():
            if member.peer_id == peer_id:
                # Recorded, and not judged yet (we have only just joined): innocent until a probe fails.
                return State.LEFT if member.left else State.ALIVE
        return State.ALIVE if peer_id in self._peers.connected() else State.DEAD

    def awake(self) -> float:
        """Seconds on a monotonic clock that stood still while this process did not run."""
        return self._detector.awake(self._now())

    def on_change(self, callback: OnChange) -> None:
        """Call back whenever a member's state becomes another. It must not raise."""
        self._callbacks.append(callback)

    async def until_dead(self, peer_id: str) -> None:
        """Return as soon as that member dies or goes. One that is taken for dead already, and yet spoke, has to be
        alive again before.
        """
        while self.state_of(peer_id) in ABSENT:
            await self._changed.wait()
        while self.state_of(peer_id) in THERE:
            await self._changed.wait()

    async def until_doubtful(self, peer_id: str) -> None:
        """Return as soon as that member is suspected, dead or gone."""
        while self.state_of(peer_id) is State.ALIVE:
            await self._changed.wait()

    async def status_of(self, peer_id: str) -> dict[str, Any]:
        """How that member is: asked for unless it is dead or left; figures are None if it does not say."""
        if peer_id == self._detector.me:
            return self._document(self._status())
        state = self.state_of(peer_id)
        if state in THERE:
            try:
                answer, _ = await self._peers.ask(peer_id, words.HEALTH, words.AskStatus(), timeout_s=STATUS_TIMEOUT_S)
            except P2PNodeError:
                pass  # the detector, not this call, decides what silence means
            else:
                assert isinstance(answer, words.Status)
                return {**self._document(answer), "status": state.value}
        return {"node_id": self._node_id_of(peer_id), "status": state.value, **_UNKNOWN}

    async def all_statuses(self) -> dict[str, dict[str, Any]]:
        """Every member by node id, the dead included, asked at once."""
        found: dict[str, dict[str, Any]] = {}

        async def ask(member: Member) -> None:
            found[member.node_id] = await self.status_of(member.peer_id)

        members = [member for member in self._members() if not member.left]
        async with trio.open_nursery() as nursery:
            for member in members:
                nursery.start_soon(ask, member)
        return {member.node_id: found[member.node_id] for member in members}

    # -- the loop

    async def run(self) -> None:
        """Detect failures and follow holdings until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await self._detect()
            finally:
                # The transport tells of connections that fall after this, too; nothing more is to be done about them.
                self._nursery = None

    async def _detect(self) -> None:
        for peer_id in self._peers.connected():
            self._perform(self._detector.connected(peer_id, self._now()))
        while True:
            self.members_changed()
            self._perform(self._detector.tick(self._now(), self._vitals.lag_s))
            self._holdings.expire(self._now())
            with trio.move_on_at(self._waking()) as self._nap:
                await trio.sleep_forever()

    def _waking(self) -> float:
        """When the detector wants to be ticked again, in the loop's time."""
        return trio.current_time() + max(NAP_MIN_S, self._detector.due - self._now())

    def members_changed(self) -> None:
        """The catalog may have other members now: watch those."""
        present = tuple(member.peer_id for member in self._members() if not member.left)
        if present != self._watched and self._nursery is not None:
            self._watched = present
            self._perform(self._detector.set_members(present, self._now()))

    def connection_changed(self, peer_id: str, connected: bool) -> None:
        """The transport's word that a peer's first connection appeared or its last one went."""
        if connected:
            self._perform(self._detector.connected(peer_id, self._now()))
        else:
            self._perform(self._detector.disconnected(peer_id, self._now()))

    async def leave(self) -> None:
        """Tell some members that this node goes on purpose. Takes at most one ping's timeout."""
        async with trio.open_nursery() as nursery:
            for command in self._detector.leave(self._now()):
                if isinstance(command, SendPing):
                    nursery.start_soon(self._send_ping, command)

    def _now(self) -> float:
        return self._env.clock.now()

    def _perform(self, commands: list[Command]) -> None:
        if self._nursery is None:  # not running yet, or no more: the first ticks ask everybody anyway
            return
        for command in commands:
            match command:
                case SendPing():
                    self._nursery.start_soon(self._send_ping, command)
                case SendRelay():
                    self._nursery.start_soon(self._send_relay, command)
                case Changed():
                    if command.state in ABSENT:
                        self._holdings.forget(command.peer_id)
                    self._changed.set()
                    self._changed = trio.Event()
                    for callback in self._callbacks:
                        callback(command.peer_id, command.was, command.state)
        if self._nap is not None:
            self._nap.deadline = min(self._nap.deadline, self._waking())

    # -- asking

    async def _ping(self, peer_id: str, timeout_s: float) -> words.Pong:
        ping = words.Ping(
            incarnation=self._detector.incarnation,
            claims=self._detector.claims_for(peer_id),
            holdings=self._my_digest(),
        )
        answer, _ = await self._peers.ask(peer_id, words.HEALTH, ping, timeout_s=timeout_s)
        assert isinstance(answer, words.Pong)
        self._compare(peer_id, answer.holdings)
        return answer

    async def _send_ping(self, command: SendPing) -> None:
        try:
            pong = await self._ping(command.peer_id, command.timeout_s)
        except (PeerLost, SwarmUnreachable):
            commands = self._detector.failed(command.ticket, self._now(), gone=True)
        except Timeout:
            commands = self._detector.failed(command.ticket, self._now(), gone=False)
        except P2PNodeError:  # it refused, so it is there
            commands = self._detector.answered(command.ticket, 0, (), self._now())
        else:
            commands = self._detector.answered(command.ticket, pong.incarnation, pong.claims, self._now())
        self._perform(commands)

    async def _send_relay(self, command: SendRelay) -> None:
        probe = words.Probe(peer_id=command.peer_id, timeout_ms=round(command.timeout_s * 1000))
        answered: bool | None = None
        try:
            answer, _ = await self._peers.ask(
                command.via, words.HEALTH, probe, timeout_s=command.timeout_s * RELAY_ANSWER_FACTOR
            )
            assert isinstance(answer, words.Probed)
            answered = answer.answered
        except P2PNodeError:
            pass  # no news: `answered` stays None
        self._perform(self._detector.relayed(command.ticket, command.via, answered, self._now()))

    def _compare(self, peer_id: str, digest: bytes) -> None:
        """Ask for a peer's list if its digest is not that of the list we have."""
        if not digest or peer_id in self._fetching or self._holdings.confirm(peer_id, digest, self._now()):
            return
        if self._nursery is not None and len(self._fetching) < HOLDINGS_FETCHES_MAX:
            self._fetching.add(peer_id)
            self._nursery.start_soon(self._fetch_holdings, peer_id)

    async def _fetch_holdings(self, peer_id: str) -> None:
        ask = words.AskHoldings(digest=self._holdings.digest(peer_id))
        try:
            answer, payload = await self._peers.ask(peer_id, words.HEALTH, ask, timeout_s=HOLDINGS_TIMEOUT_S)
            assert isinstance(answer, words.Holdings)
            same = answer.digest == ask.digest
            held = self._holdings.held_by(peer_id) if same else unpack_holdings(payload)
            self._holdings.update(peer_id, held, self._now())
        except (P2PNodeError, BadContentId):
            pass  # the next ping shows the difference again
        finally:
            self._fetching.discard(peer_id)

    # -- answering

    async def _on_ping(self, peer_id: str, request: Message, exchange: Exchange) -> None:
        assert isinstance(request, words.Ping)
        # A client may look, to learn who is alive and who holds what; what it claims of others counts for nothing.
        claims = request.claims if self._detector.state_of(peer_id) is not None else ()
        commands = self._detector.heard(peer_id, request.incarnation, claims, self._now())
        pong = words.Pong(
            incarnation=self._detector.incarnation,
            claims=self._detector.claims_for(peer_id),
            holdings=self._my_digest(),
        )
        self._perform(commands)
        await exchange.send(pong)
        if self._detector.state_of(peer_id) is not None:
            self._compare(peer_id, request.holdings)

    async def _on_probe(self, peer_id: str, request: Message, exchange: Exchange) -> None:
        assert isinstance(request, words.Probe)
        answered = False
        if self._detector.state_of(request.peer_id) is not None:  # we dial members, not whom a peer names
            try:
                pong = await self._ping(request.peer_id, min(request.timeout_ms / 1000, RELAY_TIMEOUT_MAX_S))
            except P2PNodeError as error:
                answered = not isinstance(error, (PeerLost, SwarmUnreachable, Timeout))
            else:
                answered = True
                self._perform(self._detector.heard(request.peer_id, pong.incarnation, pong.claims, self._now()))
        await exchange.send(words.Probed(answered=answered))

    async def _on_ask_status(self, peer_id: str, request: Message, exchange: Exchange) -> None:
        await exchange.send(self._status())

    async def _on_ask_holdings(self, peer_id: str, request: Message, exchange: Exchange) -> None:
        assert isinstance(request, words.AskHoldings)
        digest, cids = self._my_digest(), self._my_cids()
        payload = b"" if request.digest == digest else pack_holdings(cids)
        await exchange.send(words.Holdings(digest=digest, count=len(cids)), payload)

    # -- documents

    def _status(self) -> words.Status:
        sample = self._vitals.latest
        return words.Status(
            node_id=self._settings.node_id,
            status=State.ALIVE.value,
            cpu_usage=sample.cpu_usage,
            memory_usage=sample.memory_usage,
            disk_usage=sample.disk_usage,
            network_usage=sample.network_usage,
            loop_lag_ms=self._vitals.lag_s * 1000,
            uptime_s=self._vitals.uptime_s,
            shards=len(self._my_cids()),
            shard_bytes=self._held_bytes(),
            process_rss_bytes=sample.process_rss_bytes,
        )

    def _document(self, status: words.Status) -> dict[str, Any]:
        """A Status as `health` shows it, figures rounded for people."""
        figures = {name: getattr(status, name) for name in status.__struct_fields__}
        return {name: round(value, 2) if isinstance(value, float) else value for name, value in figures.items()}

    def _node_id_of(self, peer_id: str) -> str:
        return next((member.node_id for member in self._members() if member.peer_id == peer_id), peer_id)
