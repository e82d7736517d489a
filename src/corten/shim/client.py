"""One client of a program's streams: what it has not read yet, what it types."""

from __future__ import annotations

import os
import select
from collections import deque
from typing import TYPE_CHECKING

from corten.shim.detaching import DetachKeys
from corten.shim.handover import WITH_STDERR, WITH_STDIN, WITH_STDOUT

if TYPE_CHECKING:
    from corten.shim.streams import Streams

CLIENT_BUFFER = 256 * 1024
INPUT_BUFFER = 64 * 1024

_NUMBERS = {"stdout": b"\x01\0\0\0", "stderr": b"\x02\0\0\0"}
_WANTED = {"stdout": WITH_STDOUT, "stderr": WITH_STDERR}
_GONE = select.EPOLLHUP | select.EPOLLERR


class Client:
    """One attached stream socket."""

    __slots__ = (
        "_held", "_keys", "_pending", "_reading", "_streams", "_wants", "closed", "descriptor", "ending", "stdin",
    )  # fmt: skip

    def __init__(self, streams: Streams, descriptor: int, wants: int, detach_keys: bytes) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self.stdin = bool(wants & WITH_STDIN)
        self._wants = wants
        self.closed = False
        self.ending = False  # closes when everything has been sent
        self._streams = streams
        self._keys = DetachKeys(detach_keys if streams.tty else b"")
        self._pending: deque[bytes] = deque()
        self._held = 0
        self._reading = True
        self.update()

    @property
    def is_full(self) -> bool:
        return self._held > CLIENT_BUFFER

    def update(self) -> None:
        """Watch for what can be done now."""
        if self.closed:
            return
        events = select.EPOLLOUT if self._pending else 0
        if self._reading and not (self.stdin and self._streams.input_is_full):
            events |= select.EPOLLIN
        self._streams.loop.watch(self.descriptor, events, self._ready)

    def _ready(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush()
        if not self.closed and events & (select.EPOLLIN | _GONE):
            self._receive(events)

    def _receive(self, events: int) -> None:
        try:
            data = os.read(self.descriptor, INPUT_BUFFER)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not data:
            self._reading = False
            if events & _GONE:
                self.close()
                return
            self.update()
            if self.stdin:
                self._streams.client_ended_input(self)
            return
        if not self.stdin or self.ending:
            return
        kept, detach = self._keys.scan(data)
        if kept:
            self._streams.feed(kept)
        if detach:
            self.close()
            self._streams.on_detached()
        else:
            self.update()

    def send(self, stream: str, data: bytes) -> None:
        """Give it to the socket, or hold what that does not take."""
        if self.closed or self.ending or not self._wants & _WANTED[stream]:
            return
        head = b"" if self._streams.tty else _NUMBERS[stream] + len(data).to_bytes(4, "big")
        sent = 0
        if not self._pending:
            try:
                sent = os.writev(self.descriptor, (head, data))
            except BlockingIOError:
                pass
            except OSError:
                self.close()
                return
        rest = len(head) + len(data) - sent
        if not rest:
            return
        self._pending.append((head + data)[sent:] if sent or head else data)
        self._held += rest
        self.update()

    def _flush(self) -> None:
        try:
            while self._pending:
                data = self._pending.popleft()
                try:
                    sent = os.write(self.descriptor, data)
                except BlockingIOError:
                    sent = 0
                self._held -= sent
                if sent < len(data):
                    self._pending.appendleft(data[sent:])
                    break
        except OSError:
            self.close()
            return
        if self.ending and not self._pending:
            self.close()
            return
        self.update()
        self._streams.client_drained()

    def end(self) -> None:
        """No more output will come for it: close once it has read everything."""
        self.ending = True
        if not self._pending:
            self.close()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._streams.loop.forget(self.descriptor)
        os.close(self.descriptor)
        self._pending.clear()
        self._held = 0
        self._streams.client_gone(self)
