"""A scope that outside cancellation does not enter, for what must not stop halfway: a commit, a hand-over, a close."""

from __future__ import annotations

import trio


def shielded() -> trio.CancelScope:
    """To be entered with `with`. What is inside must end by itself, for nobody can end it."""
    return trio.CancelScope(shield=True)  # pyright: ignore[reportCallIssue]  # libp2p brings the stubs of an older trio
