"""A shim's control connections: the first one comes from the spawner's request, others by ``shim.sock``."""

from __future__ import annotations

import _socket
import contextlib
import os
import select
import struct
from collections.abc import Callable
from typing import Any

from corten.shim import protocol
from corten.shim.loop import EpollLoop
from corten.shim.protocol import Packet

Reply = Callable[[dict[str, Any]], None]

_UCRED = struct.Struct("3i")


class Control:
    """All connections of one shim.

    handle: called with every request and the function that answers it; what it raises is the answer otherwise
    """

    def __init__(self, loop: EpollLoop, handle: Callable[[Packet, Reply], None]) -> None:
        self._loop = loop
        self._handle = handle
        self._connections: list[_socket.socket] = []
        self._listener: _socket.socket | None = None

    def add(self, descriptor: int) -> None:
        connection = _socket.socket(fileno=descriptor)
        connection.setblocking(False)
        self._connections.append(connection)
        self._loop.watch(descriptor, select.EPOLLIN, lambda events: self._ready(connection))

    def _drop(self, connection: _socket.socket) -> None:
        if connection not in self._connections:
            return
        self._connections.remove(connection)
        self._loop.forget(connection.fileno())
        connection.close()

    def _ready(self, connection: _socket.socket) -> None:
        try:
            packet = protocol.receive(connection)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            packet = None
        if packet is None:
            self._drop(connection)
            return
        self._loop.busy()
        sequence = packet.header.get("seq", 0)

        def reply(document: dict[str, Any]) -> None:
            document["seq"] = sequence
            self._send(connection, document)

        try:
            self._handle(packet, reply)
        except Exception as error:
            # whatever is wrong with a request, the container goes on
            reply({"error": protocol.describe_error(error)})
        finally:
            packet.close()

    def _send(self, connection: _socket.socket, message: dict[str, Any]) -> None:
        if connection not in self._connections:
            return
        try:
            protocol.send(connection, message)
        except OSError:
            # the daemon is gone, or has not read 200 KiB of answers: what matters is written down
            self._drop(connection)

    def broadcast(self, message: dict[str, Any]) -> None:
        """An event for every daemon that listens."""
        for connection in list(self._connections):
            self._send(connection, message)

    def serve(self, descriptor: int) -> None:
        """Take connections of a listening socket, too."""
        listener = self._listener = _socket.socket(fileno=descriptor)
        self._loop.watch(descriptor, select.EPOLLIN, lambda events: self._accept(listener))

    def _accept(self, listener: _socket.socket) -> None:
        with contextlib.suppress(OSError):
            descriptor, _ = listener._accept()  # type: ignore[attr-defined]  # what accept() wraps
            peer = _socket.socket(fileno=descriptor)
            credentials = peer.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _UCRED.size)
            if _UCRED.unpack(credentials)[1] in (0, os.geteuid()):
                self.add(peer.detach())
            else:
                peer.close()

    def stop_listening(self) -> None:
        if self._listener is not None:
            self._loop.forget(self._listener.fileno())
            self._listener.close()
            self._listener = None

    def close(self) -> None:
        self.stop_listening()
        for connection in list(self._connections):
            self._drop(connection)


def listen(directory: str) -> int:
    """Open ``<directory>/shim.sock`` for root and this user.  Errors: OSError."""
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    # by descriptor: a path below a deep exec root may exceed the 107 bytes of a socket address
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    old = os.umask(0o177)
    try:
        listener.bind(f"/proc/self/fd/{place}/shim.sock")
    finally:
        os.umask(old)
        os.close(place)
    listener.listen(16)
    listener.setblocking(False)
    return listener.detach()
