"""All registries as one object: settings, how many layers move at a time, transfers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from corten.registry.failures import Cancelled
from corten.registry.hosts import Hosts
from corten.registry.settings import Settings
from corten.registry.transport import Transport


class Slots:
    """So many at a time, of everyone together; the number can change."""

    def __init__(self, count: int) -> None:
        self._condition = threading.Condition()
        self._count = count
        self._taken = 0

    def resize(self, count: int) -> None:
        with self._condition:
            self._count = count
            self._condition.notify_all()

    @contextlib.contextmanager
    def one(self, transport: Transport) -> Iterator[None]:
        """Errors: Cancelled while waiting."""
        with self._condition:
            while self._taken >= self._count:
                transport.check()
                self._condition.wait(0.2)
            transport.check()
            self._taken += 1
        try:
            yield
        finally:
            with self._condition:
                self._taken -= 1
                self._condition.notify()


class Registry:
    """Thread-safe.  A change of settings is for transfers that begin afterwards."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.downloads = Slots(settings.downloads)
        self.uploads = Slots(settings.uploads)

    def reload(self, settings: Settings) -> None:
        self.settings = settings
        self.downloads.resize(settings.downloads)
        self.uploads.resize(settings.uploads)

    def transport(self) -> Transport:
        """Connections for one transfer: to be closed."""
        settings = self.settings
        return Transport(settings, Hosts(settings))


__all__ = ["Cancelled", "Registry", "Settings", "Slots", "Transport"]
