"""One node to a home: an advisory lock that the kernel lets go of when its holder dies, however it dies.

Two nodes on one home would sign with one key and write one log. A stale lock cannot exist (unlike a pid file).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2pnode.errors import HomeInUse, StorageFailed

LOCK_NAME = "lock"


@contextmanager
def hold_home(home: Path) -> Iterator[None]:
    """Create the home if it is new and hold it. Raises HomeInUse, or StorageFailed if it cannot be written."""
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(home / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageFailed(f"The home {home} cannot be written: {error.strerror}.") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HomeInUse(f"Another node runs on the home {home}.") from None
        yield
    finally:
        os.close(handle)
