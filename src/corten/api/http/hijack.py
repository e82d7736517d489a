"""A hijacked connection: the client's transport and a program's stream socket, glued with flow control both ways.

```
 client ──stdin──▶ RawClient ──▶ StreamEnd ──▶ shim     a full buffer on one side pauses reading on the other
 client ◀─output── RawClient ◀── StreamEnd ◀── shim     end of stdin is passed on; end of output ends the connection
```
"""

from __future__ import annotations

import asyncio
import fcntl
import select
import socket
import termios

from corten.api.http.body import BadFraming, Framing
from corten.api.http.stream_end import StreamEnd

_EAGERNESS = 30  # turns of the loop
_PATIENCE = 230  # and then milliseconds


def has_hung_up(transport: asyncio.BaseTransport) -> bool:
    """The peer has closed its socket, not only its sending half (poll(2), POLLHUP)."""
    handle = transport.get_extra_info("socket")
    if handle is None or handle.fileno() < 0:
        return True
    poller = select.poll()
    poller.register(handle.fileno(), 0)
    return bool(poller.poll(0))


def _has_unread(transport: asyncio.BaseTransport) -> bool:
    """The peer of a unix socket has not read all that was sent (unix(7), SIOCOUTQ); False for other sockets."""
    handle = transport.get_extra_info("socket")
    if handle is None or handle.family != socket.AF_UNIX or handle.fileno() < 0:
        return False
    return any(fcntl.ioctl(handle.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))


class RawClient(asyncio.Protocol):
    """The client's side of a raw stream.

    framing: of a request body that has not ended: its payload is the program's input, its end the input's end
    """

    def __init__(self, framing: Framing | None = None, *, linger_s: float = 2.0) -> None:
        self._framing = framing
        self._linger_s = linger_s
        self._input_ended = False
        self._finished = False
        self.transport: asyncio.Transport
        self.stream: StreamEnd
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def attach(self, transport: asyncio.Transport, sock: socket.socket, early: bytes, *, input_ended: bool) -> None:
        """Join ``transport`` with ``sock`` and own both; ``early`` is input that came with the request."""
        self.transport = transport
        self.stream = StreamEnd(sock, self)
        transport.set_protocol(self)
        if early:
            self.receive_early(early)
        if input_ended:
            self.end_input()
        self._start_output()

    def _start_output(self, tries: int = 0) -> None:
        """Let output flow once the client has read the response's head.

        Clients that read heads through a buffer and streams from the bare socket (docker-py) lose what comes in one
        piece with the head.  dockerd is slow enough for them; a unix socket tells what has not been read.
        """
        if tries < _PATIENCE and not self.transport.is_closing() and _has_unread(self.transport):
            loop = asyncio.get_running_loop()
            if tries < _EAGERNESS:  # a timer would cost a millisecond
                loop.call_soon(self._start_output, tries + 1)
            else:
                loop.call_later(0.001, self._start_output, tries + 1)
        elif not self._finished:
            self.stream.resume_reading()

    # -- client to program ------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._framing is None:
            self.receive(data)
            return
        try:
            pieces, _ = self._framing.feed(data)
        except BadFraming:
            self.abort()
            return
        for piece in pieces:
            self.receive(piece)
        if self._framing.done:
            self.end_input()

    def receive_early(self, data: bytes) -> None:
        """What came before the stream began; the body's framing, if any, has been taken off."""
        self.receive(data)

    def receive(self, data: bytes) -> None:
        """Pass input on; what comes after its end, or after the program's, is dropped."""
        if not self._finished:
            self.stream.write(data)

    def end_input(self) -> None:
        """The client will not send more: the program reads the end of its input."""
        self._input_ended = True
        if not self._finished:
            self.stream.end_input()

    def eof_received(self) -> bool:
        if self._finished or has_hung_up(self.transport):
            return False
        self.end_input()
        return True

    def pause(self) -> None:
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    # -- program to client ------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Pass output on."""
        if not self._finished:
            self.transport.write(data)

    def finish(self) -> None:
        """There is no more output: say so, let the client read to the end, close."""
        if self._finished:
            return
        self._finished = True
        if self.transport.is_closing():
            return
        if self._input_ended or not self.transport.can_write_eof():
            self.transport.close()
            return
        # closing while the client still sends would reset what it has not read yet
        self.transport.write_eof()
        self.transport.resume_reading()
        asyncio.get_running_loop().call_later(self._linger_s, self._close_when_sent)

    def _close_when_sent(self) -> None:
        if self.transport.is_closing():
            return
        if self.transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(self._linger_s, self._close_when_sent)
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        self.stream.pause_reading()

    def resume_writing(self) -> None:
        self.stream.resume_reading()

    # -- end --------------------------------------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        self._finished = True
        self.stream.close()
        if not self.closed.done():
            self.closed.set_result(None)

    def check(self) -> None:
        """Notice a client that has gone after it had ended its input (before, reading tells)."""
        if self._input_ended and not self.transport.is_closing() and has_hung_up(self.transport):
            self.transport.abort()

    def abort(self) -> None:
        """Cut the connection."""
        self.transport.abort()
