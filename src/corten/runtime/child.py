"""What a forked child does to itself before it enters a container, and before it becomes the program.

Sources: CVE-2019-14271 (imports), CVE-2024-21626 (descriptors); close_range(2), signal(7).
"""

from __future__ import annotations

import _signal
import contextlib
import os
import signal
import sys

from corten.errors import InvalidParameter
from corten.linux import process as kernel


def begin_session() -> None:
    """Out of everybody's reach, and without what a program would inherit of the interpreter's."""
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    reset_signals()
    os.setsid()
    os.umask(0)


def reset_signals() -> None:
    """Default dispositions and an empty mask: the interpreter ignores some, and ignored ones survive execve."""
    # the bare module: the other one makes an enum of every answer
    for number in range(1, signal.NSIG):
        if _signal.getsignal(number) not in (_signal.SIG_DFL, None):
            with contextlib.suppress(OSError, ValueError):
                _signal.signal(number, _signal.SIG_DFL)
    kernel.default_library_signals()
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def freeze_imports() -> None:
    """From here on an import fails instead of running what the container put on the path."""
    sys.path[:] = []
    sys.meta_path[:] = []
    sys.path_hooks[:] = []


def check_preserved(count: int) -> None:
    """Descriptors from 3 on that the program is to inherit: the caller's own, and not what happens to get the number.

    Errors: InvalidParameter for one that is not open.
    """
    for descriptor in range(3, 3 + count):
        try:
            os.fstat(descriptor)
        except OSError:
            raise InvalidParameter(f"descriptor {descriptor} cannot be preserved: it is not open") from None


def close_others(first: int, needed: tuple[int, ...]) -> None:
    """Close all descriptors from ``first`` on but those."""
    for descriptor in sorted(needed):
        if descriptor >= first:
            if descriptor > first:
                kernel.close_range(first, descriptor - 1)
            first = descriptor + 1
    kernel.close_range(first)
