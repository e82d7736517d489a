"""What a build needs of its engine, and how it is told to stop."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from corten.cdi.catalogue import Found
from corten.errors import CortenError

Document = dict[str, Any]
Report = Callable[[Document], None]


class Cancelled(CortenError):
    """The client has left, or another part of the build has failed."""


class BuildFailed(CortenError):
    """A step's program ended with an exit code that is not 0.

    command: what was executed, as one line
    """

    def __init__(self, message: str, code: int, command: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.command = command


class Cancellation:
    """Asked for by one thread, noticed by others.  Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self._event = threading.Event()

    @property
    def is_cancelled(self) -> bool:
        return self._event.is_set()

    def cancel(self) -> None:
        with self._lock:
            self._event.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def check(self) -> None:
        """Errors: Cancelled."""
        if self._event.is_set():
            raise Cancelled("the build was cancelled")

    @contextlib.contextmanager
    def calling(self, callback: Callable[[], None]) -> Iterator[None]:
        """``callback`` is called from the cancelling thread when that happens within the block, or has happened."""
        with self._lock:
            cancelled = self._event.is_set()
            if not cancelled:
                self._callbacks.append(callback)
        if cancelled:
            callback()
        try:
            yield
        finally:
            with self._lock, contextlib.suppress(ValueError):
                self._callbacks.remove(callback)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of the containers that steps run in; 0 and "" mean none.  Memory in bytes, CPU times in microseconds."""

    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    shm_size: int = 0
    ulimits: tuple[tuple[str, int, int], ...] = ()
    cgroup_parent: str = ""
    extra_hosts: tuple[str, ...] = ()
    hostname: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMount:
    """Something mounted while a step runs.

    type:   "bind" (a directory or file of the host), "image", "tmpfs"
    source: path on the host, or an image id; subpath: below it, of an image; size: bytes of a tmpfs, 0 without limit
    """

    type: str
    target: str
    source: str = ""
    subpath: str = ""
    read_only: bool = True
    size: int = 0
    mode: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A program to run on top of an image.

    command: what is executed; environment: beside the image's; network: "" for the build's own
    is_privileged: without what confines ordinary containers
    devices: names of CDI devices
    has_volumes: volumes of the image are mounted, and lost at the end
    """

    image: str
    command: tuple[str, ...]
    environment: tuple[str, ...] = ()
    network: str = ""
    limits: Limits = field(default_factory=Limits)
    mounts: tuple[StepMount, ...] = ()
    is_privileged: bool = False
    devices: tuple[str, ...] = ()
    has_volumes: bool = False


class Workshop(Protocol):
    """The engine's side.  Synchronous, called from several threads."""

    def run(
        self,
        step: Step,
        started: Callable[[str], None],
        output: Callable[[bool, bytes], None],
        cancellation: Cancellation,
    ) -> tuple[str, int]:
        """Run the step in a new container; (its id, exit code).  The container is there until ``remove``.

        started: told the container's id; output: (whether it is stderr, bytes)
        Errors: Cancelled, and nothing is left then; those of creating and starting a container.
        """
        ...

    def remove(self, container_id: str) -> None:
        """Also one that runs; nothing there is no error."""
        ...

    def devices(self) -> Found:
        """Devices of this machine that steps may ask for."""
        ...

    def pull(self, reference: str, platform: str, report: Report, cancellation: Cancellation) -> None:
        """Errors: NotFound, Unavailable, Unauthorized, Cancelled."""
        ...
