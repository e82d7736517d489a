"""Containers in memory: the record and what hangs on it while this daemon runs, found by id, name or prefix."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from corten.dockerapi.queries import AttachQuery
from corten.engine.container import Container
from corten.engine.shims import Shim
from corten.errors import Conflict, InvalidParameter, NotFound


@dataclass(frozen=True, slots=True)
class PendingAttach:
    """An attach that came before the start: served from the program's first byte."""

    query: AttachQuery
    stream: socket.socket


@dataclass(slots=True, eq=False)
class Live:
    """One container of this daemon.

    lock:     held while the state changes (start, exit, remove, rename); never while waiting for the program
    stopped:  resolved when the exit of the current run has been recorded; None while nothing runs
    waiters:  (condition, future) of ``wait`` calls
    backoff:  the pause before an automatic restart
    restarts: clients that are restarting it: the exit that they bring about removes nothing
    oom_told: it was told of this run that memory had run out
    """

    container: Container
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    shim: Shim | None = None
    stopped: asyncio.Future[None] | None = None
    removed: asyncio.Future[None] | None = None
    waiters: list[tuple[str, asyncio.Future[dict[str, Any]]]] = field(default_factory=list)
    pending: list[PendingAttach] = field(default_factory=list)
    backoff: asyncio.Task[None] | None = None
    backoff_s: float = 0.0
    restarts: int = 0
    removing: bool = False
    shm_mounted: bool = False
    oom_told: bool = False
    exec_ids: list[str] = field(default_factory=list)

    def forget_waiter(self, waiter: tuple[str, asyncio.Future[dict[str, Any]]]) -> None:
        """The wait is over or its client has left."""
        if waiter in self.waiters:
            self.waiters.remove(waiter)

    def resolve_waiters(self, conditions: frozenset[str], exit_code: int, error: str = "") -> None:
        """Answer the ``wait`` calls with one of these conditions."""
        result: dict[str, Any] = {"StatusCode": exit_code}
        if error:
            result["Error"] = {"Message": error}
        kept = []
        for condition, future in self.waiters:
            if condition not in conditions:
                kept.append((condition, future))
            elif not future.done():
                future.set_result(result)
        self.waiters = kept


class Index:
    """All containers of this daemon by id, name and unambiguous prefix of the id."""

    def __init__(self) -> None:
        self._by_id: dict[str, Live] = {}
        self._by_name: dict[str, Live] = {}

    def __iter__(self) -> Iterator[Live]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, live: Live) -> None:
        self.check_name(live.container.name)
        self._by_id[live.container.id] = live
        self._by_name[live.container.name] = live

    def check_name(self, name: str) -> None:
        """Errors: Conflict in Docker's words when a container of that name exists."""
        holder = self._by_name.get(name)
        if holder is not None:
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container "{holder.container.id}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )

    def has_name(self, name: str) -> bool:
        return name in self._by_name

    def rename(self, live: Live, name: str) -> None:
        self.check_name(name)
        del self._by_name[live.container.name]
        live.container.name = name
        self._by_name[name] = live

    def drop(self, live: Live) -> None:
        self._by_id.pop(live.container.id, None)
        if self._by_name.get(live.container.name) is live:
            del self._by_name[live.container.name]

    def find(self, reference: str) -> Live:
        """Errors: NotFound "No such container: x", InvalidParameter for an ambiguous prefix."""
        name = reference.removeprefix("/")
        live = self._by_id.get(name) or self._by_name.get(name)
        if live is not None:
            return live
        if name and all(letter in "0123456789abcdef" for letter in name):
            matches = [live for container_id, live in self._by_id.items() if container_id.startswith(name)]
            if len(matches) == 1:
                return matches[0]
            if matches:
                raise InvalidParameter(f"multiple IDs found with provided prefix: {name}")
        raise NotFound(f"No such container: {reference}")
