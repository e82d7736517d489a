"""Containers, as the API sees them: change their state, wait for them, talk to them.

The other jobs have modules of their own: ``container_creation``, ``container_removal``, ``container_views`` (list,
inspect), ``container_files`` (cp, export).  How a state changes is ``lifecycle``'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec

from corten.config import Config
from corten.dockerapi.container import ContainerCreate, ContainerUpdate, EndpointSettings, RestartPolicy
from corten.dockerapi.queries import AttachQuery, LogQuery
from corten.engine import create
from corten.engine.container import Container, Status
from corten.engine.container_creation import ContainerCreation
from corten.engine.container_disk import ContainerDisk
from corten.engine.container_files import ContainerFiles
from corten.engine.container_removal import ContainerRemoval
from corten.engine.container_root import StoppedRoot
from corten.engine.container_views import ContainerViews
from corten.engine.container_volumes import ContainerVolumes
from corten.engine.devices import Devices
from corten.engine.endpoint_wishes import check_rate
from corten.engine.endpoints import Endpoints
from corten.engine.events import Events
from corten.engine.health import HealthMonitor
from corten.engine.image_mounts import ImageMounts
from corten.engine.lifecycle import Lifecycle
from corten.engine.limits import Machine, check_resources, merge_update, oci_update
from corten.engine.live import Index, Live, PendingAttach
from corten.engine.logs import LogStream, open_logs
from corten.engine.metrics import Metrics, timed
from corten.engine.names import valid_name
from corten.engine.preparation import HostFacts, Preparation
from corten.engine.stats import Statistics
from corten.engine.store import Store
from corten.engine.tasks import Tasks
from corten.engine.user_namespaces import UserNamespaces
from corten.errors import Conflict, CortenError, InvalidParameter, NotFound
from corten.image.store import ImageStore
from corten.snapshot.api import Snapshotter

_WAIT_CONDITIONS = ("not-running", "next-exit", "removed")


@dataclass(frozen=True, slots=True)
class AttachSession:
    """A stream to a program: raw for a terminal, else framed (``dockerapi/frames.py``)."""

    tty: bool
    sock: socket.socket


class Containers:
    """The containers of this daemon.  ``views`` describes them, ``files`` reaches into them."""

    def __init__(
        self,
        *,
        config: Config,
        facts: HostFacts,
        index: Index,
        store: Store,
        images: ImageStore,
        snapshotter: Snapshotter,
        volumes: ContainerVolumes,
        image_mounts: ImageMounts,
        endpoints: Endpoints,
        lifecycle: Lifecycle,
        preparation: Preparation,
        health: HealthMonitor,
        tasks: Tasks,
        events: Events,
        metrics: Metrics,
        user_namespaces: UserNamespaces,
        devices: Devices,
    ) -> None:
        self._facts = facts
        self._index = index
        self._store = store
        self._endpoints = endpoints
        self._lifecycle = lifecycle
        self.metrics = metrics
        self._machine = Machine.read(config.cgroup_driver)
        statistics = Statistics(preparation.cgroup_path, tasks)
        disk = ContainerDisk(snapshotter, volumes, images, preparation.directory)
        self._creation = ContainerCreation(
            config=config,
            facts=facts,
            machine=self._machine,
            index=index,
            store=store,
            images=images,
            disk=disk,
            driver=snapshotter.name,
            volumes=volumes,
            image_mounts=image_mounts,
            endpoints=endpoints,
            lifecycle=lifecycle,
            preparation=preparation,
            metrics=metrics,
            user_namespaces=user_namespaces,
            devices=devices,
        )
        self._removal = ContainerRemoval(
            index=index,
            store=store,
            disk=disk,
            volumes=volumes,
            endpoints=endpoints,
            lifecycle=lifecycle,
            health=health,
            statistics=statistics,
            events=events,
            metrics=metrics,
        )
        self.views = ContainerViews(
            facts=facts,
            index=index,
            images=images,
            snapshotter=snapshotter,
            disk=disk,
            endpoints=endpoints,
            lifecycle=lifecycle,
            preparation=preparation,
            health=health,
            statistics=statistics,
            metrics=metrics,
        )
        self.files = ContainerFiles(
            index=index,
            snapshotter=snapshotter,
            stopped_root=StoppedRoot(snapshotter, volumes, image_mounts),
            lifecycle=lifecycle,
            preparation=preparation,
        )

    def find(self, reference: str) -> Live:
        return self._index.find(reference)

    def all(self) -> list[Container]:
        """Every container's record."""
        return [live.container for live in self._index]

    @contextlib.asynccontextmanager
    async def paused(self, live: Live, *, wanted: bool) -> AsyncIterator[None]:
        """Hold a running program still meanwhile, so that its files are of one moment."""
        held = False
        if wanted and live.container.status is Status.RUNNING and self._facts.cgroups:
            with contextlib.suppress(Conflict):  # it has just ended, or others hold it still
                await self._lifecycle.pause(live)
                held = True
        try:
            yield
        finally:
            if held:
                await self._lifecycle.let_go(live)

    def note_commit(self, live: Live, image_id: str, reference: str, comment: str) -> None:
        self._lifecycle.publish(live, "commit", comment=comment, imageID=image_id, imageRef=reference)

    # -- make and remove --------------------------------------------------------------------------------------------

    async def create(
        self, request: ContainerCreate, name: str, platform: str = "", *, image_volumes: bool = True
    ) -> dict[str, Any]:
        """As ``ContainerCreation.create``."""
        return await self._creation.create(request, name, platform, image_volumes=image_volumes)

    async def remove(self, reference: str, *, force: bool = False, volumes: bool = False, link: bool = False) -> None:
        """As ``ContainerRemoval.remove``."""
        await self._removal.remove(reference, force=force, volumes=volumes, link=link)

    async def prune(self, wanted: dict[str, list[str]]) -> dict[str, Any]:
        """As ``ContainerRemoval.prune``."""
        return await self._removal.prune(wanted)

    # -- state ------------------------------------------------------------------------------------------------------

    @timed("start")
    async def start(self, reference: str, detach_keys: str = "") -> bool:
        return await self._lifecycle.start(self.find(reference))

    async def stop(self, reference: str, signal: str = "", timeout_s: int | None = None) -> bool:
        return await self._lifecycle.stop(self.find(reference), signal, timeout_s)

    async def restart(self, reference: str, signal: str = "", timeout_s: int | None = None) -> None:
        await self._lifecycle.restart(self.find(reference), signal, timeout_s)

    async def kill(self, reference: str, signal: str = "SIGKILL") -> None:
        create.parse_signal(signal)  # what is wrong with the request is told first
        await self._lifecycle.kill(self.find(reference), signal)

    async def pause(self, reference: str) -> None:
        await self._lifecycle.pause(self.find(reference))

    async def unpause(self, reference: str) -> None:
        await self._lifecycle.resume(self.find(reference))

    async def wait(self, reference: str, condition: str = "not-running") -> asyncio.Future[dict[str, Any]]:
        """A future of ``{"StatusCode": n}``; it is registered when this returns.

        Errors: InvalidParameter for an unknown condition, NotFound.
        """
        condition = condition or "not-running"
        if condition not in _WAIT_CONDITIONS:
            raise InvalidParameter(f"invalid condition: {_quoted(condition)}")
        live = self.find(reference)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        container = live.container
        runs = container.is_running or container.status is Status.RESTARTING
        if condition == "not-running" and not runs:
            future.set_result({"StatusCode": container.state.exit_code})
        else:
            waiter = (condition, future)
            live.waiters.append(waiter)
            # a client that leaves cancels its future: a container that runs for months must not collect them
            future.add_done_callback(lambda _: live.forget_waiter(waiter))
        return future

    async def rename(self, reference: str, name: str) -> None:
        """Errors: Conflict for a name in use, InvalidParameter for a bad or empty one."""
        live = self.find(reference)
        new = name.removeprefix("/")
        if not new:
            raise InvalidParameter("Neither old nor new names may be empty")
        valid_name(new)
        async with live.lock:
            old = live.container.name
            if old == new:
                raise InvalidParameter("Renaming a container with the same name as its current name")
            self._index.rename(live, new)
            try:
                self._store.save(live.container)
            except CortenError:
                self._index.rename(live, old)
                raise
            self._endpoints.renamed(live.container)
        self._lifecycle.publish(live, "rename", oldName=f"/{old}")

    async def connect(self, reference: str, network: str, settings: EndpointSettings) -> None:
        """Errors: NotFound, InvalidParameter, Forbidden, Conflict."""
        live = self.find(reference)
        async with live.lock:
            if live.removing:
                raise Conflict(f"container {live.container.id} is marked for removal and cannot be connected")
            await self._endpoints.connect(live, network, settings)
            self._store.save(live.container)

    async def disconnect(self, reference: str, network: str, *, force: bool = False) -> None:
        """force: also an endpoint whose container is gone, which here no endpoint outlives

        Errors: NotFound, Forbidden, Conflict.
        """
        try:
            live = self.find(reference)
        except NotFound:
            if not force:
                raise
            self._endpoints.find_network(network)
            raise NotFound(f"endpoint {reference} not found") from None
        async with live.lock:
            await self._endpoints.disconnect(live, network)
            self._store.save(live.container)

    async def update(self, reference: str, request: ContainerUpdate) -> dict[str, Any]:
        """Change limits, rate and restart policy, of a running container at once.

        Errors: InvalidParameter, Conflict (being removed), or the kernel's refusal as SystemFailure.
        """
        live = self.find(reference)
        container = live.container
        host = container.host_config
        merged = merge_update(host, request)
        warnings = check_resources(merged, self._machine)
        policy = request.restart_policy if request.restart_policy and request.restart_policy.name else None
        if policy:
            _check_restart_policy(container, policy)
        rate = request.network_rate
        check_rate(rate)
        if rate is not None and not any(name not in ("host", "none") for name in container.networks):
            raise InvalidParameter(
                f"container {container.name} has no interface of its own: its rate cannot be limited"
            )
        async with live.lock:
            if live.removing or container.status in (Status.REMOVING, Status.DEAD):
                raise Conflict(f"container {container.id} is marked for removal and cannot be updated")
            if container.is_running and live.shim is not None:
                await live.shim.update(oci_update(host, merged))
            if rate is not None:
                await self._endpoints.limit(container, rate)
                host.network_rate = rate if rate.is_set else None
            for name in type(merged).__struct_fields__:
                setattr(host, name, getattr(merged, name))
            if policy:
                host.restart_policy = policy
            self._store.save(container)
        self._lifecycle.publish(live, "update")
        return {"Warnings": warnings or None}

    # -- streams ----------------------------------------------------------------------------------------------------

    async def attach(self, reference: str, query: AttachQuery) -> AttachSession:
        """A stream to the program; of one that has not started yet it begins with the first byte.

        Errors: Conflict for a paused container.
        """
        live = self.find(reference)
        container = live.container
        if container.status is Status.PAUSED:
            raise Conflict(f"container {container.id} is paused, unpause the container before attach")
        if container.status is Status.RESTARTING:
            raise Conflict(f"container {container.id} is restarting, wait until the container is running")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        try:
            if query.logs:
                await self._replay(live, query, theirs)
            if not query.stream:
                theirs.close()
            elif live.shim is not None:
                await live.shim.attach(
                    stream=theirs,
                    stdin=query.stdin,
                    stdout=query.stdout,
                    stderr=query.stderr,
                    detach_keys=query.detach_keys,
                )
                theirs.close()
            else:
                live.pending.append(PendingAttach(query, theirs))
        except BaseException:
            ours.close()
            theirs.close()
            raise
        self._lifecycle.publish(live, "attach")
        return AttachSession(container.config.tty, ours)

    async def _replay(self, live: Live, query: AttachQuery, stream: socket.socket) -> None:
        """What the program has written so far, before the live stream begins."""
        log = await self.logs(live.container.id, LogQuery(stdout=query.stdout, stderr=query.stderr, follow=False))
        stream.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(30):
            async for chunk in log.chunks:
                await loop.sock_sendall(stream, chunk)

    async def resize(self, reference: str, height: int, width: int) -> None:
        live = self.find(reference)
        if live.shim is None or not live.container.is_running:
            raise Conflict(f"container {live.container.id} is not running")
        await live.shim.resize(height, width)
        self._lifecycle.publish(live, "resize", height=str(height), width=str(width))

    async def logs(self, reference: str, query: LogQuery) -> LogStream:
        live = self.find(reference)
        return open_logs(live, query)


def _check_restart_policy(container: Container, policy: RestartPolicy) -> None:
    """Errors: InvalidParameter when it does not go with what the container has."""
    changed = msgspec.convert(msgspec.to_builtins(container.host_config), type(container.host_config))
    changed.restart_policy = policy
    create.check_restart_policy(changed)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
