"""Signals: their names, as kill takes them, and sending one to a container's first process."""

from __future__ import annotations

import os
import signal

from corten.errors import InvalidParameter
from corten.linux import process as kernel
from corten.runtime.state import ContainerState, start_ticks


def signal_number(text: str) -> int:
    """KILL, SIGKILL, 9 or SIGRTMIN+3 -> number.  Errors: InvalidParameter."""
    name = text.upper().removeprefix("SIG")
    if name.isdigit() and 0 <= int(name) < signal.NSIG:
        return int(name)
    for base, sign, first in (("RTMIN+", 1, signal.SIGRTMIN), ("RTMAX-", -1, signal.SIGRTMAX)):
        offset = name.removeprefix(base)
        if name.startswith(base) and offset.isdigit() and int(offset) <= signal.SIGRTMAX - signal.SIGRTMIN:
            return first + sign * int(offset)
    try:
        return int(signal.Signals[f"SIG{name}"])
    except KeyError:
        raise InvalidParameter(f"unknown signal {text!r}") from None


def send(state: ContainerState, number: int) -> bool:
    """To the container's first process; False when it has gone."""
    try:
        pidfd = kernel.pidfd_open(state.pid)
    except ProcessLookupError:
        return False
    try:
        # only now, that the pid cannot be another's any more
        if start_ticks(state.pid) != state.start_ticks:
            return False
        kernel.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True
