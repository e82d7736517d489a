"""What happened: the last 256 events, and those to come, for everyone who asks."""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from corten.errors import InvalidParameter

logger = logging.getLogger(__name__)

KEPT = 256
QUEUE = 1024
_FILTERS = frozenset(
    ("config", "container", "daemon", "event", "image", "label", "network", "node", "plugin", "scope", "secret", "service", "type", "volume")
)
_LEGACY = ("container", "image")


def _matches(event: dict[str, Any], filters: dict[str, list[str]]) -> bool:
    actor = event["Actor"]
    attributes = actor["Attributes"]
    for key, values in filters.items():
        if not values:
            continue
        if key == "event":
            # "exec_start: ls" is found by "exec_start" too
            matched = any(value in (event["Action"], event["Action"].partition(":")[0]) for value in values)
        elif key == "type":
            matched = event["Type"] in values
        elif key == "scope":
            matched = event["scope"] in values
        elif key == "label":
            matched = all(_has_label(attributes, value) for value in values)
        elif key == "image":
            matched = _is_image(event, values)
        else:
            matched = event["Type"] == key and any(_is_actor(actor, value) for value in values)
        if not matched:
            return False
    return True


def _has_label(attributes: dict[str, str], wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in attributes and (not equals or attributes[name] == value)


def _is_actor(actor: dict[str, Any], wanted: str) -> bool:
    name = actor["Attributes"].get("name", "")
    return actor["ID"] == wanted or name == wanted or (len(wanted) >= 2 and actor["ID"].startswith(wanted))


def _is_image(event: dict[str, Any], wanted: list[str]) -> bool:
    actor = event["Actor"]
    if event["Type"] == "image":
        candidates = [actor["ID"], actor["Attributes"].get("name", "")]
    else:
        candidates = [actor["Attributes"].get("image", "")]
    plain = candidates + [candidate.rpartition(":")[0] for candidate in candidates if ":" in candidate]
    return any(fnmatch.fnmatchcase(candidate, value) for candidate in plain for value in wanted if candidate)


class Events:
    """Used from the event loop's thread only."""

    def __init__(self) -> None:
        self._kept: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._subscribers: set[asyncio.Queue[dict[str, Any] | None]] = set()

    def publish(self, kind: str, action: str, actor_id: str, attributes: dict[str, str], *, scope: str = "local") -> None:
        """Tell everyone.  Never waits: a subscriber whose queue is full is dropped."""
        now = time.time_ns()
        event: dict[str, Any] = {
            "Type": kind,
            "Action": action,
            "Actor": {"ID": actor_id, "Attributes": attributes},
            "scope": scope,
            "time": now // 10**9,
            "timeNano": now,
        }
        if kind in _LEGACY:
            event["status"], event["id"] = action, actor_id
            if kind == "container":
                event["from"] = attributes.get("image", "")
        self._kept.append(event)
        for queue in list(self._subscribers):
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                logger.warning("a reader of events is %d events behind: dropped", QUEUE)
                self._subscribers.discard(queue)
                queue.get_nowait()
                queue.put_nowait(None)

    def subscribe(self, since: int | None, until: int | None, filters: dict[str, list[str]]) -> AsyncIterator[dict[str, Any]]:
        """Kept events from ``since`` on, then those to come until ``until`` (ns since the epoch).

        Errors: InvalidParameter for an unknown filter.
        """
        for key in filters:
            if key not in _FILTERS:
                raise InvalidParameter(f"invalid filter '{key}'")
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(QUEUE)
        self._subscribers.add(queue)
        history = [event for event in self._kept if since is not None and event["timeNano"] >= since]
        if since is None and until is not None:
            history = list(self._kept)
        return self._stream(queue, history, until, filters)

    async def _stream(
        self, queue: asyncio.Queue[dict[str, Any] | None], history: list[dict[str, Any]], until: int | None, filters: dict[str, list[str]]
    ) -> AsyncIterator[dict[str, Any]]:
        try:
            for event in history:
                if (until is None or event["timeNano"] <= until) and _matches(event, filters):
                    yield event
            while True:
                event_or_end = await self._next(queue, until)
                if event_or_end is None:
                    return
                if _matches(event_or_end, filters):
                    yield event_or_end
        finally:
            self._subscribers.discard(queue)

    @staticmethod
    async def _next(queue: asyncio.Queue[dict[str, Any] | None], until: int | None) -> dict[str, Any] | None:
        if until is None:
            return await queue.get()
        left = (until - time.time_ns()) / 10**9
        if left <= 0:
            return None
        try:
            async with asyncio.timeout(left):
                return await queue.get()
        except TimeoutError:
            return None
