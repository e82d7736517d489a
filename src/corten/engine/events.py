"""What happened: the last 256 events, and those to come, for everyone who asks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from corten.errors import InvalidParameter
from corten.oci import reference

logger = logging.getLogger(__name__)

KEPT = 256
QUEUE = 1024
_BY_ACTOR = ("config", "container", "daemon", "network", "node", "plugin", "secret", "service", "volume")
_FILTERS = frozenset((*_BY_ACTOR, "event", "image", "label", "scope", "type"))
# their actions carry more than the name ("exec_start: ls -l"): a filter by one of these names means every action that
# begins with it, and makes all the values of the filter beginnings
_PREFIXED = frozenset(("health_status", "exec_create", "exec_start"))

Event = dict[str, Any]
Filters = dict[str, list[str]]


def matches(event: Event, filters: Filters) -> bool:
    """Whether every filter lets the event through; within one filter any value is enough, of labels all are needed.

    Objects are found by the beginning of their id or name, whatever the kind of the event, as dockerd does it.
    """
    return all(_matches(event, key, values) for key, values in filters.items() if values)


def _matches(event: Event, key: str, values: list[str]) -> bool:
    attributes: dict[str, str] = event["Actor"]["Attributes"]
    if key == "event":
        action = event["Action"]
        if not _PREFIXED.isdisjoint(values):
            return any(action.startswith(value) for value in values)
        return action in values
    if key == "type":
        return event["Type"] in values
    if key == "scope":
        return event["scope"] in values
    if key == "label":
        return all(_has_label(attributes, value) for value in values)
    if key == "image":
        return not _image_names(event).isdisjoint(values)
    return any(
        name.startswith(value) for name in (event["Actor"]["ID"], attributes.get("name", "")) for value in values
    )


def _has_label(attributes: dict[str, str], wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in attributes and (not equals or attributes[name] == value)


def _image_names(event: Event) -> set[str]:
    """By what an event's image may be asked for; a container's events belong to its image too."""
    actor = event["Actor"]
    name = actor["Attributes"].get("name" if event["Type"] == "image" else "image", "")
    names = {actor["ID"], name}
    for text in tuple(names):
        parsed = reference.try_parse(text)
        if parsed is not None:
            names.add(parsed.familiar_repository)
    return names - {""}


def event_document(
    kind: str, action: str, actor_id: str, attributes: dict[str, str], *, scope: str, now_ns: int
) -> Event:
    """Docker's document, with the fields that clients older than API 1.22 read."""
    event: Event = {
        "Type": kind,
        "Action": action,
        "Actor": {"ID": actor_id, "Attributes": dict(attributes)},
        "scope": scope,
        "time": now_ns // 10**9,
        "timeNano": now_ns,
    }
    if kind in ("container", "image"):
        event["status"], event["id"] = action, actor_id
    if kind == "container" and "image" in attributes:
        event["from"] = attributes["image"]
    return event


class Subscription(AsyncIterator[Event]):
    """One reader: what was kept, then what comes.  Close it with ``aclose``, also when it was never read."""

    def __init__(self, events: Events, history: list[Event], until: int | None, filters: Filters) -> None:
        self._events = events
        self._history = deque(history)
        self._until = until
        self._filters = filters
        self._queue: deque[Event] = deque()
        self._arrived = asyncio.Event()
        self._ended = False

    def offer(self, event: Event) -> bool:
        """Take an event if it is wanted; False when the reader is too far behind."""
        if not matches(event, self._filters):
            return True
        if len(self._queue) >= QUEUE:
            self._ended = True
            self._arrived.set()
            return False
        self._queue.append(event)
        self._arrived.set()
        return True

    async def __anext__(self) -> Event:
        if self._history:
            return self._history.popleft()
        while not self._queue:
            if self._ended or not await self._more():
                await self.aclose()
                raise StopAsyncIteration
        event = self._queue.popleft()
        if self._until is not None and event["timeNano"] > self._until:
            await self.aclose()
            raise StopAsyncIteration
        return event

    async def _more(self) -> bool:
        """Wait for an event; False when the time is over."""
        self._arrived.clear()
        if self._until is None:
            await self._arrived.wait()
            return True
        left_s = (self._until - time.time_ns()) / 10**9
        if left_s <= 0:
            return False
        try:
            async with asyncio.timeout(left_s):
                await self._arrived.wait()
        except TimeoutError:
            return bool(self._queue)
        return True

    async def aclose(self) -> None:
        self._ended = True
        self._history.clear()
        self._queue.clear()
        self._arrived.set()
        self._events.forget(self)


class Events:
    """The events of this daemon.  ``publish`` may be called from any thread, everything else from the loop's."""

    def __init__(self) -> None:
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self._subscribers: set[Subscription] = set()
        self.published = 0
        self._loop: asyncio.AbstractEventLoop | None = _running_loop()

    @property
    def listeners(self) -> int:
        """How many readers there are."""
        return len(self._subscribers)

    def publish(
        self, kind: str, action: str, actor_id: str, attributes: dict[str, str], *, scope: str = "local"
    ) -> None:
        """Tell everyone.  Never waits: a reader that is too far behind is dropped."""
        event = event_document(kind, action, actor_id, attributes, scope=scope, now_ns=time.time_ns())
        running = _running_loop()
        if running is None and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, event)
            return
        self._loop = running or self._loop
        self._deliver(event)

    def _deliver(self, event: Event) -> None:
        self.published += 1
        self._kept.append(event)
        for subscriber in list(self._subscribers):
            if not subscriber.offer(event):
                logger.warning("a reader of events is %d events behind: dropped", QUEUE)
                self._subscribers.discard(subscriber)

    def subscribe(self, since: int | None, until: int | None, filters: Filters) -> Subscription:
        """Kept events from ``since`` on, then those to come until ``until`` (ns since the epoch).

        Errors: InvalidParameter for an unknown filter.
        """
        for key in filters:
            if key not in _FILTERS:
                raise InvalidParameter(f"invalid filter '{key}'")
        history: list[Event] = []
        if since is not None or until is not None:
            history = [
                event
                for event in self._kept
                if event["timeNano"] >= (since or 0)
                and (until is None or event["timeNano"] <= until)
                and matches(event, filters)
            ]
        subscription = Subscription(self, history, until, filters)
        self._subscribers.add(subscription)
        return subscription

    def forget(self, subscription: Subscription) -> None:
        self._subscribers.discard(subscription)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
