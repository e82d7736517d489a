"""Chunk sources: functions that return the next bytes, and b"" at the end.

Reading, hashing, checking and inflating are put together of them like pipes; their errors pass through to the reader.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from corten.errors import DataLoss
from corten.oci.digest import Digest, hasher

Chunks = Callable[[], bytes]

CHUNK = 1 << 20
_LONGEST_MAGIC = 6


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def chunks_of(stream: Readable, size: int = CHUNK) -> Callable[[], bytes]:
    """A file object as the chunk source that ``TarReader`` takes: b"" at the end."""
    read = stream.read

    def next_chunk() -> bytes:
        return read(size)

    return next_chunk


def iterated(chunks: Iterable[bytes]) -> Chunks:
    """An iterable of bytes as a chunk source."""
    iterator = iter(chunks)

    def next_chunk() -> bytes:
        for chunk in iterator:
            if chunk:
                return chunk
        return b""

    return next_chunk


def blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of ``CHUNK`` bytes, the last one shorter.

    For compressors: what they make depends on how their input is cut.
    """
    held = bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) >= CHUNK:
            yield bytes(held[:CHUNK])
            del held[:CHUNK]
    if held:
        yield bytes(held)


def peek(source: Chunks, size: int = _LONGEST_MAGIC) -> tuple[bytes, Chunks]:
    """The first bytes (fewer only when there are no more), and a source that still begins with them."""
    start = source()
    while 0 < len(start) < size:
        more = source()
        if not more:
            break
        start += more
    held: list[bytes] = [start]

    def next_chunk() -> bytes:
        return held.pop() if held else source()

    return start, next_chunk


class Hashed:
    """A chunk source that hashes and counts what passes."""

    def __init__(self, source: Chunks, digest: Digest | None = None) -> None:
        self._source = source
        self._hash = hasher(digest)
        self.size = 0

    def __call__(self) -> bytes:
        chunk = self._source()
        self._hash.update(chunk)
        self.size += len(chunk)
        return chunk

    @property
    def digest(self) -> Digest:
        return Digest(f"{self._hash.name}:{self._hash.hexdigest()}")


def verified(source: Chunks, digest: Digest, size: int = -1) -> Chunks:
    """The same bytes; their end is refused when digest or size are not what was promised.

    Errors: DataLoss.
    """
    hashed = Hashed(source, digest)

    def next_chunk() -> bytes:
        chunk = hashed()
        if size >= 0 and hashed.size > size:
            raise DataLoss(f"invalid content {digest}: more than the promised {size} bytes")
        if not chunk:
            if size >= 0 and hashed.size != size:
                raise DataLoss(f"invalid content {digest}: {hashed.size} bytes instead of {size}")
            if hashed.digest != digest:
                raise DataLoss(f"invalid content: expected digest {digest}, got {hashed.digest}")
        return chunk

    return next_chunk


def gathered(source: Chunks, size: int = CHUNK) -> Chunks:
    """The same bytes in pieces of at least ``size`` where the source gives small ones: fewer, larger steps later on."""

    def next_chunk() -> bytes:
        chunk = source()
        if not chunk or len(chunk) >= size // 4:
            return chunk
        parts = [chunk]
        held = len(chunk)
        while held < size:
            chunk = source()
            if not chunk:
                break
            parts.append(chunk)
            held += len(chunk)
        return b"".join(parts)

    return next_chunk


def drain(source: Chunks) -> None:
    while source():
        pass


@contextlib.contextmanager
def read_ahead(source: Chunks, depth: int = 4) -> Iterator[Chunks]:
    """Run ``source`` in a thread, at most ``depth`` chunks ahead: inflating and hashing go on beside writing files.

    Within the block only the chunks given out may touch what ``source`` reads.
    """
    source = gathered(source)
    chunks: queue.Queue[bytes | BaseException] = queue.Queue(depth)
    stopped = threading.Event()

    def pump() -> None:
        try:
            while not stopped.is_set():
                chunk = source()
                chunks.put(chunk)
                if not chunk:
                    return
        except BaseException as error:  # handed over to the reader
            chunks.put(error)

    thread = threading.Thread(target=pump, name="read-ahead", daemon=True)
    thread.start()
    over = False

    def next_chunk() -> bytes:
        nonlocal over
        if over:
            return b""
        item = chunks.get()
        if isinstance(item, BaseException):
            over = True
            raise item
        over = not item
        return item

    try:
        yield next_chunk
    finally:
        stopped.set()
        while thread.is_alive():
            with contextlib.suppress(queue.Empty):
                chunks.get(timeout=0.01)
        thread.join()
