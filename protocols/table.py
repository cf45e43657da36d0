"""Which message may stand where: the tables that a `ProtocolSpec` means, made once for both sides.

A stream carries exchanges one after the other: the asker's request, then its uploads and the answerer's
replies in either direction's own time, then one final answer. `Error` may be the final answer to anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from protocols.errors import LocalProtocolError
from protocols.message import Error, Message, ProtocolSpec, Verb


@dataclass(frozen=True, slots=True)
class Exchange:
    """One row: after the request, what either side may say, what ends it, and the payload each may have."""

    uploads: frozenset[type[Message]]
    answers: frozenset[type[Message]]
    finals: frozenset[type[Message]]
    payload_max: Mapping[type[Message], int]


#: After a request that could not be understood only one thing can be said.
ONLY_ERROR = Exchange(frozenset(), frozenset({Error}), frozenset({Error}), MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Table:
    """A whole protocol: its words, and the exchange that each request opens."""

    words: Mapping[str, type[Message]]
    exchanges: Mapping[type[Message], Exchange]


def _exchange(verb: Verb) -> Exchange:
    finals = frozenset({*verb.final, Error})
    return Exchange(frozenset(verb.uploads), finals | frozenset(verb.replies), finals, dict(verb.payload_max))


@lru_cache(maxsize=64)  # the four built-in protocols and a user's own; a link is made for every stream
def table_of(spec: ProtocolSpec) -> Table:
    """Compile a protocol. Raises LocalProtocolError if one verb names two messages, or two exchanges."""
    words: dict[str, type[Message]] = {}
    for verb in spec.verbs:
        for kind in (Error, verb.request, *verb.uploads, *verb.replies, *verb.final):
            if words.setdefault(kind.verb(), kind) is not kind:
                raise LocalProtocolError(f"{spec.protocol_id}: two messages are called {kind.verb()!r}")
    exchanges = {verb.request: _exchange(verb) for verb in spec.verbs}
    if len(exchanges) < len(spec.verbs):
        raise LocalProtocolError(f"{spec.protocol_id}: one request opens two exchanges")
    return Table(words, exchanges)
