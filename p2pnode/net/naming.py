"""Host names in addresses, resolved as the system itself would (hosts file and all), before libp2p sees them.

The library asks a DNS server directly, so that a name from the hosts file, `localhost` first of all, is not
found.
"""

from __future__ import annotations

import socket

import trio

from bootstrap.address import Endpoint

#: Resolving a name takes no longer than this.
RESOLVE_S = 5.0

_FAMILIES = {"dns": socket.AF_UNSPEC, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}


async def resolved(endpoint: Endpoint) -> list[Endpoint]:
    """The endpoint itself, or those that its host name stands for. Raises OSError, also when nobody answers."""
    if endpoint.protocol not in _FAMILIES:
        return [endpoint]
    with trio.move_on_after(RESOLVE_S):
        found = await trio.socket.getaddrinfo(
            endpoint.host, endpoint.port, family=_FAMILIES[endpoint.protocol], type=socket.SOCK_STREAM
        )
        hosts = dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found)
        return [Endpoint("ip6" if family == socket.AF_INET6 else "ip4", host, endpoint.port) for family, host in hosts]
    raise OSError(f"{endpoint.host} was not resolved within {RESOLVE_S:g} s")
