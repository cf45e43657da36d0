"""Publishing in three replicas, against the least that could do: write the Parquet once, send it three times.

A publish also computes statistics twice (once here, once at each holder), hashes on every node, makes three disks sync,
and has a signed event made durable by others; the baseline does none of it and throws its bytes away.
Bound: one sender's noise and yamux, three times over, on as many cores as this machine has.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import AsyncExitStack
from functools import partial
from itertools import count
from pathlib import Path

import pyarrow.parquet as pq
import trio

from simulations.bench import bare
from simulations.bench.figure import Figure, at_least, interleave
from simulations.bench.stage import noise, stage

REPLICAS = 3
DATA_MB = 256
SHARDS = 8
PUBLISH_MIN = 0.4


async def measure() -> list[Figure]:
    table = noise(DATA_MB)
    numbers = count(1)
    async with AsyncExitStack() as stack:
        node, _ = await stack.enter_async_context(stage(workers=REPLICAS))
        host = await stack.enter_async_context(bare.bare_host())
        streams = []
        for _ in range(REPLICAS):
            address = await stack.enter_async_context(bare.bare_server())
            await bare.connect(host, address)
            streams.append(await bare.open_stream(host, address, bare.SINK))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="p2pnode-bench-")))

        async def write_and_send() -> float:
            began = time.perf_counter()
            path = folder / "local.parquet"
            await trio.to_thread.run_sync(_write, table, path)
            data = memoryview(path.read_bytes())
            async with trio.open_nursery() as nursery:
                for stream in streams:
                    nursery.start_soon(partial(bare.push, stream, data))
            return table.nbytes / 1e6 / (time.perf_counter() - began)

        async def publish() -> float:
            number = next(numbers)
            name = f"published-{number}"
            # New data every time: shards that the holders still had would not be sent.
            fresh = await trio.to_thread.run_sync(partial(noise, DATA_MB, seed=number))
            rows = -(-fresh.num_rows // SHARDS)
            began = time.perf_counter()
            published = await node.publish(name, fresh, create=True, shard_rows=rows, replicas=REPLICAS)
            elapsed_s = time.perf_counter() - began
            assert all(len(shard.holders) == REPLICAS for shard in published.shards)
            await node.delete(name)
            return fresh.nbytes / 1e6 / elapsed_s

        base, value = await interleave(write_and_send, publish)
    return [at_least("publish", value, "MB/s", base, PUBLISH_MIN, "one Parquet write, three bare streams")]


def _write(table, path: Path) -> None:
    pq.write_table(table, path)
    with open(path, "rb") as file:
        os.fdatasync(file.fileno())
