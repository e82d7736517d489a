"""What the engine counts, under the names that dockerd gives them, so that boards made for Docker show Corten too."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import resource
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from corten import __version__
from corten.engine.host_support import os_release, read_text
from corten.engine.prometheus import Counter, Histogram, Measured, Registry

if TYPE_CHECKING:
    from corten.engine.engine import Engine

_ACTIONS = ("changes", "commit", "create", "delete", "start")
_NETWORK_ACTIONS = ("allocate", "connect", "release")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")

P = ParamSpec("P")
R = TypeVar("R")


class Metrics:
    """The metrics of one engine.  ``registry`` is open to those who count something of their own."""

    def __init__(self) -> None:
        self.registry = Registry()
        add = self.registry.add
        self.container_actions = add(
            Histogram(
                "engine_daemon_container_actions_seconds",
                "The number of seconds it takes to process each container action",
                ("action",),
            )
        )
        for action in _ACTIONS:
            self.container_actions.make(action)
        self.network_actions = add(
            Histogram(
                "engine_daemon_network_actions_seconds",
                "The number of seconds it takes to process each network action",
                ("action",),
            )
        )
        for action in _NETWORK_ACTIONS:
            self.network_actions.make(action)
        self.health_checks = add(Counter("engine_daemon_health_checks_total", "The total number of health checks"))
        self.health_checks_failed = add(
            Counter("engine_daemon_health_checks_failed_total", "The total number of failed health checks")
        )
        self.builds_triggered = add(Counter("builder_builds_triggered_total", "Number of triggered image builds"))
        self.builds_failed = add(
            Counter("builder_builds_failed_total", "Number of failed image builds, by what went wrong", ("reason",))
        )
        self._add_process()

    @contextlib.contextmanager
    def network(self, action: str) -> Iterator[None]:
        """The block is an action of a network; one that fails is not counted."""
        begun = time.perf_counter()
        yield
        self.network_actions.observe(time.perf_counter() - begun, action)

    def describe(self, engine: Engine) -> None:
        """Add what is read from the engine when somebody asks."""
        add = self.registry.add
        add(
            Measured(
                "engine_daemon_container_states_containers",
                "The count of containers in various states",
                lambda: _states(engine.describe()),
                ("state",),
            )
        )
        add(
            Measured(
                "engine_daemon_events_subscribers_total",
                "The number of current subscribers to events",
                lambda: engine.events.listeners,
            )
        )
        add(
            Measured(
                "engine_daemon_events_total",
                "The number of events logged",
                lambda: engine.events.published,
                kind="counter",
            )
        )
        add(
            Measured("engine_daemon_images", "The number of images, those without a name included", engine.images.count)
        )
        add(
            Measured(
                "engine_daemon_engine_cpus_cpus",
                "The number of cpus that the host system of the engine has",
                lambda: os.cpu_count() or 1,
            )
        )
        memory = os.sysconf("SC_PHYS_PAGES") * _PAGE
        add(
            Measured(
                "engine_daemon_engine_memory_bytes",
                "The number of bytes of memory that the host system of the engine has",
                lambda: memory,
            )
        )
        release = os_release()
        about = {
            "version": __version__,
            "commit": "",
            "architecture": platform.machine(),
            "graphdriver": engine.snapshotter.name,
            "kernel": os.uname().release,
            "os": release.get("PRETTY_NAME", "Linux"),
            "os_type": "linux",
            "os_version": release.get("VERSION_ID", ""),
            "daemon_id": engine.system.id,
        }
        add(
            Measured(
                "engine_daemon_engine_info",
                "The information related to the engine and the OS it is running on",
                lambda: {tuple(about.values()): 1},
                tuple(about),
            )
        )

    def _add_process(self) -> None:
        add = self.registry.add
        add(Measured("process_cpu_seconds_total", "Processor time of the daemon", time.process_time, kind="counter"))
        add(Measured("process_open_fds", "Open file descriptors of the daemon", _descriptors))
        add(
            Measured(
                "process_max_fds",
                "How many file descriptors the daemon may have",
                lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            )
        )
        add(Measured("process_virtual_memory_bytes", "Virtual memory of the daemon", lambda: _memory(0)))
        add(Measured("process_resident_memory_bytes", "Resident memory of the daemon", lambda: _memory(1)))
        started = _started()
        add(Measured("process_start_time_seconds", "When the daemon started, since the epoch", lambda: started))

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return self.registry.text()


def _states(counts: dict[str, Any]) -> dict[tuple[str, ...], float]:
    """Containers by the three states that dockerd tells apart here."""
    running, paused = counts.get("running", 0), counts.get("paused", 0)
    return {("paused",): paused, ("running",): running, ("stopped",): sum(counts.values()) - running - paused}


def _descriptors() -> float:
    return len(os.listdir("/proc/self/fd")) - 1  # but for the listing's own


def _memory(field: int) -> float:
    """proc_pid_statm(5)."""
    fields = read_text("/proc/self/statm").split()
    return int(fields[field]) * _PAGE if len(fields) > field else float("nan")


def _started() -> float:
    """proc_pid_stat(5), field 22: ticks since the machine started; field 2 may hold spaces and brackets."""
    fields = read_text("/proc/self/stat").rpartition(")")[2].split()
    uptime = read_text("/proc/uptime").split()
    if len(fields) < 20 or not uptime:
        return time.time()
    return time.time() - float(uptime[0]) + int(fields[19]) / _TICKS


class HasMetrics(Protocol):
    """Whose methods can be ``timed``."""

    @property
    def metrics(self) -> Metrics: ...


S = TypeVar("S", bound=HasMetrics)


def timed(
    action: str,
) -> Callable[[Callable[Concatenate[S, P], Awaitable[R]]], Callable[Concatenate[S, P], Awaitable[R]]]:
    """A method whose successful calls are an action of a container."""

    def decorate(method: Callable[Concatenate[S, P], Awaitable[R]]) -> Callable[Concatenate[S, P], Awaitable[R]]:
        @functools.wraps(method)
        async def measure(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
            begun = time.perf_counter()
            result = await method(self, *args, **kwargs)
            self.metrics.container_actions.observe(time.perf_counter() - begun, action)
            return result

        return measure

    return decorate
