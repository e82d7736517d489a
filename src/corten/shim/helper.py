"""Short-lived children of a shim that do what needs memory or time: make the container, run a program, change limits.

A shim lives as long as its container and is one of many, so it never parses a runtime spec or waits for anything
itself.  A helper inherits everything by fork, does one piece of work, tells the result in one message and is gone.
What it leaves behind, a container's process, becomes the shim's child: by CLONE_PARENT or because the shim is the
subreaper.
"""

from __future__ import annotations

import _signal
import _socket
import contextlib
import os
from collections.abc import Callable
from typing import Any, NoReturn

from corten.errors import SystemFailure
from corten.linux import process as kernel
from corten.runtime import execution
from corten.runtime.handshake import Channel
from corten.shim import protocol

# the result of the work: a document and descriptors to hand over
Result = tuple[dict[str, Any], list[int]]


_KILLED = "a helper of the container's shim was killed"


class Helper:
    """One piece of work in a child process; watch ``fileno`` for its result."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._connection, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _become_helper(theirs, work, parent)
        theirs.close()

    def fileno(self) -> int:
        return self._connection.fileno()

    def result(self) -> Result | None:
        """None when there is more to wait for.

        Errors: the typed one that the work raised; SystemFailure when the helper was killed.
        """
        try:
            packet = protocol.receive(self._connection)
        finally:
            self._connection.close()
        if packet is None:
            raise SystemFailure(_KILLED, step="helper")
        if "error" in packet.header:
            packet.close()
            raise protocol.rebuild_error(packet.header["error"])
        return packet.header, packet.descriptors


def _become_helper(connection: _socket.socket, work: Callable[[], Result], parent: int) -> None:
    """The child's whole life."""
    try:
        _signal.set_wakeup_fd(-1)
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        # a helper must not finish a container that nobody watches
        kernel.prctl(kernel.PR_SET_PDEATHSIG, _signal.SIGKILL)
        if os.getppid() != parent:
            return
        try:
            document, descriptors = work()
        except BaseException as error:
            document, descriptors = {"error": protocol.describe_error(error)}, []
        with contextlib.suppress(OSError):
            protocol.send(connection, document, descriptors)
    finally:
        os._exit(0)


class Program:
    """A fork that is born inside the container and becomes a further program of it; to be watched as a ``Helper``.

    It says READY, or an error, and its end of the connection closes when it is the program.
    """

    def __init__(self, init_pid: int, work: Callable[[int, Channel], NoReturn]) -> None:
        """work: what it does, with a pidfd of the container's first process.  Errors: SystemFailure."""
        connection, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self._channel = Channel(connection)
        self._ready: Result | None = None
        try:
            self.pid = execution.fork_inside(init_pid, lambda target: _become_program(Channel(theirs), work, target))
        except BaseException:
            connection.close()
            raise
        finally:
            theirs.close()

    def fileno(self) -> int:
        return self._channel.fileno()

    def result(self) -> Result | None:
        """None when there is more to wait for.  Errors: as with ``Helper``."""
        try:
            document, descriptors = self._channel.receive()
            if document is None and self._ready is None:
                raise SystemFailure(_KILLED, step="helper")
        except BaseException:
            self._channel.close()
            for descriptor in self._ready[1] if self._ready is not None else ():
                os.close(descriptor)
            raise
        if document is not None:
            self._ready = {"pid": self.pid, "warnings": document["warnings"]}, descriptors
            return None
        self._channel.close()
        return self._ready


def _become_program(channel: Channel, work: Callable[[int, Channel], NoReturn], target: int) -> NoReturn:
    """Should the shim be killed the container is, and with it who has been born there."""
    try:
        _signal.set_wakeup_fd(-1)
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        work(target, channel)
    except BaseException as error:
        with contextlib.suppress(OSError):
            channel.send_error(error, "exec")
    finally:
        os._exit(1)
