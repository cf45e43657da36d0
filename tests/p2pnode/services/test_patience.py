"""A failing holder is asked again, ever later, not for ever, and in the end left alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from p2pnode.core.cid import record_cid
from p2pnode.core.receipts import Receipt
from p2pnode.core.settings import Settings
from p2pnode.env import Env
from p2pnode.errors import P2PNodeError, PeerLost, StorageFailed
from p2pnode.services.patience import FIRST_PAUSE_S, PAUSE_MAX_S, Patient
from p2pnode.storage.splitter import CutShard

CUT = CutShard(Path("x.parquet"), record_cid(b"x"), b"", 10, 100)


class Holder:
    """Fails as it is told, then takes everything; knows when it was asked."""

    def __init__(self, *failures: P2PNodeError) -> None:
        self.failures = list(failures)
        self.asked_at: list[float] = []
        self.alive = True

    async def push(self, peer_id: str, cut: CutShard, ticket: bytes) -> Receipt:
        self.asked_at.append(trio.current_time())
        if self.failures:
            raise self.failures.pop(0)
        return Receipt(peer_id, cut.cid, cut.rows, cut.bytes, {}, b"")

    async def have(self, peer_id: str, cids: Sequence[bytes]) -> set[bytes]:
        return set(cids)

    @property
    def pauses(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.asked_at, self.asked_at[1:], strict=False)]


def patient(
    holder: Holder,
    *,
    retries: int = 2,
    backoff_factor: float = 2.0,
    breaker_threshold: int = 1000,
    breaker_timeout_s: float = 60.0,
) -> Patient:
    settings = Settings(
        Path(),
        "ann",
        retries=retries,
        backoff_factor=backoff_factor,
        breaker_threshold=breaker_threshold,
        breaker_timeout_s=breaker_timeout_s,
    )
    return Patient(Env(), holder, settings, alive=lambda peer: holder.alive)


@pytest.mark.trio
@pytest.mark.parametrize("retries", [0, 1, 4])
async def test_what_may_pass_is_tried_so_many_times_more(retries: int, autojump_clock: trio.testing.MockClock) -> None:
    passing = Holder(*(PeerLost("once") for _ in range(retries)))
    assert (await patient(passing, retries=retries).push("bob", CUT)).holder == "bob"
    lasting = Holder(*(PeerLost("again") for _ in range(retries + 1)))
    with pytest.raises(PeerLost, match="again"):
        await patient(lasting, retries=retries).push("bob", CUT)
    assert len(lasting.asked_at) == retries + 1


@pytest.mark.trio
@pytest.mark.parametrize("factor", [1.0, 3.0])
async def test_each_pause_is_longer_by_the_factor_up_to_a_bound(
    factor: float, autojump_clock: trio.testing.MockClock
) -> None:
    holder = Holder(*(PeerLost("busy line") for _ in range(8)))
    await patient(holder, retries=8, backoff_factor=factor).push("bob", CUT)
    for place, pause in enumerate(holder.pauses):
        expected = min(FIRST_PAUSE_S * factor**place, PAUSE_MAX_S)
        assert 0.5 * expected <= pause <= 1.5 * expected


@pytest.mark.trio
async def test_what_would_fail_again_and_who_is_dead_are_not_asked_again() -> None:
    full = Holder(StorageFailed("disk full"))
    with pytest.raises(StorageFailed):
        await patient(full).push("bob", CUT)
    gone = Holder(PeerLost("gone"))
    gone.alive = False
    with pytest.raises(PeerLost, match="gone"):
        await patient(gone).push("bob", CUT)
    assert len(full.asked_at) == len(gone.asked_at) == 1


@pytest.mark.trio
async def test_who_lives_and_takes_nothing_rests_and_is_then_tried_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    full = Holder(*(StorageFailed("disk full") for _ in range(4)))
    pushing = patient(full, breaker_threshold=3, breaker_timeout_s=7)
    for _ in range(3):
        with pytest.raises(StorageFailed):
            await pushing.push("bob", CUT)
    with pytest.raises(PeerLost, match="left alone"):
        await pushing.push("bob", CUT)
    assert len(full.asked_at) == 3
    await trio.sleep(7)
    with pytest.raises(StorageFailed):
        await pushing.push("bob", CUT)
    await trio.sleep(7)
    assert await pushing.push("bob", CUT)
    assert await pushing.push("bob", CUT), "it took one: the circuit is closed again"


@pytest.mark.trio
async def test_the_dead_are_welcome_as_soon_as_they_are_back() -> None:
    holder = Holder(*(PeerLost("gone") for _ in range(5)))
    pushing = patient(holder, breaker_threshold=1)
    holder.alive = False
    for _ in range(5):
        with pytest.raises(PeerLost, match="gone"):
            await pushing.push("bob", CUT)
    holder.alive = True
    assert await pushing.push("bob", CUT)
