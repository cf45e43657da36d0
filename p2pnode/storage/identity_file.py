"""The node's secret on disk: `identity.key`, readable by its owner alone.

It is made once, atomically (temporary file, synced, renamed), and never rewritten. A file that others can
read or that does not parse is refused rather than replaced: a new key would be a new node, and its data would
be orphaned. All of it blocks; call it through the executor.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bootstrap.errors import IdentityError
from bootstrap.identity import SEED_BYTES, Identity, decode_seed, encode_seed
from p2pnode.env import Disk
from p2pnode.errors import ConfigError

#: A key file has 81 bytes; what is much longer is something else and is not read whole.
_FILE_BYTES_MAX = 1024
_OWNER_ONLY = 0o600


def load_or_create(disk: Disk, path: Path, token: Callable[[int], bytes]) -> Identity:
    """The identity in that file; a new one, drawn from `token`, if there is no file.

    Raises ConfigError if the file is readable by others or malformed, and OSError if the disk refuses.
    """
    if disk.size(path) is None:
        _create(disk, path, token(SEED_BYTES))
    return _load(disk, path)


def _load(disk: Disk, path: Path) -> Identity:
    mode = disk.mode(path)
    if mode & 0o077:
        raise ConfigError(
            f"{path}: others can read this secret key (mode {mode:04o})",
            advice=f"If nobody did: chmod 600 {path}. Otherwise move it away, for a new identity.",
        )
    with disk.open(path, "rb") as file:
        text = file.read(_FILE_BYTES_MAX)
    try:
        return Identity.from_seed(decode_seed(text))
    except IdentityError as error:
        raise ConfigError(
            f"{path}: not an identity file: {error}",
            advice="Restore it from a backup, or move it away, for a new identity.",
        ) from None


def _create(disk: Disk, path: Path, seed: bytes) -> None:
    disk.make_dir(path.parent)
    temporary = path.with_name(path.name + ".new")
    disk.unlink(temporary)
    with disk.open(temporary, "xb") as file:
        # Before the first byte of the secret is in it.
        disk.set_mode(temporary, _OWNER_ONLY)
        file.write(encode_seed(seed))
        disk.sync(file)
    disk.rename(temporary, path)
    disk.sync_dir(path.parent)
