"""Samples come once a second, cost little, and lag is what the loop really lost."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import trio
import trio.testing

from p2pnode.env import Env
from p2pnode.services.vitals import LAG_PROBES, Vitals


class AtOnce:
    """An executor that works on the loop, so that virtual time decides everything."""

    async def run(self, work, *args):
        return work(*args)


@pytest.mark.trio
async def test_a_sample_is_there_at_once_and_never_older_than_a_second(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    vitals = Vitals(Env(executor=AtOnce()), tmp_path)
    await vitals.start(nursery)
    first = vitals.latest
    assert 0 <= first.cpu_usage <= 100
    assert 0 < first.memory_usage <= 100
    assert 0 < first.disk_usage <= 100
    assert first.process_rss_bytes > 1 << 20
    assert first.network_usage == 0.0, "a rate needs two readings"
    for second in range(1, 4):
        await trio.sleep_until(first.at + second + 0.5)
        assert vitals.latest.at == pytest.approx(first.at + second)
    assert vitals.lag_s == 0.0
    assert vitals.uptime_s == pytest.approx(3.5)
    nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_blocked_loop_shows_as_lag_and_is_forgotten_after_five_seconds(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    vitals = Vitals(Env(), tmp_path)
    await vitals.start(nursery)
    await trio.sleep(0.3)
    time.sleep(0.5)  # noqa: ASYNC251  # the very fault that is measured
    await trio.sleep(0.3)
    assert 0.2 <= vitals.lag_s <= 0.8
    assert LAG_PROBES == 20
    nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_an_hour_of_samples_costs_seconds_not_minutes(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A second of virtual time is one sample and four lag probes: all of it far under 1 % of a core."""
    vitals = Vitals(Env(executor=AtOnce()), tmp_path)
    await vitals.start(nursery)
    before = time.process_time()
    await trio.sleep(600)
    assert (time.process_time() - before) / 600 < 0.004
    nursery.cancel_scope.cancel()
