"""The one wrapper round every protocol that this node answers: authorise, bound, survive, and say who is to blame.

Denied by default: a request is handled only if `authorise` lets its peer say that verb. A handler that raises one of
our errors answers with it; any other exception is logged and answered as `internal`; a peer that talks nonsense, stalls
or vanishes costs its stream. Nothing of it reaches libp2p, where it would end the host. Whatever is refused is noted
(`net.blame`); a paused peer is told to come back, a dropped one is disconnected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from math import inf

import structlog
import trio

from p2pnode import errors
from p2pnode.core.conduct import Reason
from p2pnode.env.net import RawStream, StreamHandler, Transport
from p2pnode.net.blame import Blame
from p2pnode.net.exchange import Exchange
from protocols.errors import UNKNOWN_VERB, LocalProtocolError
from protocols.machine import Received, Side, UnknownVerb
from protocols.message import TEXT_CHARS_MAX, Error, Message, ProtocolSpec

#: Streams of one peer on one protocol. Twice what an asker of ours opens, for it may have let go of some
#: already.
STREAMS_MAX = 16
#: Handlers at work, over all peers and protocols; beyond it everybody is told to come back.
HANDLERS_MAX = 512
#: A stream that was opened to ask something must ask it by then.
FIRST_REQUEST_S = 10.0
#: A stream between two requests may rest so long. Askers let go at half of it.
IDLE_S = 600.0
#: A stream beyond the peer's bound is let go sooner, but not at once: its asker may just be asking again.
CROWDED_IDLE_S = 30.0
#: What to tell a peer that hit a bound.
RETRY_AFTER_S = 1.0
#: A paused peer's requests are refused, but for this protocol's: silence there reads as death.
UNPAUSED_PROTOCOL = "health"
#: Seconds until a dropped peer is disconnected; its streams are not read meanwhile.
DISCONNECT_S = 1.0
#: Farewells to a peer that misbehaved must not wait for it.
FAREWELL_S = 1.0

_NO_ANSWER = "a handler ended without an answer"

Handler = Callable[[str, Message, Exchange], Awaitable[None]]
Authorise = Callable[[str, str, str], None]

_log = structlog.get_logger("p2pnode.net")


class Guard:
    """Serves protocols on a transport."""

    def __init__(self, transport: Transport, authorise: Authorise, blame: Blame) -> None:
        """`authorise(peer_id, protocol name, verb)` raises errors.Unauthorized for what may not be asked."""
        self._transport = transport
        self._authorise = authorise
        self._blame = blame
        self._streams: Counter[tuple[str, str]] = Counter()
        self._handlers = 0

    def serve(self, spec: ProtocolSpec, handlers: Mapping[type[Message], Handler]) -> None:
        """Answer that protocol from now on. A request without a handler is answered as an unknown verb."""

        async def accept(stream: RawStream) -> None:
            await self._survive(spec, handlers, stream)

        handler: StreamHandler = accept
        self._transport.serve(spec.protocol_id, handler)

    async def _survive(self, spec: ProtocolSpec, handlers: Mapping[type[Message], Handler], stream: RawStream) -> None:
        """The outermost shell of a stream: whatever happens, the stream is let go and nothing is raised."""
        exchange = Exchange(stream, spec, Side.ANSWERER)
        place = (stream.peer_id, spec.protocol_id)
        self._streams[place] += 1
        finished = False
        try:
            if self._blame.is_dropped(stream.peer_id):
                await self._keep_waiting(place)
            else:
                finished = await self._answer_all(spec, handlers, exchange, place)
        except errors.PeerLost as error:
            if exchange.nonsense:
                self._blame.note(stream.peer_id, Reason(exchange.nonsense), protocol=spec.name, why=str(error))
                await self._farewell(exchange, Error(code="usage", message=str(error)))
        except Exception:  # noqa: BLE001  # the shell's own bug must not end the host
            self._blame.note(stream.peer_id, Reason.FAILED)
            _log.exception("answering a stream failed", peer=stream.peer_id, protocol=spec.name)
        finally:
            self._streams[place] -= 1
            if not self._streams[place]:
                del self._streams[place]
            if finished:
                await exchange.close()
            else:
                await exchange.reset()
            await self._blame.disconnect_if_dropped(stream.peer_id)

    async def _keep_waiting(self, place: tuple[str, str]) -> None:
        """Let a dropped peer wait: if it were disconnected at once it would dial at once, a handshake each time."""
        self._blame.note(place[0], Reason.IMPATIENT)
        if self._streams[place] <= STREAMS_MAX:
            await trio.sleep(DISCONNECT_S)

    async def _answer_all(
        self,
        spec: ProtocolSpec,
        handlers: Mapping[type[Message], Handler],
        exchange: Exchange,
        place: tuple[str, str],
    ) -> bool:
        """Answer request after request. True if the stream came to a proper end."""
        patience_s = FIRST_REQUEST_S
        crowded = self._streams[place] > STREAMS_MAX
        # One scope for all its rests: entering one costs as much as a small answer.
        with trio.move_on_after(patience_s) as rest:
            while (request := await exchange.next_request()) is not None and not rest.cancel_called:
                rest.deadline = inf
                crowded = crowded and self._streams[place] > STREAMS_MAX
                await self._answer_one(spec, handlers, exchange, request, crowded=crowded)
                if exchange.owes_payload or self._blame.is_dropped(exchange.peer_id):
                    return False
                patience_s = CROWDED_IDLE_S if crowded else IDLE_S
                rest.deadline = trio.current_time() + patience_s
            return True
        if patience_s == FIRST_REQUEST_S:
            self._blame.note(exchange.peer_id, Reason.SILENT, protocol=spec.name)
        return patience_s != FIRST_REQUEST_S

    async def _answer_one(
        self,
        spec: ProtocolSpec,
        handlers: Mapping[type[Message], Handler],
        exchange: Exchange,
        request: Received | UnknownVerb,
        *,
        crowded: bool,
    ) -> None:
        if isinstance(request, UnknownVerb):
            self._blame.note(exchange.peer_id, Reason.UNKNOWN_VERB, protocol=spec.name, verb=request.verb)
            await exchange.send(Error(code=UNKNOWN_VERB, message=f"{spec.name} knows no verb {request.verb!r}"))
        elif busy := self._busy(spec, exchange.peer_id, crowded=crowded):
            await exchange.send(_as_message(busy))
        else:
            await self._answer(spec, handlers, exchange, request)

    def _busy(self, spec: ProtocolSpec, peer_id: str, *, crowded: bool) -> errors.Busy | None:
        """Why nothing of that peer's is answered just now."""
        pause_s = self._blame.pause_s(peer_id) if spec.name != UNPAUSED_PROTOCOL else 0.0
        if pause_s:
            self._blame.note(peer_id, Reason.IMPATIENT, protocol=spec.name)
            return errors.Busy("too much of what you sent was refused", retry_after_s=pause_s)
        if crowded or self._handlers >= HANDLERS_MAX:
            self._blame.note(peer_id, Reason.CROWDED, protocol=spec.name)
            return errors.Busy("too much at once", retry_after_s=RETRY_AFTER_S)
        return None

    async def _answer(
        self,
        spec: ProtocolSpec,
        handlers: Mapping[type[Message], Handler],
        exchange: Exchange,
        request: Received,
    ) -> None:
        message = request.message
        answer: Error
        self._handlers += 1
        try:
            self._authorise(exchange.peer_id, spec.name, message.verb())
            handler = handlers.get(type(message))
            if handler is None:
                self._blame.note(exchange.peer_id, Reason.UNKNOWN_VERB, protocol=spec.name, verb=message.verb())
                answer = Error(code=UNKNOWN_VERB, message=f"this node does not answer {message.verb()!r}")
            else:
                await handler(exchange.peer_id, message, exchange)
                if exchange.reusable:
                    return  # it has answered, as it should
                answer = Error(code="internal", message=_NO_ANSWER)
        except errors.PeerLost:
            # Either the asker is gone, or a third peer of whom the handler wanted something: the next line
            # tells.
            answer = Error(code=errors.PeerLost.code, message="a peer that was needed is gone", retryable=True)
        except errors.P2PNodeError as error:
            reason = _blamed(error)
            if reason is not None:
                self._blame.note(exchange.peer_id, reason, protocol=spec.name, verb=message.verb(), why=error.message)
            answer = _as_message(error)
        except Exception:  # noqa: BLE001  # the outermost shell of a handler
            self._blame.note(exchange.peer_id, Reason.FAILED)
            _log.exception("a handler failed", peer=exchange.peer_id, protocol=spec.name, verb=message.verb())
            answer = Error(code="internal", message=f"{message.verb()} failed on this node; its log says why")
        finally:
            self._handlers -= 1
        try:
            await exchange.send(answer)
        except LocalProtocolError:
            return  # it has answered, and left something of the asker's unread
        if answer.message is _NO_ANSWER:
            self._blame.note(exchange.peer_id, Reason.FAILED)
            _log.error(_NO_ANSWER, protocol=spec.name, verb=message.verb())

    async def _farewell(self, exchange: Exchange, error: Error) -> None:
        with trio.move_on_after(FAREWELL_S):
            try:
                await exchange.send(error)
            except (errors.PeerLost, LocalProtocolError):
                pass  # it does not listen, or nothing more may be said


def _blamed(error: errors.P2PNodeError) -> Reason | None:
    """What a handler's error says of its asker, who need not mean ill; None if it is nothing of the asker's."""
    if isinstance(error, errors.Unauthorized):
        return Reason.UNAUTHORIZED
    # SQL that does not run, data that does not fit: the user's, not the peer's.
    users = (errors.QueryError, errors.SchemaMismatch, errors.EmptyData)
    if isinstance(error, errors.Refused | errors.UsageError) and not isinstance(error, users):
        return Reason.REFUSED
    return None


def _as_message(error: errors.P2PNodeError) -> Error:
    """An error as it travels: its code, its sentence, and those details that a message can carry."""
    details = {
        key: value
        for key, value in error.details.items()
        if value is None
        or isinstance(value, str | int | float | bool)
        or (isinstance(value, list) and all(isinstance(one, str) for one in value))
    }
    if isinstance(error, errors.Busy):
        details["retry_after_s"] = error.retry_after_s
    return Error(
        code=error.code,
        message=error.message[:TEXT_CHARS_MAX],
        retryable=error.retryable,
        details=details,
    )
