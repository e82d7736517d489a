"""Mounts: the classic calls and the descriptor-based ones.

Sources: mount(2), umount(2), pivot_root(2), open_tree(2), move_mount(2), mount_setattr(2), fsopen(2), fsconfig(2),
fsmount(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator

from corten.linux.syscall import call, encode

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_SILENT = 32768
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_I_VERSION = 1 << 23
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25

MNT_FORCE = 1
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100
AT_NO_AUTOMOUNT = 0x800

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC

MOVE_MOUNT_F_SYMLINKS = 0x1
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40

FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6
FSCONFIG_CMD_RECONFIGURE = 7

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_RELATIME = 0x0
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000


class MountAttr(ctypes.Structure):
    """``struct mount_attr`` of mount_setattr(2)."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    call(
        "mount",
        encode(source),
        encode(target),
        encode(kind) if kind else None,
        flags,
        encode(data) if data else None,
        path=target,
    )


def umount2(target: str, flags: int = 0) -> None:
    call("umount2", encode(target), flags, path=target)


def pivot_root(new_root: str, put_old: str) -> None:
    call("pivot_root", encode(new_root), encode(put_old), path=new_root)


def open_tree(directory: int, path: str, flags: int) -> int:
    """A descriptor of the mount at ``path``; with OPEN_TREE_CLONE of a detached copy."""
    return call("open_tree", directory, encode(path), flags | OPEN_TREE_CLOEXEC, path=path)


def clone_tree(path: str, *, recursive: bool = False, directory: int = AT_FDCWD, follow: bool = True) -> int:
    """A detached bind mount of ``path``."""
    flags = OPEN_TREE_CLONE | (AT_RECURSIVE if recursive else 0) | (0 if follow else AT_SYMLINK_NOFOLLOW)
    return open_tree(directory, path, flags | (AT_EMPTY_PATH if not path else 0))


def move_mount(mount_fd: int, target_fd: int, target: str = "") -> None:
    """Attach a detached mount: onto ``target_fd`` itself, or ``target`` seen from it."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if target else MOVE_MOUNT_T_EMPTY_PATH)
    call("move_mount", mount_fd, b"", target_fd, encode(target), flags, path=target or f"descriptor {target_fd}")


def attach(mount_fd: int, directory: str) -> None:
    """Attach a detached mount onto a directory."""
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        move_mount(mount_fd, place)
    finally:
        os.close(place)


def mount_setattr(
    mount_fd: int, *, set_: int = 0, clear: int = 0, propagation: int = 0, userns_fd: int = 0, recursive: bool = False
) -> None:
    """Change the attributes of the mount that the descriptor stands for."""
    attributes = MountAttr(set_, clear, propagation, userns_fd)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    call("mount_setattr", mount_fd, b"", flags, attributes, ctypes.sizeof(attributes))


def map_ids(mount_fd: int, namespace: int, path: str, *, recursive: bool = False) -> None:
    """Have a detached mount show its files to others as they are in a user namespace.

    path: for the message
    Errors: OSError; which says so when it is the file system that cannot.
    """
    try:
        mount_setattr(mount_fd, set_=MOUNT_ATTR_IDMAP, userns_fd=namespace, recursive=recursive)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise OSError(errno.EINVAL, f"the file system of {path} does not support id-mapped mounts") from error


def bind_mapped(directory: str, namespace: int) -> None:
    """Cover a directory with itself, its files as they are in a user namespace.  Errors: OSError."""
    copy = clone_tree(directory)
    try:
        map_ids(copy, namespace, directory)
        attach(copy, directory)
    finally:
        os.close(copy)


@contextlib.contextmanager
def hidden_place(what: str) -> Iterator[str]:
    """A directory to mount something on for a moment, which no bind mount of what is above it takes along.

    what: a word for its name
    """
    cover = f"/tmp/.corten-{what}-{os.getpid()}-{os.urandom(4).hex()}"
    os.mkdir(cover, 0o700)
    try:
        mount("corten", cover, "tmpfs", MS_NOSUID | MS_NODEV, "size=4k,mode=700")
        try:
            # only now: below a mount that is shared none can be attached that is not
            mount("", cover, "", MS_UNBINDABLE)
            os.mkdir(f"{cover}/place", 0o700)
            yield f"{cover}/place"
        finally:
            umount2(cover, MNT_DETACH)
    finally:
        os.rmdir(cover)


def fsopen(kind: str) -> int:
    return call("fsopen", encode(kind), FSOPEN_CLOEXEC, path=kind)


def fsconfig_flag(context: int, key: str) -> None:
    call("fsconfig", context, FSCONFIG_SET_FLAG, encode(key), None, 0, path=key)


def fsconfig_string(context: int, key: str, value: str) -> None:
    call("fsconfig", context, FSCONFIG_SET_STRING, encode(key), encode(value), 0, path=f"{key}={value}")


def fsconfig_create(context: int) -> None:
    call("fsconfig", context, FSCONFIG_CMD_CREATE, None, None, 0)


def fsmount(context: int, attributes: int = 0) -> int:
    """A detached mount of a configured file system."""
    return call("fsmount", context, FSMOUNT_CLOEXEC, attributes)


def new_filesystem(kind: str, source: str, options: list[str], attributes: int = 0) -> int:
    """A detached mount of a new file system.

    options:    "key=value" or "key", as after mount -o
    attributes: MOUNT_ATTR_*
    Errors:     OSError; the kernel's own message where it gives one
    """
    context = fsopen(kind)
    try:
        try:
            if source:
                fsconfig_string(context, "source", source)
            for option in options:
                key, equals, value = option.partition("=")
                if equals:
                    fsconfig_string(context, key, value)
                else:
                    fsconfig_flag(context, key)
            fsconfig_create(context)
            return fsmount(context, attributes)
        except OSError as error:
            message = _context_message(context)
            if message:
                raise OSError(error.errno, f"{kind}: {message}") from error
            raise
    finally:
        os.close(context)


def _context_message(context: int) -> str:
    """What the kernel says about the last failure of a file system context (fsopen(2))."""
    try:
        return os.read(context, 4096).decode(errors="replace").partition(" ")[2].strip()
    except OSError:
        return ""
