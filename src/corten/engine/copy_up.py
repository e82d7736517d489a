"""Filling an empty volume with what the image has at its mount point.

Both sides are directory descriptors and every step below them refuses links (openat2(2), RESOLVE_BENEATH and
RESOLVE_NO_SYMLINKS): whatever another container does to the volume meanwhile, nothing outside of it is touched.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from corten.linux import paths

_BELOW = paths.RESOLVE_BENEATH | paths.RESOLVE_NO_SYMLINKS | paths.RESOLVE_NO_MAGICLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OVERLAY_ATTRIBUTES = ("trusted.overlay.", "user.overlay.")
_PIECE = 1 << 26


def copy_up(source: int, target: int) -> bool:
    """Copy all below one directory to another that is empty, itself included; False when it is not empty.

    Owners, modes, times, links, devices, extended attributes and holes stay as they are.
    Errors: OSError; the target is empty again then.
    """
    if os.listdir(target):
        return False
    try:
        _Copy(source, target).run()
    except BaseException:
        empty(target)
        raise
    return True


def empty(directory: int) -> None:
    """Remove everything below a directory."""
    for name in os.listdir(directory):
        paths.remove_tree(directory, name)


@contextlib.contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _below(top: int, path: str) -> int:
    return paths.openat2(top, path or ".", _DIRECTORY, resolve=_BELOW)


def _itself(directory: int, name: str) -> int:
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)


class _Copy:
    """One copy, directory by directory; at most four descriptors are open at a time, however deep the tree."""

    def __init__(self, source: int, target: int) -> None:
        self._source = source
        self._target = target
        self._pending = [""]
        self._linked: dict[tuple[int, int], tuple[str, str]] = {}  # inode -> (directory, name) of its first copy

    def run(self) -> None:
        while self._pending:
            path = self._pending.pop()
            with _opened(_below(self._source, path)) as source, _opened(_below(self._target, path)) as target:
                for name in os.listdir(source):
                    self._entry(source, target, path, name)
                # complete now: what follows happens inside its subdirectories
                _copy_attributes(source, target, os.fstat(source))

    def _entry(self, source: int, target: int, path: str, name: str) -> None:
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=target)
            self._pending.append(f"{path}/{name}" if path else name)
            return
        if status.st_nlink > 1 and self._link(target, path, name, status):
            return
        if kind == stat.S_IFREG:
            _copy_file(source, target, name)
            return
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        else:
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
        with _opened(_itself(source, name)) as original, _opened(_itself(target, name)) as copy:
            if stat.S_IFMT(os.stat(copy).st_mode) != kind:
                raise OSError(errno.EBUSY, "the volume is changed while it is filled", name)
            _copy_attributes(original, copy, status)

    def _link(self, target: int, path: str, name: str, status: os.stat_result) -> bool:
        """Make another name of a file that was copied before; False when it was not."""
        key = (status.st_dev, status.st_ino)
        first = self._linked.setdefault(key, (path, name))
        if first == (path, name):
            return False
        with _opened(_below(self._target, first[0])) as directory:
            os.link(first[1], name, src_dir_fd=directory, dst_dir_fd=target, follow_symlinks=False)
        return True


def _copy_file(source: int, target: int, name: str) -> None:
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    with (
        _opened(os.open(name, flags | os.O_RDONLY | os.O_NONBLOCK, dir_fd=source)) as reading,
        _opened(os.open(name, flags | os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=target)) as writing,
    ):
        status = os.fstat(reading)
        os.ftruncate(writing, status.st_size)
        for start, end in _data(reading, status.st_size):
            _copy_range(reading, writing, start, end)
        _copy_attributes(reading, writing, status)


def _data(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that are no holes (lseek(2), SEEK_DATA)."""
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, position


def _copy_range(reading: int, writing: int, start: int, end: int) -> None:
    os.lseek(writing, start, os.SEEK_SET)
    while start < end:
        count = os.sendfile(writing, reading, start, min(end - start, _PIECE))
        if not count:
            return  # the file became shorter meanwhile
        start += count


def _copy_attributes(source: int, target: int, status: os.stat_result) -> None:
    """Owner first: a change of owner takes away set-id bits and capabilities.

    The descriptors may be O_PATH ones, also of links: /proc/self/fd/<n> is the file itself, whatever its kind.
    """
    from_path, to_path = f"/proc/self/fd/{source}", f"/proc/self/fd/{target}"
    os.chown(to_path, status.st_uid, status.st_gid)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(to_path, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(from_path):
        if name.startswith(_OVERLAY_ATTRIBUTES):
            continue
        try:
            os.setxattr(to_path, name, os.getxattr(from_path, name))
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENODATA):
                raise
    os.utime(to_path, ns=(status.st_atime_ns, status.st_mtime_ns))
