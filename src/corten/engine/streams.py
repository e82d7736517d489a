"""Between the event loop and worker threads: bodies read as files, generators read as asynchronous streams."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

_WORKERS = 16
_BOUND = 8 << 20  # bytes between the two sides
_executor = ThreadPoolExecutor(_WORKERS, thread_name_prefix="corten")


async def run_blocking(work: Callable[..., T], *arguments: Any) -> T:
    """Run blocking work in a thread of the engine's own, bounded pool."""
    return await asyncio.get_running_loop().run_in_executor(_executor, work, *arguments)


class ThreadReader(io.RawIOBase):
    """A file for a worker thread, fed from the event loop."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._ended = False
        self._error: BaseException | None = None
        self._rest = memoryview(b"")
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()
        self._room.set()

    def readable(self) -> bool:
        return True

    # -- the loop's side ----------------------------------------------------------------------------------------------

    async def feed(self, chunk: bytes) -> None:
        """Hand over; waits while the thread is far behind."""
        await self._room.wait()
        with self._condition:
            self._chunks.append(chunk)
            self._held += len(chunk)
            if self._held >= _BOUND:
                self._room.clear()
            self._condition.notify()

    def end(self, error: BaseException | None = None) -> None:
        with self._condition:
            self._ended, self._error = True, error
            self._condition.notify()

    # -- the thread's side --------------------------------------------------------------------------------------------

    def _take(self) -> None:
        with self._condition:
            while not self._chunks and not self._ended:
                self._condition.wait()
            if self._chunks:
                chunk = self._chunks.popleft()
                self._held -= len(chunk)
                if self._held < _BOUND // 2 and not self._room.is_set():
                    with contextlib.suppress(RuntimeError):
                        self._loop.call_soon_threadsafe(self._room.set)
                self._rest = memoryview(chunk)
            elif self._error is not None:
                raise OSError(f"the request's body was cut short: {self._error}")

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._take()
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes, as many as are at hand; all of it for a negative size."""
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        if not self._rest:
            self._take()
        data = bytes(self._rest[:size])
        self._rest = self._rest[size:]
        return data


async def feed_thread(body: AsyncIterator[bytes], work: Callable[[Any], T]) -> T:
    """Run ``work(file)`` in a thread while the body arrives.

    The rest of a body that the work did not want is left to the caller's connection.
    """
    reader = ThreadReader()
    running = asyncio.ensure_future(run_blocking(work, reader))

    async def pump() -> None:
        try:
            async for chunk in body:
                await reader.feed(bytes(chunk))
            reader.end()
        except asyncio.CancelledError as error:
            reader.end(error)
            raise
        except Exception as error:
            reader.end(error)

    pumping = asyncio.ensure_future(pump())
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        # the thread sees the end of the file and stops; it must not go on unobserved
        reader.end(asyncio.CancelledError())
        with contextlib.suppress(Exception):
            await running
        raise
    finally:
        pumping.cancel()
        await asyncio.gather(pumping, return_exceptions=True)


class _Bridge:
    """Chunks from a thread to the loop, bounded by their size."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.condition = threading.Condition()
        self.items: deque[Any] = deque()
        self.held = 0
        self.ended = False
        self.stopped = False
        self.error: BaseException | None = None
        self.ready = asyncio.Event()

    def run(self, make: Callable[[], Iterable[Any]]) -> None:
        iterator = iter(make())
        try:
            for item in iterator:
                with self.condition:
                    while self.held >= _BOUND and not self.stopped:
                        self.condition.wait()
                    if self.stopped:
                        return
                    self.items.append(item)
                    self.held += len(item) if isinstance(item, bytes) else 1024
                    wake = len(self.items) == 1
                if wake:
                    self._wake()
        except BaseException as error:
            self.error = error
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
            self.ended = True
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.ready.set)

    def take(self) -> list[Any]:
        with self.condition:
            items = list(self.items)
            self.items.clear()
            self.held = 0
            self.condition.notify()
        return items

    def stop(self) -> None:
        with self.condition:
            self.stopped = True
            self.condition.notify()


async def iterate_in_thread(make: Callable[[], Iterable[T]]) -> AsyncIterator[T]:
    """Run a synchronous generator in a thread; it is closed when the consumer stops early."""
    bridge = _Bridge(asyncio.get_running_loop())
    running = asyncio.ensure_future(run_blocking(bridge.run, make))
    try:
        while True:
            items = bridge.take()
            for item in items:
                yield item
            if not items:
                if bridge.ended and not bridge.items:
                    break
                bridge.ready.clear()
                if not bridge.items and not bridge.ended:
                    await bridge.ready.wait()
        if bridge.error is not None:
            raise bridge.error
    finally:
        bridge.stop()
        await asyncio.shield(running)


async def progress_in_thread(
    body: AsyncIterator[bytes], work: Callable[[Any, Callable[[dict[str, Any]], None]], None]
) -> AsyncIterator[dict[str, Any]]:
    """Run ``work(file, report)`` while the body arrives; what it reports comes out as it happens."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def report(document: dict[str, Any]) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, document)

    running = asyncio.ensure_future(feed_thread(body, lambda stream: work(stream, report)))
    try:
        while not running.done() or not queue.empty():
            getting = asyncio.ensure_future(queue.get())
            await asyncio.wait({getting, running}, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                yield getting.result()
            else:
                getting.cancel()
                await asyncio.sleep(0)  # reports that were on their way
        await running
    finally:
        if not running.done():
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def chunks_of(stream: Any, size: int = 1 << 20) -> Iterator[bytes]:
    return iter(lambda: stream.read(size), b"")
