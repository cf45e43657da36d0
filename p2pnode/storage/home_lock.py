"""One node to a home: an advisory lock that the kernel lets go of when its holder dies, however it dies.

Two nodes on one home would sign with one key and write one log. A stale lock cannot exist (unlike a pid file).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from p2pnode.env import Disk
from p2pnode.errors import HomeInUse, StorageFailed

LOCK_NAME = "lock"


#: A home is for its owner's eyes: the secret key and the shards are in it.
_OWNER_ONLY = 0o700


@contextmanager
def hold_home(disk: Disk, home: Path) -> Iterator[None]:
    """Create the home if it is new and hold it. Raises HomeInUse, or StorageFailed if it cannot be written."""
    with ExitStack() as stack:
        try:
            disk.make_dir(home, _OWNER_ONLY)
            stack.enter_context(disk.hold(home / LOCK_NAME))
        except BlockingIOError:
            raise HomeInUse(f"Another node runs on the home {home}.") from None
        except OSError as error:
            raise StorageFailed(f"The home {home} cannot be written: {error.strerror}.") from error
        yield
