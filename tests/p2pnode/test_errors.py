"""What every named failure says."""

from __future__ import annotations

import traceback

from p2pnode.errors import NotFound, P2PNodeError


def test_the_next_step_stands_below_a_traceback() -> None:
    assert "".join(traceback.format_exception_only(NotFound("no dataset"))).splitlines() == [
        "p2pnode.errors.NotFound: no dataset",
        f"→ {NotFound.default_advice}",
    ]
    assert not hasattr(P2PNodeError("plain"), "__notes__")
