"""Two ways in which a conversation can go wrong, and whose fault it is.

    ProtocolError
    ├── LocalProtocolError ..... this program said something the protocol does not allow: a bug here
    └── RemoteProtocolError .... the peer did; `code` says what, and the stream is of no more use

Neither of them is an `Error` message: that one is a proper answer, and arrives as an event like any other.
"""

from __future__ import annotations

from typing import Final

#: A header longer than this side reads.
HEADER_TOO_LARGE: Final = "header_too_large"
#: A length prefix or an envelope that is not one.
BAD_HEADER: Final = "bad_header"
#: A body that does not fit its verb: a wrong type, a missing field, a list beyond its bound.
BAD_MESSAGE: Final = "bad_message"
#: A payload announced longer than its message may have.
PAYLOAD_TOO_LARGE: Final = "payload_too_large"
#: A message that may not stand here.
UNEXPECTED_MESSAGE: Final = "unexpected_message"
#: A word that this side does not know. As a request it is only answered so, and the stream goes on.
UNKNOWN_VERB: Final = "unknown_verb"
#: The stream ended in the middle: a peer that died looks like this.
TRUNCATED: Final = "truncated"


class ProtocolError(Exception):
    """The root; only its two leaves are ever raised."""


class LocalProtocolError(ProtocolError):
    """This side's own misuse. Nothing was sent, and the link is as it was."""


class RemoteProtocolError(ProtocolError):
    """The peer's misbehaviour, or its death in mid-sentence (`code` is TRUNCATED then)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
