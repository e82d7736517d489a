"""Health checks: the policy as a small state machine, and the tasks that run the probes.

Source: Dockerfile reference, HEALTHCHECK; dockerd's health monitor.  Times in the configuration are nanoseconds.
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
from corten.dockerapi.timestamps import format_duration, format_ns
from corten.engine.container import Container, HealthLogEntry, Status
from corten.engine.tasks import Tasks
from corten.errors import CortenError

logger = logging.getLogger(__name__)

_SECOND_NS = 10**9
_INTERVAL_NS = 30 * _SECOND_NS
_TIMEOUT_NS = 30 * _SECOND_NS
_START_INTERVAL_NS = 5 * _SECOND_NS
_RETRIES = 3
_KEPT = 5
_OUTPUT = 4096
_FAILED = -1
STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"

Probe = Callable[[str, list[str], float], Awaitable[tuple[int, bytes]]]


@dataclass(frozen=True, slots=True)
class Policy:
    """A health check's settings."""

    command: tuple[str, ...]
    interval_ns: int = _INTERVAL_NS
    timeout_ns: int = _TIMEOUT_NS
    start_period_ns: int = 0
    start_interval_ns: int = _START_INTERVAL_NS
    retries: int = _RETRIES

    @classmethod
    def of(cls, config: HealthConfig | None, shell: list[str] | None) -> Policy | None:
        """None without a check.  What is zero has its default.

        shell: of the container, for the form of a string
        """
        if config is None or not config.test:
            return None
        kind, command = config.test[0], config.test[1:]
        if kind not in ("CMD", "CMD-SHELL") or not command:
            return None
        if kind == "CMD-SHELL":
            command = [*(shell or ["/bin/sh", "-c"]), *command]
        return cls(
            tuple(command),
            config.interval or _INTERVAL_NS,
            config.timeout or _TIMEOUT_NS,
            config.start_period,
            config.start_interval or _START_INTERVAL_NS,
            config.retries if config.retries > 0 else _RETRIES,
        )


@dataclass(slots=True)
class Health:
    """The state machine of one run of a program: results in, status out.

    started_ns: when the program began, on the clock of the results
    """

    policy: Policy
    started_ns: int
    status: str = STARTING
    failing_streak: int = 0
    log: deque[HealthLogEntry] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def record(self, entry: HealthLogEntry) -> bool:
        """Take a result; True when the status has changed."""
        self.log.append(entry)
        before = self.status
        if entry.exit_code == 0:
            self.failing_streak, self.status = 0, HEALTHY
        elif not self._is_starting_up(entry.start_ns):
            self.failing_streak += 1
            if self.failing_streak >= self.policy.retries:
                self.status = UNHEALTHY
        return self.status != before

    def _is_starting_up(self, now_ns: int) -> bool:
        """Failures do not count while the program comes up; the first success ends that time."""
        return self.status == STARTING and now_ns - self.started_ns < self.policy.start_period_ns

    def pause_ns(self, now_ns: int) -> int:
        """How long to wait before the next probe."""
        return self.policy.start_interval_ns if self._is_starting_up(now_ns) else self.policy.interval_ns

    def document(self) -> dict[str, Any]:
        """``State.Health`` of inspect."""
        entries = [
            {
                "Start": format_ns(item.start_ns),
                "End": format_ns(item.end_ns),
                "ExitCode": item.exit_code,
                "Output": item.output,
            }
            for item in self.log
        ]
        return {"Status": self.status, "FailingStreak": self.failing_streak, "Log": entries}


def shown_output(output: bytes) -> str:
    """What a log entry keeps of a probe's output."""
    if len(output) <= _OUTPUT:
        return output.decode(errors="replace")
    return output[:_OUTPUT].decode(errors="replace") + "..."


class HealthMonitor:
    """Runs the checks of all containers.

    probe:   (container id, command, timeout in s) -> (exit code, output); TimeoutError when it took too long and has
             been ended
    changed: told of every new status: container id, status
    """

    def __init__(self, probe: Probe, changed: Callable[[str, str], None], tasks: Tasks) -> None:
        self._probe = probe
        self._changed = changed
        self._tasks = tasks
        self._healths: dict[str, Health] = {}
        self._running: dict[str, asyncio.Task[None]] = {}

    def started(self, container: Container) -> None:
        """The program runs: begin to check it, if it is to be checked."""
        self._cancel(container.id)
        policy = Policy.of(container.config.healthcheck, container.config.shell)
        if policy is None:
            self._healths.pop(container.id, None)
            return
        health = Health(policy, container.state.started_ns)
        known = self._healths.get(container.id)
        if known is not None:
            health.log = known.log
        self._healths[container.id] = health
        self._running[container.id] = self._tasks.spawn(self._check(container, health), f"health {container.id[:12]}")

    def stopped(self, container_id: str) -> None:
        """The program has ended: what does not run is not healthy."""
        self._cancel(container_id)
        health = self._healths.get(container_id)
        if health is not None:
            health.status = UNHEALTHY

    def _cancel(self, container_id: str) -> None:
        task = self._running.pop(container_id, None)
        if task is not None:
            task.cancel()

    def forget(self, container_id: str) -> None:
        self._cancel(container_id)
        self._healths.pop(container_id, None)

    def status(self, container_id: str) -> str:
        """ "" without a check."""
        health = self._healths.get(container_id)
        return health.status if health is not None else ""

    def failures(self, container_id: str) -> int:
        """One after the other, up to now."""
        health = self._healths.get(container_id)
        return health.failing_streak if health is not None else 0

    def document(self, container_id: str) -> dict[str, Any] | None:
        health = self._healths.get(container_id)
        return health.document() if health is not None else None

    async def _check(self, container: Container, health: Health) -> None:
        while True:
            await asyncio.sleep(health.pause_ns(time.time_ns()) / _SECOND_NS)
            if container.status is not Status.RUNNING:
                continue  # a frozen program cannot answer
            entry = await self._run(container.id, health.policy)
            if health.record(entry):
                self._changed(container.id, health.status)

    async def _run(self, container_id: str, policy: Policy) -> HealthLogEntry:
        """One probe.  Whatever goes wrong is a failed check, never the end of checking."""
        start = time.time_ns()
        try:
            code, output = await self._probe(container_id, list(policy.command), policy.timeout_ns / _SECOND_NS)
            text = shown_output(output)
        except TimeoutError:
            code, text = _FAILED, f"Health check exceeded timeout ({format_duration(policy.timeout_ns)})"
        except CortenError as error:
            code, text = _FAILED, error.message
        except Exception as error:
            logger.exception("the health check of container %s could not be run", container_id[:12])
            code, text = _FAILED, str(error)
        return HealthLogEntry(start, time.time_ns(), code, text)
