"""Watching directories for changes.  Source: inotify(7)."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator

from corten.linux.syscall import encode

IN_MODIFY = 0x2
IN_CLOSE_WRITE = 0x8
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_IGNORED = 0x8000
IN_Q_OVERFLOW = 0x4000
IN_ONLYDIR = 0x01000000

_libc = ctypes.CDLL(None, use_errno=True)
_EVENT = struct.Struct("iIII")


class Inotify:
    """One inotify instance, non-blocking and close-on-exec."""

    def __init__(self) -> None:
        """Errors: OSError(EMFILE) when the user has too many instances (fs.inotify.max_user_instances)."""
        self._descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"inotify_init1: {os.strerror(code).lower()}")

    def fileno(self) -> int:
        return int(self._descriptor)

    def add(self, path: str, mask: int) -> int:
        """Watch ``path``; the number that its events carry."""
        watch = _libc.inotify_add_watch(self._descriptor, ctypes.c_char_p(encode(path)), ctypes.c_uint32(mask))
        if watch < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"inotify_add_watch: {os.strerror(code).lower()}", path)
        return int(watch)

    def remove(self, watch: int) -> None:
        """Stop watching; a watch whose directory has gone is no error."""
        _libc.inotify_rm_watch(self._descriptor, watch)

    def read(self) -> Iterator[tuple[int, int]]:
        """(watch, mask) of what has happened since the last call."""
        try:
            data = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return
        position = 0
        while position + _EVENT.size <= len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, position)
            yield watch, mask
            position += _EVENT.size + length

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
