"""Content in a directory of this machine.

A file is written in ``<root>/new``, synchronised and renamed; so are the directories that were made for it.
Questions (stat, small reads) are answered at once: they take microseconds, a thread would take fifty.  What
synchronises waits in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import BinaryIO

from corten.registry.server.storage import Missing, Stamp, Stat

_CHUNK = 1 << 20
_ABANDONED_S = 3600.0


class DiskStorage:
    """A ``Storage`` below ``root``."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._new = root / "new"
        self._new.mkdir(parents=True, exist_ok=True)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    # -- questions ----------------------------------------------------------------------------------------------------

    def stamp(self, key: str) -> Stamp:
        with _missing():
            found = os.stat(self._path(key))
        return found.st_ino, found.st_mtime_ns, found.st_size

    async def stat(self, key: str) -> Stat:
        with _missing():
            found = os.stat(self._path(key))
        return Stat(found.st_size, found.st_mtime)

    async def read(self, key: str) -> bytes:
        with _missing(), open(self._path(key), "rb", buffering=0) as file:  # noqa: ASYNC230  # small, and here
            return file.readall()

    async def open(self, key: str) -> BinaryIO:
        with _missing():
            return open(self._path(key), "rb", buffering=0)  # noqa: ASYNC230  # a local file, the caller's to close

    async def chunks(self, key: str, start: int, length: int) -> AsyncGenerator[bytes, None]:
        with await self.open(key) as file:
            while length:
                chunk = await asyncio.to_thread(os.pread, file.fileno(), min(_CHUNK, length), start)
                if not chunk:
                    return
                start += len(chunk)
                length -= len(chunk)
                yield chunk

    async def names(self, prefix: str, after: str = "", limit: int = 0) -> list[str]:
        names = await asyncio.to_thread(self._names, prefix)
        if after:
            names = [name for name in names if name > after]
        return names[:limit] if limit else names

    def _names(self, prefix: str) -> list[str]:
        try:
            return sorted(os.listdir(self._path(prefix)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    # -- changes ------------------------------------------------------------------------------------------------------

    async def write(self, key: str, content: bytes) -> None:
        await asyncio.to_thread(self._write, self._path(key), content)

    def _write(self, path: str, content: bytes) -> None:
        descriptor, temporary = tempfile.mkstemp(dir=self._new)
        try:
            with open(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o644)
                file.write(content)
                file.flush()
                # finer than the kernel's own clock for files: two contents never have the same stamp
                now = time.time_ns()
                os.utime(descriptor, ns=(now, now))
                os.fsync(descriptor)
            _move(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise

    async def adopt(self, path: Path, key: str) -> None:
        await asyncio.to_thread(self._adopt, path, self._path(key))

    def _adopt(self, source: Path, target: str) -> None:
        with open(source, "rb") as file:
            os.fsync(file.fileno())
        os.utime(source)
        _move(str(source), target)

    async def touch(self, key: str) -> None:
        with _missing():
            os.utime(self._path(key))

    async def touched(self, key: str) -> float:
        return (await self.stat(key)).modified_s

    async def delete(self, key: str) -> None:
        path = self._path(key)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(path)
        # empty directories would be found as names: "sha256/<hex>/" without its link, a tag without its meaning
        while (path := os.path.dirname(path)) != self._root:
            try:
                os.rmdir(path)
            except OSError:
                return

    async def tidy(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._new):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - entry.stat().st_mtime > _ABANDONED_S:
                        os.unlink(entry)

    async def close(self) -> None:
        """Nothing is held."""


@contextlib.contextmanager
def _missing() -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise Missing from None


def _move(source: str, target: str) -> None:
    """Rename a file into a directory that is made for it; both last when this returns."""
    directory = os.path.dirname(target)
    made: list[str] = []
    for attempt in range(100):
        made += _make_directories(directory)
        try:
            os.rename(source, target)
            break
        except FileNotFoundError:
            # whoever deletes takes empty directories away: once more
            if attempt == 99 or not os.path.exists(source):
                raise
    _synchronise(directory, *made)


def _make_directories(path: str) -> list[str]:
    """Make what is missing; the directories that have a new entry now, to be synchronised."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for directory in reversed(missing):
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            os.mkdir(directory, 0o755)
    return [os.path.dirname(directory) for directory in missing]


def _synchronise(*directories: str) -> None:
    """Entries of directories are on the disk when this returns."""
    for directory in dict.fromkeys(directories):
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
