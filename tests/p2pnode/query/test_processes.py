"""The processes behind the runner: who kills whom, and that nobody stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import trio

from p2pnode.env import Env
from p2pnode.query.launcher import Zygote
from p2pnode.query.runner import SqlRunner
from p2pnode.query.tables import WorkerDied

if TYPE_CHECKING:
    from tests.p2pnode.query.conftest import Asked, Shards


def family() -> list[psutil.Process]:
    """Zygotes and workers of this process, zombies included."""
    return psutil.Process().children(recursive=True)


def zygote() -> psutil.Process:
    (only,) = [child for child in psutil.Process().children() if "p2pnode.query.zygote" in child.cmdline()]
    return only


def workers() -> list[psutil.Process]:
    return zygote().children()


async def until(fact: Callable[[], bool], within_s: float = 3.0) -> None:
    with trio.fail_after(within_s):
        while not fact():  # noqa: ASYNC110  what other processes do raises no event here
            await trio.sleep(0.01)


@pytest.mark.trio
async def test_a_worker_killed_in_a_run_is_a_retryable_error_and_is_replaced(ask: Asked) -> None:
    await ask("SELECT 1")
    (victim,) = workers()
    with pytest.raises(WorkerDied) as caught:
        async with ask.runner.run("SELECT i, md5(i::VARCHAR) FROM range(100000000) t(i)") as run:
            async for _piece in run.batches():
                victim.kill()
    assert caught.value.retryable
    assert (await ask("SELECT 1 AS x")).to_pylist() == [{"x": 1}]
    assert workers()[0].pid != victim.pid


@pytest.mark.trio
async def test_a_worker_killed_while_idle_costs_nothing(ask: Asked) -> None:
    await ask("SELECT 1")
    (victim,) = workers()
    victim.kill()
    await until(lambda: not workers())
    assert (await ask("SELECT 1 AS x")).to_pylist() == [{"x": 1}]


@pytest.mark.trio
async def test_a_stopped_worker_ends_at_the_deadline(ask: Asked) -> None:
    from p2pnode.errors import Timeout

    await ask("SELECT 1")
    workers()[0].suspend()
    with pytest.raises(Timeout):
        await ask("SELECT 1", timeout_s=0.2)
    assert (await ask("SELECT 1 AS x")).to_pylist() == [{"x": 1}]
    assert len(workers()) == 1


@pytest.mark.trio
async def test_a_killed_zygote_takes_its_workers_along_and_comes_back(ask: Asked) -> None:
    await ask("SELECT 1")
    before, (worker,) = zygote(), workers()
    before.kill()
    await until(lambda: not worker.is_running())
    assert (await ask("SELECT 1 AS x")).to_pylist() == [{"x": 1}]
    assert zygote().pid != before.pid


@pytest.mark.trio
async def test_a_zygote_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pnode.query.launcher.FORK_TIMEOUT_S", 0.5)
    monkeypatch.setattr("p2pnode.query.launcher.GONE_TIMEOUT_S", 0.1)
    lone = Zygote()
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", "/bin/false")
        with pytest.raises(WorkerDied):
            await lone.fork()
    monkeypatch.setattr("p2pnode.query.launcher.FORK_TIMEOUT_S", 10.0)
    worker = await lone.fork()
    zygote().suspend()
    monkeypatch.setattr("p2pnode.query.launcher.FORK_TIMEOUT_S", 0.2)
    with pytest.raises(WorkerDied, match="too long"):
        await lone.fork()
    worker.kill()
    await worker.gone()
    await lone.close()
    assert family() == []


@pytest.mark.trio
async def test_after_close_nobody_is_left_even_if_a_run_was_under_way(shards: Shards, tmp_path: Path) -> None:
    options = {"memory_bytes": 64 << 20, "workers": 2, "timeout_s": 20.0}
    with trio.move_on_after(1.0) as scope:
        async with (
            SqlRunner(Env(), shards.folder, tmp_path / "spill", **options) as runner,
            runner.run("SELECT i, md5(i::VARCHAR) FROM range(100000000) t(i)") as run,
        ):
            async for _piece in run.batches():
                scope.cancel()
    assert family() == []
    begun = trio.current_time()
    async with SqlRunner(Env(), shards.folder, tmp_path / "spill", **options) as runner:
        await runner.warm()
    assert trio.current_time() - begun < 3.0
    assert family() == []


PARENT = """
import sys, trio
from pathlib import Path
from p2pnode.env import Env
from p2pnode.query.runner import SqlRunner

async def main():
    folder = Path(sys.argv[1])
    async with SqlRunner(Env(), folder, folder / "spill", memory_bytes=64 << 20, workers=2, timeout_s=60.0) as runner:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, runner,
                "SELECT count(*) FROM range(1000000000) a, range(999) b WHERE a.range % 7 = b.range",
            )
            await run(runner, "SELECT 1")
            print("busy" if "duckdb" not in sys.modules else "imported", flush=True)
            await trio.sleep_forever()

async def run(runner, sql):
    async with runner.run(sql) as run:
        async for _piece in run.batches():
            pass

trio.run(main)
"""


def test_workers_and_zygote_die_with_a_killed_node(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "busy\n", "the node's process never imports DuckDB"
        orphans = psutil.Process(parent.pid).children(recursive=True)
        assert len(orphans) == 3
        parent.kill()
    _gone, alive = psutil.wait_procs(orphans, timeout=3)
    assert not alive


def test_an_interrupt_from_the_terminal_is_the_node_s_business(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        parent.stdout.readline()
        family = psutil.Process(parent.pid).children(recursive=True)
        begun = time.monotonic()
        os.killpg(parent.pid, signal.SIGINT)
        said = parent.stderr.read()
        parent.wait(3)
    assert time.monotonic() - begun < 3
    assert "KeyboardInterrupt" in said
    assert "zygote" not in said, "no process but the node may say anything"
    assert not psutil.wait_procs(family, timeout=1)[1]


@pytest.mark.trio
@pytest.mark.skipif(os.geteuid() != 0, reason="a worker's /proc entries are closed even to its own user")
async def test_what_a_worker_inherits(ask: Asked) -> None:
    os.environ["P2PNODE_SECRET"] = "do not inherit"
    secret = os.open(__file__, os.O_RDONLY)
    os.set_inheritable(secret, True)
    await ask("SELECT 1")
    (worker,) = workers()
    files = [os.readlink(f"/proc/{worker.pid}/fd/{name}") for name in os.listdir(f"/proc/{worker.pid}/fd")]
    os.close(secret)
    assert sorted(set(files))[0] == "/dev/null"
    assert len(files) == 4
    assert sum(name.startswith("socket:") for name in files) == 1
    assert "P2PNODE_SECRET" not in zygote().environ()
    process = trio.Path(f"/proc/{worker.pid}")
    status = await (process / "status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    assert (await (process / "oom_score_adj").read_text()).strip() == "1000"
