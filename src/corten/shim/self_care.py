"""What a shim does for itself: its name, its orphans, its size.

Called through function pointers that are ready before the fork: whatever a shim touches becomes memory of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

from corten.linux.process import PR_SET_CHILD_SUBREAPER

_libc = ctypes.CDLL(None)
_malloc_trim = getattr(_libc, "malloc_trim", None)  # glibc's own: musl gives memory back by itself
_prctl = _libc.prctl
_prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]


def trim() -> None:
    """Give freed memory back to the kernel (malloc_trim(3))."""
    if _malloc_trim is not None:
        _malloc_trim(0)


def write_proc(name: str, text: bytes) -> None:
    """Errors: OSError."""
    descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text)
    finally:
        os.close(descriptor)


def set_name(name: bytes) -> None:
    """The short name that ``ps -o comm`` shows; a fork inherits it."""
    write_proc("comm", name)


def adopt_orphans() -> None:
    """Become the parent of what the container's processes and helpers leave behind (PR_SET_CHILD_SUBREAPER)."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def shield_from_oom() -> None:
    """A container dies with its shim: be chosen late when memory runs out.  Shims inherit it from the spawner."""
    with contextlib.suppress(OSError):  # needs CAP_SYS_RESOURCE
        write_proc("oom_score_adj", b"-998")


def allow_oom_kill() -> None:
    """What the shim starts is not shielded, unless its spec says so."""
    with contextlib.suppress(OSError):
        write_proc("oom_score_adj", b"0")
