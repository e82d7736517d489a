"""Health checks: the policy as a small state machine, and the tasks that run the probes.

Source: Dockerfile reference, HEALTHCHECK.  Times in the configuration are nanoseconds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from corten.dockerapi.container import HealthConfig
from corten.dockerapi.timestamps import format_ns
from corten.engine.container import Container, HealthLogEntry
from corten.engine.tasks import Tasks
from corten.errors import CortenError

logger = logging.getLogger(__name__)

_SECOND_NS = 10**9
_INTERVAL_S = 30.0
_TIMEOUT_S = 30.0
_START_INTERVAL_S = 5.0
_RETRIES = 3
_KEPT = 5
_OUTPUT = 4096

Probe = Callable[[str, list[str], float], Awaitable[tuple[int, bytes]]]


@dataclass(frozen=True, slots=True)
class Policy:
    """A health check's settings, in seconds."""

    command: tuple[str, ...]
    interval_s: float
    timeout_s: float
    start_period_s: float
    start_interval_s: float
    retries: int

    @classmethod
    def of(cls, config: HealthConfig | None, shell: list[str] | None) -> Policy | None:
        """None without a check."""
        if config is None or not config.test or config.test[0] == "NONE":
            return None
        if config.test[0] == "CMD-SHELL":
            command = (*(shell or ["/bin/sh", "-c"]), config.test[1] if len(config.test) > 1 else "")
        else:
            command = tuple(config.test[1:])
        if not command:
            return None
        return cls(
            command,
            config.interval / _SECOND_NS or _INTERVAL_S,
            config.timeout / _SECOND_NS or _TIMEOUT_S,
            config.start_period / _SECOND_NS,
            config.start_interval / _SECOND_NS or _START_INTERVAL_S,
            config.retries or _RETRIES,
        )


@dataclass(slots=True)
class Health:
    """The state machine: results in, status out."""

    policy: Policy
    started_s: float
    status: str = "starting"
    failing_streak: int = 0
    log: deque[HealthLogEntry] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def record(self, entry: HealthLogEntry, now_s: float) -> bool:
        """Take a result; True when the status has changed."""
        self.log.append(entry)
        before = self.status
        if entry.exit_code == 0:
            self.failing_streak, self.status = 0, "healthy"
        elif self.status == "starting" and now_s - self.started_s < self.policy.start_period_s:
            pass  # failures do not count while the program is still coming up
        else:
            self.failing_streak += 1
            if self.failing_streak >= self.policy.retries:
                self.status = "unhealthy"
        return self.status != before

    def pause_s(self, now_s: float) -> float:
        """Seconds until the next probe."""
        if self.status == "starting" and now_s - self.started_s < self.policy.start_period_s:
            return self.policy.start_interval_s
        return self.policy.interval_s

    def document(self) -> dict[str, Any]:
        entries = [
            {"Start": format_ns(item.start_ns), "End": format_ns(item.end_ns), "ExitCode": item.exit_code, "Output": item.output}
            for item in self.log
        ]
        return {"Status": self.status, "FailingStreak": self.failing_streak, "Log": entries or None}


class HealthMonitor:
    """Runs the checks of all containers.

    probe:   (container id, command, timeout in s) -> (exit code, output); TimeoutError when it took too long
    changed: told of every new status
    """

    def __init__(self, probe: Probe, changed: Callable[[str, str], None], tasks: Tasks) -> None:
        self._probe = probe
        self._changed = changed
        self._tasks = tasks
        self._healths: dict[str, Health] = {}
        self._running: dict[str, asyncio.Task[None]] = {}

    def started(self, container: Container) -> None:
        """The program runs: begin to check it, if it is to be checked."""
        self.stopped(container.id)
        policy = Policy.of(container.config.healthcheck, container.config.shell)
        if policy is None:
            self._healths.pop(container.id, None)
            return
        health = self._healths[container.id] = Health(policy, time.monotonic())
        self._running[container.id] = self._tasks.spawn(self._check(container, health), f"health {container.id[:12]}")

    def stopped(self, container_id: str) -> None:
        task = self._running.pop(container_id, None)
        if task is not None:
            task.cancel()
        health = self._healths.get(container_id)
        if health is not None and health.status != "unhealthy":
            health.status = "unhealthy" if health.failing_streak >= health.policy.retries else health.status

    def forget(self, container_id: str) -> None:
        self.stopped(container_id)
        self._healths.pop(container_id, None)

    def status(self, container_id: str) -> str:
        """"" without a check."""
        health = self._healths.get(container_id)
        return health.status if health is not None else ""

    def document(self, container_id: str) -> dict[str, Any] | None:
        health = self._healths.get(container_id)
        return health.document() if health is not None else None

    async def _check(self, container: Container, health: Health) -> None:
        while True:
            await asyncio.sleep(health.pause_s(time.monotonic()))
            if container.status != "running":
                continue
            entry = await self._run(container.id, health.policy)
            if health.record(entry, time.monotonic()):
                self._changed(container.id, health.status)

    async def _run(self, container_id: str, policy: Policy) -> HealthLogEntry:
        start = time.time_ns()
        try:
            code, output = await self._probe(container_id, list(policy.command), policy.timeout_s)
            text = output[:_OUTPUT].decode(errors="replace")
        except TimeoutError:
            code, text = -1, f"Health check exceeded timeout ({policy.timeout_s:g}s)"
        except CortenError as error:
            code, text = -1, error.message
        return HealthLogEntry(start, time.time_ns(), code, text)
