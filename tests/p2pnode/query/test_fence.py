"""Each wall on its own: what a process that shut itself in can still do, and what it no longer can."""

from __future__ import annotations

import errno
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from p2pnode.query import fence, seccomp

PRISONER = """
import ctypes, json, os, resource, signal, socket, subprocess, sys, threading
from pathlib import Path
from p2pnode.query.fence import Limits, allow_cpu_seconds, shut_in

order = json.load(sys.stdin)
shards, spill, outside = (Path(order[name]) for name in ("shards", "spill", "outside"))
libc = ctypes.CDLL(None, use_errno=True)
shut_in(Limits(shards, spill, 64 << 20, 1 << 20))

def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "syscall")

def write(path, size=1):
    with open(path, "wb", buffering=0) as file:
        file.write(bytes(size))

def too_much_memory():
    return len(bytearray(2 << 30))

def threads():
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()

def abort():
    os.kill(os.getpid(), 0)

ATTEMPTS = {
    "read a shard": lambda: (shards / "shard").read_bytes(),
    "list the shards": lambda: os.listdir(shards),
    "write spill": lambda: write(spill / "x"),
    "remove spill": lambda: (write(spill / "y"), os.unlink(spill / "y")),
    "start a thread": threads,
    "write a shard": lambda: write(shards / "shard"),
    "append to a shard": lambda: open(shards / "shard", "ab"),
    "new shard": lambda: write(shards / "new"),
    "remove a shard": lambda: os.unlink(shards / "shard"),
    "rename a shard": lambda: os.rename(shards / "shard", shards / "other"),
    "move a shard to spill": lambda: os.rename(shards / "shard", spill / "stolen"),
    "link a shard": lambda: os.link(shards / "shard", spill / "linked"),
    "symlink": lambda: os.symlink(outside, spill / "way"),
    "truncate a shard": lambda: os.truncate(shards / "shard", 0),
    "chmod a shard": lambda: os.chmod(shards / "shard", 0o777),
    "chown a shard": lambda: os.chown(shards / "shard", 1, 1),
    "date a shard": lambda: os.utime(shards / "shard", (0, 0)),
    "tag a shard": lambda: os.setxattr(shards / "shard", "user.x", b"y"),
    "folder in spill": lambda: os.mkdir(spill / "folder"),
    "pipe in spill": lambda: os.mkfifo(spill / "pipe"),
    "read outside": lambda: (outside / "secret").read_bytes(),
    "list outside": lambda: os.listdir(outside),
    "read /etc/passwd": lambda: open("/etc/passwd").read(),
    "read own memory": lambda: open("/proc/self/mem", "rb"),
    "read environment": lambda: open("/proc/self/environ", "rb").read(),
    "write outside": lambda: write(outside / "new"),
    "write /tmp": lambda: write("/tmp/p2pnode-was-here"),
    "too large a file": lambda: write(spill / "z", 2 << 20) or os.stat(spill / "z").st_size > 1 << 20 or 1 / 0,
    "tcp": lambda: socket.socket(),
    "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "unix": lambda: socket.socket(socket.AF_UNIX),
    "socketpair": lambda: socket.socketpair(),
    "fork": lambda: os.fork() or os._exit(0),
    "vfork": lambda: call(58) if os.uname().machine == "x86_64" else os.fork(),
    "exec": lambda: os.execv(sys.executable, [sys.executable]),
    "spawn": lambda: subprocess.run(["true"]),
    "signal the parent": lambda: os.kill(os.getppid(), signal.SIGCONT),
    "pidfd": lambda: os.pidfd_open(os.getppid()),
    "ptrace": lambda: libc.ptrace(16, os.getppid(), 0, 0) == 0 or 1 / 0,
    "io_uring": lambda: call(425, 8, 0),
    "namespaces": lambda: call(272 if os.uname().machine == "x86_64" else 97, 0x10000000),
    "too much memory": too_much_memory,
    "a core file": lambda: resource.getrlimit(resource.RLIMIT_CORE) != (0, 0) or 1 / 0,
    "more files": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20)),
    "root": lambda: os.setgroups([0]),
}
for name, attempt in ATTEMPTS.items():
    try:
        attempt()
        outcome = 0
    except OSError as error:
        outcome = error.errno
    except (MemoryError, ZeroDivisionError, ValueError, subprocess.SubprocessError):
        outcome = -1
    print(json.dumps([name, outcome]), flush=True)
allow_cpu_seconds(0.0)
while True:
    pass
"""

#: What a worker must be able to do.
WORKS = {"read a shard", "list the shards", "write spill", "remove spill", "start a thread"}

needs_landlock = pytest.mark.skipif(not fence.fence_available().abi, reason="this kernel has no Landlock")


@needs_landlock
def test_a_process_that_shut_itself_in_reaches_shards_and_spill_only(tmp_path: Path) -> None:
    folders: dict[str, Any] = {name: tmp_path / name for name in ("shards", "spill", "outside")}
    for folder in folders.values():
        folder.mkdir()
    shard, secret = folders["shards"] / "shard", folders["outside"] / "secret"
    shard.write_bytes(b"shard")
    secret.write_bytes(b"secret")
    before = shard.stat()
    done = subprocess.run(
        [sys.executable, "-c", PRISONER],
        input=json.dumps({name: str(folder) for name, folder in folders.items()}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    outcomes = dict(json.loads(line) for line in done.stdout.splitlines())
    assert len(outcomes) > 40, done.stderr
    assert {name for name, outcome in outcomes.items() if outcome == 0} == WORKS
    assert outcomes["exec"] in (errno.EPERM, errno.EACCES)
    assert (shard.read_bytes(), shard.stat().st_mode, shard.stat().st_mtime_ns) == (
        b"shard",
        before.st_mode,
        before.st_mtime_ns,
    )
    assert os.listdir(folders["outside"]) == ["secret"]
    assert done.returncode == -signal.SIGXCPU, "SIGXCPU ends a process that computes beyond its allowance"


def test_a_second_thread_would_stay_outside_and_is_refused(tmp_path: Path) -> None:
    script = (
        "import threading, time; threading.Thread(target=time.sleep, args=(5,), daemon=True).start()\n"
        "from pathlib import Path; from p2pnode.query.fence import Limits, shut_in\n"
        f"shut_in(Limits(Path({str(tmp_path)!r}), Path({str(tmp_path)!r}), 1 << 20, 1 << 20))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "threads run already" in done.stderr


@needs_landlock
def test_what_doctor_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    report = fence.fence_available()
    assert report.ok
    assert report.abi >= 1
    monkeypatch.setattr(fence, "_landlock_abi", lambda: 0)
    assert not fence.fence_available().ok
    assert "5.13" in fence.fence_available().detail
    # Files are fenced from ABI 1 on, the network by Landlock from 4 on; before that seccomp must do it.
    monkeypatch.setattr(fence, "_landlock_abi", lambda: 3)
    monkeypatch.setattr(seccomp, "available", lambda: False)
    assert not fence.fence_available().ok
    monkeypatch.setattr(fence, "_landlock_abi", lambda: 4)
    assert fence.fence_available().ok


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_is_a_valid_program_that_ends_in_allow(monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    calls = seccomp._MACHINES[machine]
    code = seccomp._assemble(calls, 4711)
    steps = [code[at : at + 8] for at in range(0, len(code), 8)]
    assert simulate(steps, calls.arch, 0, 0) == seccomp._ALLOW
    assert simulate(steps, 0x40000003, 0, 0) == seccomp._KILL
    denied = seccomp._ERRNO | errno.EPERM
    assert all(simulate(steps, calls.arch, number, 0) == denied for number in calls.denied)
    assert simulate(steps, calls.arch, calls.clone3, 0) == seccomp._ERRNO | errno.ENOSYS
    assert simulate(steps, calls.arch, calls.clone, 0x11) == denied
    assert simulate(steps, calls.arch, calls.clone, 0x3D0F00) == seccomp._ALLOW
    assert simulate(steps, calls.arch, calls.tgkill, 4711) == seccomp._ALLOW
    assert simulate(steps, calls.arch, calls.tgkill, 1) == denied


def simulate(steps: list[bytes], arch: int, number: int, argument: int) -> int:
    """A tiny classic-BPF machine over struct seccomp_data."""
    words = {0: number, 4: arch, 16: argument}
    held = at = 0
    while True:
        code = int.from_bytes(steps[at][:2], "little")
        if_true, if_false, value = steps[at][2], steps[at][3], int.from_bytes(steps[at][4:], "little")
        at += 1
        if code == 0x06:
            return value
        if code == 0x20:
            held = words[value]
            continue
        true = {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}[code]
        at += if_true if true else if_false
