"""Blobs that come from another registry, and are sent on while they come.

Whoever asks first fetches into ``<root>/fetching/<algorithm>-<hex>`` and holds a lock on that file; everybody else,
in whichever worker, reads the file as it grows.  Its last byte is kept back until the digest was checked and the blob
is in the storage: nobody ever gets the whole of something wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from corten.errors import CortenError, DataLoss
from corten.oci.descriptor import Descriptor
from corten.oci.digest import Digest, split_digest
from corten.registry.downloads import Download
from corten.registry.remote import Remote
from corten.registry.server.locking import try_lock
from corten.registry.server.storage import StorageFailure

logger = logging.getLogger(__name__)

_AT_A_TIME = 16
_CHUNK = 1 << 20
_LOOK_S = 0.01
_OCTETS = "application/octet-stream"

IsThere = Callable[[], Awaitable[bool]]
Commit = Callable[[Path], Awaitable[None]]
Stored = Callable[[int, int], AsyncIterator[bytes]]


class Fetches:
    """Those of one worker."""

    def __init__(self, root: Path) -> None:
        self._directory = root / "fetching"
        self._directory.mkdir(parents=True, exist_ok=True)
        self._pool = ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="fetch")
        self._tasks: set[asyncio.Task[None]] = set()

    def _path(self, digest: Digest) -> Path:
        return self._directory / digest.replace(":", "-")

    def begin(self, remote: Remote, digest: Digest, size: int, is_there: IsThere, commit: Commit) -> BinaryIO | None:
        """Fetch a blob unless somebody does; the file that grows, None when that was committed this very moment.

        is_there: whether the blob is in the storage
        """
        path = self._path(digest)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not try_lock(descriptor, fcntl.LOCK_EX) or not _is(descriptor, path):
            os.close(descriptor)
        else:
            os.ftruncate(descriptor, 0)
            work = self._fetch(descriptor, remote, Descriptor(_OCTETS, digest, size), is_there, commit)
            task = asyncio.get_running_loop().create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            return open(path, "r+b", buffering=0)
        except FileNotFoundError:
            return None

    async def _fetch(
        self, descriptor: int, remote: Remote, blob: Descriptor, is_there: IsThere, commit: Commit
    ) -> None:
        path = self._path(blob.digest)
        try:
            if not await is_there():  # whoever had the lock before may just have brought it
                await asyncio.get_running_loop().run_in_executor(self._pool, _download, descriptor, remote, blob)
                await commit(path)
        except (CortenError, OSError) as error:
            logger.warning("fetching %s: %s", blob.digest, error)
        finally:
            if _is(descriptor, path):
                path.unlink(missing_ok=True)
            os.close(descriptor)

    async def follow(
        self, file: BinaryIO, start: int, length: int, size: int, is_there: IsThere, stored: Stored
    ) -> AsyncGenerator[bytes, None]:
        """``length`` bytes of a blob from ``start`` on, as they come.

        file: of ``begin``; closed afterwards
        stored: the same from the storage, for a blob that another fetch has brought there
        Errors: StorageFailure when nobody fetches it any more and it is not there.
        """
        position, end = start, start + length
        complete = False
        with file:
            descriptor = file.fileno()
            while position < end:
                fetched = os.fstat(descriptor).st_size
                available = min(fetched, end, size if complete else size - 1)
                if position < available:
                    chunk = await asyncio.to_thread(os.pread, descriptor, min(_CHUNK, available - position), position)
                    position += len(chunk)
                    yield chunk
                elif complete:
                    break
                elif _is_free(descriptor):
                    # nobody fetches: it is there by now, or it will not come
                    complete = await is_there()
                    if not complete:
                        raise StorageFailure("the blob could not be fetched")
                elif fetched >= size and await is_there():
                    complete = True
                else:
                    await asyncio.sleep(_LOOK_S)
        if position < end:
            async for chunk in stored(position, end - position):
                yield chunk

    def sweep(self, older_than_s: float) -> None:
        """Remove what fetches that were killed have left."""
        for path in self._directory.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime < older_than_s:
                    continue
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                if try_lock(descriptor, fcntl.LOCK_EX) and _is(descriptor, path):
                    path.unlink()
                os.close(descriptor)

    async def close(self) -> None:
        """Wait for what was told to end (``Upstream.close``)."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._pool.shutdown(wait=True)


def _download(descriptor: int, remote: Remote, blob: Descriptor) -> None:
    """Errors: RegistryFailure, DataLoss, OSError."""
    running = hashlib.new(split_digest(blob.digest)[0])
    download = Download(remote, blob, lambda count: None)
    try:
        while chunk := download():
            running.update(chunk)
            view = memoryview(chunk)
            while view:
                view = view[os.write(descriptor, view) :]
    finally:
        download.close()
    if f"{split_digest(blob.digest)[0]}:{running.hexdigest()}" != blob.digest:
        raise DataLoss(f"{remote.endpoint.netloc} sent something else for {blob.digest}")


def _is_free(descriptor: int) -> bool:
    """Whether nobody holds the lock."""
    free = try_lock(descriptor, fcntl.LOCK_EX)
    if free:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    return free


def _is(descriptor: int, path: Path) -> bool:
    """Whether the file still has this name."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False
