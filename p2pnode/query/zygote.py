"""The zygote: a process that has imported DuckDB and pyarrow, uses neither, and forks workers that will.

Importing takes 0.3 s, forking a few milliseconds, and what was imported is shared memory. Forking a process that has
used DuckDB hangs, because its threads are not forked along; hence this process between the node and its workers.

    node -> zygote   b"fork" with the worker's end of a socket pair
    zygote -> node   b"forked" with a pidfd of the worker, or the text of what went wrong

It ends when the node closes its end or dies, and its workers end with it (PR_SET_PDEATHSIG). Children are reaped by the
kernel: SIGCHLD is ignored here, and the node watches its workers through their pidfds.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys

from p2pnode.query import worker
from p2pnode.query.frames import FORK, FORKED, with_descriptor


def main(descriptor: int) -> None:
    control = socket.socket(fileno=descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # Collections in a worker would otherwise write to, and so copy, every page it shares with us.
    gc.collect()
    gc.freeze()
    while True:
        try:
            request, descriptors, _flags, _address = socket.recv_fds(control, len(FORK), 1)
            if request != FORK:
                return
            _fork(control, descriptors[0])
        except ConnectionError:
            return  # the node was killed while we forked for it


def _fork(control: socket.socket, descriptor: int) -> None:
    own_pid = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        os.close(descriptor)
        control.send(str(error).encode())
        return
    if pid == 0:
        try:
            worker.main(socket.socket(fileno=descriptor), own_pid)
        finally:
            # No exit handlers, no destructors: the sockets and threads they would look for belong to the zygote.
            os._exit(0)
    os.close(descriptor)
    try:
        handle = os.pidfd_open(pid)
    except OSError as error:
        control.send(f"the worker ended at once: {error}".encode())
        return
    control.sendmsg([FORKED], with_descriptor(handle))
    os.close(handle)


if __name__ == "__main__":
    main(int(sys.argv[1]))
    # DuckDB's binding counts its leftovers aloud at a regular exit.
    os._exit(0)
