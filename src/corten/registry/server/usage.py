"""How many bytes of content there are, for a quota: one number in a file, shared by all processes."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

_NUMBER = struct.Struct("<q")


class Usage:
    """Exact after a garbage collection, which counts; kept up by pushes and deletions between them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def is_known(self) -> bool:
        return self._path.exists()

    def total(self) -> int:
        try:
            return int(_NUMBER.unpack(self._path.read_bytes())[0])
        except (FileNotFoundError, struct.error):
            return 0

    def add(self, size: int) -> None:
        self._change(size, absolute=False)

    def set(self, size: int) -> None:
        self._change(size, absolute=True)

    def _change(self, size: int, *, absolute: bool) -> None:
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            old = os.pread(file, _NUMBER.size, 0)
            before = _NUMBER.unpack(old)[0] if len(old) == _NUMBER.size and not absolute else 0
            os.pwrite(file, _NUMBER.pack(max(0, before + size)), 0)
        finally:
            os.close(file)
