"""What parent and child say to each other while a container is made.

::

    parent                                      init (the cloned child)
      │ clone3(namespaces) ─────────────────────▶│   or to one that was cloned before: SPEC, BECOME (``newborn.py``)
      │◀───────────────────────────── ARRIVED ───│   only when the host's side has to act: user or time namespace
      │ id maps, cgroup, clocks; PREPARED ──────▶│
      │                                          │   mounts, devices, masks, filter
      │◀───────────────────────────── MOUNTED ───│   only with hooks of the runtime's namespace
      │ prestart, createRuntime; HOOKED ────────▶│
      │                                          │   createContainer hooks, pivot_root, streams, ids, capabilities
      │◀──────────────── READY (+ pty master) ───│   the program has been found
      │ START ──────────────────────────────────▶│   earlier when nothing else has to be said
      │                                          │   startContainer hooks, the filter that comes last, execve
      │◀─ end of file: the program runs ─────────│   the socket is close-on-exec
      │◀─ ERROR(kind, message, step, errno) ─────│   instead of any message above

An exec is shorter: READY, then end of file or ERROR.  PID is the word of the helper that clones for us
(``joining.py``).  One JSON object a packet on a SOCK_SEQPACKET pair; descriptors travel by SCM_RIGHTS.  After
pivot_root nothing can be logged, so an error must come through here.
"""

from __future__ import annotations

import _socket
import array
import enum
import json
import os

from corten.errors import CommandNotExecutable, CommandNotFound, CortenError, InvalidParameter, SystemFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MAXIMUM = 65536
MOST_DESCRIPTORS = 253  # of one message (unix(7), SCM_MAX_FD)
_USUAL_DESCRIPTORS = 4
_LONGEST_TEXT = 4096


class Message(enum.StrEnum):
    ARRIVED = "arrived"
    PREPARED = "prepared"
    MOUNTED = "mounted"
    HOOKED = "hooked"
    READY = "ready"
    START = "start"
    PID = "pid"
    SPEC = "spec"
    BECOME = "become"
    ERROR = "error"


_KINDS: dict[str, type[CortenError]] = {
    kind.__name__: kind for kind in (CommandNotFound, CommandNotExecutable, InvalidParameter, SystemFailure)
}


class Channel:
    """One end of the handshake."""

    def __init__(self, end: _socket.socket) -> None:
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        first, second = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        return cls(first), cls(second)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    @staticmethod
    def encode(message: Message, fields: dict[str, Any]) -> bytes:
        """One packet.  Errors: SystemFailure when it is too long for one."""
        packet = json.dumps({"message": message, **fields}).encode()
        if len(packet) > _MAXIMUM:
            raise SystemFailure(f"a message of {len(packet)} bytes is too long", step="handshake")
        return packet

    def send(self, message: Message, descriptors: tuple[int, ...] = (), **fields: Any) -> None:
        ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self._socket.sendmsg([self.encode(message, fields)], ancillary)

    def send_error(self, error: BaseException, step: str) -> None:
        """Describe any exception so that the other end can raise it again."""
        self.send(Message.ERROR, **described(error, step))

    def receive(self, most: int = _USUAL_DESCRIPTORS) -> tuple[dict[str, Any] | None, list[int]]:
        """The next message and its descriptors, ``most`` of them; None at end of file.

        Errors: the typed error that the other end sent.
        """
        space = _socket.CMSG_SPACE(4 * most)
        try:
            packet, ancillary, _, _ = self._socket.recvmsg(_MAXIMUM, space, _socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            # it has ended with a message of ours unread (START lies ready early): the kernel tells that once, and
            # before what the other end has said last
            packet, ancillary, _, _ = self._socket.recvmsg(_MAXIMUM, space, _socket.MSG_CMSG_CLOEXEC)
        descriptors: list[int] = []
        for level, kind, data in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
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


def run_to_exec(channel: Channel, *, is_told: bool = False) -> None:
    """Say START, unless it has been said, and wait until the program runs.

    Errors: those that init reports, SystemFailure.
    """
    try:
        if not is_told:
            channel.send(Message.START)
        document, _ = channel.receive()
    except (BrokenPipeError, ConnectionResetError):
        raise SystemFailure("container init ended before it was started", step="start") from None
    if document is not None:
        raise SystemFailure(f"container init said {document['message']} instead of running the program", step="start")


def described(error: BaseException, step: str) -> dict[str, Any]:
    """An exception as plain data, in the kinds that may cross."""
    code = 0
    if isinstance(error, CortenError) and type(error).__name__ in _KINDS:
        kind, text = type(error).__name__, error.message
        code = getattr(error, "errno", 0)
    elif isinstance(error, OSError):
        kind, code = "SystemFailure", error.errno or 0
        text = f"{step}: {error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    else:
        kind, text = "SystemFailure", f"{step}: {type(error).__name__}: {error}"
    return {"kind": kind, "text": text[:_LONGEST_TEXT], "step": step, "errno": code}


def rebuilt(document: dict[str, Any]) -> CortenError:
    """The error that a message describes."""
    kind = _KINDS.get(document["kind"], SystemFailure)
    if kind is SystemFailure:
        return SystemFailure(document["text"], step=document["step"], errno=document["errno"])
    return kind(document["text"])


def shortened(warnings: list[str]) -> list[str]:
    """As many as fit into a message."""
    return [warning[:200] for warning in warnings[:64]]
