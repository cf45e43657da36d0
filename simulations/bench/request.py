"""One small request on a stream that is open already, against a bare ping-pong of like size.

Bound: on each side one read, one write and two wake-ups of the loop in libp2p; ours adds the frame, msgpack, the
typed message, the deadline and the guard.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable

from simulations.bench import bare
from simulations.bench.figure import Figure, at_most, interleave
from simulations.bench.link import door

REQUEST_MAX = 1.5
#: Requests in one round; the round counts as their median.
REQUESTS = 300
#: As large as a status is on the wire.
REQUEST_BYTES = 200


async def measure() -> list[Figure]:
    async with door() as ours, bare.bare_server() as address, bare.bare_host() as host:
        await bare.connect(host, address)
        stream = await bare.open_stream(host, address, bare.ECHO)
        message = bytes(REQUEST_BYTES)
        base, value = await interleave(
            lambda: _median_ms(lambda: bare.echo(stream, message)), lambda: _median_ms(ours.ask)
        )
    return [at_most("request", value, "ms", base, "bare ping-pong", ratio_max=REQUEST_MAX)]


async def _median_ms(ask: Callable[[], Awaitable[None]]) -> float:
    taken: list[float] = []
    for _ in range(REQUESTS):
        began = time.perf_counter()
        await ask()
        taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken)
