"""The spawner goes through a shim's motions before the first fork.

Running code changes it: the interpreter counts calls, specialises instructions and fills caches, all in memory that a
fork shares until it is written.  What has settled here stays shared by all shims: a third of what one would have of its
own.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import shutil
import socket
from typing import NoReturn

from corten.errors import CortenError
from corten.linux import user_namespace
from corten.logdriver.options import LogOptions
from corten.runtime import execution, spec_check
from corten.runtime.defaults import default_spec
from corten.runtime.handshake import Channel, Message
from corten.shim import handover, protocol, self_care
from corten.shim.helper import Program
from corten.shim.main import Shim
from corten.shim.pipes import Pipes

_TIMES = 6
_READINGS = 16
_OUTPUTS = 4


def rehearse(directory: str) -> None:
    """directory: made and removed again.  What fails costs memory only."""
    with contextlib.suppress(OSError, CortenError, ValueError):
        os.mkdir(directory, 0o700)
        for _ in range(_TIMES):
            _once(directory)
            _run_program()
        _read_specs()
    shutil.rmtree(directory, ignore_errors=True)
    self_care.trim()


def _read_specs() -> None:
    """What every maker does with its request."""
    document = json.dumps(default_spec())
    for _ in range(_READINGS):
        spec_check.check(json.loads(document))


def _run_program() -> None:
    """An exec, in the pid namespace that we are in ourselves."""

    def become(target: int, channel: Channel) -> NoReturn:
        channel.send(Message.READY, warnings=[])
        os._exit(0)

    own = os.getpid()
    execution.can_be_born_inside(own)
    if user_namespace.is_initial():
        program = Program(own, become)
        while program.result() is None:
            pass
        os.waitpid(program.pid, 0)


def _once(directory: str) -> None:
    """A container whose maker hands over and then tells that it failed."""
    plan: handover.LogPlan = ("json-file", f"{directory}/log", tuple(LogOptions()), {})
    flags = handover.STDIN | handover.LOGGED
    message = handover.pack((0, 0, flags, [(handover.WITH_STDOUT, b"\x10\x11")], plan, b""))
    daemon, connection = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    maker, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client, served = socket.socketpair()
    pipes = Pipes(tty=False, with_input=True)
    program = pipes.theirs
    assert program is not None
    shim = Shim(connection.detach(), ours)
    descriptors: list[int] = []
    try:
        descriptors = [os.open(directory, os.O_RDONLY) for _ in range(2)] + [*pipes.ours, served.detach()]
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        maker.sendmsg([message], [rights])
        shim.turn()
        for number in range(_OUTPUTS):
            os.write(program[1 + number % 2], b"rehearsal\n")
            shim.turn()
        protocol.send(daemon, {"op": "state", "seq": 1})
        maker.send(handover.FAILED)
        shim.turn()
    finally:
        shim.dispose()
        for descriptor in descriptors:
            os.close(descriptor)
        pipes.close_theirs()
        for end in (daemon, maker, client):
            end.close()
