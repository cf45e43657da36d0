"""A node that stops: quickly, and without a word."""

from __future__ import annotations

import subprocess
import sys

#: Five nodes, all connected, with streams in use; then the end, in the middle of it all.
SCRIPT = """
import os, time, trio
from contextlib import AsyncExitStack
from p2pnode.net.host import open_transport

async def echo(stream):
    while data := await stream.read(1 << 20):
        await stream.write(data)

async def busy(stream):
    try:
        while True:
            await stream.write(bytes(100_000))
            await stream.read(1 << 20)
    except Exception:
        pass

async def main():
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(open_transport(os.urandom(32), ["/ip4/127.0.0.1/tcp/0"]))
            for _ in range(5)
        ]
        nursery = await stack.enter_async_context(trio.open_nursery())
        for node in nodes:
            node.serve("/echo/1", echo)
        for node in nodes:
            for other in nodes:
                if other is not node:
                    await node.dial(other.peer_id, other.addresses())
                    nursery.start_soon(busy, await node.open_stream(other.peer_id, "/echo/1"))
        await trio.sleep(0.3)
        started = time.monotonic()
        nursery.cancel_scope.cancel()
    print(time.monotonic() - started)
    system = trio.lowlevel.current_root_task().child_nurseries[0].child_tasks
    print(sorted(task.name for task in system if "libp2p" in task.name or "p2pnode" in task.name))

trio.run(main)
"""


def test_stopping_takes_under_three_seconds_leaves_no_task_and_prints_nothing():
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "[debug" not in line]
    assert float(lines[0]) < 3.0, "five nodes, one after the other"
    assert lines[1] == "[]"
    assert done.stderr == ""
