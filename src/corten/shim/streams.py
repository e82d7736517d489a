"""The streams of one program: its pipes or its pty on one side, attached clients on the other.

A client that does not read is given ``CLIENT_BUFFER`` bytes beyond what its socket holds.  Then, as with Docker, the
program's output waits for it, since dropping would spoil what ``docker run … | tar`` receives; with a non-blocking log,
whose point is that nothing ever waits, such a client is dropped instead.  A client that has gone is never waited for.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from corten.shim.client import INPUT_BUFFER, Client

# a pipe holds 64 KiB; larger reads would only need larger buffers
READ_SIZE = 64 * 1024

_GONE = select.EPOLLHUP | select.EPOLLERR


class Loop(Protocol):
    """What the streams need of the shim's event loop."""

    def watch(self, descriptor: int, events: int, callback: Callable[[int], None]) -> None: ...
    def forget(self, descriptor: int) -> None: ...
    def busy(self) -> None: ...


class Streams:
    """Output from descriptors to clients and a sink; input from clients to a descriptor.

    sink:       called with (stream, data) for everything the program writes
    drop_slow:  a client that does not read is dropped, not waited for
    stdin_once: the program's input ends with the first client's
    """

    def __init__(
        self, loop: Loop, *, tty: bool, sink: Callable[[str, bytes], None] | None, drop_slow: bool, stdin_once: bool
    ) -> None:
        self.loop = loop
        self.tty = tty
        self._sink = sink
        self._drop_slow = drop_slow
        self._stdin_once = stdin_once
        self._outputs: dict[int, str] = {}
        self._input = -1
        self._input_pending: deque[bytes] = deque()
        self._input_held = 0
        self._input_ending = False
        self._clients: list[Client] = []
        self._paused = False
        self.on_clients_gone: Callable[[], None] = lambda: None
        self.on_outputs_ended: Callable[[], None] = lambda: None
        self.on_detached: Callable[[], None] = lambda: None

    # -- descriptors --------------------------------------------------------------------------------------------------

    def add_output(self, descriptor: int, stream: str) -> None:
        os.set_blocking(descriptor, False)
        self._outputs[descriptor] = stream
        self._watch(descriptor)

    def set_input(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._input = descriptor

    def connect(self, descriptors: list[int]) -> None:
        """Carry the ends of a program's pipes, output, error and perhaps input, or a pty's master; they are ours."""
        if self.tty:
            self.set_console(descriptors[0])
            return
        self.add_output(descriptors[0], "stdout")
        self.add_output(descriptors[1], "stderr")
        if len(descriptors) > 2:
            self.set_input(descriptors[2])

    def set_console(self, master: int) -> None:
        """A pty's master: output and input in one."""
        self.set_input(master)
        self.add_output(master, "stdout")

    @property
    def console(self) -> int:
        """The pty's master, -1 without one or after its end."""
        return self._input if self.tty else -1

    def _watch(self, descriptor: int) -> None:
        events = 0
        if descriptor in self._outputs and not self._paused:
            events |= select.EPOLLIN
        if descriptor == self._input and self._input_pending:
            events |= select.EPOLLOUT
        if events:
            self.loop.watch(descriptor, events, lambda ready: self._ready(descriptor, ready))
        else:
            self.loop.forget(descriptor)

    def _ready(self, descriptor: int, events: int) -> None:
        if descriptor == self._input and events & (select.EPOLLOUT | select.EPOLLERR):
            self._flush_input()
        if descriptor in self._outputs and events & (select.EPOLLIN | _GONE):
            self._read_output(descriptor)

    def _close_descriptor(self, descriptor: int) -> None:
        self.loop.forget(descriptor)
        self._outputs.pop(descriptor, None)
        if descriptor == self._input:
            self._input = -1
            self._input_pending.clear()
            self._input_held = 0
        os.close(descriptor)

    # -- output -------------------------------------------------------------------------------------------------------

    def _read_output(self, descriptor: int) -> bool:
        """One read; False when nothing is there or the stream has ended."""
        try:
            data = os.read(descriptor, READ_SIZE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""  # EIO: the last slave of a pty has been closed
        if not data:
            self._close_descriptor(descriptor)
            if not self._outputs:
                self.on_outputs_ended()
            return False
        self.loop.busy()
        self._deliver(self._outputs[descriptor], data)
        return True

    def _deliver(self, stream: str, data: bytes) -> None:
        if self._sink is not None:
            self._sink(stream, data)
        if not self._clients:
            return
        for client in list(self._clients):
            client.send(stream, data)
            if client.is_full and self._drop_slow:
                client.close()
        if not self._paused and any(client.is_full for client in self._clients):
            self._paused = True
            for descriptor in self._outputs:
                self._watch(descriptor)

    def client_drained(self) -> None:
        if self._paused and not any(client.is_full for client in self._clients):
            self._paused = False
            for descriptor in self._outputs:
                self._watch(descriptor)

    @property
    def has_outputs(self) -> bool:
        return bool(self._outputs)

    def take_present(self) -> None:
        """Read what is in the pipes now, once through each; also while a slow client holds the program up."""
        for descriptor in list(self._outputs):
            # a program that writes on and on must not keep us here
            for _ in range(16):
                if descriptor not in self._outputs or not self._read_output(descriptor):
                    break

    def take_all(self, seconds: float) -> None:
        """The program has ended: read to the end of its output, which comes at once unless someone else holds the pipe.

        seconds: how long to wait for such a one
        """
        deadline = time.monotonic() + seconds
        while self._outputs:
            for descriptor in list(self._outputs):
                while descriptor in self._outputs and self._read_output(descriptor):
                    if time.monotonic() > deadline:
                        return
            left = deadline - time.monotonic()
            if not self._outputs or left <= 0:
                return
            waiting = select.poll()
            for descriptor in self._outputs:
                waiting.register(descriptor, select.POLLIN)
            waiting.poll(left * 1000)

    # -- input --------------------------------------------------------------------------------------------------------

    @property
    def input_is_full(self) -> bool:
        return self._input_held >= INPUT_BUFFER

    def feed(self, data: bytes) -> None:
        """From a client to the program; nobody hears it when the program has no input, or has closed it."""
        if self._input < 0 or self._input_ending:
            return
        self._input_pending.append(data)
        self._input_held += len(data)
        self._flush_input()

    def _flush_input(self) -> None:
        was_full = self.input_is_full
        try:
            while self._input_pending:
                data = self._input_pending.popleft()
                try:
                    written = os.write(self._input, data)
                except BlockingIOError:
                    written = 0
                self._input_held -= written
                if written < len(data):
                    self._input_pending.appendleft(data[written:])
                    break
        except OSError:
            # EPIPE: the program has closed its input.  EIO: nobody has the pty open; its end is noticed by reading.
            self._input_pending.clear()
            self._input_held = 0
            if not self.tty:
                self._close_descriptor(self._input)
        if self._input >= 0:
            if self._input_ending and not self._input_pending:
                self._close_descriptor(self._input)
            else:
                self._watch(self._input)
        if was_full and not self.input_is_full:
            for client in self._clients:
                client.update()

    def _end_input(self) -> None:
        self._input_ending = True
        if self._input >= 0 and not self._input_pending:
            self._close_descriptor(self._input)

    # -- clients ------------------------------------------------------------------------------------------------------

    def attach(self, descriptor: int, wants: int, detach_keys: bytes) -> None:
        """Serve a client from now on; the socket is ours.

        wants:       of ``handover.WITH_STDIN`` …
        detach_keys: recognised for a terminal only, since any bytes may come through a pipe
        """
        self._clients.append(Client(self, descriptor, wants, detach_keys))

    def client_ended_input(self, client: Client) -> None:
        """A client has closed its half.  As with Docker the program's input ends too if it is for one client only;
        otherwise the client's session ends."""
        if self._stdin_once and not self.tty:
            self._end_input()
        else:
            client.end()

    def client_gone(self, client: Client) -> None:
        with contextlib.suppress(ValueError):
            self._clients.remove(client)
        if client.stdin and self._stdin_once and not self.tty:
            self._end_input()
        self.client_drained()
        if not self._clients:
            self.on_clients_gone()

    @property
    def has_clients(self) -> bool:
        return bool(self._clients)

    def end(self) -> None:
        """No more output will come: let go of the program's side; clients go when they have read everything."""
        for descriptor in {*self._outputs, self._input} - {-1}:
            self._close_descriptor(descriptor)
        for client in list(self._clients):
            client.end()

    def close(self) -> None:
        """Let go of everything at once."""
        for client in list(self._clients):
            client.close()
        self.end()
