"""SELinux as the kernel shows it: whether it is there, and the labels of files.

Sources: selinuxfs (security/selinux/selinuxfs.c); xattr(7), ``security.selinux``.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

_SELINUXFS = "/sys/fs/selinux"
_ATTRIBUTE = "security.selinux"


def is_enabled() -> bool:
    """Whether this kernel has SELinux and it is not switched off."""
    return os.path.exists(f"{_SELINUXFS}/enforce")


def is_valid(label: str) -> bool:
    """Whether the policy that is loaded knows a context."""
    try:
        descriptor = os.open(f"{_SELINUXFS}/context", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(descriptor, label.encode())
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def label_of(opened: int) -> str:
    """Of a file, by its descriptor; "" when it has none."""
    try:
        return os.getxattr(f"/proc/self/fd/{opened}", _ATTRIBUTE).decode(errors="replace").rstrip("\0")
    except OSError:
        return ""


def relabel(opened: int, label: str, path: str) -> None:
    """Give a file, or a directory with all below it, a label.  Links are labelled, never followed.

    opened: an O_PATH descriptor of it;  path: for errors
    Errors: OSError naming the path; a file system without labels is none.
    """
    _label(opened, label, lambda: path)
    if not _is_directory(opened):
        return
    # an explicit stack: programs make trees deeper than Python recurses
    trail = [path]
    stack = [_listed(opened)]
    try:
        while stack:
            directory, names = stack[-1]
            if not names:
                stack.pop()
                trail.pop()
                os.close(directory)
                continue
            name = names.pop()
            try:
                entry = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            except FileNotFoundError:
                continue  # whoever uses the directory has removed it
            try:
                trail.append(name)
                _label(entry, label, lambda: "/".join(trail))
                if _is_directory(entry):
                    stack.append(_listed(entry))
                else:
                    trail.pop()
            finally:
                os.close(entry)
    finally:
        for directory, _ in stack:
            os.close(directory)


def _is_directory(descriptor: int) -> bool:
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


def _listed(directory: int) -> tuple[int, list[str]]:
    """A directory opened for reading, and what is in it."""
    opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return opened, os.listdir(opened)
    except BaseException:
        os.close(opened)
        raise


def _label(descriptor: int, label: str, path: Callable[[], str]) -> None:
    try:
        # by the descriptor: the name may lead elsewhere by now
        os.setxattr(f"/proc/self/fd/{descriptor}", _ATTRIBUTE, label.encode() + b"\0")
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EROFS):
            raise OSError(error.errno, f"cannot label {path()} {label}: {(error.strerror or '').lower()}") from error
