"""Containers, as the API sees them: create, find, remove, rename, wait, attach, update, logs, files.

Changes of state are ``lifecycle``'s; documents are ``inspect``'s.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from corten.config import Config
from corten.dockerapi.container import ContainerCreate, ContainerUpdate, EndpointSettings, HostConfig, LogConfig
from corten.dockerapi.queries import AttachQuery, LogQuery
from corten.engine import archive, create, filters, inspect, processes, stats, top
from corten.engine.container import Container, Status
from corten.engine.container_root import StoppedRoot, running_root
from corten.engine.endpoint_wishes import check_rate, is_sharing, wanted_networks
from corten.engine.endpoints import Endpoints
from corten.engine.events import Events
from corten.engine.health import HealthMonitor
from corten.engine.image_mounts import ImageMounts
from corten.engine.lifecycle import Lifecycle, now_ns
from corten.engine.limits import Machine, check_resources, merge_update, oci_update
from corten.engine.live import Index, Live, PendingAttach
from corten.engine.logs import LogStream, log_path, open_logs, validate_log_config
from corten.engine.metrics import Metrics, timed
from corten.engine.mount_points import MountPoint, resolve_mount_points
from corten.engine.names import new_id, random_name, valid_name
from corten.engine.preparation import HostFacts, Preparation
from corten.engine.store import Store
from corten.engine.streams import feed_thread, iterate_in_thread, run_blocking
from corten.engine.tasks import Tasks
from corten.engine.user_namespaces import UserNamespaces
from corten.engine.volumes import Volumes
from corten.engine.xray.container import Sources, xray
from corten.errors import Conflict, CortenError, InvalidParameter, NotFound
from corten.image.catalog import Image
from corten.image.store import ImageStore
from corten.linux import mount as kernel_mount
from corten.linux import paths
from corten.snapshot.api import Snapshotter

logger = logging.getLogger(__name__)

_WAIT_CONDITIONS = ("not-running", "next-exit", "removed")


@dataclass(frozen=True, slots=True)
class AttachSession:
    """A stream to a program: raw for a terminal, else framed (``dockerapi/frames.py``)."""

    tty: bool
    sock: socket.socket


class Containers:
    """The containers of this daemon."""

    def __init__(
        self,
        *,
        config: Config,
        facts: HostFacts,
        index: Index,
        store: Store,
        images: ImageStore,
        snapshotter: Snapshotter,
        volumes: Volumes,
        image_mounts: ImageMounts,
        endpoints: Endpoints,
        lifecycle: Lifecycle,
        preparation: Preparation,
        health: HealthMonitor,
        tasks: Tasks,
        events: Events,
        metrics: Metrics,
        user_namespaces: UserNamespaces,
    ) -> None:
        self._config = config
        self._facts = facts
        self._index = index
        self._store = store
        self._images = images
        self._snapshotter = snapshotter
        self._volumes = volumes
        self._image_mounts = image_mounts
        self._endpoints = endpoints
        self._lifecycle = lifecycle
        self._preparation = preparation
        self._health = health
        self._tasks = tasks
        self._events = events
        self.metrics = metrics
        self._user_namespaces = user_namespaces
        self._machine = Machine.read(config.cgroup_driver)
        self._stopped_root = StoppedRoot(snapshotter, volumes, image_mounts)
        self._statistics = stats.Statistics(preparation.cgroup_path, tasks)
        lifecycle.auto_remove = self._auto_remove

    # -- create ---------------------------------------------------------------------------------------------------

    @timed("create")
    async def create(self, request: ContainerCreate, name: str, platform: str = "") -> dict[str, Any]:
        """Make a container of an image; nothing of it stays when any step fails.

        platform: what the image must be for ("linux/arm64"), nothing when the caller does not mind
        Errors: NotFound (image, or none of this platform), Conflict (name), InvalidParameter.
        """
        if name:
            name = name.removeprefix("/")
            valid_name(name)
            self._index.check_name(name)
        # its layers stay until the container's own record keeps them
        with self._images.pin(request.image) as image:
            if platform:
                create.check_platform(request.image, image.config, platform)
            return await self._create(request, image, name)

    async def _create(self, request: ContainerCreate, image: Image, name: str) -> dict[str, Any]:
        create.check_shared_namespaces(request)
        config = create.merge_image(request, image.config)
        host = create.split_request(request)
        asks_for_network = host.network_mode not in ("", "default")
        create.fill_defaults(
            host,
            log=LogConfig(type=self._config.log_driver, config=dict(self._config.log_opts)),
            shm_size=self._config.default_shm_size,
            ipc_mode=self._config.default_ipc_mode,
            cgroupns_mode=self._config.default_cgroupns_mode or ("private" if self._facts.cgroup_v2 else "host"),
            init=self._config.init,
            runtime=self._lifecycle.runtimes.default,
            network=self._endpoints.default_mode,
        )
        self._lifecycle.runtimes.check(host.runtime)
        create.check_config(config)
        warnings = create.check_host_config(host, self._machine, frozenset(self._facts.capabilities))
        self._user_namespaces.check(host, own_runtime=not self._lifecycle.runtimes.command(host.runtime))
        if self._endpoints.lacking and not asks_for_network:
            warnings.append(f"{self._endpoints.lacking}: the container has no network")
        if host.network_mode == "host" and (host.port_bindings or host.publish_all_ports):
            warnings.append("Published ports are discarded when using host network mode")
        self._check_named(host)
        networks = self._endpoints.resolve(wanted_networks(request, host), host)
        container_id = new_id()
        container = Container(
            id=container_id,
            name=name or self._free_name(),
            created_ns=now_ns(),
            image_id=image.id,
            config=config,
            host_config=host,
            driver=self._snapshotter.name,
            warnings=warnings,
            networks=networks,
        )
        if host.network_mode == "host" and not config.hostname:
            config.hostname = os.uname().nodename
        if is_sharing(host.network_mode):
            whose = self.find(host.network_mode.partition(":")[2]).container.config
            config.hostname, config.domainname = whose.hostname, whose.domainname
        config.hostname = config.hostname or container_id[:12]
        self._preparation.security(container)
        container.mount_points = self._mount_points(container)
        container.log_path = log_path(host.log_config.type, self._preparation.directory(container_id), container_id)
        live = Live(container)
        with self._image_mounts.pinned(container.mount_points):
            self._index.add(live)
            try:
                await self._make(live, image.layers[-1] if image.layers else None)
            except BaseException:
                try:
                    await self._discard(container)
                finally:
                    self._index.drop(live)  # the last: what is on disk always has its container here
                raise
        self._lifecycle.publish(live, "create")
        return {"Id": container_id, "Warnings": warnings}

    def _check_named(self, host: HostConfig) -> None:
        """What a request names besides its image is there: NotFound is the image's alone, clients pull it then."""
        try:
            validate_log_config(host.log_config.type, host.log_config.config)
            for mode in (host.network_mode, host.ipc_mode, host.pid_mode):
                if mode.startswith("container:"):
                    self._index.find(mode.partition(":")[2])
        except NotFound as error:
            raise InvalidParameter(error.message) from None

    def _free_name(self) -> str:
        attempt = 0
        while self._index.has_name(name := random_name(attempt)):
            attempt += 1
        return name

    def _mount_points(self, container: Container) -> builtins.list[MountPoint]:
        def others(reference: str) -> builtins.list[MountPoint]:
            return self._index.find(reference).container.mount_points

        points = resolve_mount_points(
            container.host_config, container.config.volumes, others, daemon_root=str(self._config.data_root)
        )
        return [self._image_mounts.located(self._volumes.located(point)) for point in points]

    async def _make(self, live: Live, parent: str | None) -> None:
        container = live.container
        directory = self._preparation.directory(container.id)
        directory.mkdir(mode=0o710, parents=True)
        size = create.storage_size(container.host_config.storage_opt)
        if size:
            # a file system is made: too long for the loop
            await run_blocking(partial(self._snapshotter.create, container.id, parent, size_limit=size))
        else:
            self._snapshotter.create(container.id, parent)
        await self._make_volumes(container)
        self._store.save(container)

    async def _make_volumes(self, container: Container) -> None:
        if any(point.type == "volume" for point in container.mount_points):

            def root() -> contextlib.AbstractContextManager[int]:
                return self._snapshotter.open_rootfs(container.id, True)

            await run_blocking(self._volumes.acquire_all, container.id, container.mount_points, root)

    async def _discard(self, container: Container) -> None:
        """Take away all that a container has on disk, in an order that a crash in between leaves harmless."""
        await run_blocking(self._volumes.release, container.id)
        await run_blocking(self._snapshotter.remove, container.id)
        directory = self._preparation.directory(container.id)
        await run_blocking(_remove_directory, directory)

    # -- find and describe ------------------------------------------------------------------------------------------

    def find(self, reference: str) -> Live:
        return self._index.find(reference)

    def all(self) -> builtins.list[Container]:
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

    async def list(
        self,
        *,
        all: bool = False,
        limit: int = 0,
        size: bool = False,
        filters: dict[str, builtins.list[str]] | None = None,
    ) -> builtins.list[dict[str, Any]]:
        """Newest first.  Errors: InvalidParameter for an unknown filter."""
        chosen = self._filtered(filters or {}, everything=all or limit > 0)
        chosen.sort(key=lambda live: live.container.created_ns, reverse=True)
        if limit > 0:
            chosen = chosen[:limit]
        now, aliases = now_ns(), self._endpoints.links.aliases()
        documents = []
        for live in chosen:
            document = inspect.summary(live.container, now, health=self._health.status(live.container.id))
            document["Names"] += aliases.get(live.container.id, ())
            if size:
                document["SizeRw"], document["SizeRootFs"] = await run_blocking(self._sizes, live.container)
            documents.append(document)
        return documents

    def _filtered(self, wanted: dict[str, builtins.list[str]], *, everything: bool) -> builtins.list[Live]:
        matcher = filters.ContainerFilter(wanted, self._index, self._images)
        if not (everything or matcher.covers_stopped):
            candidates = [
                live for live in self._index if live.container.is_running or live.container.status is Status.RESTARTING
            ]
        else:
            candidates = [*self._index]
        return [live for live in candidates if matcher.matches(live.container, self._health.status(live.container.id))]

    def _sizes(self, container: Container) -> tuple[int, int]:
        written = self._snapshotter.usage(container.id)
        try:
            base = self._images.get(container.image_id).size
        except NotFound:
            base = 0
        return written, written + base

    async def inspect(self, reference: str, size: bool = False) -> dict[str, Any]:
        live = self.find(reference)
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
            document["SizeRw"], document["SizeRootFs"] = await run_blocking(self._sizes, container)
        return document

    async def top(self, reference: str, ps_args: str = "") -> dict[str, Any]:
        live = self.find(reference)
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
        live = self.find(reference)

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

    def _pids(self, live: Live) -> builtins.list[int]:
        if self._facts.cgroups:
            return stats.cgroup_of(self._preparation.cgroup_path(live.container)).pids()
        return processes.related(live.container.state.pid)

    @timed("changes")
    async def changes(self, reference: str) -> builtins.list[dict[str, Any]]:
        container = self.find(reference).container
        kinds = {"C": 0, "A": 1, "D": 2}
        found = await run_blocking(self._snapshotter.changes, container.id)
        return [{"Path": change.path, "Kind": kinds[change.kind]} for change in found]

    async def stats(
        self, reference: str, *, stream: bool = True, one_shot: bool = False
    ) -> AsyncIterator[dict[str, Any]]:
        live = self.find(reference)
        async with contextlib.aclosing(self._statistics.samples(live, stream=stream, one_shot=one_shot)) as samples:
            async for sample in samples:
                yield sample

    # -- state ------------------------------------------------------------------------------------------------------

    @timed("start")
    async def start(self, reference: str, detach_keys: str = "") -> bool:
        return await self._lifecycle.start(self.find(reference))

    async def stop(self, reference: str, signal: str = "", timeout_s: int | None = None) -> bool:
        return await self._lifecycle.stop(self.find(reference), signal, timeout_s)

    async def restart(self, reference: str, signal: str = "", timeout_s: int | None = None) -> None:
        await self._lifecycle.restart(self.find(reference), signal, timeout_s)

    async def kill(self, reference: str, signal: str = "SIGKILL") -> None:
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
            raise InvalidParameter(f"invalid condition: {json_quote(condition)}")
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
        """Change limits and restart policy, of a running container at once."""
        live = self.find(reference)
        container = live.container
        host = container.host_config
        merged = merge_update(host, request)
        warnings = check_resources(merged, self._machine)
        if request.restart_policy is not None and request.restart_policy.name:
            trial = msgspec.convert(msgspec.to_builtins(host), type(host))
            trial.restart_policy = request.restart_policy
            create.check_restart_policy(trial)
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
            if request.restart_policy is not None and request.restart_policy.name:
                host.restart_policy = request.restart_policy
            self._store.save(container)
        self._lifecycle.publish(live, "update")
        return {"Warnings": warnings or None}

    # -- remove -----------------------------------------------------------------------------------------------------

    @timed("delete")
    async def remove(self, reference: str, *, force: bool = False, volumes: bool = False, link: bool = False) -> None:
        """Errors: Conflict when it runs and force is not given, or when another removal is under way.

        link: ``reference`` is "container/alias", and only that link is removed
        """
        if link:
            await self._remove_link(reference)
            return
        live = self.find(reference)
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
        live = self.find(name)
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
                await self._discard(container)
                if volumes:
                    await run_blocking(self._volumes.remove_anonymous, container.mount_points)
            except (CortenError, OSError):
                container.become(Status.DEAD)
                self._store.record(container)
                raise
            self._store.remove(container.id)
            self._index.drop(live)
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

    async def prune(self, wanted: dict[str, builtins.list[str]]) -> dict[str, Any]:
        """Remove what does not run.  Filters: until, label, label!."""
        matcher = filters.PruneFilter(wanted)
        deleted, reclaimed = [], 0
        for live in self._index:
            container = live.container
            if container.status not in (Status.EXITED, Status.CREATED, Status.DEAD) or not matcher.matches(container):
                continue
            try:
                size, _ = await run_blocking(self._sizes, container)
                await self.remove(container.id)
            except CortenError as error:
                logger.warning("prune leaves container %s: %s", container.id[:12], error)
                continue
            deleted.append(container.id)
            reclaimed += size
        self._events.publish("container", "prune", "", {"reclaimed": str(reclaimed)})
        return {"ContainersDeleted": deleted or None, "SpaceReclaimed": reclaimed}

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

    # -- files ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _rootfs(self, live: Live, *, read_only: bool) -> Iterator[int]:
        """A descriptor of the container's root with its mounts."""
        container = live.container
        if container.is_running:
            with running_root(container) as descriptor:
                yield descriptor
        else:
            directory = self._preparation.directory(container.id)
            with self._stopped_root.open(container, directory, read_only=read_only) as descriptor:
                yield descriptor

    async def _make_mount_points(self, live: Live) -> None:
        """Before the first start a volume may have no place yet in the container's files."""
        if live.container.is_running or not await run_blocking(self._stopped_root.lacks_mount_points, live.container):
            return

        def make() -> None:
            with self._rootfs(live, read_only=False):
                pass

        async with live.lock:
            if not live.container.is_running:
                await run_blocking(make)

    async def archive_stat(self, reference: str, path: str) -> dict[str, Any]:
        live = self.find(reference)
        await self._make_mount_points(live)

        def work() -> dict[str, Any]:
            with self._rootfs(live, read_only=True) as root:
                return archive.stat(archive.View(live.container, root, reference), path)

        return await run_blocking(work)

    async def archive_get(self, reference: str, path: str) -> tuple[dict[str, Any], AsyncIterator[bytes]]:
        live = self.find(reference)
        document = await self.archive_stat(reference, path)

        def chunks() -> Iterator[bytes]:
            with self._rootfs(live, read_only=True) as root:
                yield from archive.get(archive.View(live.container, root, reference), path)

        self._lifecycle.publish(live, "archive-path")
        return document, iterate_in_thread(chunks)

    async def archive_put(
        self,
        reference: str,
        path: str,
        body: AsyncIterator[bytes],
        *,
        no_overwrite_dir_non_dir: bool = False,
        copy_uid_gid: bool = False,
    ) -> None:
        live = self.find(reference)

        def work(stream: BinaryIO) -> None:
            with self._rootfs(live, read_only=False) as root:
                archive.put(
                    archive.View(live.container, root, reference),
                    path,
                    stream,
                    no_overwrite_dir_non_dir=no_overwrite_dir_non_dir,
                    copy_uid_gid=copy_uid_gid,
                )

        if live.container.is_running:
            await feed_thread(body, work)
        else:
            async with live.lock:  # a file system is writable in one place at a time: nothing starts meanwhile
                await feed_thread(body, work)
        self._lifecycle.publish(live, "extract-to-dir")

    async def export(self, reference: str) -> AsyncIterator[bytes]:
        live = self.find(reference)

        def chunks() -> Iterator[bytes]:
            with self._own_files(live) as root:
                yield from archive.export(archive.View(live.container, root))

        self._lifecycle.publish(live, "export")
        return iterate_in_thread(chunks)

    @contextlib.contextmanager
    def _own_files(self, live: Live) -> Iterator[int]:
        """The container's root without what is mounted in it."""
        if not live.container.is_running:
            with self._snapshotter.open_rootfs(live.container.id, True) as descriptor:
                yield descriptor
            return
        # recursive: without the machine's root it may consist of several (linux/root_pieces.py)
        descriptor = kernel_mount.clone_tree(self._snapshotter.rootfs(live.container.id)["target"], recursive=True)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def json_quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _remove_directory(directory: Path) -> None:
    """A container's own directory: log files, hosts, spec."""
    if not directory.exists():
        return
    parent = os.open(directory.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        paths.remove_tree(parent, directory.name)
    finally:
        os.close(parent)
