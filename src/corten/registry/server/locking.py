"""Pushes and the sweep of the garbage collection, kept apart: among all processes of one machine.

Whatever makes content needed (a manifest that names blobs, a blob that is told to be there) holds the lock shared
while it looks and writes; the sweep holds it alone for moments, and looks again at each thing before it is deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path


class SweepLock:
    """One lock file, opened for each use: locks belong to open files, and several requests of a process share it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        async with self._held(fcntl.LOCK_SH):
            yield

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._held(fcntl.LOCK_EX):
            yield

    @contextlib.asynccontextmanager
    async def _held(self, kind: int) -> AsyncIterator[None]:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            # a thread that waits in the kernel could not be cancelled
            while not try_lock(descriptor, kind):  # noqa: ASYNC110  # flock(2) tells nobody when it is free
                await asyncio.sleep(0.005)
            yield
        finally:
            os.close(descriptor)


def try_lock(descriptor: int, kind: int) -> bool:
    """Take a file's lock, if that can be done at once."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
