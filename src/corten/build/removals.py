"""Containers of steps that are over: they go while the next steps run, and all of them before the build ends."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from corten.build.cache import StepCache
from corten.build.workshop import Workshop

_AT_ONCE = 2


class Removals:
    """Thread-safe."""

    def __init__(self, workshop: Workshop, cache: StepCache) -> None:
        self._workshop = workshop
        self._cache = cache
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="build-remove")
        self._pending: list[Future[None]] = []

    def remove(self, container_id: str) -> None:
        self._pending.append(self._pool.submit(self._remove, container_id))

    def _remove(self, container_id: str) -> None:
        try:
            self._workshop.remove(container_id)
        finally:
            self._cache.container_ended(container_id)

    def finish(self) -> None:
        """Wait for all.  Errors: those of the workshop, of the first that failed."""
        self._pool.shutdown()
        pending, self._pending = self._pending, []
        for future in pending:
            future.result()
