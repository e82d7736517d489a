"""Who uses which cache mount now: ``RUN --mount=type=cache,sharing=…`` over all builds of a daemon."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from corten.build.workshop import Cancellation


class CacheLocks:
    """Who uses which cache mount now, over all builds.  Thread-safe."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._users: dict[str, int] = {}
        self._locked: set[str] = set()
        self._removing: set[str] = set()

    @contextlib.contextmanager
    def shared(self, name: str) -> Iterator[None]:
        with self._using(name):
            yield

    @contextlib.contextmanager
    def locked(self, name: str, cancellation: Cancellation) -> Iterator[None]:
        """One after the other.  Errors: Cancelled."""
        with self._condition:
            while name in self._locked:
                cancellation.check()
                self._condition.wait(0.2)
            self._locked.add(name)
        try:
            with self._using(name):
                yield
        finally:
            with self._condition:
                self._locked.discard(name)
                self._condition.notify_all()

    @contextlib.contextmanager
    def private(self, name: str) -> Iterator[str]:
        """A directory that nobody else has now: the first one that is free."""
        number = 0
        with self._condition:
            while self._users.get(chosen := name if not number else f"{name}-{number}") or chosen in self._removing:
                number += 1
            self._users[chosen] = 1
        try:
            yield chosen
        finally:
            self._release(chosen)

    @contextlib.contextmanager
    def _using(self, name: str) -> Iterator[None]:
        with self._condition:
            while name in self._removing:
                self._condition.wait()
            self._users[name] = self._users.get(name, 0) + 1
        try:
            yield
        finally:
            self._release(name)

    @contextlib.contextmanager
    def removing(self, name: str) -> Iterator[bool]:
        """Whether nobody uses it; who wants to waits for the end of the block then."""
        with self._condition:
            is_free = name not in self._users and name not in self._removing
            if is_free:
                self._removing.add(name)
        try:
            yield is_free
        finally:
            if is_free:
                with self._condition:
                    self._removing.discard(name)
                    self._condition.notify_all()

    def _release(self, name: str) -> None:
        with self._condition:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name]

    def in_use(self) -> set[str]:
        with self._condition:
            return set(self._users)
