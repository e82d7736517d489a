"""The standard streams that a program is given."""

from __future__ import annotations

import os

from corten.shim.streams import Streams


class Pipes:
    """Three pipes; nothing at all for a program with a terminal, whose pty comes from the runtime.

    theirs: descriptors for 0, 1, 2 of the program
    """

    def __init__(self, *, tty: bool, with_input: bool) -> None:
        self.theirs: tuple[int, int, int] | None = None
        self._with_input = with_input
        self._ours: list[int] = []
        if tty:
            return
        if with_input:
            in_read, in_write = os.pipe2(os.O_CLOEXEC)
        else:
            in_read, in_write = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), -1
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        self.theirs = (in_read, out_write, err_write)
        self._ours = [in_write, out_read, err_read]

    def connect(self, streams: Streams) -> None:
        """Hand our ends over to the streams, which close them."""
        if self.theirs is None:
            return
        (in_write, out_read, err_read), self._ours = self._ours, []
        streams.add_output(out_read, "stdout")
        streams.add_output(err_read, "stderr")
        if in_write >= 0:
            streams.set_input(in_write)

    def close_theirs(self) -> None:
        for descriptor in self.theirs or ():
            os.close(descriptor)
        self.theirs = None
