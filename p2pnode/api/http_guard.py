"""Who may call the local HTTP API, and how much at once.

The API is for the node's owner on this machine. A browser page that the owner visits must not reach it, hence the
Host check (DNS rebinding) beside the token, which is compared in constant time. Bodies and concurrent calls are
bounded here, before any route sees them. A caller who hangs up cancels what was going on for him.
"""

from __future__ import annotations

import hmac

import trio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from p2pnode.api.json import encode
from p2pnode.errors import Busy, P2PNodeError, Unauthorized, UsageError

#: Bytes of one request's body: SQL and paths, never data.
BODY_BYTES_MAX = 4 << 20
#: Calls at work at once; queries and transfers have their own, smaller bounds.
CALLS_MAX = 64


class HttpGuard:
    """Wraps the app; lets through what shows the token at the right host within bounds."""

    def __init__(self, app: ASGIApp, token: str, hosts: frozenset[str]) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()
        self._hosts = hosts
        self._calls = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(dict(scope["headers"]))
        if refusal is not None:
            await _answer(refusal, send)
            return
        self._calls += 1
        try:
            await self._admit(scope, receive, send)
        finally:
            self._calls -= 1

    def _refusal(self, headers: dict[bytes, bytes]) -> P2PNodeError | None:
        if headers.get(b"host", b"").decode("latin-1") not in self._hosts:
            return Unauthorized("this address is not the API's", advice="Call the URL in HOME/api as it stands.")
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
            return Unauthorized(
                "no token, or the wrong one", advice="Send `Authorization: Bearer <token>` with the token in HOME/api."
            )
        if self._calls >= CALLS_MAX:
            return Busy(f"{CALLS_MAX} calls are at work")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > BODY_BYTES_MAX:
            return _too_large()
        return None

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take the body, bounded, and run the call for as long as its caller is there."""
        body = bytearray()
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if message["type"] == "http.disconnect":
                return
            if len(body) > BODY_BYTES_MAX:
                await _answer(_too_large(), send)
                return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_hung_up, receive, nursery.cancel_scope)
            await self._app(scope, _replay(bytes(body)), send)
            nursery.cancel_scope.cancel()


def _replay(body: bytes) -> Receive:
    """What the app receives: the body whole, and then nothing; a hang-up cancels it instead."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if not pending:
            await trio.sleep_forever()
        return pending.pop()

    return receive


async def _until_hung_up(receive: Receive, call: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
    call.cancel()


def _too_large() -> UsageError:
    return UsageError(f"the request is larger than {BODY_BYTES_MAX} bytes")


async def _answer(error: P2PNodeError, send: Send) -> None:
    body = encode(error.as_document())
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
