"""Containers as clients see them: ``ps``, ``inspect``, ``top``, ``diff``, ``stats``, ``xray``."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from corten.engine import inspect, processes, stats, top
from corten.engine.container import Status
from corten.engine.container_disk import ContainerDisk
from corten.engine.endpoints import Endpoints
from corten.engine.filters import ContainerFilter
from corten.engine.health import HealthMonitor
from corten.engine.lifecycle import Lifecycle, now_ns
from corten.engine.live import Index, Live
from corten.engine.metrics import Metrics, timed
from corten.engine.preparation import HostFacts, Preparation
from corten.engine.streams import run_blocking
from corten.engine.xray.container import Sources, xray
from corten.errors import Conflict
from corten.image.store import ImageStore
from corten.snapshot.api import Snapshotter

_CHANGES = {"C": 0, "A": 1, "D": 2}  # as the API counts them: changed, added, deleted


class ContainerViews:
    """Describes the containers of this daemon; changes nothing."""

    def __init__(
        self,
        *,
        facts: HostFacts,
        index: Index,
        images: ImageStore,
        snapshotter: Snapshotter,
        disk: ContainerDisk,
        endpoints: Endpoints,
        lifecycle: Lifecycle,
        preparation: Preparation,
        health: HealthMonitor,
        statistics: stats.Statistics,
        metrics: Metrics,
    ) -> None:
        self._facts = facts
        self._index = index
        self._images = images
        self._snapshotter = snapshotter
        self._disk = disk
        self._endpoints = endpoints
        self._lifecycle = lifecycle
        self._preparation = preparation
        self._health = health
        self._statistics = statistics
        self.metrics = metrics

    async def summaries(
        self,
        *,
        all: bool = False,
        limit: int = 0,
        size: bool = False,
        filters: dict[str, list[str]] | None = None,
    ) -> list[dict[str, Any]]:
        """Newest first.  Errors: InvalidParameter for an unknown filter."""
        chosen = self._filtered(filters or {}, everything=all or limit > 0)
        chosen.sort(key=lambda live: live.container.created_ns, reverse=True)
        if limit > 0:
            chosen = chosen[:limit]
        now, aliases = now_ns(), self._endpoints.links.aliases()
        documents = []
        for live in chosen:
            health, failures = self._health.status(live.container.id), self._health.failures(live.container.id)
            document = inspect.summary(live.container, now, health=health, failures=failures)
            document["Names"] += aliases.get(live.container.id, ())
            if size:
                document["SizeRw"], document["SizeRootFs"] = await self._disk.sizes(live.container)
            documents.append(document)
        return documents

    def _filtered(self, wanted: dict[str, list[str]], *, everything: bool) -> list[Live]:
        matcher = ContainerFilter(wanted, self._index, self._images)
        if not (everything or matcher.covers_stopped):
            candidates = [
                live for live in self._index if live.container.is_running or live.container.status is Status.RESTARTING
            ]
        else:
            candidates = [*self._index]
        return [live for live in candidates if matcher.matches(live.container, self._health.status(live.container.id))]

    async def inspect(self, reference: str, size: bool = False) -> dict[str, Any]:
        live = self._index.find(reference)
        container = live.container
        document = inspect.document(
            container,
            directory=self._preparation.directory(container.id),
            graph=self._snapshotter.data(container.id),
            health=self._health.document(container.id),
            exec_ids=live.exec_ids,
            apparmor_profile=self._preparation.apparmor_profile(container),
        )
        if container.host_config.links:
            document["HostConfig"]["Links"] = self._endpoints.links.shown(container)
        if size:
            document["SizeRw"], document["SizeRootFs"] = await self._disk.sizes(container)
        return document

    async def top(self, reference: str, ps_args: str = "") -> dict[str, Any]:
        live = self._index.find(reference)
        if not live.container.is_running or live.shim is None:
            raise Conflict(f"container {live.container.id} is not running")
        if live.container.status is Status.RESTARTING:
            raise Conflict(f"Container {live.container.id} is restarting, wait until the container is running")
        pids = await run_blocking(self._pids, live)
        document = await run_blocking(top.processes, pids, ps_args)
        self._lifecycle.publish(live, "top")
        return document

    async def xray(self, reference: str) -> dict[str, Any]:
        """What a container is made of, from the live kernel."""
        live = self._index.find(reference)

        def look() -> dict[str, Any]:
            running = live.container.is_running
            sources = Sources(
                images=self._images,
                snapshotter=self._snapshotter,
                cgroup_path=self._preparation.cgroup_path(live.container) if self._facts.cgroups else "",
                table=self._endpoints.table,
                pids=self._pids(live) if running else [],
            )
            return xray(live.container, sources)

        return await run_blocking(look)

    def _pids(self, live: Live) -> list[int]:
        if self._facts.cgroups:
            return stats.cgroup_of(self._preparation.cgroup_path(live.container)).pids()
        return processes.related(live.container.state.pid)

    @timed("changes")
    async def changes(self, reference: str) -> list[dict[str, Any]]:
        container = self._index.find(reference).container
        found = await run_blocking(self._snapshotter.changes, container.id)
        return [{"Path": change.path, "Kind": _CHANGES[change.kind]} for change in found]

    async def stats(
        self, reference: str, *, stream: bool = True, one_shot: bool = False
    ) -> AsyncIterator[dict[str, Any]]:
        live = self._index.find(reference)
        async with contextlib.aclosing(self._statistics.samples(live, stream=stream, one_shot=one_shot)) as samples:
            async for sample in samples:
                yield sample
