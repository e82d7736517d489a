"""SELinux as the kernel shows it: whether it is there, and the labels of files.

Sources: selinuxfs (security/selinux/selinuxfs.c); xattr(7), ``security.selinux``.
"""

from __future__ import annotations

import errno
import os
import stat

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
    _label(opened, label, path)
    if _is_directory(opened):
        _label_below(opened, label, path)


def _is_directory(descriptor: int) -> bool:
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


def _label_below(directory: int, label: str, path: str) -> None:
    opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        for name in os.listdir(opened):
            try:
                entry = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=opened)
            except FileNotFoundError:
                continue  # whoever uses the directory has removed it
            try:
                _label(entry, label, f"{path}/{name}")
                if _is_directory(entry):
                    _label_below(entry, label, f"{path}/{name}")
            finally:
                os.close(entry)
    finally:
        os.close(opened)


def _label(descriptor: int, label: str, path: str) -> None:
    try:
        # by the descriptor: the name may lead elsewhere by now
        os.setxattr(f"/proc/self/fd/{descriptor}", _ATTRIBUTE, label.encode() + b"\0")
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EROFS):
            raise OSError(error.errno, f"cannot label {path} {label}: {(error.strerror or '').lower()}") from error
