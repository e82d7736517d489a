"""The ends of a shim's children: its program, execs, helpers, and what lost its parent in the container."""

from __future__ import annotations

import _signal
import os
import select
from collections.abc import Callable

from corten.shim.loop import EpollLoop

# __WALL: also children that do not announce their end by SIGCHLD (waitpid(2))
_WALL = 0x40000000
SIGKILL: int = _signal.SIGKILL


class Children:
    """Collects them as they end; ``on_ended`` is called when something has been collected."""

    def __init__(self, loop: EpollLoop, on_ended: Callable[[], None]) -> None:
        self._codes: dict[int, int] = {}
        self._on_ended = on_ended
        reading, writing = self._wakeup = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        _signal.signal(_signal.SIGCHLD, lambda number, frame: None)
        _signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        loop.watch(reading, select.EPOLLIN, self._ready)

    def _ready(self, events: int) -> None:
        try:  # noqa: SIM105  # contextlib would be one more thing to touch
            os.read(self._wakeup[0], 512)
        except BlockingIOError:
            pass
        self.collect()
        self._on_ended()

    def collect(self) -> None:
        """Wait for all that have ended, without waiting."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | _WALL)
            except ChildProcessError:
                return
            if found is None:
                return
            # Docker's way to count: 128 + n for signal n
            self._codes[found.si_pid] = found.si_status if found.si_code == os.CLD_EXITED else 128 + found.si_status

    def has_ended(self, pid: int) -> bool:
        """Its number may be another process's by now."""
        return pid in self._codes

    def take(self, pid: int, default: int = -1) -> int:
        """Its exit code; ``default`` for one that has not ended."""
        return self._codes.pop(pid, default)

    def forget(self) -> None:
        """Nobody will ask for those that have been collected so far."""
        self._codes.clear()

    def close(self) -> None:
        """The loop does not watch any more."""
        _signal.set_wakeup_fd(-1)
        for descriptor in self._wakeup:
            os.close(descriptor)
