"""The walls around a SQL worker, raised by the worker itself before it sees any request.

Landlock (Linux 5.13, here through ctypes) leaves it the shard directory to read and one spill directory to write;
everything else on the filesystem stops existing for it, whatever DuckDB's settings say. Where the kernel knows how
(ABI 4, 6), TCP and signals to processes outside go too; `seccomp` closes both on every kernel. Resource limits bound
what a statement can take. None of it can be undone by the process or by what it becomes.

What is not here: a limit on the number of processes. RLIMIT_NPROC counts everything that the user runs, so it would
hit the user; seccomp denies new processes instead.

Source: Documentation/userspace-api/landlock.rst and include/uapi/linux/landlock.h of Linux.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
from dataclasses import dataclass
from pathlib import Path

from p2pnode.query import seccomp

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
#: Reading shard files that another user owns stays possible for root; Landlock decides which files.
_CAPABILITIES_KEPT = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH

_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_REG, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8, 1 << 14
#: How many file rights each ABI knows, from bit 0 up; the newest known one stands for those to come.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NET_RIGHTS = 0b11  # bind and connect TCP, ABI 4
_SCOPES = 0b11  # abstract Unix sockets and signals, ABI 6

#: Room beside DuckDB's own memory limit: Arrow buffers on their way out, the parser, thread stacks.
MEMORY_OVERHEAD_BYTES = 384 << 20
#: A statement over many shards opens many files, and every large gathered answer is one.
OPEN_FILES_MAX = 4096


@dataclass(frozen=True, slots=True)
class FenceReport:
    """Whether a stranger's SQL can be held here. `abi` is Landlock's version (0: none)."""

    ok: bool
    abi: int
    detail: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What one worker may take. Sizes in bytes."""

    shard_dir: Path
    spill_dir: Path
    memory_bytes: int
    spill_bytes: int


def fence_available() -> FenceReport:
    """What this kernel offers, for `doctor` and for the runner's decision to serve other peers' SQL."""
    abi = _landlock_abi()
    filters = seccomp.available()
    if abi == 0:
        return FenceReport(False, 0, "this kernel has no Landlock (Linux 5.13 or newer, with landlock in lsm=)")
    if not filters and abi < 4:
        return FenceReport(False, abi, f"Landlock ABI {abi} does not fence the network and seccomp is missing")
    return FenceReport(True, abi, f"Landlock ABI {abi}, seccomp {'on' if filters else 'missing'}")


def shut_in(limits: Limits) -> None:
    """Raise every wall that this kernel offers around the calling process.

    Raises OSError when an offered wall does not stand, or when there is a second thread (Landlock would leave it
    outside); the caller must then end. Whether what is offered suffices is `fence_available`'s to say.
    """
    threads = os.listdir("/proc/self/task")
    if len(threads) != 1:
        raise OSError(errno.EBUSY, f"{len(threads)} threads run already")
    libc = ctypes.CDLL(None, use_errno=True)
    _limit_resources(limits)
    _check(libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if _landlock_abi():
        _landlock(libc, limits)
    _drop_capabilities(libc)
    if seccomp.available():
        seccomp.install()


def allow_cpu_seconds(seconds: float) -> None:
    """From now on the process may compute for this long in all its threads, then the kernel ends it.

    The last resort for a worker whose node no longer looks: the node itself kills by the clock.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


def _limit_resources(limits: Limits) -> None:
    # RLIMIT_DATA and not RLIMIT_AS: mapped shard files and reserved address space are not memory taken.
    data_pages = int(Path("/proc/self/statm").read_text().split()[5])
    data = data_pages * resource.getpagesize() + limits.memory_bytes + MEMORY_OVERHEAD_BYTES
    files = min(OPEN_FILES_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_DATA, (data, data))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.spill_bytes, limits.spill_bytes))
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # When the machine runs out of memory, a worker goes before the node does.
    Path("/proc/self/oom_score_adj").write_text("1000")


def _landlock_abi() -> int:
    version = ctypes.CDLL(None, use_errno=True).syscall(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    return max(0, version)


def _landlock(libc: ctypes.CDLL, limits: Limits) -> None:
    abi = _landlock_abi()
    rights = (1 << _FILE_RIGHTS[min(abi, max(_FILE_RIGHTS))]) - 1
    attributes = struct.pack("<Q", rights)
    if abi >= 4:
        attributes += struct.pack("<Q", _NET_RIGHTS)
    if abi >= 6:
        attributes += struct.pack("<Q", _SCOPES)
    ruleset = _check(libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0), "landlock ruleset")
    read = _READ_FILE | _READ_DIR
    _allow(libc, ruleset, limits.shard_dir, read)
    spill = read | _WRITE_FILE | _REMOVE_FILE | _MAKE_REG | _TRUNCATE
    _allow(libc, ruleset, limits.spill_dir, spill & rights)
    _check(libc.syscall(_RESTRICT_SELF, ruleset, 0), "landlock")
    os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    handle = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    rule = struct.pack("<Qi", rights, handle)
    _check(libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0), f"landlock rule for {path}")
    os.close(handle)


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """What root has beyond an ordinary user, but for reading files (see `_CAPABILITIES_KEPT`)."""
    header = ctypes.create_string_buffer(struct.pack("<Ii", _CAPABILITY_VERSION_3, 0))
    held = ctypes.create_string_buffer(24)  # two of {effective, permitted, inheritable}, 32 capabilities each
    _check(libc.capget(header, held), "capget")
    effective, permitted = struct.unpack_from("<II", held.raw)
    kept = struct.pack("<IIIIII", effective & _CAPABILITIES_KEPT, permitted & _CAPABILITIES_KEPT, 0, 0, 0, 0)
    _check(libc.capset(header, ctypes.create_string_buffer(kept, len(kept))), "capset")


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
