"""What parent and init tell each other, and in which order.

::

    parent                                   child (becomes init)
      │ clone3(namespaces) ─────────────────────▶│
      │◀─────────────────────────── NEED_MAPS ───│   only with a new user namespace
      │ write uid_map, gid_map; MAPPED ─────────▶│
      │                                          │   mounts, devices, pivot_root, limits, user …
      │◀──────────────── READY (+ pty master) ───│
      │ START ──────────────────────────────────▶│
      │                                          │   startContainer hooks, execve
      │◀─ end of file: the program runs ─────────│   the socket is close-on-exec
      │◀─ ERROR(kind, message, step, errno) ─────│   instead of any message above

One JSON object a packet on a SOCK_SEQPACKET pair; descriptors travel by SCM_RIGHTS.  After pivot_root nothing can be
logged, so an error must come through here.
"""

from __future__ import annotations

import array
import enum
import json
import os
import socket
from typing import Any

from corten.errors import CommandNotExecutable, CommandNotFound, CortenError, InvalidParameter, SystemFailure

_MAXIMUM = 65536


class Message(enum.StrEnum):
    NEED_MAPS = "need-maps"
    MAPPED = "mapped"
    READY = "ready"
    START = "start"
    PID = "pid"
    ERROR = "error"


_KINDS: dict[str, type[CortenError]] = {
    kind.__name__: kind for kind in (CommandNotFound, CommandNotExecutable, InvalidParameter, SystemFailure)
}


class Channel:
    """One end of the handshake."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(first), cls(second)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self, message: Message, descriptors: tuple[int, ...] = (), **fields: Any) -> None:
        packet = json.dumps({"message": message, **fields}).encode()[:_MAXIMUM]
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self._socket.sendmsg([packet], ancillary)

    def send_error(self, error: BaseException, step: str) -> None:
        """Describe any exception so that the other end can raise it again."""
        if isinstance(error, CortenError) and type(error).__name__ in _KINDS:
            kind, text = type(error).__name__, error.message
            code = getattr(error, "errno", 0)
        elif isinstance(error, OSError):
            kind, code = "SystemFailure", error.errno or 0
            text = f"{step}: {error.strerror or error}" + (f": {error.filename}" if error.filename else "")
        else:
            kind, text, code = "SystemFailure", f"{step}: {type(error).__name__}: {error}", 0
        self.send(Message.ERROR, kind=kind, text=text[:4096], step=step, errno=code)

    def receive(self) -> tuple[dict[str, Any] | None, list[int]]:
        """The next message and its descriptors; None at end of file.

        Errors: the typed error that the other end sent.
        """
        packet, ancillary, _, _ = self._socket.recvmsg(_MAXIMUM, socket.CMSG_SPACE(4 * 4), socket.MSG_CMSG_CLOEXEC)
        descriptors: list[int] = []
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
                descriptors += numbers
        if not packet:
            return None, descriptors
        document: dict[str, Any] = json.loads(packet)
        if document["message"] == Message.ERROR:
            for descriptor in descriptors:
                os.close(descriptor)
            raise rebuilt(document)
        return document, descriptors

    def expect(self, message: Message) -> tuple[dict[str, Any], list[int]]:
        """Errors: SystemFailure when the other end is gone or says something else."""
        document, descriptors = self.receive()
        if document is None:
            raise SystemFailure(f"container init ended before it said {message}", step="handshake")
        if document["message"] != message:
            raise SystemFailure(f"container init said {document['message']} instead of {message}", step="handshake")
        return document, descriptors


def rebuilt(document: dict[str, Any]) -> CortenError:
    """The error that a message describes."""
    kind = _KINDS[document["kind"]]
    if kind is SystemFailure:
        return SystemFailure(document["text"], step=document["step"], errno=document["errno"])
    return kind(document["text"])
