"""What daemon, spawner and shim say to each other: one packet a message, descriptors beside it.

A packet is a JSON object, a newline and a payload.  Only the object is for the receiver's own eyes: the payload (a
runtime spec, a process) is passed on unread to the short-lived process that needs it, so that a shim's memory stays
small.  A large payload comes as a sealed memfd, the last of the descriptors, instead.

Daemon → spawner: ``{"op": "spawn"}`` with the first control connection of a new shim, and ``ahead``, the namespaces
                  to make before it is told more (``runtime/newborn.py``); ``{"op": "lend"}`` with a connection for
                  the answer and id maps as payload, see ``shim/lending.py``.
Daemon → shim:    ``{"op": …, "seq": n, …}``, answered with the same ``seq`` and perhaps ``error``.
Shim → daemon:    ``{"event": …}`` at any time; see ``shim/main.py``.

Packets are SOCK_SEQPACKET.  Source: unix(7).
"""

from __future__ import annotations

import _socket
import array
import json
import os
from typing import Any

from corten.errors import (
    CommandNotExecutable,
    CommandNotFound,
    Conflict,
    CortenError,
    InvalidParameter,
    NotFound,
    NotModified,
    SystemFailure,
)
from corten.linux.process import sealed_memfd

_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().raw_decode

_INLINE = 32 * 1024
# an unprivileged send buffer holds 208 KiB: header and inline payload always fit
_PACKET = 128 * 1024
_MAXIMUM_DESCRIPTORS = 128

_KINDS: dict[str, type[CortenError]] = {
    kind.__name__: kind
    for kind in (
        CommandNotExecutable,
        CommandNotFound,
        Conflict,
        InvalidParameter,
        NotFound,
        NotModified,
        SystemFailure,
    )
}


class Packet:
    """A received message.  Whoever takes a descriptor out of ``descriptors`` owns it; ``close`` closes the rest."""

    __slots__ = ("_large", "_payload", "descriptors", "header")

    def __init__(self, header: dict[str, Any], payload: bytes, descriptors: list[int], *, large: bool) -> None:
        self.header = header
        self._payload = payload
        self._large = descriptors.pop() if large else -1
        self.descriptors = descriptors

    def payload(self) -> bytes:
        if self._large < 0:
            return self._payload
        return read_all(self._large)

    def take_payload(self) -> int:
        """The payload as a descriptor that the caller owns."""
        if self._large < 0:
            return sealed_memfd("corten-payload", self._payload)
        taken, self._large = self._large, -1
        return taken

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()
        if self._large >= 0:
            os.close(self._large)
            self._large = -1


def read_all(descriptor: int) -> bytes:
    """The whole content of a file, wherever it is positioned."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def send(
    connection: _socket.socket, header: dict[str, Any], descriptors: list[int] | None = None, payload: bytes = b""
) -> None:
    """Errors: OSError; BlockingIOError when a non-blocking connection is full, nothing has been sent then."""
    large = -1
    passed = list(descriptors or ())
    if len(payload) > _INLINE:
        large = sealed_memfd("corten-payload", payload)
        header = {**header, "large": True}
        payload = b""
        passed.append(large)
    packet = _encode(header).encode() + b"\n" + payload
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", passed))] if passed else []
    try:
        connection.sendmsg([packet], ancillary)
    finally:
        if large >= 0:
            os.close(large)


def receive_bytes(connection: _socket.socket) -> tuple[bytes, list[int]]:
    """The next packet with its descriptors; nothing at end of file.

    Errors: OSError, BlockingIOError; ValueError for a packet that was cut off.
    """
    space = _socket.CMSG_SPACE(4 * _MAXIMUM_DESCRIPTORS)
    data, ancillary, flags, _ = connection.recvmsg(_PACKET, space, _socket.MSG_CMSG_CLOEXEC)
    descriptors: list[int] = []
    for level, kind, content in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
            descriptors += numbers
    if flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
        for descriptor in descriptors:
            os.close(descriptor)
        raise ValueError("a packet that was cut off")
    return data, descriptors


def receive(connection: _socket.socket) -> Packet | None:
    """The next message, None at end of file.

    Errors: OSError, BlockingIOError; ValueError for what is no message.
    """
    data, descriptors = receive_bytes(connection)
    if not data:
        return None
    try:
        head, _, payload = data.partition(b"\n")
        header: dict[str, Any] = _decode(head.decode())[0]
        large = bool(header.get("large"))
        if large and not descriptors:
            raise ValueError("a message without its payload")
        return Packet(header, payload, descriptors, large=large)
    except BaseException as error:
        for descriptor in descriptors:
            os.close(descriptor)
        if isinstance(error, AttributeError):
            raise ValueError("a message that is no object") from error
        raise


def describe_error(error: BaseException) -> dict[str, Any]:
    """Any exception so that the other end can raise it again."""
    if isinstance(error, CortenError) and type(error).__name__ in _KINDS:
        return {
            "kind": type(error).__name__,
            "text": error.message,
            "step": getattr(error, "step", ""),
            "errno": getattr(error, "errno", 0),
        }
    text = str(error)
    if isinstance(error, OSError):
        text = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    elif not isinstance(error, CortenError):
        text = f"{type(error).__name__}: {text}"
    return {"kind": "SystemFailure", "text": text, "step": "", "errno": getattr(error, "errno", 0) or 0}


def rebuild_error(document: dict[str, Any], prefix: str = "") -> CortenError:
    """The error that the other end described."""
    kind, text = _KINDS.get(document["kind"], SystemFailure), prefix + document["text"]
    if kind is SystemFailure:
        return SystemFailure(text, step=document["step"], errno=document["errno"])
    return kind(text)
