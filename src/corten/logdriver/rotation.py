"""A log file that is cut into pieces: <name>, <name>.1, <name>.2.gz … the newest first.

The newest rotated piece stays plain, so that a reader who follows finds the file it was reading; older ones are
compressed in a process of their own.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil

from corten.logdriver.options import LogOptions


class RotatingFile:
    """Append-only; the caller writes whole records."""

    def __init__(self, path: str, options: LogOptions, mode: int = 0o640) -> None:
        self._path = path
        self._options = options
        self._mode = mode
        self._fd = -1
        self._size = 0
        self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._path, flags, self._mode)
        self._size = os.fstat(self._fd).st_size

    @property
    def room(self) -> int:
        """Bytes until the next rotation, -1 for any number."""
        return -1 if self._options.max_size < 0 else max(0, self._options.max_size - self._size)

    def write(self, data: bytes) -> None:
        """Errors: OSError when the disk refuses; what was written of ``data`` stays."""
        if self._options.max_size >= 0 and self._size >= self._options.max_size:
            self.rotate()
        view = memoryview(data)
        while view:
            written = os.write(self._fd, view)
            self._size += written
            view = view[written:]

    def rotate(self) -> None:
        os.close(self._fd)
        keep = self._options.max_file - 1
        if keep < 1:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
        else:
            self._shift(keep)
        self._open()

    def _shift(self, keep: int) -> None:
        for index in range(keep, 0, -1):
            for suffix in ("", ".gz"):
                source = f"{self._path}.{index}{suffix}"
                if index == keep:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(source)
                else:
                    with contextlib.suppress(FileNotFoundError):
                        os.rename(source, f"{self._path}.{index + 1}{suffix}")
        os.rename(self._path, f"{self._path}.1")
        if self._options.compress and keep > 1 and os.path.exists(f"{self._path}.2"):
            self._compress(f"{self._path}.2")

    @staticmethod
    def _compress(path: str) -> None:
        """In a child, so that the program's output is not held up; the child is reaped by whoever reaps ours."""
        if os.fork():
            return
        try:
            os.nice(10)
            temporary = f"{path}.gz.tmp"
            with open(path, "rb") as plain, gzip.open(temporary, "wb", compresslevel=6) as packed:
                shutil.copyfileobj(plain, packed, 1 << 20)
            os.rename(temporary, f"{path}.gz")
            os.unlink(path)
        finally:
            os._exit(0)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def pieces(path: str) -> list[str]:
    """All pieces that exist, oldest first, the one being written last."""
    found = []
    index = 1
    while True:
        name = next((f"{path}.{index}{suffix}" for suffix in ("", ".gz") if os.path.exists(f"{path}.{index}{suffix}")), None)
        if name is None:
            break
        found.append(name)
        index += 1
    found.reverse()
    if os.path.exists(path):
        found.append(path)
    return found
