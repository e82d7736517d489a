"""The spawner: a small process with everything imported and one thread, forked for every container.

It is executed by the daemon with its interpreter on a read-only detached mount: a process that enters a container shows
that file as /proc/<pid>/exe, and nobody can write through it (CVE-2019-5736).
"""

from __future__ import annotations

import os

# Modules such as threading and logging have their locks made anew in every forked child.  Here is one thread, which
# holds none of them: without these hooks half a megabyte of a shim's memory stays shared.
os.register_at_fork = lambda **hooks: None

import contextlib  # noqa: E402
import gc  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import subprocess  # noqa: E402, F401

# as subprocess: what the runtime imports only where it is used, and a forked child may not import any more
from corten.cgroup import limits, systemd  # noqa: E402, F401
from corten.cgroup.hierarchy import Hierarchies  # noqa: E402
from corten.linux import process as kernel  # noqa: E402
from corten.shim import protocol, self_care  # noqa: E402
from corten.shim.lending import lend  # noqa: E402
from corten.shim.main import run_shim  # noqa: E402
from corten.shim.rehearsal import rehearse  # noqa: E402
from corten.shim.working_set import WorkingSet  # noqa: E402


def main(descriptor: int, scratch: str) -> None:
    """Serve until the daemon's end of the socket closes.

    scratch: a directory that may be made, used for a moment and removed
    """
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    for name in os.listdir("/proc/self/fd"):
        # what the daemon passed for the start only, such as the interpreter's mount
        if int(name) > 2 and int(name) != descriptor:
            with contextlib.suppress(OSError):
                os.close(int(name))
    self_care.set_name(b"corten-spawner")
    kernel.prctl(kernel.PR_SET_THP_DISABLE, 1)
    self_care.shield_from_oom()
    os.chdir("/")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    Hierarchies.here()  # shims inherit it: the table of mounts is long where many containers run
    rehearse(scratch)
    # shims are reaped by the kernel
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    protocol.send(connection, {"ready": True, "pid": os.getpid()})
    quiet = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream, inheritable=True)
    os.close(quiet)
    working_set = WorkingSet()
    gc.collect()
    gc.disable()
    gc.freeze()
    while True:
        packet = protocol.receive(connection)
        if packet is None:
            return
        control = packet.descriptors.pop()
        working_set.listen()
        # the name is given before the fork: it costs less here than in every child
        self_care.set_name(b"corten-shim")
        if os.fork() == 0:
            try:
                connection.close()
                if packet.header["op"] == "lend":
                    lend(control, packet)
                else:
                    run_shim(control, packet.header.get("ahead") or [], working_set)
            finally:
                os._exit(0)
        self_care.set_name(b"corten-spawner")
        os.close(control)
        packet.close()
