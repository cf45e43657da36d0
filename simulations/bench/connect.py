"""From nothing to the first answer: dial, prove both identities, agree on a protocol, ask.

Bound: two elliptic-curve handshakes' worth of CPU on each side and five round trips. The baseline is py-libp2p with its
quarter second of waiting for other addresses taken out.
"""

from __future__ import annotations

import time

import trio

from simulations.bench import bare
from simulations.bench.figure import Figure, at_most, interleave
from simulations.bench.link import door

CONNECT_MAX_MS = 30.0
#: Until the other side, too, has seen that the connection of the last round is gone, in seconds.
SETTLE_S = 0.1
REQUEST_BYTES = 64


async def measure() -> list[Figure]:
    async with door() as ours, bare.bare_server() as address, bare.bare_host() as host:

        async def bare_connect() -> float:
            await bare.disconnect(host, address)
            await trio.sleep(SETTLE_S)
            began = time.perf_counter()
            await bare.connect(host, address)
            await bare.echo(await bare.open_stream(host, address, bare.ECHO), bytes(REQUEST_BYTES))
            return (time.perf_counter() - began) * 1000

        async def connect() -> float:
            await ours.part()
            await trio.sleep(SETTLE_S)
            began = time.perf_counter()
            await ours.ask()
            return (time.perf_counter() - began) * 1000

        base, value = await interleave(bare_connect, connect, rounds=11)
    return [at_most("connect", value, "ms", base, "bare connect and echo", value_max=CONNECT_MAX_MS)]
