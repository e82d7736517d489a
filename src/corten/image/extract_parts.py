"""Small parts of unpacking: writing with holes, times that file systems take, what is set last, what errors mean."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from corten.errors import CortenError, InvalidParameter, SystemFailure
from corten.image.tarheader import shown
from corten.linux import user_namespace

_HOLE = 1 << 16  # a run of zeros this long becomes a hole
_ZEROS = bytes(_HOLE)
_TIME_LIMIT = 1 << 34  # seconds; beyond what ext4 stores


def umask() -> int:
    """This process's file mode creation mask, read without setting it."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o777


def bounded_time(time_ns: int) -> int:
    """A time that every file system takes; the epoch for absurd ones, as Docker."""
    return time_ns if -(1 << 31) <= time_ns // 1_000_000_000 < _TIME_LIMIT else 0


def write_all(descriptor: int, data: memoryview | bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_with_holes(descriptor: int, view: memoryview) -> bool:
    """Write at the present offset, skipping runs of zeros; whether it ended with one."""
    start = position = 0
    size = len(view)
    while position + _HOLE <= size:
        # most blocks are told apart from zeros by three bytes
        end = position + _HOLE
        if view[position] or view[end - 1] or view[position + _HOLE // 2] or bytes(view[position:end]) != _ZEROS:
            position = end
            continue
        if start < position:
            write_all(descriptor, view[start:position])
        os.lseek(descriptor, _HOLE, os.SEEK_CUR)
        start = position = end
    if start < size:
        write_all(descriptor, view[start:])
        return False
    return True


class Later:
    """Directories' times and default ACLs, set when their children are there; compressed, for archives of millions."""

    def __init__(self) -> None:
        self._packed: list[bytes] = []
        self._open: list[bytes] = []
        self._size = 0

    def add(self, path: bytes, mtime_ns: int, acl: bytes) -> None:
        record = b"%d %d %d %s%s" % (len(path), mtime_ns, len(acl), path, acl)
        self._open.append(record)
        self._size += len(record)
        if self._size > 1 << 18:
            self._pack()

    def _pack(self) -> None:
        from isal import isal_zlib

        self._packed.append(isal_zlib.compress(b"".join(self._open), 1))
        self._open.clear()
        self._size = 0

    def __iter__(self) -> Iterator[tuple[bytes, int, bytes]]:
        from isal import isal_zlib

        for packed in [*self._packed, None]:
            text = b"".join(self._open) if packed is None else isal_zlib.decompress(packed)
            position = 0
            while position < len(text):
                first = text.index(b" ", position)
                second = text.index(b" ", first + 1)
                start = text.index(b" ", second + 1) + 1
                length = int(text[position:first])
                end = start + length + int(text[second + 1 : start - 1])
                yield text[start : start + length], int(text[first + 1 : second]), text[start + length : end]
                position = end


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_MACHINE = frozenset({errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def entry_error(name: bytes, error: OSError) -> CortenError:
    """What an operating system error at a member means for the caller."""
    code = error.errno or 0
    text = os.strerror(code).lower() if code else str(error)
    if code == errno.EINVAL and not user_namespace.is_initial():
        text += f" (only {user_namespace.mapped('uid')} user ids are mapped here)"
    if code in _FULL:
        return SystemFailure(f"{text}: {shown(name)}", step="extract", errno=code)
    if code in _MACHINE or code == errno.EPERM or code == errno.EACCES:
        return SystemFailure(f"extracting {shown(name)}: {text}", step="extract", errno=code)
    return InvalidParameter(f"invalid tar archive: {shown(name)}: {text}")
