"""Docker's statistics documents: one sampler for each container, shared by all who stream them.

The last sample is kept, so that a single answer can carry the one before it without a second of waiting.  Sampling
reads some twenty files and is a worker thread's job.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

from corten.cgroup import stats as cgroup_stats
from corten.cgroup.manager import Cgroup
from corten.dockerapi.timestamps import ZERO_TIME_NS, format_ns
from corten.engine.container import Container
from corten.engine.live import Live
from corten.engine.streams import run_blocking
from corten.engine.tasks import Tasks

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
_FIRST_PAIR_S = 0.1
_OLDEST_NS = 60 * 10**9  # an older sample says nothing about the load of now
_MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
_BLKIO_UNUSED = ("queue", "service_time", "wait_time", "merged", "time")


def cgroup_of(path: str) -> Cgroup:
    return Cgroup(path)


@dataclass(frozen=True, slots=True)
class Sample:
    """Numbers of one moment.  raw: as ``corten.cgroup.stats.read``; system_ns: time of all CPUs together."""

    at_ns: int
    raw: dict[str, Any]
    system_ns: int

    @classmethod
    def take(cls, path: str) -> Sample | None:
        """None when the cgroup is gone."""
        cgroup = cgroup_of(path)
        if not cgroup.exists():
            return None
        return cls(time.time_ns(), cgroup_stats.read(cgroup), cgroup_stats.system_cpu_ns())


# -- documents --------------------------------------------------------------------------------------------------------


def _cpu(sample: Sample | None) -> dict[str, Any]:
    if sample is None:
        return {
            "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
            "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
        }
    cpu = sample.raw["cpu"]
    usage = {"total_usage": cpu["total"], "usage_in_kernelmode": cpu["kernel"], "usage_in_usermode": cpu["user"]}
    if cpu["percpu"]:
        usage["percpu_usage"] = cpu["percpu"]
    return {
        "cpu_usage": usage,
        "system_cpu_usage": sample.system_ns,
        "online_cpus": os.cpu_count() or 1,
        "throttling_data": {
            "periods": cpu["periods"],
            "throttled_periods": cpu["throttled_periods"],
            "throttled_time": cpu["throttled_time"],
        },
    }


def _memory(memory: dict[str, Any]) -> dict[str, Any]:
    limit = memory["limit"]
    document = {"usage": memory["usage"], "stats": memory["stats"], "limit": min(limit, _MEMORY) if limit else _MEMORY}
    for name in ("max_usage", "failcnt"):
        if memory[name]:
            document[name] = memory[name]
    return document


def _blkio(blkio: dict[str, Any] | None) -> dict[str, Any]:
    document: dict[str, Any] = {
        "io_service_bytes_recursive": blkio["bytes"] if blkio else None,
        "io_serviced_recursive": blkio["operations"] if blkio else None,
    }
    document.update((f"io_{name}_recursive", None) for name in _BLKIO_UNUSED)
    return document | {"sectors_recursive": None}


def document(container: Container, sample: Sample | None, before: Sample | None) -> dict[str, Any]:
    """What the API answers; without a sample the document of a container that does not run."""
    pids: dict[str, int] = {}
    if sample is not None:
        pids = {name: value for name, value in sample.raw["pids"].items() if value}
    answer: dict[str, Any] = {
        "name": f"/{container.name}",
        "id": container.id,
        "os_type": "linux",
        "read": format_ns(sample.at_ns if sample else ZERO_TIME_NS),
        "preread": format_ns(before.at_ns if before else ZERO_TIME_NS),
        "pids_stats": pids,
        "blkio_stats": _blkio(sample.raw["blkio"] if sample else None),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu(sample),
        "precpu_stats": _cpu(before),
        "memory_stats": _memory(sample.raw["memory"]) if sample else {},
    }
    if sample is not None:
        answer["networks"] = interfaces(container)
        rate = container.host_config.network_rate
        if rate is not None:
            answer["network_rate"] = {"ingress": rate.ingress, "egress": rate.egress}
    return answer


_COUNTED = ("bytes", "packets", "errors", "dropped")


def interfaces(container: Container) -> dict[str, dict[str, int]]:
    """What the interfaces of a container's network have counted, its loopback device left out.

    Nothing for a container on the host's network.  Source: proc_pid_net(5), dev: eight fields received, eight sent.
    """
    if "host" in container.networks or not container.state.pid:
        return {}
    try:
        with open(f"/proc/{container.state.pid}/net/dev") as file:
            lines = file.read().splitlines()[2:]
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, _, numbers = line.partition(":")
        values = [int(number) for number in numbers.split()]
        if name.strip() != "lo" and len(values) >= 12:
            received = {f"rx_{key}": value for key, value in zip(_COUNTED, values, strict=False)}
            sent = {f"tx_{key}": value for key, value in zip(_COUNTED, values[8:], strict=False)}
            found[name.strip()] = received | sent
    return found


# -- sampling ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Sampler:
    """The last two samples of one run of a container, and everyone who waits for the next."""

    live: Live
    path: str
    read: Callable[[str], Sample | None]
    run_ns: int = 0
    last: Sample | None = None
    before: Sample | None = None
    listeners: int = 0
    beat: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    async def take(self) -> Sample | None:
        """A new sample; None when the container does not run."""
        container = self.live.container
        run_ns = container.state.started_ns
        sample = await run_blocking(self.read, self.path) if container.is_running else None
        if sample is None or run_ns != self.run_ns:
            self.before, self.run_ns = None, run_ns  # what a former run used does not count
        else:
            self.before = self.last
        self.last = sample
        return sample

    def document(self) -> dict[str, Any]:
        return document(self.live.container, self.last, self.before)

    def wake(self) -> None:
        beat, self.beat = self.beat, asyncio.Event()
        beat.set()


class Statistics:
    """The statistics of this daemon's containers.

    cgroup_path: the cgroup of a container
    take:        reads a cgroup's numbers
    """

    def __init__(
        self, cgroup_path: Callable[[Container], str], tasks: Tasks, take: Callable[[str], Sample | None] = Sample.take
    ) -> None:
        self._cgroup_path = cgroup_path
        self._tasks = tasks
        self._take = take
        self._samplers: dict[str, _Sampler] = {}

    def forget(self, container_id: str) -> None:
        """The container is gone; those who stream its statistics get their end."""
        sampler = self._samplers.pop(container_id, None)
        if sampler is not None:
            sampler.wake()

    async def samples(self, live: Live, *, stream: bool, one_shot: bool) -> AsyncGenerator[dict[str, Any], None]:
        """Documents: one each second while the container exists, or a single one.

        one_shot: the single one without a sample before it
        """
        sampler = self._samplers.get(live.container.id)
        if sampler is None:
            sampler = _Sampler(live, self._cgroup_path(live.container), self._take)
            self._samplers[live.container.id] = sampler
        if not stream:
            yield await self._single(sampler, one_shot=one_shot)
            return
        sampler.listeners += 1
        if sampler.task is None or sampler.task.done():
            sampler.task = self._tasks.spawn(self._run(sampler), f"stats {live.container.id[:12]}")
        try:
            while self._knows(sampler):
                await sampler.beat.wait()
                if self._knows(sampler):
                    yield sampler.document()
        finally:
            sampler.listeners -= 1

    def _knows(self, sampler: _Sampler) -> bool:
        return self._samplers.get(sampler.live.container.id) is sampler

    async def _run(self, sampler: _Sampler) -> None:
        """Sample while somebody listens; a failure is an empty document, not the end of all streams."""
        while sampler.listeners and self._knows(sampler):
            try:
                await sampler.take()
            except Exception:
                logger.exception("cannot sample container %s", sampler.live.container.id[:12])
                sampler.last = sampler.before = None
            sampler.wake()
            await asyncio.sleep(INTERVAL_S)

    async def _single(self, sampler: _Sampler, *, one_shot: bool) -> dict[str, Any]:
        container = sampler.live.container
        if one_shot:
            return document(container, await sampler.take(), None)
        last = sampler.last
        if last is None or time.time_ns() - last.at_ns > _OLDEST_NS or sampler.run_ns != container.state.started_ns:
            if await sampler.take() is None:
                return document(container, None, None)
            await asyncio.sleep(_FIRST_PAIR_S)
        await sampler.take()
        return sampler.document()
