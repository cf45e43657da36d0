"""Addresses: multiaddr text in, checked parts out.

A node dials `/ip4|ip6|dns|dns4|dns6/<host>/tcp/<port>/p2p/<peer id>` and listens on the same without `/p2p`.
Only these few protocols are known here, parsed by hand, so that an error can name the key, the index and the
very part that is wrong. Everything else (QUIC, WebSocket, relays) is refused by name.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from bootstrap.errors import AddressError, IdentityError
from bootstrap.identity import public_key_of

#: Longest address text worth parsing (the wire's bound on an address is the same).
ADDRESS_CHARS_MAX = 512

_HOST_PROTOCOLS = ("ip4", "ip6", "dns", "dns4", "dns6")
_HOSTNAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\.?\Z")
_EXAMPLE = "/ip4/192.0.2.7/tcp/4001/p2p/12D3Koo…"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where something listens: one of `ip4 ip6 dns dns4 dns6`, the host, and the TCP port (0 lets the system
    choose).
    """

    protocol: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"/{self.protocol}/{self.host}/tcp/{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.protocol in ("ip4", "ip6"):
            return ipaddress.ip_address(self.host).is_loopback
        return self.host.rstrip(".").lower() == "localhost"


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where to dial and whom to expect there."""

    endpoint: Endpoint
    peer_id: str

    def __str__(self) -> str:
        return f"{self.endpoint}/p2p/{self.peer_id}"


def parse_peer_address(text: str, where: str = "address") -> PeerAddress:
    """Parse a dialable address with its peer id. Raises AddressError that starts with `where`."""
    endpoint, peer_id = _parse(text, where)
    if peer_id is None:
        raise AddressError(f"{where}: {text!r} has no /p2p/<peer id>; an address looks like {_EXAMPLE}")
    if endpoint.port == 0:
        raise AddressError(f"{where}: {text!r} has port 0, which can be listened on but not dialed")
    return PeerAddress(endpoint, peer_id)


def parse_endpoint(text: str, where: str = "address") -> Endpoint:
    """Parse an address whose peer id, if any, is of no interest. Raises AddressError that starts with
    `where`.
    """
    return _parse(text, where)[0]


def parse_listen(text: str, where: str = "listen") -> Endpoint:
    """Parse an address to listen on: an IP and a TCP port, no /p2p. Raises AddressError that starts with
    `where`.
    """
    endpoint, peer_id = _parse(text, where)
    if peer_id is not None:
        raise AddressError(f"{where}: {text!r} has a /p2p part; leave it out, the node's own key decides its peer id")
    if endpoint.protocol not in ("ip4", "ip6"):
        raise AddressError(f"{where}: {text!r} names a host; listen on an address such as /ip4/0.0.0.0/tcp/4001")
    return endpoint


def parse_bootstrap(texts: Sequence[str], key: str = "bootstrap") -> tuple[PeerAddress, ...]:
    """Parse a list of peers to join by. Raises AddressError naming the key and the index of the first bad
    one.
    """
    return tuple(parse_peer_address(text, f"{key}[{index}]") for index, text in enumerate(texts))


def is_loopback(text: str) -> bool:
    """Whether only this machine can reach that address. Raises AddressError if it does not parse."""
    return parse_endpoint(text).is_loopback


def _parse(text: str, where: str) -> tuple[Endpoint, str | None]:
    if not isinstance(text, str) or not text.startswith("/"):
        raise AddressError(f"{where}: {text!r} does not begin with '/'; an address looks like {_EXAMPLE}")
    if len(text) > ADDRESS_CHARS_MAX:
        raise AddressError(f"{where}: an address of {len(text)} characters is longer than {ADDRESS_CHARS_MAX}")
    parts = text[1:].split("/")
    if len(parts) < 2 or parts[0] not in _HOST_PROTOCOLS:
        raise AddressError(
            f"{where}: {text!r} does not begin with one of {', '.join('/' + p for p in _HOST_PROTOCOLS)}"
        )
    host = _host(parts[0], parts[1], text, where)
    if len(parts) < 4 or parts[2] != "tcp":
        raise AddressError(f"{where}: {text!r} has no /tcp/<port> after the host; only TCP is spoken")
    port = _port(parts[3], text, where)
    rest = parts[4:]
    if not rest:
        return Endpoint(parts[0], host, port), None
    if rest[0] != "p2p" or len(rest) != 2:
        raise AddressError(f"{where}: {text!r} continues with /{'/'.join(rest)} where only /p2p/<peer id> may stand")
    try:
        public_key_of(rest[1])
    except IdentityError as error:
        raise AddressError(f"{where}: in {text!r}, {error}") from None
    return Endpoint(parts[0], host, port), rest[1]


def _host(protocol: str, host: str, text: str, where: str) -> str:
    if protocol.startswith("dns"):
        if not _HOSTNAME.match(host):
            raise AddressError(f"{where}: in {text!r}, {host!r} is not a host name")
        return host
    try:
        parsed = ipaddress.IPv4Address(host) if protocol == "ip4" else ipaddress.IPv6Address(host)
    except ValueError:
        raise AddressError(f"{where}: in {text!r}, {host!r} is not an IPv{protocol[-1]} address") from None
    return str(parsed)


def _port(digits: str, text: str, where: str) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and int(digits) <= 65535):
        raise AddressError(f"{where}: in {text!r}, {digits!r} is not a TCP port (0 to 65535)")
    return int(digits)
