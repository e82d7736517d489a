"""Open files: the daemon holds some for every container; containers have the limit that the daemon was started with."""

from __future__ import annotations

import contextlib
import resource

_given: tuple[int, int] | None = None


def raise_limit() -> None:
    """Let this process have as many files open as it may: a login shell gives 1024, which is some 300 containers."""
    global _given
    _given = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (_given[1], _given[1]))


def give_back(pid: int) -> None:
    """Give a process that was started since, and what it starts, the limit that was in force before."""
    if _given is not None:
        with contextlib.suppress(OSError, ValueError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, _given)
