"""Docker's statistics documents: one sampler for each container, shared by all who stream them.

The last sample is kept, so that a single sample can carry the one before it without a second of waiting.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from corten.cgroup import stats as cgroup_stats
from corten.cgroup.hierarchy import Hierarchies
from corten.cgroup.manager import Cgroup
from corten.dockerapi.timestamps import format_ns
from corten.engine.live import Live

_INTERVAL_S = 1.0
_FIRST_PAIR_S = 0.1
_NEVER = "0001-01-01T00:00:00Z"

_hierarchies: Hierarchies | None = None


def cgroup_of(path: str) -> Cgroup:
    """The cgroup at ``path``; the host's hierarchies are read once."""
    global _hierarchies
    if _hierarchies is None:
        _hierarchies = Hierarchies.read()
    return Cgroup(path, _hierarchies)


def _total_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


_MEMORY = _total_memory()


def _blkio(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"major": item["major"], "minor": item["minor"], "op": item["op"], "value": item["value"]} for item in entries]


def _cpu(raw: dict[str, Any] | None, system_ns: int) -> dict[str, Any]:
    if raw is None:
        return {
            "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
            "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
        }
    cpu = raw["cpu"]
    usage = {"total_usage": cpu["total"], "usage_in_kernelmode": cpu["kernel"], "usage_in_usermode": cpu["user"]}
    if cpu["percpu"]:
        usage["percpu_usage"] = cpu["percpu"]
    return {
        "cpu_usage": usage,
        "system_cpu_usage": system_ns,
        "online_cpus": os.cpu_count() or 1,
        "throttling_data": {
            "periods": cpu["periods"],
            "throttled_periods": cpu["throttled_periods"],
            "throttled_time": cpu["throttled_time"],
        },
    }


class _Sample:
    """Numbers of one moment."""

    def __init__(self, path: str) -> None:
        self.at_ns = time.time_ns()
        self.raw = cgroup_stats.read(cgroup_of(path))
        self.system_ns = cgroup_stats.system_cpu_ns()


def _document(live: Live, sample: _Sample, before: _Sample | None) -> dict[str, Any]:
    container, raw = live.container, sample.raw
    memory = raw["memory"]
    limit = memory["limit"]
    pids = {"current": raw["pids"]["current"]}
    if raw["pids"]["limit"]:
        pids["limit"] = raw["pids"]["limit"]
    stats: dict[str, Any] = {
        "usage": memory["usage"],
        "stats": memory["stats"],
        "limit": min(limit, _MEMORY) if limit else _MEMORY,
    }
    if memory["max_usage"]:
        stats["max_usage"] = memory["max_usage"]
    if memory["failcnt"]:
        stats["failcnt"] = memory["failcnt"]
    return {
        "read": format_ns(sample.at_ns),
        "preread": format_ns(before.at_ns) if before else _NEVER,
        "pids_stats": pids,
        "blkio_stats": {
            "io_service_bytes_recursive": _blkio(raw["blkio"]["bytes"]),
            "io_serviced_recursive": _blkio(raw["blkio"]["operations"]),
            "io_queue_recursive": None,
            "io_service_time_recursive": None,
            "io_wait_time_recursive": None,
            "io_merged_recursive": None,
            "io_time_recursive": None,
            "sectors_recursive": None,
        },
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu(raw, sample.system_ns),
        "precpu_stats": _cpu(before.raw, before.system_ns) if before else _cpu(None, 0),
        "memory_stats": stats,
        "name": f"/{container.name}",
        "id": container.id,
        "networks": {},
    }


def empty_document(live: Live) -> dict[str, Any]:
    """What dockerd answers for a container that does not run."""
    return {
        "read": _NEVER,
        "preread": _NEVER,
        "pids_stats": {},
        "blkio_stats": {"io_service_bytes_recursive": None, "io_serviced_recursive": None},
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu(None, 0),
        "precpu_stats": _cpu(None, 0),
        "memory_stats": {},
        "name": f"/{live.container.name}",
        "id": live.container.id,
    }


class _Sampler:
    """Samples one container while somebody listens."""

    def __init__(self, live: Live, path: str) -> None:
        self.live = live
        self.path = path
        self.last: _Sample | None = None
        self.before: _Sample | None = None
        self.listeners = 0
        self.condition = asyncio.Condition()
        self.task: asyncio.Task[None] | None = None

    def take(self) -> _Sample:
        self.before, self.last = self.last, _Sample(self.path)
        return self.last

    async def run(self) -> None:
        while self.listeners:
            async with self.condition:
                if self.live.container.is_running:
                    self.take()
                self.condition.notify_all()
            await asyncio.sleep(_INTERVAL_S)


_samplers: dict[str, _Sampler] = {}


def forget(container_id: str) -> None:
    """The container is gone."""
    _samplers.pop(container_id, None)


async def samples(live: Live, path: str, *, stream: bool, one_shot: bool) -> AsyncIterator[dict[str, Any]]:
    """Documents: one each second, or a single one (with the sample before it unless ``one_shot``)."""
    sampler = _samplers.setdefault(live.container.id, _Sampler(live, path))
    if not stream:
        yield await _single(sampler, one_shot=one_shot)
        return
    sampler.listeners += 1
    if sampler.task is None or sampler.task.done():
        sampler.task = asyncio.get_running_loop().create_task(sampler.run(), name=f"stats {live.container.id[:12]}")
    try:
        while not live.removing:
            async with sampler.condition:
                await sampler.condition.wait()
            if live.container.is_running and sampler.last is not None:
                yield _document(live, sampler.last, sampler.before)
            else:
                yield empty_document(live)
    finally:
        sampler.listeners -= 1


async def _single(sampler: _Sampler, *, one_shot: bool) -> dict[str, Any]:
    if not sampler.live.container.is_running:
        return empty_document(sampler.live)
    if one_shot:
        return _document(sampler.live, sampler.take(), None)
    if sampler.last is None or time.time_ns() - sampler.last.at_ns > 60 * 10**9:
        sampler.take()
        await asyncio.sleep(_FIRST_PAIR_S)
    return _document(sampler.live, sampler.take(), sampler.before)
