"""``rm`` and ``prune``: a container and what it has on disk go away."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from corten.engine import filters
from corten.engine.container import Status
from corten.engine.container_disk import ContainerDisk
from corten.engine.container_volumes import ContainerVolumes
from corten.engine.endpoints import Endpoints
from corten.engine.events import Events
from corten.engine.health import HealthMonitor
from corten.engine.lifecycle import Lifecycle
from corten.engine.live import Index, Live
from corten.engine.metrics import Metrics, timed
from corten.engine.stats import Statistics
from corten.engine.store import Store
from corten.engine.streams import run_blocking
from corten.errors import Conflict, CortenError, InvalidParameter

logger = logging.getLogger(__name__)


class ContainerRemoval:
    """Removes containers: when asked, when they do not run (prune), at their end (``--rm``)."""

    def __init__(
        self,
        *,
        index: Index,
        store: Store,
        disk: ContainerDisk,
        volumes: ContainerVolumes,
        endpoints: Endpoints,
        lifecycle: Lifecycle,
        health: HealthMonitor,
        statistics: Statistics,
        events: Events,
        metrics: Metrics,
    ) -> None:
        self._index = index
        self._store = store
        self._disk = disk
        self._volumes = volumes
        self._endpoints = endpoints
        self._lifecycle = lifecycle
        self._health = health
        self._statistics = statistics
        self._events = events
        self.metrics = metrics
        lifecycle.auto_remove = self._auto_remove

    @timed("delete")
    async def remove(self, reference: str, *, force: bool = False, volumes: bool = False, link: bool = False) -> None:
        """Errors: Conflict when it runs and force is not given, or when another removal is under way.

        link: ``reference`` is "container/alias", and only that link is removed
        """
        if link:
            await self._remove_link(reference)
            return
        live = self._index.find(reference)
        if live.removing:
            raise Conflict(f"removal of container {reference} is already in progress")
        container = live.container
        busy = container.is_running or container.status is Status.RESTARTING
        if busy and not force:
            if container.status is Status.PAUSED:
                hint = "container is paused and must be unpaused first"
            else:
                hint = "container is running: stop the container before removing or force remove"
            raise Conflict(f'cannot remove container "/{container.name}": {hint}')
        live.removing = True
        try:
            if busy:
                await self._kill_for_removal(live)
            await self._remove(live, volumes=volumes)
        except BaseException:
            live.removing = False
            raise

    async def _remove_link(self, reference: str) -> None:
        name, _, alias = reference.removeprefix("/").partition("/")
        if not alias:
            raise InvalidParameter(f"{reference} is no link: it is written container/alias")
        live = self._index.find(name)
        async with live.lock:
            self._endpoints.links.remove(live.container, alias)
            self._store.save(live.container)

    async def _kill_for_removal(self, live: Live) -> None:
        if live.container.status is Status.RESTARTING:
            await self._lifecycle.stop(live, "SIGKILL", 10)
            return
        with contextlib.suppress(Conflict):
            await self._lifecycle.kill(live, "SIGKILL")

    async def _remove(self, live: Live, *, volumes: bool) -> None:
        async with live.lock:
            container = live.container
            if container.is_running:
                raise Conflict(f"cannot remove container {container.name}: it is still running")
            if container.status is not Status.REMOVING:
                container.become(Status.REMOVING)
            self._store.record(container)  # removing is what makes room on a full disk
            self._health.forget(container.id)
            self._statistics.forget(container.id)
            for attach in live.pending:
                attach.stream.close()
            live.pending.clear()
            try:
                await self._disk.discard(container)
                if volumes:
                    await run_blocking(self._volumes.remove_anonymous, container.mount_points)
            except (CortenError, OSError):
                container.become(Status.DEAD)
                self._store.record(container)
                raise
            was_saved = self._store.is_saved(container)
            self._store.remove(container.id)
            self._index.drop(live)
            if not was_saved:
                await self._lifecycle.forget_run(live)
        self._lifecycle.publish(live, "destroy")
        live.resolve_waiters(frozenset({"removed", "not-running", "next-exit"}), container.state.exit_code)

    async def _auto_remove(self, live: Live) -> None:
        if live.removing:
            return
        live.removing = True
        try:
            await self._remove(live, volumes=True)
        except Exception:
            live.removing = False
            logger.exception("automatic removal of container %s failed", live.container.id[:12])

    async def prune(self, wanted: dict[str, list[str]]) -> dict[str, Any]:
        """Remove what does not run.  Filters: until, label, label!."""
        matcher = filters.PruneFilter(wanted)
        deleted, reclaimed = [], 0
        for live in self._index:
            container = live.container
            if container.status not in (Status.EXITED, Status.CREATED, Status.DEAD) or not matcher.matches(container):
                continue
            try:
                size, _ = await self._disk.sizes(container)
                await self.remove(container.id)
            except CortenError as error:
                logger.warning("prune leaves container %s: %s", container.id[:12], error)
                continue
            deleted.append(container.id)
            reclaimed += size
        self._events.publish("container", "prune", "", {"reclaimed": str(reclaimed)})
        return {"ContainersDeleted": deleted or None, "SpaceReclaimed": reclaimed}
