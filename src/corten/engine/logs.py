"""What a container has written: read in worker threads, followed without polling.

A follower waits for inotify events of the log's directory.  One inotify instance serves all followers of this daemon,
since a user may have only 128 of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from corten.dockerapi.queries import LogQuery
from corten.engine.container import Container
from corten.engine.live import Live
from corten.engine.streams import run_blocking
from corten.errors import InvalidParameter
from corten.linux import inotify
from corten.logdriver import attributes, options
from corten.logdriver.reader import open_reader
from corten.logdriver.reading import LogReader, ReadRequest

logger = logging.getLogger(__name__)

NOT_READABLE = "configured logging driver does not support reading"
_WATCHED = inotify.IN_MODIFY | inotify.IN_CREATE | inotify.IN_MOVED_TO | inotify.IN_MOVED_FROM | inotify.IN_ONLYDIR


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


class _Watcher:
    """Tells followers that something happened in a directory."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._inotify = inotify.Inotify()
        self._events: dict[int, set[asyncio.Event]] = {}
        self._loop.add_reader(self._inotify.fileno(), self._ready)

    def _ready(self) -> None:
        for watch, mask in self._inotify.read():
            if mask & inotify.IN_Q_OVERFLOW:
                for events in self._events.values():
                    for event in events:
                        event.set()
            for event in self._events.get(watch, ()):
                event.set()

    def add(self, directory: str, event: asyncio.Event) -> int:
        watch = self._inotify.add(directory, _WATCHED)
        self._events.setdefault(watch, set()).add(event)
        return watch

    def remove(self, watch: int, event: asyncio.Event) -> bool:
        """True when nobody watches anything any more."""
        events = self._events.get(watch)
        if events is not None:
            events.discard(event)
            if not events:
                del self._events[watch]
                self._inotify.remove(watch)
        return not self._events

    def close(self) -> None:
        self._loop.remove_reader(self._inotify.fileno())
        self._inotify.close()


_watchers: dict[asyncio.AbstractEventLoop, _Watcher] = {}


def open_logs(live: Live, query: LogQuery) -> LogStream:
    """Errors: InvalidParameter for a driver whose log cannot be read and for a query without a stream."""
    container = live.container
    driver = container.host_config.log_config.type
    if not (query.stdout or query.stderr):
        raise InvalidParameter("You must choose at least one stream")
    if driver == "none":
        raise InvalidParameter(NOT_READABLE)
    request = ReadRequest(
        stdout=query.stdout,
        stderr=query.stderr,
        since=query.since,
        until=query.until,
        timestamps=query.timestamps,
        details=query.details,
        tail=query.tail,
        framed=not container.config.tty,
    )
    tty = container.config.tty
    reader = open_reader(driver, container.log_path, request, follow=query.follow)
    return LogStream(tty, _follow(live, reader, container.log_path) if query.follow else _read(reader))


async def _read(reader: LogReader) -> AsyncIterator[bytes]:
    chunks = reader.chunks()
    try:
        while (chunk := await run_blocking(next, chunks, None)) is not None:
            yield chunk
    finally:
        reader.close()


async def _follow(live: Live, reader: LogReader, path: str) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    watcher = _watchers.get(loop)
    if watcher is None:
        watcher = _watchers[loop] = _Watcher()
    changed = asyncio.Event()
    watch = watcher.add(str(Path(path).parent), changed)
    stopped = live.stopped

    def ended(_: object) -> None:
        changed.set()

    if stopped is not None:
        stopped.add_done_callback(ended)
    try:
        while True:
            over = stopped is None or stopped.done()
            changed.clear()
            chunks = reader.chunks()
            while (chunk := await run_blocking(next, chunks, None)) is not None:
                yield chunk
            if over or reader.done:
                return
            await changed.wait()
    finally:
        if stopped is not None:
            stopped.remove_done_callback(ended)
        if watcher.remove(watch, changed):
            watcher.close()
            _watchers.pop(loop, None)
        reader.close()
