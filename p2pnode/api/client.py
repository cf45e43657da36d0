"""The command line's side of the HTTP API: one running node, called blocking.

An error document becomes the error it names again; no node, or one that hangs up, becomes `SwarmUnreachable`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from p2pnode.api.home import ApiAccess
from p2pnode.errors import P2PNodeError, SwarmUnreachable, Timeout, from_wire

#: Seconds to reach the local node, and to wait for an answer that is not a question or a publish.
CONNECT_S = 3.0
ANSWER_S = 60.0
#: Bytes of a shard taken at once.
PIECE_BYTES = 1 << 20


class Client:
    """Calls one node. Paths are given in parts, each escaped."""

    def __init__(self, access: ApiAccess) -> None:
        self._access = access
        self._http = httpx.Client(
            base_url=f"{access.url}/v1",
            headers={"authorization": f"Bearer {access.token}"},
            timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
            trust_env=False,  # a proxy has no business between a node and its owner
        )

    def get(self, *parts: str, **query: str) -> Any:
        return self._call("GET", parts, query)

    def post(self, *parts: str, body: dict[str, Any]) -> Any:
        return self._call("POST", parts, body=body)

    def delete(self, *parts: str) -> Any:
        return self._call("DELETE", parts)

    def ask(self, body: dict[str, Any]) -> bytes:
        """A question's answer as the JSON text it came in; the node bounds how long it may take."""
        with self._reaching():
            response = self._http.post("/query", json=body, timeout=httpx.Timeout(None, connect=CONNECT_S))
        _raise_named(response)
        return response.content

    def lines(
        self, *parts: str, body: dict[str, Any] | None = None, query: Mapping[str, str | list[str]] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The JSON lines of a long call, as they come; a POST if there is a body. A line that tells of an error
        raises it.
        """
        method, timeout = "GET" if body is None else "POST", httpx.Timeout(None, connect=CONNECT_S)
        with (
            self._reaching(),
            self._http.stream(method, _path(parts), json=body, params=query, timeout=timeout) as response,
        ):
            if response.status_code >= 400:
                response.read()
                _raise_named(response)
            for text in response.iter_lines():
                line = json.loads(text)
                if line.get("event") == "error":
                    raise _named(line)
                yield line

    def download(self, *parts: str, to: Path, **query: str) -> int:
        """Write an answer's bytes to a file, which appears only when it is whole. Returns how many."""
        from p2pnode.env import LocalDisk

        part = to.with_name(f".{to.name}.part")
        timeout = httpx.Timeout(None, connect=CONNECT_S)
        try:
            with self._reaching(), self._http.stream("GET", _path(parts), params=query, timeout=timeout) as response:
                if response.status_code >= 400:
                    response.read()
                    _raise_named(response)
                with LocalDisk().open(part, "wb") as file:
                    for piece in response.iter_bytes(PIECE_BYTES):
                        file.write(piece)
            part.replace(to)
        finally:
            part.unlink(missing_ok=True)
        return to.stat().st_size

    def _call(
        self,
        method: str,
        parts: tuple[str, ...],
        query: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
    ) -> Any:
        with self._reaching():
            response = self._http.request(method, _path(parts), params=query, json=body)
        _raise_named(response)
        return response.json()

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            raise Timeout(f"the node at {self._access.url} did not answer in time") from error
        except (httpx.RemoteProtocolError, httpx.ReadError) as error:
            raise SwarmUnreachable(
                f"the node at {self._access.url} stopped in the middle of its answer",
                advice="Start it again with `p2pnode up`, and repeat the command.",
            ) from error
        except httpx.TransportError as error:
            raise SwarmUnreachable(
                f"the node at {self._access.url} does not answer: {error}", advice="Start it again with `p2pnode up`."
            ) from error


def _path(parts: tuple[str, ...]) -> str:
    return "/" + "/".join(quote(part, safe="") for part in parts)


def _raise_named(response: httpx.Response) -> None:
    if response.status_code < 400:
        return
    try:
        document = response.json()
        error = _named(document)
    except (ValueError, KeyError, TypeError):
        error = P2PNodeError(
            f"HTTP {response.status_code} from {response.request.url}", advice="Is this the API of a p2pnode?"
        )
    raise error


def _named(document: dict[str, Any]) -> P2PNodeError:
    error = from_wire(document["error"], document["message"], document.get("details"))
    error.advice = document.get("advice", error.advice)
    return error
