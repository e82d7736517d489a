"""A small epoll loop: callbacks by descriptor, no timers but one deadline, no wake-ups while nothing happens."""

from __future__ import annotations

import select
from collections.abc import Callable


class EpollLoop:
    """``watch`` with no events keeps the descriptor registered for errors and hang-ups only."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._events: dict[int, int] = {}
        self.running = True

    def fileno(self) -> int:
        return self._epoll.fileno()

    def watch(self, descriptor: int, events: int, callback: Callable[[int], None]) -> None:
        self._callbacks[descriptor] = callback
        present = self._events.get(descriptor)
        if present is None:
            self._epoll.register(descriptor, events)
        elif present != events:
            self._epoll.modify(descriptor, events)
        self._events[descriptor] = events

    def forget(self, descriptor: int) -> None:
        if self._events.pop(descriptor, None) is not None:
            self._callbacks.pop(descriptor, None)
            self._epoll.unregister(descriptor)

    def run(self) -> None:
        """Until ``running`` is false."""
        while self.running:
            for descriptor, events in self._epoll.poll():
                callback = self._callbacks.get(descriptor)
                if callback is not None:
                    callback(events)
