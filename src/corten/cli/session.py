"""An attached program: its streams, this terminal and the signals, in one loop.

```
 stdin ─▶ DetachFilter ─▶ connection ─▶ Demultiplexer ─▶ stdout, stderr
 signals ─▶ kill request           SIGWINCH ─▶ resize request
```
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

from corten.cli import terminal
from corten.cli.exit_codes import ExitStatus
from corten.cli.signals import SignalWatch, forwarded
from corten.client.streams import STDERR, Demultiplexer
from corten.errors import CortenError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from corten.client.response import Hijacked, Response

_READ_SIZE = 64 * 1024
_RESIZE_TRIES = 10


class Session:
    """One attached program.

    stdin:      pass this process' input on
    outputs:    whether any output comes; without, the session ends with the input or when ``ended`` has an answer
    tty:        output is one stream without frames, input is typed in raw mode
    on_signal:  gets each signal to forward; without it signals do what they always do
    on_resize:  gets (rows, columns); raises when the program cannot be resized yet
    ended:      an answer that comes when the program has ended
    """

    def __init__(
        self,
        connection: Hijacked,
        *,
        tty: bool,
        stdin: bool,
        outputs: bool = True,
        detach_keys: bytes,
        on_signal: Callable[[int], None] | None = None,
        on_resize: Callable[[int, int], None] | None = None,
        ended: Response | None = None,
    ) -> None:
        self._connection = connection
        self._stdin = stdin
        self._outputs = outputs
        self._on_signal = on_signal
        self._on_resize = on_resize
        self._ended = None if outputs else ended
        self._filter = terminal.DetachFilter(detach_keys) if tty and stdin else None
        self._demultiplexer = None if tty else Demultiplexer()
        self._unsent = b""
        self._input_over = not stdin
        self._detached = False
        self._connection_over = False
        self._resize_tries = 0
        self._resize_at: float | None = None

    def run(self, start: Callable[[], None] | None = None) -> bool:
        """Until the program's output is over; True when the detach keys ended it earlier.

        start: called when everything is ready for the program

        Errors: whatever ``start`` raises; BrokenPipeError when nobody reads this process' output.
        """
        numbers = forwarded() if self._on_signal else []
        if self._on_resize:
            numbers.append(signal.SIGWINCH)
        with contextlib.ExitStack() as stack:
            watch = stack.enter_context(SignalWatch(numbers))
            if start is not None:
                start()
            if self._filter is not None and os.isatty(0):
                if not self._on_signal:
                    stack.enter_context(_ending_cleanly())
                stack.enter_context(terminal.raw(0))
            if self._on_resize:
                self._resize_at = 0.0
            self._loop(watch)
        return self._detached

    def _loop(self, watch: SignalWatch) -> None:
        while not self._is_over():
            if self._connection.early:
                self._receive()
                continue
            poller = select.poll()
            poller.register(watch, select.POLLIN)
            poller.register(self._connection, select.POLLIN | (select.POLLOUT if self._unsent else 0))
            if not self._input_over and not self._unsent:
                poller.register(0, select.POLLIN)
            if self._ended is not None:
                poller.register(self._ended, select.POLLIN)
            ready = dict(poller.poll(self._resize()))
            if watch.fileno() in ready:
                self._handle(watch.received())
            # what has been typed goes first: the program may be waiting for it
            if 0 in ready:
                self._read_input()
            events = ready.get(self._connection.fileno(), 0)
            if events & select.POLLOUT:
                self._send(b"")
            if events & ~select.POLLOUT:
                self._receive()
            if self._ended is not None and self._ended.fileno() in ready:
                self._outputs = False
                self._connection_over = True

    def _is_over(self) -> bool:
        if self._connection_over or self._detached:
            return True
        return not self._outputs and self._stdin and self._input_over and not self._unsent

    def _receive(self) -> None:
        data = self._connection.receive()
        if not data:
            self._connection_over = True
        elif self._demultiplexer is None:
            terminal.write_all(1, data)
        else:
            for stream, payload in self._demultiplexer.feed(data):
                terminal.write_all(2 if stream == STDERR else 1, payload)

    def _read_input(self) -> None:
        try:
            data = os.read(0, _READ_SIZE)
        except BlockingIOError:
            return
        except OSError:  # a terminal that hung up
            data = b""
        if not data:
            self._input_over = True
            self._connection.end_input()
            return
        if self._filter is not None:
            data, self._detached = self._filter.feed(data)
        if data:
            self._send(data)

    def _send(self, data: bytes) -> None:
        self._unsent += data
        sent = self._connection.send_some(self._unsent)
        if sent < 0:  # the program does not read any more; its output goes on
            self._unsent = b""
            self._input_over = True
            return
        self._unsent = self._unsent[sent:]

    def _handle(self, numbers: list[int]) -> None:
        for number in numbers:
            if number == signal.SIGWINCH:
                self._resize_at, self._resize_tries = 0.0, 0
            elif self._on_signal:
                self._on_signal(number)

    def _resize(self) -> float | None:
        """Resize when it is due; milliseconds until the next try.

        A program that has just been started may not have its terminal yet.
        """
        if self._resize_at is None or self._on_resize is None:
            return None
        wait_s = self._resize_at - time.monotonic()
        if wait_s > 0:
            return wait_s * 1000
        self._resize_at = None
        rows, columns = terminal.size()
        if rows or columns:
            try:
                self._on_resize(rows, columns)
            except CortenError:
                self._resize_tries += 1
                if self._resize_tries <= _RESIZE_TRIES:
                    self._resize_at = time.monotonic() + self._resize_tries * 0.01
                    return self._resize_tries * 10
                terminal.write_all(2, b"failed to resize tty, using default size\r\n")
        return None


@contextlib.contextmanager
def _ending_cleanly() -> Iterator[None]:
    """SIGTERM and SIGHUP end the command by an exception, so that the terminal gets its mode back."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise ExitStatus(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
