"""The spawner goes through a shim's motions before the first fork.

Running code changes it: the interpreter counts calls, specialises instructions and fills caches, all in memory that a
fork shares until it is written.  What has settled here stays shared by all shims: a third of what one would have of its
own.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import contextlib
import os
import shutil
import socket

from corten.errors import CortenError
from corten.logdriver.options import LogOptions
from corten.logdriver.writers import open_writer
from corten.shim import protocol, self_care
from corten.shim.loop import EpollLoop
from corten.shim.main import Shim
from corten.shim.pipes import Pipes
from corten.shim.streams import Streams

_STARTS = 3
_OUTPUTS = 12


def rehearse(directory: str) -> None:
    """directory: made and removed again.  What fails costs memory only."""
    with contextlib.suppress(OSError, CortenError, ValueError):
        os.mkdir(directory, 0o700)
        for _ in range(_STARTS):
            _start(directory)
        _carry(directory)
    shutil.rmtree(directory, ignore_errors=True)
    self_care.trim()


def _start(directory: str) -> None:
    """A whole start, of a container that has no spec: it is refused and leaves nothing."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    shim = Shim(theirs.detach())
    header = {
        "op": "start",
        "seq": 1,
        "id": "0" * 64,
        "directory": f"{directory}/0",
        "target": f"{directory}/root",
        "cgroup": "/corten/rehearsal",
        "bundle": directory,
        "seccomp_cache": directory,
        "orphans": False,
        "poststop": False,
        "log": {"type": "json-file", "path": f"{directory}/log", "options": LogOptions(), "attributes": {}},
        "tty": False,
        "open_stdin": False,
        "stdin_once": False,
        "attach": [],
    }
    try:
        protocol.send(ours, header, [], b"{}")
        shim.run()
        protocol.receive(ours)
    finally:
        shim.dispose()
        ours.close()


def _carry(directory: str) -> None:
    """Output to the log and a client, input from it."""
    loop = EpollLoop()
    writer = open_writer("json-file", f"{directory}/log", LogOptions(), {}, loop)
    streams = Streams(
        loop, tty=False, sink=lambda stream, data: writer.write(stream, data, 0), drop_slow=False, stdin_once=False
    )
    pipes = Pipes(tty=False, with_input=True)
    program = pipes.theirs
    assert program is not None
    pipes.connect(streams)
    client, served = socket.socketpair()
    streams.attach(served.detach(), stdin=True, stdout=True, stderr=True, detach_keys=b"\x10\x11")
    for number in range(_OUTPUTS):
        os.write(program[1 + number % 2], b"rehearsal\n")
        loop.turn()
    client.send(b"input")
    loop.turn()
    streams.take_present()
    streams.close()
    client.close()
    pipes.close_theirs()
    writer.finish(0)
    writer.close()
    loop.close()
