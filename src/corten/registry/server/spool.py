"""Uploads under way: files of this machine, whatever the storage is.

```
<root>/uploads/<id>/data    what has come so far; its size is where the upload goes on
<root>/uploads/<id>/about   repository; digest of so many bytes
```
Nothing of an upload is visible as content before its digest was checked.  The next request of an upload may reach
another worker process: it finds the digest of what came before in ``about``, or reads the file once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from corten.oci.digest import SHA256, Digest, split_digest
from corten.registry.server.failures import Refusal
from corten.registry.server.layout import is_upload
from corten.registry.server.locking import try_lock

_BLOCK = 1 << 20
_ENDING_S = 5.0
_REMEMBERED = 256  # running hashes that a process keeps for requests to come


class _About(msgspec.Struct):
    repository: str
    size: int = 0
    digest: str = ""


class Spool:
    """The uploads of one server; each process has its own object."""

    def __init__(self, root: Path, *, max_blob_bytes: int = 0) -> None:
        self.directory = root / "uploads"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.max_blob_bytes = max_blob_bytes
        self._hashes: dict[str, tuple[int, Any]] = {}

    def begin(self, repository: str) -> Upload:
        identity = secrets.token_hex(16)
        directory = self.directory / identity
        directory.mkdir()
        (directory / "data").touch()
        upload = Upload(self, identity, _About(repository))
        self._hashes[identity] = (0, hashlib.sha256())
        upload.note()
        return upload

    def get(self, repository: str, identity: str) -> Upload:
        """Errors: Refusal(BLOB_UPLOAD_UNKNOWN), also for an upload to another repository."""
        if is_upload(identity):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                about = msgspec.json.decode((self.directory / identity / "about").read_bytes(), type=_About)
                if about.repository == repository:
                    return Upload(self, identity, about)
        raise Refusal("BLOB_UPLOAD_UNKNOWN")

    def take_hash(self, identity: str, size: int) -> Any:
        """The running SHA-256 of an upload's first ``size`` bytes; None when this process does not have it."""
        known, running = self._hashes.pop(identity, (0, None))
        return running if known == size else None

    def keep_hash(self, identity: str, size: int, running: Any) -> None:
        while len(self._hashes) >= _REMEMBERED:
            del self._hashes[next(iter(self._hashes))]
        self._hashes[identity] = (size, running)

    def sweep(self, older_than_s: float) -> int:
        """Remove uploads that nobody has gone on with for so long; how many."""
        count = 0
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self.directory):
                with contextlib.suppress(OSError):
                    touched = max(os.stat(f"{entry.path}/{name}").st_mtime for name in ("data", "about"))
                    if time.time() - touched < older_than_s:
                        continue
                    shutil.rmtree(entry.path, ignore_errors=True)
                    count += 1
        return count


class Upload:
    """One upload, as one request sees it."""

    def __init__(self, spool: Spool, identity: str, about: _About) -> None:
        self._spool = spool
        self._about = about
        self.identity = identity
        self.repository = about.repository
        self._directory = spool.directory / identity
        self.path = self._directory / "data"

    @property
    def size(self) -> int:
        """Bytes so far.  Errors: Refusal when it was cancelled."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            raise Refusal("BLOB_UPLOAD_UNKNOWN") from None

    def note(self) -> None:
        """Write down what the next request needs, which may come to another process."""
        temporary = self._directory / f"about.{os.getpid()}"
        try:
            temporary.write_bytes(msgspec.json.encode(self._about))
            temporary.rename(self._directory / "about")
        except FileNotFoundError:
            raise Refusal("BLOB_UPLOAD_UNKNOWN") from None

    def remove(self) -> None:
        self._spool.take_hash(self.identity, -1)
        shutil.rmtree(self._directory, ignore_errors=True)

    async def append(self, pieces: AsyncIterator[bytes], offset: int | None = None) -> int:
        """Add what arrives, hashed while it does; the new size.  What came before a cut stays.

        offset: where the client thinks that it goes on
        Errors: Refusal(RANGE_INVALID, SIZE_INVALID), those of ``pieces``.
        """
        async with self._locked() as file:
            size = os.fstat(file).st_size
            if offset is not None and offset != size:
                raise Refusal("RANGE_INVALID", detail={"expected": size, "given": offset})
            running = self._spool.take_hash(self.identity, size)
            writer = _Writer(file, size, running, self._spool.max_blob_bytes)
            try:
                await writer.take(pieces)
            finally:
                if writer.running is not None:
                    self._about.size, self._about.digest = writer.size, f"{SHA256}:{writer.running.hexdigest()}"
                    self._spool.keep_hash(self.identity, writer.size, writer.running)
                with contextlib.suppress(Refusal):
                    self.note()
        return writer.size

    @contextlib.asynccontextmanager
    async def _locked(self) -> AsyncIterator[int]:
        """The file, which is one request's alone; another one whose client was cut off is about to end.

        Errors: Refusal(BLOB_UPLOAD_UNKNOWN), also when the upload was finished before it was this request's turn.
        """
        try:
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Refusal("BLOB_UPLOAD_UNKNOWN") from None
        try:
            until = time.monotonic() + _ENDING_S
            while not try_lock(file, fcntl.LOCK_EX):
                if time.monotonic() > until:
                    raise Refusal("BLOB_UPLOAD_INVALID", "another request writes to this upload", status=409)
                await asyncio.sleep(0.01)
            if not self._is_still(file):
                raise Refusal("BLOB_UPLOAD_UNKNOWN")
            yield file
        finally:
            os.close(file)

    def _is_still(self, file: int) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(file))
        except FileNotFoundError:
            return False

    @contextlib.asynccontextmanager
    async def completing(self, digest: Digest) -> AsyncIterator[int]:
        """The upload is what ``digest`` says, and nobody adds to it while the block runs; its size.

        It is gone afterwards, also when it is wrong or the block fails.
        Errors: Refusal(DIGEST_INVALID); Refusal(BLOB_UPLOAD_UNKNOWN, BLOB_UPLOAD_INVALID), which leave it.
        """
        async with self._locked():
            try:
                yield await self._check(digest)
            finally:
                self.remove()

    async def _check(self, digest: Digest) -> int:
        size = self.size
        if split_digest(digest)[0] == SHA256 and self._about.digest and self._about.size == size:
            found = self._about.digest
        else:
            try:
                found = await asyncio.to_thread(_digest_of_file, self.path, split_digest(digest)[0])
            except FileNotFoundError:
                raise Refusal("BLOB_UPLOAD_UNKNOWN") from None  # cancelled meanwhile
        if found != digest:
            raise Refusal("DIGEST_INVALID", detail={"digest": digest})
        return size


class _Writer:
    """Hashes and writes blocks in a thread while the next ones arrive."""

    def __init__(self, file: int, size: int, running: Any, most: int) -> None:
        self._file = file
        self._most = most
        self.size = size
        self.running = running

    async def take(self, pieces: AsyncIterator[bytes]) -> None:
        loop = asyncio.get_running_loop()
        block: list[bytes] = []
        held, total = 0, self.size
        work: asyncio.Future[None] | None = None
        try:
            async for piece in pieces:
                total += len(piece)
                if self._most and total > self._most:
                    raise Refusal("SIZE_INVALID", f"blob is larger than {self._most} bytes", status=413)
                block.append(piece)
                held += len(piece)
                if held >= _BLOCK:
                    if work is not None:
                        await asyncio.shield(work)
                    work = loop.run_in_executor(None, self._put, block, held)
                    block, held = [], 0
        finally:
            if work is not None:
                await _finish(work)
            if block:
                await _finish(loop.run_in_executor(None, self._put, block, held))

    def _put(self, block: list[bytes], size: int) -> None:
        running, self.running = self.running, None  # it is wrong when writing fails
        for piece in block:
            if running is not None:
                running.update(piece)
            view = memoryview(piece)
            while view:
                view = view[os.write(self._file, view) :]
        self.size += size
        self.running = running


async def _finish(work: asyncio.Future[None]) -> None:
    """Wait for a thread, also when the request is cancelled: the file must not be closed under it."""
    cancelled = False
    while not work.done():
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            if work.cancelled():
                raise
            cancelled = True
        except Exception:
            break
    if cancelled:
        raise asyncio.CancelledError
    work.result()


def _digest_of_file(path: Path, algorithm: str) -> str:
    with open(path, "rb", buffering=0) as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"
