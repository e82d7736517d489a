"""What daemon, spawner and shim say to each other: one JSON object a packet, descriptors beside it.

Packets are SOCK_SEQPACKET; what does not fit into one goes through a sealed memfd that travels with it.

Daemon → spawner: ``{"op": "spawn"}`` with the first control connection of the new shim.
Daemon → shim:    ``{"op": …, "seq": n}``, see ``shim/main.py``; the answer carries the same ``seq``.
Shim → daemon:    answers, and ``{"event": "exit" | "exec-exit", …}`` at any time.
"""

from __future__ import annotations

import array
import json
import os
import socket
from typing import Any

from corten.errors import CommandNotExecutable, CommandNotFound, Conflict, CortenError, InvalidParameter, NotFound, SystemFailure
from corten.linux.process import sealed_memfd

_INLINE = 32 * 1024
_PACKET = 64 * 1024
_MAXIMUM_DESCRIPTORS = 64

_KINDS: dict[str, type[CortenError]] = {
    kind.__name__: kind
    for kind in (CommandNotExecutable, CommandNotFound, Conflict, InvalidParameter, NotFound, SystemFailure)
}


def pack(message: dict[str, Any], descriptors: list[int]) -> tuple[bytes, list[int], int]:
    """(packet, descriptors, descriptor to close after sending or -1)."""
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) <= _INLINE:
        return body, descriptors, -1
    large = sealed_memfd("corten-message", body)
    return b'{"large":true}', [*descriptors, large], large


def send(connection: socket.socket, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
    """Errors: OSError; BlockingIOError when a non-blocking connection is full."""
    packet, passed, large = pack(message, descriptors or [])
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", passed))] if passed else []
    try:
        connection.sendmsg([packet], ancillary)
    finally:
        if large >= 0:
            os.close(large)


def receive_raw(connection: socket.socket) -> tuple[bytes, list[int]]:
    """(packet, descriptors); an empty packet at end of file."""
    space = socket.CMSG_SPACE(4 * _MAXIMUM_DESCRIPTORS)
    packet, ancillary, _, _ = connection.recvmsg(_PACKET, space, socket.MSG_CMSG_CLOEXEC)
    descriptors: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
            descriptors += numbers
    return packet, descriptors


def unpack(packet: bytes, descriptors: list[int]) -> dict[str, Any]:
    """The message; the descriptor of a large one is taken out of the list and closed."""
    if packet == b'{"large":true}':
        large = descriptors.pop()
        try:
            size = os.fstat(large).st_size
            packet = os.pread(large, size, 0)
        finally:
            os.close(large)
    message: dict[str, Any] = json.loads(packet)
    return message


def receive(connection: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """The next message, None at end of file."""
    packet, descriptors = receive_raw(connection)
    return (unpack(packet, descriptors) if packet else None), descriptors


def describe_error(error: BaseException) -> dict[str, Any]:
    if isinstance(error, CortenError) and type(error).__name__ in _KINDS:
        return {
            "kind": type(error).__name__,
            "text": error.message,
            "step": getattr(error, "step", ""),
            "errno": getattr(error, "errno", 0),
        }
    text = f"{error.strerror or error}: {error.filename}" if isinstance(error, OSError) and error.filename else str(error)
    return {"kind": "SystemFailure", "text": text or type(error).__name__, "step": "", "errno": getattr(error, "errno", 0) or 0}


def rebuild_error(document: dict[str, Any], prefix: str = "") -> CortenError:
    """The error that the other end described."""
    kind, text = _KINDS.get(document["kind"], SystemFailure), prefix + document["text"]
    if kind is SystemFailure:
        return SystemFailure(text, step=document["step"], errno=document["errno"])
    return kind(text)
