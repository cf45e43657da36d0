"""Where a node lives on disk, and how a command finds the node that runs on this machine.

`HOME/api` is written by a running node and read by commands: one JSON object with the loopback address, the
token that every call must show, and the process that answers. Mode 0600 is the whole defence: who can read it
is the node's owner. A file whose process is gone counts as no node.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from socket import gethostname

import platformdirs

from p2pnode.errors import SwarmUnreachable, UsageError

API_FILE = "api"
CONFIG_FILE = "config.toml"
LOG_FILE = "catalog.db"
#: The largest process id that any Linux gives out.
PID_MAX = 1 << 22
#: Files in the home that are fetched, or being fetched, only to be sent on.
FETCHED_PREFIX = ".get-"


@dataclass(frozen=True, slots=True)
class ApiAccess:
    """How to call one running node."""

    url: str
    token: str
    pid: int = 0
    node_id: str = ""


def homes_dir() -> Path:
    """Where homes lie unless the user names one: the platform's data directory + `/p2pnode`."""
    return platformdirs.user_data_path("p2pnode", appauthor=False)


def default_home(node_id: str) -> Path:
    return homes_dir() / node_id


def machine_node_id(home: Path | None = None) -> str:
    """A name for a nameless node: the machine's; on a home of its own, with a stable suffix from its path."""
    name = gethostname().split(".")[0] or "node"
    return name if home is None else f"{name}-{zlib.crc32(os.fsencode(home.resolve())):08x}"


def write_api_file(home: Path, access: ApiAccess) -> None:
    """Replace `HOME/api` atomically; nobody but the owner may ever read it."""
    fresh = home / f".{API_FILE}.{access.pid}"
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump(asdict(access), file)
    os.replace(fresh, home / API_FILE)


def remove_api_file(home: Path, access: ApiAccess) -> None:
    """Take back what `write_api_file` wrote, unless another process has replaced it since."""
    if read_api_file(home) == access:
        (home / API_FILE).unlink(missing_ok=True)


def read_api_file(home: Path) -> ApiAccess | None:
    """What `HOME/api` says, or None without a readable one."""
    try:
        found = json.loads((home / API_FILE).read_text())
        access = ApiAccess(**{name: found[name] for name in ("url", "token", "pid", "node_id")})
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    texts = (access.url, access.token, access.node_id)
    whole = all(type(text) is str for text in texts) and type(access.pid) is int and 0 < access.pid <= PID_MAX
    return access if whole else None


def running_node(home: Path) -> ApiAccess | None:
    """The node that runs on `home` now, or None."""
    access = read_api_file(home)
    return access if access is not None and _is_running(access.pid) else None


def find_access(home: Path | None, url: str | None, token: str | None) -> ApiAccess:
    """The node a command shall talk to: the one at `url`, the one on `home`, or the only one that runs here.

    Raises `SwarmUnreachable` when there is none and `UsageError` when there are several.
    """
    if url is not None:
        return _access_to(url, home, token)
    if home is not None:
        access = running_node(home)
        if access is None:
            raise SwarmUnreachable(
                f"no node runs on {home}", advice=f"Start one: p2pnode --home {home} up", home=str(home)
            )
        return access
    running = {path: access for path in _homes() if (access := running_node(path)) is not None}
    if not running:
        raise SwarmUnreachable(
            "no node runs on this machine under a default home",
            advice="Start one with `p2pnode up`, or name it: --home DIR or --api URL.",
        )
    if len(running) > 1:
        names = ", ".join(str(path) for path in running)
        raise UsageError(f"several nodes run here: {names}", advice="Say which one with --home DIR.")
    return next(iter(running.values()))


def only_home() -> Path | None:
    """The one default home on this machine that a node has lived in; None if there is none, or several."""
    found = [path for path in _homes() if (path / LOG_FILE).is_file()]
    return found[0] if len(found) == 1 else None


def _access_to(url: str, home: Path | None, token: str | None) -> ApiAccess:
    if not url.startswith("http://"):
        raise UsageError(f"--api {url}: not an http:// address", advice="Copy it from the `up` banner.", url=url)
    url = url.rstrip("/")
    if token:
        return ApiAccess(url, token)
    for path in [home] if home is not None else _homes():
        access = read_api_file(path)
        if access is not None and access.url == url:
            return access
    raise UsageError(
        f"no token for {url}",
        advice="Set P2PNODE_API__TOKEN, or give the --home whose `api` file holds it.",
        url=url,
    )


def _homes() -> list[Path]:
    base = homes_dir()
    return sorted(path for path in base.iterdir() if path.is_dir()) if base.is_dir() else []


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
