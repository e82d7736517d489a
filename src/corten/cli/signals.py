"""Signals that reach this command, read like any other input."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Self

# not for a container: what cannot be caught, what is about this process' own children, connections and faults, the size
# of the window, which goes its own way, and what stops a job in the background that wants the terminal
_NOT_FORWARDED = frozenset(
    f"SIG{name}"
    for name in ("KILL", "STOP", "CHLD", "CLD", "PIPE", "URG", "WINCH", "SEGV", "BUS", "FPE", "ILL", "TTIN", "TTOU")
)


def forwarded() -> list[int]:
    """The signals that ``--sig-proxy`` passes on."""
    numbers = {
        int(number)
        for name, number in vars(signal).items()
        if name.startswith("SIG") and not name.startswith("SIG_") and name not in _NOT_FORWARDED
    }
    return sorted(number for number in numbers if 0 < number < signal.SIGRTMIN)


def name_of(number: int) -> str:
    """ "TERM", as the API takes it."""
    return signal.Signals(number).name.removeprefix("SIG")


class SignalWatch:
    """Catches signals while it is entered; ``fileno()`` is readable when one has come."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = tuple(numbers)
        self._before: dict[int, Any] = {}
        self._reading, self._writing = -1, -1
        self._wakeup_before = -1

    def __enter__(self) -> Self:
        self._reading, self._writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in self._numbers:
            self._before[number] = signal.signal(number, _ignored)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._reading)
        os.close(self._writing)

    def fileno(self) -> int:
        return self._reading

    def received(self) -> list[int]:
        """What has come since the last call, in order."""
        try:
            data = os.read(self._reading, 4096)
        except BlockingIOError:
            return []
        return [number for number in data if number in self._before]


def _ignored(_number: int, _frame: FrameType | None) -> None:
    """The wake-up descriptor tells; without a handler there is nothing to tell."""
