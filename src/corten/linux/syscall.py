"""The way into the kernel: ``syscall(2)`` and libc through ctypes, errors as ``OSError`` that name call and path."""

from __future__ import annotations

import ctypes
import errno
import os

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

ARCHITECTURE = os.uname().machine

# numbers that differ; everything since 5.x is the same on every architecture (arch/x86/entry/syscalls/syscall_64.tbl)
_BY_ARCHITECTURE = {
    "x86_64": {
        "pivot_root": 155, "mount": 165, "umount2": 166, "sethostname": 170, "setdomainname": 171, "unshare": 272,
        "setns": 308, "syncfs": 306, "renameat2": 316, "seccomp": 317, "bpf": 321, "capget": 125, "capset": 126,
        "setfsuid": 122, "setfsgid": 123,
        "prctl": 157, "rt_sigaction": 13,
        "keyctl": 250, "fstatfs": 138, "ioprio_set": 251, "personality": 135, "clone": 56,
        "sched_setattr": 314, "set_mempolicy": 238, "sync_file_range": 277,
    },
    "aarch64": {
        "pivot_root": 41, "mount": 40, "umount2": 39, "sethostname": 161, "setdomainname": 162, "unshare": 97,
        "setns": 268, "syncfs": 267, "renameat2": 276, "seccomp": 277, "bpf": 280, "capget": 90, "capset": 91,
        "setfsuid": 151, "setfsgid": 152,
        "prctl": 167, "rt_sigaction": 134,
        "keyctl": 219, "fstatfs": 44, "ioprio_set": 30, "personality": 92, "clone": 220,
        "sched_setattr": 274, "set_mempolicy": 237, "sync_file_range": 84,
    },
}  # fmt: skip
_COMMON = {
    "pidfd_send_signal": 424, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
    "fspick": 433, "pidfd_open": 434, "clone3": 435, "close_range": 436, "openat2": 437, "pidfd_getfd": 438,
    "mount_setattr": 442, "quotactl_fd": 443, "landlock_create_ruleset": 444,
    "landlock_add_rule": 445, "landlock_restrict_self": 446,
}  # fmt: skip
NUMBERS: dict[str, int] = {**_COMMON, **_BY_ARCHITECTURE.get(ARCHITECTURE, _BY_ARCHITECTURE["x86_64"])}

_long = ctypes.c_long


def _as_c(value: object) -> object:
    """ctypes passes bytes and None as pointers by itself, but would cut a number to an int."""
    if isinstance(value, int):
        return _long(value)
    if isinstance(value, ctypes.Structure):
        return ctypes.byref(value)
    return value


def call(name: str, *arguments: object, path: str | bytes | None = None) -> int:
    """One system call; its result, which is never negative.

    Errors: OSError(errno, "name: text", path); ENOSYS when the kernel lacks the call.
    """
    number = NUMBERS[name]
    while True:
        result = _syscall(_long(number), *map(_as_c, arguments))
        if result >= 0:
            return int(result)
        code = ctypes.get_errno()
        if code == errno.EINTR and name in _RESTARTABLE:
            continue
        text = f"{name}: {os.strerror(code).lower()}"
        if path is None:
            raise OSError(code, text)
        raise OSError(code, text, os.fsdecode(path))


_RESTARTABLE = frozenset({"openat2", "syncfs", "fstatfs"})


def encode(path: str | bytes) -> bytes:
    """A path for the kernel.  Errors: ValueError for an embedded NUL."""
    raw = os.fsencode(path)
    if b"\0" in raw:
        raise ValueError(f"embedded NUL byte in path {path!r}")
    return raw
