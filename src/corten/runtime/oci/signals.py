"""Names of signals, as kill takes them."""

from __future__ import annotations

import signal

from corten.errors import InvalidParameter


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
