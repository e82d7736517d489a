"""The engine's end of a hijacked connection: a stream socket to a program.

Not an asyncio transport: that closes at the first failing write and drops what it has not read, and here a program's
last output must arrive although the program takes no input any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from typing import Protocol

_READ_SIZE = 64 * 1024
_UNSENT_LIMIT = 64 * 1024


class Receiver(Protocol):
    """Who gets the output and sends the input."""

    def send(self, data: bytes) -> None:
        """There is output."""

    def finish(self) -> None:
        """There will be no more output."""

    def pause(self) -> None:
        """Too much input waits."""

    def resume(self) -> None:
        """There is room for input again."""


class StreamEnd:
    """Reads output when it may, writes input as far as the program takes it."""

    def __init__(self, sock: socket.socket, receiver: Receiver) -> None:
        """``sock``: non-blocking, owned from here on.  Reading begins with ``resume_reading``."""
        self._sock = sock
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._reads = False
        self._holds_client = False
        self._input_refused = False  # the program takes no more
        self._input_ended = False  # the client sends no more
        self._closes = False
        self.is_closed = False

    # -- output -----------------------------------------------------------------------------------------------------

    def resume_reading(self) -> None:
        if not (self._reads or self._closes):
            self._reads = True
            self._loop.add_reader(self._sock, self._read)

    def pause_reading(self) -> None:
        if self._reads:
            self._reads = False
            self._loop.remove_reader(self._sock)

    def _read(self) -> None:
        try:
            data = self._sock.recv(_READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            self._receiver.send(data)
        else:
            self.abort()
            self._receiver.finish()

    # -- input ------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Pass input on; what the program does not take yet waits, and from some size on the client with it."""
        if self._input_ended or self._input_refused or self._closes:
            return
        view = memoryview(data)
        if not self._unsent:
            view = view[self._send(view) :]
            if not view:
                return
            self._loop.add_writer(self._sock, self._write_on)
        self._unsent.append(view)
        self._unsent_bytes += len(view)
        if self._unsent_bytes > _UNSENT_LIMIT and not self._holds_client:
            self._holds_client = True
            self._receiver.pause()

    def end_input(self) -> None:
        """The program reads the end of its input once it has read everything."""
        if not self._input_ended:
            self._input_ended = True
            if not self._unsent:
                self._shut_down()

    def _send(self, view: memoryview) -> int:
        """How much was taken; of a program that takes nothing any more: everything."""
        try:
            return self._sock.send(view)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self._input_refused = True
            return len(view)

    def _write_on(self) -> None:
        while self._unsent:
            view = self._unsent[0]
            sent = self._send(view)
            self._unsent_bytes -= sent
            if sent < len(view):
                self._unsent[0] = view[sent:]
                break
            self._unsent.popleft()
        if not self._unsent:
            self._loop.remove_writer(self._sock)
            if self._closes:
                self.abort()
            elif self._input_ended:
                self._shut_down()
        if self._holds_client and self._unsent_bytes <= _UNSENT_LIMIT // 4:
            self._holds_client = False
            self._receiver.resume()

    def _shut_down(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    # -- end --------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Nobody reads any more; the program still gets the input that waits for it."""
        if self._unsent and not self._input_refused:
            self.pause_reading()
            self._closes = True
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once."""
        if self.is_closed:
            return
        self.is_closed = self._closes = True
        self._reads = False
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._unsent.clear()
        self._sock.close()
