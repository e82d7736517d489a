"""What a container has written: read in worker threads, followed without polling.

A follower waits for inotify events of the log's directory.  One inotify instance serves all followers of this daemon,
since a user may have only 128.  A follower whose client is slow holds on to rotated files, not to their content.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from corten.dockerapi.queries import LogQuery
from corten.engine.container import Container
from corten.engine.live import Live
from corten.engine.streams import run_blocking
from corten.errors import CortenError, InvalidParameter
from corten.linux import inotify
from corten.logdriver import attributes, options
from corten.logdriver.reader import open_reader
from corten.logdriver.reading import LogReader, ReadRequest

logger = logging.getLogger(__name__)

_ROTATIONS = inotify.IN_CREATE | inotify.IN_MOVED_TO | inotify.IN_MOVED_FROM
_WATCHED = inotify.IN_MODIFY | _ROTATIONS | inotify.IN_ONLYDIR
_FLUSH_S = 2.0
_POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class LogStream:
    """chunks: frames (``dockerapi/frames.py``), raw bytes for a terminal; ends by itself unless it follows."""

    tty: bool
    chunks: AsyncIterator[bytes]


def log_path(driver: str, directory: Path, container_id: str) -> str:
    """Where a container's log is, "" for a driver that writes no file."""
    if driver == "json-file":
        return str(directory / f"{container_id}-json.log")
    if driver == "local":
        return str(directory / "local-logs" / "container.log")
    return ""


def validate_log_config(driver: str, config: dict[str, str]) -> None:
    """Errors: NotFound for an unknown driver, InvalidParameter for an unknown or bad option, in Docker's words."""
    options.parse(driver, config)
    attributes.expand_tag(config.get("tag", ""), attributes.LogSubject(id="", name="", image_id="", image_name=""))


def log_attributes(container: Container) -> dict[str, str]:
    """What the log options add to every entry: labels, variables, a tag.

    Errors: InvalidParameter for a tag that is no template.
    """
    config = container.host_config.log_config.config
    if attributes.ATTRIBUTE_OPTIONS.isdisjoint(config):
        return {}
    subject = attributes.LogSubject(
        id=container.id,
        name=container.name,
        image_id=container.image_id,
        image_name=container.config.image,
        command=container.command,
        environment=list(container.config.env or ()),
        labels=container.config.labels,
    )
    return attributes.attributes(config, subject)


def open_logs(live: Live, query: LogQuery) -> LogStream:
    """The log of a container, framed unless it has a terminal.

    Errors: NotImplementedYet for a driver whose log cannot be read, InvalidParameter for a query without a stream.
    """
    if not (query.stdout or query.stderr):
        raise InvalidParameter("Bad parameters: you must choose at least one stream")
    container = live.container
    tty = container.config.tty
    request = ReadRequest(
        stdout=query.stdout,
        stderr=query.stderr,
        since=query.since,
        until=query.until,
        timestamps=query.timestamps,
        details=query.details,
        tail=query.tail,
        framed=not tty,
    )
    reader = open_reader(container.host_config.log_config.type, container.log_path, request, follow=query.follow)
    reading = _Reading(reader)
    return LogStream(tty, _follow(live, reading, query.until) if query.follow else _read(live, reading))


async def _flush(live: Live) -> None:
    """What the program has written by now is to be in the log.  A shim that is ending needs no such request."""
    if live.shim is not None:
        with contextlib.suppress(CortenError, TimeoutError):
            async with asyncio.timeout(_FLUSH_S):
                await live.shim.log_flush()


async def _read(live: Live, reading: _Reading) -> AsyncIterator[bytes]:
    try:
        await _flush(live)
        async for chunk in reading.present():
            yield chunk
    finally:
        reading.close()


async def _follow(live: Live, reading: _Reading, until_ns: int) -> AsyncIterator[bytes]:
    changed = asyncio.Event()
    stopped = live.stopped

    def notice(mask: int) -> None:
        changed.set()
        if mask & _ROTATIONS:
            reading.keep_up()

    def ended(_: object) -> None:
        changed.set()

    if stopped is not None:
        stopped.add_done_callback(ended)
    try:
        with _watching(str(Path(live.container.log_path).parent), notice) as is_watching:
            await _flush(live)
            while True:
                over = stopped is None or stopped.done() or 0 < until_ns <= time.time_ns()
                changed.clear()
                async for chunk in reading.present():
                    yield chunk
                if over or reading.done:
                    return
                left = (until_ns - time.time_ns()) / 1e9 if until_ns else None
                if not is_watching:
                    reading.keep_up()
                    left = _POLL_S if left is None else min(left, _POLL_S)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await changed.wait()
    finally:
        if stopped is not None:
            stopped.remove_done_callback(ended)
        reading.close()


class _Reading:
    """A reader used from worker threads, one call at a time; closed when no call is under way."""

    def __init__(self, reader: LogReader) -> None:
        self._reader = reader
        self._running: asyncio.Future[bytes | None] | None = None

    @property
    def done(self) -> bool:
        return self._reader.done

    async def present(self) -> AsyncIterator[bytes]:
        """What is there up to the present end."""
        chunks = self._reader.chunks()
        while True:
            self._running = asyncio.ensure_future(run_blocking(next, chunks, None))
            chunk = await asyncio.shield(self._running)
            self._running = None
            if chunk is None:
                return
            yield chunk

    def keep_up(self) -> None:
        """Take hold of new files."""
        self._reader.keep_up()

    def close(self) -> None:
        if self._running is None:
            self._reader.close()
        else:
            # the client left while a thread reads: it cannot be stopped, and must not lose its files meanwhile
            self._running.add_done_callback(lambda _: self._reader.close())


class _Watcher:
    """Tells followers what happens in directories."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Errors: OSError when the user has too many inotify instances."""
        self._loop = loop
        self._inotify = inotify.Inotify()
        self._callbacks: dict[int, list[Callable[[int], None]]] = {}
        loop.add_reader(self._inotify.fileno(), self._ready)

    def _ready(self) -> None:
        masks: dict[int, int] = {}
        for watch, mask in self._inotify.read():
            for known in self._callbacks if mask & inotify.IN_Q_OVERFLOW else (watch,):
                masks[known] = masks.get(known, 0) | (_ROTATIONS if mask & inotify.IN_Q_OVERFLOW else mask)
        for watch, mask in masks.items():
            for callback in list(self._callbacks.get(watch, ())):
                callback(mask)

    def add(self, directory: str, callback: Callable[[int], None]) -> int:
        watch = self._inotify.add(directory, _WATCHED)
        self._callbacks.setdefault(watch, []).append(callback)
        return watch

    @property
    def is_unused(self) -> bool:
        return not self._callbacks

    def remove(self, watch: int, callback: Callable[[int], None]) -> None:
        callbacks = self._callbacks[watch]
        callbacks.remove(callback)
        if not callbacks:
            del self._callbacks[watch]
            self._inotify.remove(watch)

    def close(self) -> None:
        self._loop.remove_reader(self._inotify.fileno())
        self._inotify.close()


_watchers: dict[asyncio.AbstractEventLoop, _Watcher] = {}


@contextlib.contextmanager
def _watching(directory: str, callback: Callable[[int], None]) -> Iterator[bool]:
    """False when it cannot be watched: it does not exist yet, or the user watches too much already."""
    loop = asyncio.get_running_loop()
    watcher = _watchers.get(loop)
    try:
        if watcher is None:
            watcher = _watchers[loop] = _Watcher(loop)
        watch = watcher.add(directory, callback)
    except OSError as error:
        if error.errno != errno.ENOENT:
            logger.warning("cannot watch %s, looking every %g s instead: %s", directory, _POLL_S, error.strerror)
        if watcher is not None and watcher.is_unused:
            watcher.close()
            _watchers.pop(loop, None)
        yield False
        return
    try:
        yield True
    finally:
        watcher.remove(watch, callback)
        if watcher.is_unused:
            watcher.close()
            _watchers.pop(loop, None)
