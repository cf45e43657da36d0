"""Fetching one large shard, verified chunk by chunk, against a bare noise stream of as many bytes.

    memory   fetch_shard: every 1 MiB chunk is hashed before the bytes are handed over
    durable  fetch_shard_to: the same into a file, fsynced, renamed, its folder fsynced

Bound: the sender and the receiver each spend about 2 s of CPU a gigabyte in noise (ChaCha20-Poly1305) and yamux; BLAKE3
adds a tenth of a second. The disk's own speed bounds the durable figure.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import trio

from simulations.bench import bare
from simulations.bench.figure import Figure, at_least, interleave
from simulations.bench.stage import noise, stage

#: One shard of a little over 1 GiB.
SHARD_MB = 1_080
MEMORY_MIN, DURABLE_MIN = 0.8, 0.5


async def measure() -> list[Figure]:
    async with (
        stage(workers=1) as (node, _),
        bare.bare_server() as address,
        bare.bare_host() as host,
    ):
        table = await trio.to_thread.run_sync(noise, SHARD_MB)
        published = await node.publish("transfer", table, create=True, shard_rows=table.num_rows, replicas=1)
        [shard] = published.shards
        del table
        await bare.connect(host, address)
        stream = await bare.open_stream(host, address, bare.SOURCE)

        async def bare_memory() -> float:
            began = time.perf_counter()
            await bare.pull(stream, shard.bytes)
            return shard.bytes / 1e6 / (time.perf_counter() - began)

        async def memory() -> float:
            began = time.perf_counter()
            data = await node.fetch_shard(shard.shard_id)
            assert len(data) == shard.bytes
            return shard.bytes / 1e6 / (time.perf_counter() - began)

        async def durable() -> float:
            with tempfile.TemporaryDirectory(prefix="p2pnode-bench-") as folder:
                began = time.perf_counter()
                assert await node.fetch_shard_to(shard.shard_id, Path(folder) / "shard") == shard.bytes
                return shard.bytes / 1e6 / (time.perf_counter() - began)

        base, to_memory, to_disk = await interleave(bare_memory, memory, durable)
    against = "bare noise stream to memory"
    return [
        at_least("transfer_memory", to_memory, "MB/s", base, MEMORY_MIN, against),
        at_least("transfer_durable", to_disk, "MB/s", base, DURABLE_MIN, against),
    ]
