"""System calls that a SQL worker gives up for good: a small BPF filter, installed without any library.

Landlock says which files; this says which doors do not exist at all: sockets (so no network on any kernel), other
programs, other processes, signals, ownership and modes of files, mounts, modules, keys, asynchronous rings. A denied
call answers EPERM, so a library that tries one gets an ordinary error. It is a list of what is denied, not of what is
allowed: DuckDB, Arrow and the C library change their harmless calls with every release.

Source of the numbers: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h of Linux; of the
filter: Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass

PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
PR_GET_SECCOMP = 21

_ALLOW = 0x7FFF0000
_KILL = 0x80000000
_ERRNO = 0x00050000

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS: a word of struct seccomp_data
_IF_EQUAL = 0x15
_IF_AT_LEAST = 0x35
_IF_BITS = 0x45
_RETURN = 0x06

_NUMBER_AT, _ARCH_AT, _ARGUMENT_AT = 0, 4, 16
_CLONE_THREAD = 0x00010000
#: Numbers from here on belong to the x32 variant of x86-64, which nothing here uses.
_X32 = 0x40000000


@dataclass(frozen=True, slots=True)
class Calls:
    """One machine's numbers: the calls denied always, and the three whose first argument decides."""

    arch: int
    clone: int
    clone3: int
    tgkill: int
    denied: tuple[int, ...]


_BOTH = (
    425, 426, 427,  # io_uring: file and socket work that no filter sees
    424, 434, 438,  # pidfd_send_signal, pidfd_open, pidfd_getfd
    428, 429, 430, 431, 432, 433, 442,  # open_tree, move_mount, fsopen, fsconfig, fsmount, fspick, mount_setattr
    440, 452, 463, 466,  # process_madvise, fchmodat2, setxattrat, removexattrat
)  # fmt: skip

_MACHINES = {
    "x86_64": Calls(
        arch=0xC000003E,
        clone=56,
        clone3=435,
        tgkill=234,
        denied=(
            41, 42, 43, 49, 50, 53, 288,  # socket connect accept bind listen socketpair accept4
            57, 58, 59, 322,  # fork vfork execve execveat
            62, 200, 129, 297,  # kill tkill rt_sigqueueinfo rt_tgsigqueueinfo
            101, 310, 311, 312,  # ptrace process_vm_readv process_vm_writev kcmp
            76, 90, 91, 92, 93, 94, 260, 268,  # truncate chmod fchmod chown fchown lchown fchownat fchmodat
            188, 189, 190, 197, 198, 199,  # set and remove extended attributes
            132, 235, 261, 280,  # utime utimes futimesat utimensat
            86, 88, 265, 266, 133, 259,  # link symlink linkat symlinkat mknod mknodat
            161, 165, 166, 155, 272, 308,  # chroot mount umount2 pivot_root unshare setns
            248, 249, 250, 298, 321, 323,  # add_key request_key keyctl perf_event_open bpf userfaultfd
            175, 176, 313, 246, 320, 169, 167, 168,  # modules, kexec, reboot, swap
            303, 304, 134, 154, 156, 163,  # file handles, uselib, modify_ldt, sysctl, acct
            172, 173, 227, 305, 164, 170, 171, 135,  # ports, setting clocks, names, personality
            *_BOTH,
        ),
    ),
    "aarch64": Calls(
        arch=0xC00000B7,
        clone=220,
        clone3=435,
        tgkill=131,
        denied=(
            198, 199, 200, 201, 202, 203, 242,  # socket socketpair bind listen accept connect accept4
            221, 281,  # execve execveat
            129, 130, 138, 240,  # kill tkill rt_sigqueueinfo rt_tgsigqueueinfo
            117, 270, 271, 272,  # ptrace process_vm_readv process_vm_writev kcmp
            45, 52, 53, 54, 55,  # truncate fchmod fchmodat fchownat fchown
            5, 6, 7, 14, 15, 16,  # set and remove extended attributes
            88, 33, 36, 37,  # utimensat mknodat symlinkat linkat
            51, 40, 39, 41, 97, 268,  # chroot mount umount2 pivot_root unshare setns
            217, 218, 219, 241, 280, 282,  # add_key request_key keyctl perf_event_open bpf userfaultfd
            105, 106, 273, 104, 294, 142, 224, 225,  # modules, kexec, reboot, swap
            264, 265, 89, 92,  # file handles, acct, personality
            112, 170, 266, 161, 162,  # setting clocks, names
            *_BOTH,
        ),
    ),
}  # fmt: skip


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def available() -> bool:
    """This machine's numbers are known and its kernel has filters."""
    libc = ctypes.CDLL(None, use_errno=True)
    return platform.machine() in _MACHINES and libc.prctl(PR_GET_SECCOMP, 0, 0, 0, 0) >= 0


def install() -> None:
    """Give the calls up in this thread and all that it starts. Needs no_new_privs. Raises OSError."""
    code = _assemble(_MACHINES[platform.machine()], os.getpid())
    instructions = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")


def _assemble(calls: Calls, own_pid: int) -> bytes:
    """The filter as struct sock_filter instructions (code, jump if true, jump if false, value)."""
    deny = _op(_RETURN, _ERRNO | errno.EPERM)
    code = [
        _op(_LOAD, _ARCH_AT),
        _op(_IF_EQUAL, calls.arch, 1, 0),
        _op(_RETURN, _KILL),
        _op(_LOAD, _NUMBER_AT),
        _op(_IF_AT_LEAST, _X32, 0, 1),
        deny,
        # The C library falls back to clone, whose flags a filter can see.
        _op(_IF_EQUAL, calls.clone3, 0, 1),
        _op(_RETURN, _ERRNO | errno.ENOSYS),
    ]
    for number in calls.denied:
        code += [_op(_IF_EQUAL, number, 0, 1), deny]
    # clone makes threads, never processes; tgkill reaches this process only (abort needs it).
    code += [_op(_IF_EQUAL, calls.clone, 0, 3), _op(_LOAD, _ARGUMENT_AT), _op(_IF_BITS, _CLONE_THREAD, 5, 0), deny]
    code += [_op(_IF_EQUAL, calls.tgkill, 0, 3), _op(_LOAD, _ARGUMENT_AT), _op(_IF_EQUAL, own_pid, 1, 0), deny]
    code += [_op(_RETURN, _ALLOW)]
    return b"".join(code)


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)
