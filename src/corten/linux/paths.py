"""Paths below a directory that someone hostile may control: everything is resolved by the kernel inside that root.

``openat2(2)`` with RESOLVE_IN_ROOT: absolute links and ``..`` stay inside, magic links are refused, there is no moment
between check and use.  Needs Linux 5.6.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat

from corten.linux.syscall import call, encode

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _Statfs(ctypes.Structure):
    _fields_ = (("f_type", ctypes.c_long), ("rest", ctypes.c_byte * 112))


PROC_SUPER_MAGIC = 0x9FA0
SYSFS_MAGIC = 0x62656572
DEVPTS_SUPER_MAGIC = 0x1CD1
CGROUP_SUPER_MAGIC = 0x27E0EB
CGROUP2_SUPER_MAGIC = 0x63677270
# file systems without content of their own: the kernel makes up what is read.  Source: linux/magic.h
KERNEL_FILESYSTEMS = frozenset((
    PROC_SUPER_MAGIC, SYSFS_MAGIC, DEVPTS_SUPER_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC,
    0x19800202,  # mqueue
    0x42494E4D,  # binfmt_misc
    0x62656570,  # configfs
    0x64626720,  # debugfs
    0x6165676C,  # pstore
    0x65735543,  # fusectl
    0x73636673,  # securityfs
    0x74726163,  # tracefs
    0xCAFE4A11,  # bpf
    0xDE5E81E4,  # efivarfs
    0xF97CFF8C,  # selinuxfs
))  # fmt: skip


def openat2(directory: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """A close-on-exec descriptor.  Errors: OSError as openat2(2)."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    for attempt in range(128):
        try:
            return call("openat2", directory, encode(path), how, ctypes.sizeof(how), path=path)
        except OSError as error:
            # EAGAIN: a rename raced with the resolution of ".."; the kernel asks to try again
            if error.errno != errno.EAGAIN or attempt == 127:
                raise
    raise AssertionError


def open_in_root(root: int, path: str | bytes, flags: int, mode: int = 0) -> int:
    """Open ``path`` as if ``root`` were "/"."""
    return openat2(root, path or ".", flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def mkdirs_in_root(root: int, path: str, mode: int = 0o755, uid: int = 0, gid: int = 0) -> int:
    """Make ``path`` and its parents below ``root``; an O_PATH descriptor of the last one.

    Links on the way are followed inside the root; a dangling one is an error (ENOENT), never created through.
    """
    try:
        # the common case in one call
        return open_in_root(root, path or "/", _DIRECTORY)
    except FileNotFoundError:
        pass
    parts = [part for part in path.split("/") if part not in ("", ".")]
    walked = ""
    current = open_in_root(root, "/", _DIRECTORY)
    try:
        for part in parts:
            walked = f"{walked}/{part}"
            try:
                following = open_in_root(root, walked, _DIRECTORY)
            except FileNotFoundError:
                if part == "..":
                    raise
                _make_directory(current, part, mode, uid, gid)
                following = open_in_root(root, walked, _DIRECTORY)
            os.close(current)
            current = following
    except BaseException:
        os.close(current)
        raise
    return current


def _make_directory(directory: int, name: str, mode: int, uid: int, gid: int) -> None:
    """Mode and owner are set through a descriptor: a path through /proc may be the container's own by now."""
    try:
        os.mkdir(name, mode, dir_fd=directory)
    except FileExistsError:
        return
    made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        # mkdir's mode is cut by the umask: say it again
        os.fchmod(made, mode)
        if uid or gid:
            os.fchown(made, uid, gid)
    finally:
        os.close(made)


def clean(path: str) -> str:
    """An absolute path without ".", ".." and doubled slashes (normpath keeps two at the front, as POSIX has it)."""
    return os.path.normpath("/" + path.lstrip("/"))


def split(path: str) -> tuple[str, str]:
    """(parent, last name) of a path inside a root; the name is never "." or ".."."""
    parent, name = os.path.split(clean(path))
    return parent, name


def create_file_in_root(root: int, path: str, mode: int = 0o644) -> int:
    """Make an empty file (and its parents) unless something is there; an O_PATH descriptor of what is there."""
    parent, name = split(path)
    directory = mkdirs_in_root(root, parent)
    try:
        with contextlib.suppress(FileExistsError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(name, flags, mode, dir_fd=directory))
    finally:
        os.close(directory)
    return open_in_root(root, path, os.O_PATH)


def filesystem_type(descriptor: int) -> int:
    """``f_type`` of fstatfs(2), also for O_PATH descriptors."""
    buffer = _Statfs()
    call("fstatfs", descriptor, buffer)
    return int(buffer.f_type) & 0xFFFFFFFF


def sync_filesystem(descriptor: int) -> None:
    call("syncfs", descriptor)


def begin_writing(descriptor: int, offset: int, length: int) -> None:
    """Have the disk begin with a part of a file, so that there is less to wait for later (sync_file_range(2))."""
    with contextlib.suppress(OSError):  # not every file system can; then it begins later
        call("sync_file_range", descriptor, offset, length, 2)  # SYNC_FILE_RANGE_WRITE


def rename_exchange(directory: int, first: str, second: str) -> None:
    """Swap two names in one step (renameat2(2), RENAME_EXCHANGE)."""
    call("renameat2", directory, encode(first), directory, encode(second), 2, path=first)


def remove_tree(directory: int, name: str) -> None:
    """Remove a file or a whole tree below ``directory`` without following a link or crossing a mount.

    Nothing there is no error.
    Errors: OSError(EBUSY) when something is mounted inside.
    """
    try:
        os.unlink(name, dir_fd=directory)
        return
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError) as error:
        if error.errno == errno.EPERM and not stat.S_ISDIR(
            os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
        ):
            raise
    child = openat2(
        directory,
        name,
        os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW,
        resolve=RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH,
    )
    try:
        _empty(child)
    finally:
        os.close(child)
    os.rmdir(name, dir_fd=directory)


def _empty(top: int) -> None:
    """Remove all entries below a directory; an explicit stack, since trees may be deeper than Python recurses."""
    names = [_remove_files(top)]
    owners = [top]
    trail: list[str] = []
    while owners:
        if names[-1]:
            name = names[-1].pop()
            child = openat2(
                owners[-1],
                name,
                os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW,
                resolve=RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH,
            )
            owners.append(child)
            names.append(_remove_files(child))
            trail.append(name)
            continue
        done = owners.pop()
        names.pop()
        if not owners:
            return
        os.close(done)
        os.rmdir(trail.pop(), dir_fd=owners[-1])


def _remove_files(directory: int) -> list[str]:
    """Remove what is no directory; the names of the directories."""
    subdirectories = []
    with os.scandir(directory) as entries:
        listed = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in listed:
        if is_directory:
            subdirectories.append(name)
        else:
            os.unlink(name, dir_fd=directory)
    return subdirectories
