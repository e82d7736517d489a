"""A program in the foreground: its terminal, our signals, its exit code."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import termios
import tty
from collections.abc import Iterator
from types import FrameType
from typing import Any

from corten.linux import process as kernel

_WALL = 0x40000000  # also children that do not signal with SIGCHLD, waitpid(2)
_NOT_FORWARDED = {signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGURG, signal.SIGWINCH}
_NOT_FORWARDED |= {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTTIN, signal.SIGTTOU}


class Foreground:
    """Our signals are the program's: entered before it runs, so that none which follows its first words is lost."""

    def __init__(self) -> None:
        self._pidfd = -1
        self._early: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Foreground:
        self._before = {
            number: signal.signal(number, self._forward) for number in signal.Signals if number not in _NOT_FORWARDED
        }
        return self

    def __exit__(self, *failure: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        if self._pidfd < 0:
            self._early.append(number)
            return
        with contextlib.suppress(ProcessLookupError):
            kernel.pidfd_send_signal(self._pidfd, number)

    def follow(self, pid: int, pidfd: int, console: int) -> int:
        """Wait for the program and, with a terminal, carry its input and output; its exit code."""
        self._pidfd = pidfd
        for number in self._early:
            self._forward(number, None)
        if console >= 0:
            with _raw_terminal(console):
                _carry(console, pidfd)
        _, status = os.waitpid(pid, _WALL)
        code = os.waitstatus_to_exitcode(status)
        return 128 - code if code < 0 else code


@contextlib.contextmanager
def _raw_terminal(console: int) -> Iterator[None]:
    """Our own terminal hands every key through, and tells its size; without one nothing happens."""
    if not os.isatty(0):
        yield
        return

    def resize(number: int = 0, frame: FrameType | None = None) -> None:
        with contextlib.suppress(OSError):
            fcntl.ioctl(
                console, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
            )

    mode = termios.tcgetattr(0)
    handler = signal.signal(signal.SIGWINCH, resize)
    try:
        resize()
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, mode)
        signal.signal(signal.SIGWINCH, handler)


def _carry(console: int, pidfd: int) -> None:
    """Until the program has ended and all that it wrote is out."""
    sources = [console, pidfd, 0]
    while True:
        readable, _, _ = select.select(sources, [], [])
        if console in readable:
            try:
                data = os.read(console, 65536)
            except OSError:
                return  # EIO: nobody has the terminal any more
            _write_all(1, data)
        elif pidfd in readable:
            return
        if 0 in readable:
            data = os.read(0, 65536)
            if data:
                _write_all(console, data)
            else:
                sources.remove(0)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
