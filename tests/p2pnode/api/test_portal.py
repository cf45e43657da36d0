"""The shared thread: what crosses over, what is cancelled, and the end of the interpreter."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager

import pytest
import trio

from p2pnode.api import portal
from p2pnode.api.portal import Hosted, ThreadsUntilExit, block, follow


@asynccontextmanager
async def nothing() -> AsyncIterator[str]:
    yield "node"


@asynccontextmanager
async def never() -> AsyncIterator[str]:
    await trio.sleep_forever()
    yield "node"


@asynccontextmanager
async def dying() -> AsyncIterator[trio.Event]:
    async with trio.open_nursery() as nursery:
        die = trio.Event()
        nursery.start_soon(_raise_after, die)
        yield die


async def _raise_after(die: trio.Event) -> None:
    await die.wait()
    raise ZeroDivisionError


def test_all_hosts_share_one_thread() -> None:
    first, second = Hosted(nothing), Hosted(nothing)
    assert first.started.result(5) == "node"
    names = {host.call_now(threading.current_thread) for host in (first, second)}
    assert len(names) == 1
    assert names != {threading.current_thread()}
    for host in (first, second):
        assert host.stop().result(5) is None
        assert host.ended.done()


def test_a_start_can_be_given_up() -> None:
    host = Hosted(never)
    assert not host.ended.done()
    host.stop().result(5)
    with pytest.raises(CancelledError):
        host.started.result(5)


def test_a_death_is_told_as_one_error_and_hurts_nobody_else() -> None:
    well, ill = Hosted(nothing), Hosted(dying)
    ill.call_now(ill.started.result(5).set)
    with pytest.raises(ZeroDivisionError):
        ill.ended.result(5)
    assert not well.ended.done()
    well.stop().result(5)


def test_who_follows_may_give_up_without_hurting_the_work() -> None:
    host = Hosted(nothing)
    host.started.result(5)
    gate = host.call_now(trio.Event)

    async def wait() -> int:
        await gate.wait()
        return 7

    work = host.call(wait)
    impatient, patient = follow(work), follow(work)
    assert impatient.cancel()
    host.call_now(gate.set)
    assert block(patient) == 7
    host.stop().result(5)


@pytest.mark.trio
async def test_work_runs_in_place_when_the_interpreter_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = ThreadsUntilExit()
    assert await threads.run(threading.get_ident) != threading.get_ident()
    monkeypatch.setattr(portal._shared, "closing", True)
    assert await threads.run(threading.get_ident) == threading.get_ident()
