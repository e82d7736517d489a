"""Between the event loop and worker threads: bodies read as files, generators read as asynchronous streams.

Data goes through bounded queues in whole chunks; the other side is woken only when it sleeps, so that a fast stream
costs no round trip of the loop for each chunk.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, TypeVar, cast

from corten.errors import CortenError, DataLoss, InvalidParameter

T = TypeVar("T")

_BOUND = 4 << 20  # bytes between the two sides
_OBJECT = 1024  # what an item that is no bytes counts
_REPORTS = 256  # documents of progress between the two sides; more are left out
# work that lasts as long as a client reads or sends has threads of its own: slow clients must not hold up the rest
_short = ThreadPoolExecutor(16, thread_name_prefix="corten")
_long = ThreadPoolExecutor(64, thread_name_prefix="corten-stream")


async def run_blocking(work: Callable[..., T], *arguments: Any) -> T:
    """Run blocking work in a thread of the engine's own, bounded pool."""
    return await asyncio.get_running_loop().run_in_executor(_short, work, *arguments)


class _Cancelled(Exception):
    """The stream's other side has gone away."""


class ThreadReader(io.RawIOBase):
    """A file for a worker thread, fed from the event loop.

    Reading raises what the feeding side ended with: the body's own CortenError, OSError for a body that was cut short.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._waiting = False
        self._ended = False
        self._error: BaseException | None = None
        self._rest: bytes | memoryview = b""
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()
        self._room.set()

    def readable(self) -> bool:
        return True

    # -- the loop's side ----------------------------------------------------------------------------------------------

    async def feed(self, chunk: bytes) -> None:
        """Hand over; waits while the thread is far behind."""
        if not chunk:
            return
        await self._room.wait()
        with self._condition:
            self._chunks.append(chunk)
            self._held += len(chunk)
            if self._held >= _BOUND:
                self._room.clear()
            if self._waiting:
                self._condition.notify()

    def end(self, error: BaseException | None = None) -> None:
        """No more will come: after the end, or because of an error, which the thread gets."""
        with self._condition:
            if not self._ended:
                self._ended, self._error = True, error
            self._condition.notify()

    def abandon(self) -> None:
        """Nobody wants the result any more: the next read fails, whatever is queued."""
        with self._condition:
            self._chunks.clear()
            self._ended, self._error = True, _Cancelled("the request was given up")
            self._condition.notify()

    # -- the thread's side --------------------------------------------------------------------------------------------

    def _take(self) -> bytes:
        """The next chunk; b"" at the end."""
        with self._condition:
            while not self._chunks:
                if self._ended:
                    self._raise_error()
                    return b""
                self._waiting = True
                self._condition.wait()
                self._waiting = False
            chunk = self._chunks.popleft()
            before, self._held = self._held, self._held - len(chunk)
            if before >= _BOUND // 2 > self._held:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    self._loop.call_soon_threadsafe(self._make_room)
        return chunk

    def _make_room(self) -> None:
        if self._held < _BOUND:
            self._room.set()

    def _raise_error(self) -> None:
        if self._error is None:
            return
        if isinstance(self._error, (CortenError, _Cancelled)):
            raise self._error
        raise OSError(f"the request's body was cut short: {self._error}") from self._error

    def readinto(self, buffer: Any) -> int:
        rest = self._rest or self._take()
        view = memoryview(buffer).cast("B")
        count = min(len(view), len(rest))
        view[:count] = rest[:count]
        self._rest = memoryview(rest)[count:] if count < len(rest) else b""
        return count

    def read(self, size: int | None = -1) -> bytes:
        """At most ``size`` bytes, as many as are at hand; all of it for a negative size."""
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        rest = self._rest or self._take()
        if len(rest) <= size:
            self._rest = b""
            return bytes(rest)  # no copy of a whole chunk
        self._rest = memoryview(rest)[size:]
        return bytes(rest[:size])


async def _pump(body: AsyncIterator[bytes], reader: ThreadReader) -> None:
    try:
        async for chunk in body:
            await reader.feed(bytes(chunk))
        reader.end()
    except asyncio.CancelledError:
        reader.abandon()
        raise
    except Exception as error:
        reader.end(error)


async def feed_thread(body: AsyncIterator[bytes], work: Callable[[BinaryIO], T]) -> T:
    """Run ``work(file)`` in a thread while the body arrives.

    The rest of a body that the work did not want is left to the caller's connection.
    Errors: what the work raises; its reads raise what the body raised.  InvalidParameter for DataLoss: it is the client
    who has sent what is damaged, or an archive that leads out of its root.
    """
    reader = ThreadReader()
    running = _long.submit(work, cast(BinaryIO, reader))
    result = asyncio.wrap_future(running)
    pumping = asyncio.get_running_loop().create_task(_pump(body, reader), name="body")
    try:
        return await asyncio.shield(result)
    except DataLoss as error:
        raise InvalidParameter(error.message) from error
    except asyncio.CancelledError:
        # the thread's next read fails and it stops; it must not go on unobserved
        reader.abandon()
        if not running.cancel():
            with contextlib.suppress(Exception):
                await result
        raise
    finally:
        pumping.cancel()
        await asyncio.gather(pumping, return_exceptions=True)


class _Bridge:
    """Items from a thread to the loop, bounded by their size."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._condition = threading.Condition()
        self._items: deque[Any] = deque()
        self._held = 0
        self._ended = False
        self._stopped = False
        self._error: BaseException | None = None
        self._ready = asyncio.Event()

    # -- the thread's side --------------------------------------------------------------------------------------------

    def run(self, make: Callable[[], Iterable[Any]]) -> None:
        """Make the iterator and put all its items; it is closed here, in the thread that ran it."""
        try:
            if not self._stopped:
                self._run(make)
        except BaseException as error:
            self._error = error
        finally:
            self._ended = True
            self._wake()

    def _run(self, make: Callable[[], Iterable[Any]]) -> None:
        iterator = iter(make())
        try:
            for item in iterator:
                if not self._put(item):
                    break
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    def _put(self, item: Any) -> bool:
        size = len(item) if isinstance(item, (bytes, bytearray, memoryview)) else _OBJECT
        with self._condition:
            while self._held >= _BOUND and not self._stopped:
                self._condition.wait()
            if self._stopped:
                return False
            self._items.append(item)
            self._held += size
            sleeping = len(self._items) == 1
        if sleeping:
            self._wake()
        return True

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._ready.set)

    # -- the loop's side ----------------------------------------------------------------------------------------------

    async def take(self) -> list[Any]:
        """All that is there, waiting for something; [] at the end.  Errors: what the iterator raised."""
        while True:
            self._ready.clear()
            with self._condition:
                ended = self._ended
                items = list(self._items)
                self._items.clear()
                self._held = 0
                self._condition.notify()
            if items:
                return items
            if ended:
                if self._error is not None:
                    raise self._error
                return []
            await self._ready.wait()

    def stop(self) -> None:
        with self._condition:
            self._stopped = True
            self._items.clear()
            self._condition.notify()


async def iterate_in_thread(
    make: Callable[[], Iterable[T]], stop: Callable[[], None] = lambda: None
) -> AsyncGenerator[T, None]:
    """Run a synchronous generator in a thread; it is closed when the consumer stops early.

    stop: called at the end, for generators that may be waiting for something else than their consumer
    Errors: what the generator raises, after everything it gave before.
    """
    bridge = _Bridge(asyncio.get_running_loop())
    running = _long.submit(bridge.run, make)
    try:
        while items := await bridge.take():
            for item in items:
                yield item
    finally:
        stop()
        bridge.stop()
        if not running.cancel():
            await asyncio.shield(asyncio.wrap_future(running))


class _Reports:
    """Documents of progress from a thread to the loop.

    Reporting never waits: a client may send its whole body before it reads a word of the answer.  What only moves a bar
    is left out when too much is waiting.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._documents: deque[dict[str, Any]] = deque()
        self._ready = asyncio.Event()

    def report(self, document: dict[str, Any]) -> None:
        if document.get("progressDetail") and len(self._documents) >= _REPORTS:
            return
        self._documents.append(document)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._ready.set)

    def wake(self) -> None:
        self._ready.set()

    async def wait(self) -> None:
        await self._ready.wait()
        self._ready.clear()

    def take(self) -> list[dict[str, Any]]:
        taken = []
        while self._documents:
            taken.append(self._documents.popleft())
        return taken


async def progress_in_thread(
    body: AsyncIterator[bytes], work: Callable[[BinaryIO, Callable[[dict[str, Any]], None]], None]
) -> AsyncGenerator[dict[str, Any], None]:
    """Run ``work(file, report)`` while the body arrives; what it reports comes out as it happens."""
    reports = _Reports(asyncio.get_running_loop())
    running = asyncio.ensure_future(feed_thread(body, lambda stream: work(stream, reports.report)))
    running.add_done_callback(lambda _: reports.wake())
    try:
        while not running.done():
            await reports.wait()
            for document in reports.take():
                yield document
        for document in reports.take():
            yield document
        await running
    finally:
        if not running.done():
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
