"""A small epoll loop: callbacks by descriptor, no wake-ups while nothing happens."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

_QUIET_S = 1.0


class EpollLoop:
    """``watch`` with no events keeps the descriptor registered for errors and hang-ups only."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[int, Callable[[int], None]]] = {}
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._when_quiet: Callable[[], None] = lambda: None
        self._was_busy = False
        self.running = True

    def watch(self, descriptor: int, events: int, callback: Callable[[int], None]) -> None:
        present = self._watched.get(descriptor)
        if present is None:
            self._epoll.register(descriptor, events)
        elif present[0] != events:
            self._epoll.modify(descriptor, events)
        self._watched[descriptor] = (events, callback)

    def forget(self, descriptor: int) -> None:
        """Before the descriptor is closed; one that is not watched is no error."""
        if self._watched.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call once after ``seconds``."""
        self._timers.append((time.monotonic() + seconds, callback))

    def on_quiet(self, callback: Callable[[], None]) -> None:
        """What to do when nothing has happened for a while after ``busy`` was called."""
        self._when_quiet = callback

    def busy(self) -> None:
        self._was_busy = True

    def run(self) -> None:
        """Until ``running`` is false."""
        while self.running:
            self.turn()

    def close(self) -> None:
        """Nothing will happen any more; what was watched is its owners' to close."""
        self._epoll.close()
        self._watched.clear()

    def turn(self) -> None:
        """Wait once and call what is ready."""
        timeout = _QUIET_S if self._was_busy else -1.0
        if self._timers:
            left = max(0.0, min(moment for moment, _ in self._timers) - time.monotonic())
            timeout = left if timeout < 0 else min(left, timeout)
        ready = self._epoll.poll(timeout)
        for descriptor, events in ready:
            watched = self._watched.get(descriptor)
            if watched is not None:
                watched[1](events)
        if self._timers:
            self._run_timers()
        elif not ready and self._was_busy:
            self._was_busy = False
            self._when_quiet()

    def _run_timers(self) -> None:
        now = time.monotonic()
        due = [callback for moment, callback in self._timers if moment <= now]
        self._timers = [timer for timer in self._timers if timer[0] > now]
        for callback in due:
            callback()
