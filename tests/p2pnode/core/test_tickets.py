"""A ticket opens one door for one client for one hour, and nothing else."""

import pytest
from nacl.signing import SigningKey

from p2pnode.core import tickets
from p2pnode.errors import Unauthorized

KEY = SigningKey(b"\1" * 32)
CID = b"\x01" * 36


def sign(message: bytes) -> bytes:
    return KEY.sign(message).signature


def verify(peer: str, message: bytes, signature: bytes) -> bool:
    return peer == "coordinator" and KEY.sign(message).signature == signature


def issued(wall: float = 1000.0) -> bytes:
    return tickets.issue(
        dataset_id="ds-x",
        client="client",
        coordinator="coordinator",
        cids=[CID],
        size=10,
        wall=wall,
        sign=sign,
    )


def opened(
    wire: bytes, *, client: str = "client", cid: bytes = CID, wall: float = 1001.0, known: bool = True
) -> tickets.Ticket:
    return tickets.check(wire, client=client, cid=cid, wall=wall, verify=verify, may_define=lambda peer: known)


def test_a_good_ticket_opens() -> None:
    assert opened(issued()).dataset_id == "ds-x"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"client": "thief"}, "another client"),
        ({"cid": b"\x02" * 36}, "does not name"),
        ({"wall": 1000.0 + tickets.TICKET_LIFE_S + tickets.CLOCK_SLACK_S + 1}, "expired"),
        ({"known": False}, "may not define"),
    ],
)
def test_any_other_use_is_refused(change: dict, says: str) -> None:
    with pytest.raises(Unauthorized, match=says):
        opened(issued(), **change)


def test_every_flipped_byte_is_noticed() -> None:
    wire = issued()
    for place in range(len(wire)):
        bent = bytearray(wire)
        bent[place] ^= 1
        with pytest.raises(Unauthorized):
            opened(bytes(bent))


@pytest.mark.parametrize("junk", [b"", b"\x00" * 64, b"\xa0" + b"\x00" * 64, b"\xff" * 300])
def test_junk_is_unauthorised_and_nothing_else(junk: bytes) -> None:
    with pytest.raises(Unauthorized):
        opened(junk)
