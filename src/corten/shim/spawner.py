"""The spawner: a small process with everything imported and one thread, forked for every container.

It is executed by the daemon with its interpreter on a read-only detached mount: a process that enters a container shows
that file as /proc/<pid>/exe, and nobody can write through it (CVE-2019-5736).
"""

from __future__ import annotations

import gc
import os
import signal
import socket

from corten.linux import process as kernel
from corten.shim import protocol
from corten.shim.main import run_shim


def main(descriptor: int) -> None:
    """Serve until the daemon's end of the socket closes."""
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    kernel.set_name("corten-spawner")
    kernel.prctl(kernel.PR_SET_THP_DISABLE, 1)
    os.setsid()
    os.chdir("/")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # shims are reaped by the kernel; each gives itself the default back
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.disable()
    gc.freeze()
    protocol.send(connection, {"ready": True, "pid": os.getpid()})
    while True:
        packet, descriptors = protocol.receive_raw(connection)
        if not packet:
            return
        if os.fork() == 0:
            try:
                connection.close()
                run_shim(descriptors)
            finally:
                os._exit(0)
        for passed in descriptors:
            os.close(passed)
