"""One control connection to a shim: requests with answers by number, events as they come."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from corten.errors import Unavailable
from corten.shim import protocol

_GONE = "the container's shim has ended"


class Connection:
    """Owns its socket.

    on_event:  called with every event
    on_closed: called once when the other end has gone, not by ``close``
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._sequence = 0
        self._outgoing: deque[tuple[dict[str, Any], list[int], bytes]] = deque()
        self.on_event: Callable[[dict[str, Any]], None] = lambda message: None
        self.on_closed: Callable[[], None] = lambda: None
        self.is_open = True
        self._loop.add_reader(sock, self._readable)

    async def request(
        self, message: dict[str, Any], descriptors: list[int] | None = None, payload: bytes = b""
    ) -> dict[str, Any]:
        """Send and wait for the answer.  Errors: the one the shim describes; Unavailable when it has gone."""
        if not self.is_open:
            raise Unavailable(_GONE)
        self._sequence += 1
        sequence = self._sequence
        future: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._waiting[sequence] = future
        # the caller may close its descriptors as soon as it likes
        self._outgoing.append(({**message, "seq": sequence}, [os.dup(fd) for fd in descriptors or ()], payload))
        self._flush()
        try:
            return await future
        finally:
            self._waiting.pop(sequence, None)

    def _flush(self) -> None:
        while self._outgoing:
            message, descriptors, payload = self._outgoing[0]
            try:
                protocol.send(self._sock, message, descriptors, payload)
            except BlockingIOError:
                self._loop.add_writer(self._sock, self._flush)
                return
            except OSError:
                self._lost()
                return
            self._outgoing.popleft()
            for descriptor in descriptors:
                os.close(descriptor)
        self._loop.remove_writer(self._sock)

    def _readable(self) -> None:
        while self.is_open:
            try:
                packet = protocol.receive(self._sock)
            except BlockingIOError:
                return
            except (OSError, ValueError):
                packet = None
            if packet is None:
                self._lost()
                return
            packet.close()
            self._dispatch(packet.header)

    def _dispatch(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self.on_event(message)
            return
        future = self._waiting.get(message.get("seq", 0))
        if future is None or future.done():
            return
        if "error" in message:
            future.set_exception(protocol.rebuild_error(message["error"]))
        else:
            future.set_result(message)

    def _lost(self) -> None:
        if self.is_open:
            self.close()
            self.on_closed()

    def close(self) -> None:
        if not self.is_open:
            return
        self.is_open = False
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        for _, descriptors, _ in self._outgoing:
            for descriptor in descriptors:
                os.close(descriptor)
        self._outgoing.clear()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unavailable(_GONE))
