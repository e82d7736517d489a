"""The streams of one program: its pipes or pty on one side, attached clients on the other.

A client that does not read is given ``CLIENT_BUFFER`` bytes; then the program's output waits for it (blocking log mode) or
the client is dropped (non-blocking).  The program is never made to wait by a client that has gone.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from typing import Protocol

READ_SIZE = 256 * 1024
CLIENT_BUFFER = 1 << 20
STDIN_BUFFER = 64 * 1024
_STREAM_NUMBERS = {"stdout": 1, "stderr": 2}


class Loop(Protocol):
    """What the streams need of the shim's event loop."""

    def watch(self, descriptor: int, events: int, callback: Callable[[int], None]) -> None: ...
    def forget(self, descriptor: int) -> None: ...


class Client:
    """One attached stream socket."""

    __slots__ = ("_matched", "_read_open", "closed", "detach_keys", "pending", "sock", "stderr", "stdin", "stdout", "streams")

    def __init__(self, sock: socket.socket, streams: Streams, stdin: bool, stdout: bool, stderr: bool, detach_keys: bytes) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.streams = streams
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.detach_keys = detach_keys
        self.pending = bytearray()
        self.closed = False
        self._read_open = True
        self._matched = 0
        self._update()

    def _update(self) -> None:
        events = 0
        if self._read_open and not self.streams.stdin_full:
            events |= select.EPOLLIN
        if self.pending:
            events |= select.EPOLLOUT
        self.streams.loop.watch(self.sock.fileno(), events, self._ready)

    def _ready(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush()
        if not self.closed and events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            self._read(events)

    def _read(self, events: int) -> None:
        try:
            data = self.sock.recv(STDIN_BUFFER)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not data:
            self._read_open = False
            if events & (select.EPOLLHUP | select.EPOLLERR):
                self.close()
            else:
                self._update()
            if self.stdin:
                self.streams.client_finished_input(self)
            return
        if not self.stdin:
            return
        kept, detach = self._scan(data)
        if kept:
            self.streams.feed_input(kept)
        if detach:
            self.close()
        elif not self.closed:
            self._update()

    def _scan(self, data: bytes) -> tuple[bytes, bool]:
        """Look for the detach sequence, also across reads: (bytes for the program, found)."""
        keys = self.detach_keys
        if not keys or not self.streams.tty:
            return data, False
        kept = bytearray()
        for byte in data:
            if byte == keys[self._matched]:
                self._matched += 1
                if self._matched == len(keys):
                    return bytes(kept), True
                continue
            kept += keys[: self._matched]
            self._matched = 0
            if byte == keys[0]:
                self._matched = 1
            else:
                kept.append(byte)
        return bytes(kept), False

    def resume_input(self) -> None:
        if not self.closed:
            self._update()

    def send(self, stream: str, data: bytes) -> None:
        if not (self.stdout if stream == "stdout" else self.stderr):
            return
        if not self.streams.tty:
            self.pending += bytes((_STREAM_NUMBERS[stream], 0, 0, 0)) + len(data).to_bytes(4, "big")
        self.pending += data
        self._flush()

    def _flush(self) -> None:
        try:
            while self.pending:
                sent = self.sock.send(self.pending)
                del self.pending[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._update()
        self.streams.client_drained()

    @property
    def is_full(self) -> bool:
        return len(self.pending) > CLIENT_BUFFER

    def finish(self) -> None:
        """No more output will come: close once everything has been read, without waiting for it here."""
        if self.closed:
            return
        if self.pending:
            self.sock.setblocking(True)
            self.sock.settimeout(5)
            try:
                self.sock.sendall(self.pending)
            except OSError:
                pass
            self.pending.clear()
        self.close()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.streams.loop.forget(self.sock.fileno())
        self.sock.close()
        self.streams.client_gone(self)


class Streams:
    """Output from descriptors to clients and a sink; input from clients to a descriptor.

    sink:  called with (stream, data) for everything the program writes
    """

    def __init__(
        self,
        loop: Loop,
        *,
        tty: bool,
        sink: Callable[[str, bytes], None],
        drop_slow: bool = False,
        stdin_once: bool = False,
    ) -> None:
        self.loop = loop
        self.tty = tty
        self._sink = sink
        self._drop_slow = drop_slow
        self._stdin_once = stdin_once
        self._outputs: dict[int, str] = {}
        self._input = -1
        self._input_pending = bytearray()
        self._input_ending = False
        self._clients: list[Client] = []
        self._paused = False
        self.on_ended: Callable[[], None] = lambda: None

    # -- set-up -------------------------------------------------------------------------------------------------------

    def add_output(self, descriptor: int, stream: str) -> None:
        os.set_blocking(descriptor, False)
        self._outputs[descriptor] = stream
        self.loop.watch(descriptor, select.EPOLLIN, lambda events: self._output_ready(descriptor))

    def set_input(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._input = descriptor

    def attach(self, sock: socket.socket, *, stdin: bool, stdout: bool, stderr: bool, detach_keys: bytes) -> Client:
        client = Client(sock, self, stdin and self._input >= 0, stdout, stderr, detach_keys)
        self._clients.append(client)
        return client

    # -- output -------------------------------------------------------------------------------------------------------

    def _output_ready(self, descriptor: int) -> None:
        self._read_output(descriptor)

    def _read_output(self, descriptor: int) -> bool:
        """One read; False at the end of the stream or when nothing is there."""
        try:
            data = os.read(descriptor, READ_SIZE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""  # EIO: the last slave of a pty has been closed
        if not data:
            self._end_output(descriptor)
            return False
        self._deliver(self._outputs[descriptor], data)
        return True

    def _deliver(self, stream: str, data: bytes) -> None:
        self._sink(stream, data)
        for client in list(self._clients):
            client.send(stream, data)
            if client.is_full and self._drop_slow:
                client.close()
        if any(client.is_full for client in self._clients):
            self._pause()

    def _end_output(self, descriptor: int) -> None:
        self.loop.forget(descriptor)
        del self._outputs[descriptor]
        if descriptor != self._input:
            os.close(descriptor)
        if not self._outputs:
            self.on_ended()

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            for descriptor in self._outputs:
                self.loop.forget(descriptor)

    def client_drained(self) -> None:
        if self._paused and not any(client.is_full for client in self._clients):
            self._paused = False
            for descriptor in list(self._outputs):
                self.loop.watch(descriptor, select.EPOLLIN, lambda events, which=descriptor: self._output_ready(which))  # type: ignore[misc]

    @property
    def is_open(self) -> bool:
        return bool(self._outputs)

    def drain(self) -> None:
        """Read everything that is in the pipes now."""
        for descriptor in list(self._outputs):
            while descriptor in self._outputs and self._read_output(descriptor):
                pass

    # -- input --------------------------------------------------------------------------------------------------------

    @property
    def stdin_full(self) -> bool:
        return len(self._input_pending) >= STDIN_BUFFER

    def feed_input(self, data: bytes) -> None:
        if self._input < 0:
            return
        self._input_pending += data
        self._flush_input()

    def _flush_input(self) -> None:
        try:
            while self._input_pending:
                written = os.write(self._input, self._input_pending)
                del self._input_pending[:written]
        except BlockingIOError:
            self._watch_input()
            return
        except OSError:
            self._input_pending.clear()  # the program has closed its input
            if not self.tty:
                self._close_input()
        self._watch_input()
        if self._input_ending and not self._input_pending:
            self._close_input()
        for client in self._clients:
            client.resume_input()

    def _watch_input(self) -> None:
        if self._input < 0:
            return
        if self._input in self._outputs:  # a pty: one descriptor for both ways
            events = (0 if self._paused else select.EPOLLIN) | (select.EPOLLOUT if self._input_pending else 0)
            self.loop.watch(self._input, events, self._pty_ready)
        elif self._input_pending:
            self.loop.watch(self._input, select.EPOLLOUT, lambda events: self._flush_input())
        else:
            self.loop.forget(self._input)

    def _pty_ready(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush_input()
        if self._input in self._outputs and events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            self._output_ready(self._input)

    def client_finished_input(self, client: Client) -> None:
        """A client has closed its half: the program sees the end when its input is for one client only."""
        if self._stdin_once and not self.tty:
            self._input_ending = True
            if not self._input_pending:
                self._close_input()

    def client_gone(self, client: Client) -> None:
        if client in self._clients:
            self._clients.remove(client)
        if client.stdin and self._stdin_once and not self.tty:
            self._input_ending = True
            if not self._input_pending:
                self._close_input()
        self.client_drained()

    def _close_input(self) -> None:
        if self._input >= 0 and not self.tty:
            self.loop.forget(self._input)
            os.close(self._input)
            self._input = -1

    def close(self) -> None:
        """The program has ended and everything has been delivered."""
        for client in list(self._clients):
            client.finish()
        self._close_input()
        for descriptor in list(self._outputs):
            self.loop.forget(descriptor)
            if descriptor != self._input:
                os.close(descriptor)
        self._outputs.clear()
        if self._input >= 0:
            self.loop.forget(self._input)
            os.close(self._input)
            self._input = -1
