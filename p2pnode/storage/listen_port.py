"""The port a node got is the port it keeps: what `tcp/0` became at the first start is asked for again at the next.

Addresses that peers, bootstrap lists and people wrote down stay good across a restart. If somebody else has taken the
port meanwhile the system chooses another one and that is kept from then on.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path

from bootstrap.address import parse_endpoint, parse_listen
from p2pnode.env import Disk

_FILE = "ports.json"
_ANY = "/tcp/0"


def kept_listen(disk: Disk, home: Path, listen: Sequence[str]) -> list[str]:
    """`listen` with every port 0 replaced by the one it became last time, where that is free."""
    kept = _read(disk, home)
    return [
        text.replace(_ANY, f"/tcp/{kept[text]}") if text.endswith(_ANY) and _is_free(text, kept.get(text)) else text
        for text in listen
    ]


def keep_ports(disk: Disk, home: Path, listen: Sequence[str], addresses: Sequence[str]) -> None:
    """Remember which port each `tcp/0` of `listen` became, from the addresses that the node now has."""
    ports = {}
    endpoints = [parse_endpoint(address) for address in addresses]
    for text in listen:
        if text.endswith(_ANY) and endpoints:
            host = parse_listen(text).host
            same_host = [endpoint.port for endpoint in endpoints if endpoint.host == host]
            ports[text] = (same_host or [endpoints[0].port])[0]
    if ports == _read(disk, home):
        return
    temporary = home / f"{_FILE}.new"
    with disk.open(temporary, "wb") as file:
        file.write(json.dumps(ports).encode())
        disk.sync(file)
    disk.rename(temporary, home / _FILE)


def _read(disk: Disk, home: Path) -> dict[str, int]:
    try:
        with disk.open(home / _FILE, "rb") as file:
            found = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return {}  # a convenience: without it the system chooses
    ports = found if isinstance(found, dict) else {}
    return {text: port for text, port in ports.items() if type(port) is int and 0 < port < 65536}


def _is_free(text: str, port: int | None) -> bool:
    if port is None:
        return False
    endpoint = parse_listen(text)
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((endpoint.host, port))
        except OSError:
            return False
    return True
