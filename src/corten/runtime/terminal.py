"""The container's terminal: a pty of its own devpts, reached by descriptors only.  Source: pts(4), ioctl_tty(2)."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import termios
from typing import Any

from corten.errors import SystemFailure
from corten.linux import paths

_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441
_NULL_DEVICE = os.makedev(1, 3)


def open_pty(root: int) -> tuple[int, int]:
    """(master, slave) of the devpts at <root>/dev/pts.

    Errors: SystemFailure when something else is mounted there.
    """
    flags = os.O_RDWR | os.O_NOCTTY
    master = paths.openat2(
        root,
        "dev/pts/ptmx",
        flags,
        resolve=paths.RESOLVE_IN_ROOT | paths.RESOLVE_NO_SYMLINKS | paths.RESOLVE_NO_MAGICLINKS,
    )
    status = os.fstat(master)
    if paths.filesystem_type(master) != paths.DEVPTS_SUPER_MAGIC or status.st_rdev != os.makedev(5, 2):
        os.close(master)
        raise SystemFailure("/dev/pts of the container is not a devpts: no terminal can be made", step="terminal")
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    slave = fcntl.ioctl(master, _TIOCGPTPEER, flags | os.O_CLOEXEC)
    return master, slave


def set_size(master: int, height: int, width: int) -> None:
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", height & 0xFFFF, width & 0xFFFF, 0, 0))


def set_size_of(process: dict[str, Any], master: int) -> None:
    """The size that ``process.consoleSize`` asks for, if it does."""
    size = process.get("consoleSize")
    if size:
        set_size(master, size.get("height") or 0, size.get("width") or 0)


def take_over(slave: int) -> None:
    """Make the pty this session's controlling terminal and its standard streams."""
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for descriptor in (0, 1, 2):
        os.dup2(slave, descriptor, inheritable=True)


def give_to_namespace(descriptors: tuple[int, ...], root: int) -> None:
    """Make pipes and sockets the property of a user namespace's root, who can hand them on then.

    root: its id on the host, -1 for none
    """
    for descriptor in descriptors:
        status = os.fstat(descriptor)
        if root >= 0 and (stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode)):
            os.fchown(descriptor, root, -1)


def hand_over(uid: int) -> None:
    """Make standard streams that are no terminal the user's own, so that it can open /dev/stdout anew; as runc does."""
    for descriptor in (0, 1, 2):
        try:
            status = os.fstat(descriptor)
            if status.st_uid != uid and not (stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL_DEVICE):
                os.fchown(descriptor, uid, -1)
        except OSError:
            pass  # closed, read-only, or of an owner outside the user namespace: open as it is
