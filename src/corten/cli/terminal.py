"""The terminal of whoever typed the command: its size, raw mode, and the keys that detach."""

from __future__ import annotations

import contextlib
import os
import termios
import tty
from collections.abc import Iterator


def size(fd: int = 1) -> tuple[int, int]:
    """(rows, columns); (0, 0) when ``fd`` is no terminal."""
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        return (0, 0)
    return (rows, columns)


@contextlib.contextmanager
def raw(fd: int) -> Iterator[None]:
    """Every key goes through as it is; the earlier mode comes back however the block ends."""
    before = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSADRAIN)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):  # a terminal that hung up has no mode any more
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


class DetachFilter:
    """Takes the detach keys out of what is typed.

    A beginning of the sequence is held back until it is clear what it is.
    """

    __slots__ = ("_held", "_keys")

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, typed: bytes) -> tuple[bytes, bool]:
        """(what goes to the program, whether the sequence is complete); what was typed after it is dropped."""
        data = self._held + typed
        position = data.find(self._keys)
        if position >= 0:
            self._held = b""
            return data[:position], True
        length = min(len(data), len(self._keys) - 1)
        while length and not self._keys.startswith(data[len(data) - length :]):
            length -= 1
        self._held = data[len(data) - length :]
        return data[: len(data) - length], False


def write_all(fd: int, data: bytes) -> None:
    """Write everything, also when somebody has made the descriptor non-blocking.

    Errors: BrokenPipeError.
    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            import select

            poller = select.poll()
            poller.register(fd, select.POLLOUT)
            poller.poll()
