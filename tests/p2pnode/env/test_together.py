"""One call, one error, however many parts failed at once."""

from __future__ import annotations

import pytest
import trio

from p2pnode.env.together import telling, together
from p2pnode.errors import Infeasible


@pytest.mark.trio
async def test_an_error_of_ours_is_told_before_any_other_and_before_a_cancellation() -> None:
    async def ours() -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            raise Infeasible("ours") from None

    async def theirs() -> None:
        raise KeyError("theirs")

    async def waits() -> None:
        await trio.sleep_forever()

    with pytest.raises(Infeasible, match="ours"):
        async with together() as nursery:
            nursery.start_soon(waits)
            nursery.start_soon(theirs)
            nursery.start_soon(ours)


@pytest.mark.trio
async def test_a_cancellation_from_outside_stays_one() -> None:
    with trio.CancelScope() as scope:
        async with together() as nursery:
            nursery.start_soon(trio.sleep_forever)
            scope.cancel()
    assert scope.cancelled_caught


def test_groups_are_opened_however_deep() -> None:
    nested = BaseExceptionGroup("a", [BaseExceptionGroup("b", [KeyboardInterrupt(), ValueError("v")])])
    assert isinstance(telling(nested), ValueError)
    assert isinstance(telling(KeyError("k")), KeyError)
