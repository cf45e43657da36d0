"""Where a node listens: what was asked for, checked, and what came of it.

The library opens its listeners with SO_REUSEPORT and says nothing when one fails; two nodes on one port would
then share its connections at random. Here a port in use is an error that names the setting.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

import psutil
import trio
from libp2p.network.swarm import Swarm
from multiaddr import Multiaddr

from bootstrap.address import Endpoint, parse_listen
from bootstrap.errors import AddressError as Unparsable
from p2pnode.errors import ConfigError


async def checked(text: str, where: str) -> Endpoint:
    """The parsed address. Raises ConfigError if it is malformed or its port is taken."""
    try:
        endpoint = parse_listen(text, where)
    except Unparsable as error:
        raise ConfigError(str(error)) from None
    family = socket.AF_INET6 if endpoint.protocol == "ip6" else socket.AF_INET
    try:
        with trio.socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            await probe.bind((endpoint.host, endpoint.port))
            # With SO_REUSEADDR alone, bind succeeds beside a listener on some systems; listen never does.
            probe.listen(1)
    except OSError as error:
        raise ConfigError(
            f"{where}: cannot listen on {text}: {error.strerror or error}",
            advice="Stop whatever listens there, or choose another port (0 lets the system choose).",
        ) from None
    return endpoint


async def listen(swarm: Swarm, endpoints: Sequence[Endpoint]) -> None:
    """Start listening on all of them. Raises ConfigError if the library could not."""
    wanted = [Multiaddr(str(endpoint)) for endpoint in endpoints]
    if wanted:
        await swarm.listen(*wanted)
    for maddr in wanted:
        if str(maddr) not in swarm.listeners:
            raise ConfigError(f"cannot listen on {maddr}", advice="Choose another address or port.")


def endpoints(swarm: Swarm) -> list[Endpoint]:
    """The addresses under which the listeners can be reached, wildcards spelled out, loopback last."""
    found: list[Endpoint] = []
    for listener in swarm.listeners.values():
        for bound in listener.listeners:  # type: ignore[attr-defined]
            host, port = bound.socket.getsockname()[:2]
            found.extend(_spelled_out(ipaddress.ip_address(host), port))
    return sorted(dict.fromkeys(found), key=lambda endpoint: endpoint.is_loopback)


def _spelled_out(host: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> list[Endpoint]:
    protocol = f"ip{host.version}"
    if not host.is_unspecified:
        return [Endpoint(protocol, str(host), port)]
    family = socket.AF_INET if host.version == 4 else socket.AF_INET6
    hosts = [
        interface.address
        for interfaces in psutil.net_if_addrs().values()
        for interface in interfaces
        # An IPv6 address with a scope (fe80::1%eth0) means nothing on another machine.
        if interface.family == family and "%" not in interface.address
    ]
    return [Endpoint(protocol, host, port) for host in hosts]
