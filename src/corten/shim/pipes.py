"""The standard streams that a program is given."""

from __future__ import annotations

import os


class Pipes:
    """Three pipes; nothing at all for a program with a terminal, whose pty comes from the runtime.

    theirs: descriptors for 0, 1, 2 of the program
    ours:   the other ends of 1, 2 and, unless its input is /dev/null, 0
    """

    def __init__(self, *, tty: bool, with_input: bool) -> None:
        self.theirs: tuple[int, int, int] | None = None
        self.ours: list[int] = []
        if tty:
            return
        if with_input:
            in_read, in_write = os.pipe2(os.O_CLOEXEC)
        else:
            in_read = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        self.theirs = (in_read, out_write, err_write)
        self.ours = [out_read, err_read] + ([in_write] if with_input else [])

    def close_theirs(self) -> None:
        for descriptor in self.theirs or ():
            os.close(descriptor)
        self.theirs = None
