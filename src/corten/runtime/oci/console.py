"""A program in the foreground: its terminal, our signals, its exit code."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import termios
import tty
from collections.abc import Iterator
from types import FrameType

from corten.linux import process as kernel

_WALL = 0x40000000  # also children that do not signal with SIGCHLD, waitpid(2)
_NOT_FORWARDED = {signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGURG, signal.SIGWINCH}
_NOT_FORWARDED |= {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTTIN, signal.SIGTTOU}


def send(path: str, console: int) -> None:
    """The pty's master to whoever listens at a unix socket.  Errors: OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [console]))]
        connection.sendmsg([b"/dev/ptmx"], ancillary)


def follow(pid: int, pidfd: int, console: int) -> int:
    """Wait for a program, hand it our signals and, with a terminal, carry its input and output; its exit code."""

    def forward(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            kernel.pidfd_send_signal(pidfd, number)

    before = {number: signal.signal(number, forward) for number in signal.Signals if number not in _NOT_FORWARDED}
    try:
        if console >= 0:
            with _raw_terminal(console):
                _carry(console, pidfd)
        _, status = os.waitpid(pid, _WALL)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
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
