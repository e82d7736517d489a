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
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from corten.config import Config
from corten.dockerapi.container import ContainerCreate, ContainerUpdate, HostConfig, LogConfig
from corten.dockerapi.queries import AttachQuery, LogQuery
from corten.engine import archive, create, filters, inspect, stats, top
from corten.engine.container import Container, Status
from corten.engine.container_root import StoppedRoot, running_root
from corten.engine.events import Events
from corten.engine.health import HealthMonitor
from corten.engine.lifecycle import Lifecycle, now_ns
from corten.engine.limits import Machine, check_resources, merge_update, oci_resources
from corten.engine.live import Index, Live, PendingAttach
from corten.engine.logs import LogStream, log_path, open_logs, validate_log_config
from corten.engine.mount_points import MountPoint, resolve_mount_points
from corten.engine.names import new_id, random_name, valid_name
from corten.engine.preparation import HostFacts, Preparation
from corten.engine.store import Store
from corten.engine.streams import feed_thread, iterate_in_thread, run_blocking
from corten.engine.tasks import Tasks
from corten.engine.volumes import Volumes
from corten.errors import Conflict, CortenError, InvalidParameter, NotFound
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
        lifecycle: Lifecycle,
        preparation: Preparation,
        health: HealthMonitor,
        tasks: Tasks,
        events: Events,
    ) -> None:
        self._config = config
        self._facts = facts
        self._index = index
        self._store = store
        self._images = images
        self._snapshotter = snapshotter
        self._volumes = volumes
        self._lifecycle = lifecycle
        self._preparation = preparation
        self._health = health
        self._tasks = tasks
        self._events = events
        self._machine = Machine.read()
        self._stopped_root = StoppedRoot(snapshotter, volumes)
        self._statistics = stats.Statistics(preparation.cgroup_path, tasks)
        lifecycle.auto_remove = self._auto_remove

    # -- create ---------------------------------------------------------------------------------------------------

    async def create(self, request: ContainerCreate, name: str, platform: str = "") -> dict[str, Any]:
        """Make a container of an image; nothing of it stays when any step fails.

        Errors: NotFound (image), Conflict (name), InvalidParameter.
        """
        name = name.removeprefix("/")
        if name:
            valid_name(name)
            self._index.check_name(name)
        image = self._images.get(request.image)
        config = create.merge_image(request, image.config)
        host = create.split_request(request)
        create.fill_defaults(
            host,
            log=LogConfig(type=self._config.log_driver, config=dict(self._config.log_opts)),
            shm_size=self._config.default_shm_size,
            ipc_mode=self._config.default_ipc_mode,
            cgroupns_mode=self._config.default_cgroupns_mode or ("private" if self._facts.cgroup_v2 else "host"),
            init=self._config.init,
        )
        create.check_config(config)
        warnings = create.check_host_config(host, self._machine, frozenset(self._facts.capabilities))
        self._check_named(host)
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
        )
        if host.network_mode == "host" and not config.hostname:
            config.hostname = os.uname().nodename
        config.hostname = config.hostname or container_id[:12]
        self._preparation.security(container)
        container.mount_points = self._mount_points(container)
        container.log_path = log_path(host.log_config.type, self._preparation.directory(container_id), container_id)
        live = Live(container)
        self._index.add(live)
        try:
            await self._make(live, image.layers[-1] if image.layers else None)
        except BaseException:
            self._index.drop(live)
            await self._discard(container)
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
        return [self._volumes.located(point) for point in points]

    async def _make(self, live: Live, parent: str | None) -> None:
        container = live.container
        directory = self._preparation.directory(container.id)
        directory.mkdir(mode=0o710, parents=True)
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
        hold = wanted and live.container.status is Status.RUNNING
        if hold:
            await self._lifecycle.pause(live)
        try:
            yield
        finally:
            if hold:
                await self._lifecycle.resume(live, quiet=True)

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
        now = now_ns()
        documents = []
        for live in chosen:
            document = inspect.summary(live.container, now, health=self._health.status(live.container.id))
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
        )
        if size:
            document["SizeRw"], document["SizeRootFs"] = await run_blocking(self._sizes, container)
        return document

    async def top(self, reference: str, ps_args: str = "") -> dict[str, Any]:
        live = self.find(reference)
        if not live.container.is_running or live.shim is None:
            raise Conflict(f"container {live.container.id} is not running")
        if live.container.status is Status.RESTARTING:
            raise Conflict(f"Container {live.container.id} is restarting, wait until the container is running")
        pids = await run_blocking(self._cgroup_pids, live)
        document = await run_blocking(top.processes, pids, ps_args)
        self._lifecycle.publish(live, "top")
        return document

    def _cgroup_pids(self, live: Live) -> builtins.list[int]:
        return stats.cgroup_of(self._preparation.cgroup_path(live.container)).pids()

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
        self._lifecycle.publish(live, "rename", oldName=f"/{old}")

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
        async with live.lock:
            if live.removing or container.status in (Status.REMOVING, Status.DEAD):
                raise Conflict(f"container {container.id} is marked for removal and cannot be updated")
            if container.is_running and live.shim is not None:
                await live.shim.update(oci_resources(merged))
            for name in type(merged).__struct_fields__:
                setattr(host, name, getattr(merged, name))
            if request.restart_policy is not None and request.restart_policy.name:
                host.restart_policy = request.restart_policy
            self._store.save(container)
        self._lifecycle.publish(live, "update")
        return {"Warnings": warnings or None}

    # -- remove -----------------------------------------------------------------------------------------------------

    async def remove(self, reference: str, *, force: bool = False, volumes: bool = False, link: bool = False) -> None:
        """Errors: Conflict when it runs and force is not given, or when another removal is under way."""
        if link:
            raise InvalidParameter("links are not supported")
        live = self.find(reference)
        if live.removing:
            raise Conflict(f"removal of container {live.container.name} is already in progress")
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
                yield from archive.export(root)

        self._lifecycle.publish(live, "export")
        return iterate_in_thread(chunks)

    @contextlib.contextmanager
    def _own_files(self, live: Live) -> Iterator[int]:
        """The container's root without what is mounted in it."""
        if not live.container.is_running:
            with self._snapshotter.open_rootfs(live.container.id, True) as descriptor:
                yield descriptor
            return
        descriptor = kernel_mount.clone_tree(self._snapshotter.rootfs(live.container.id)["target"])
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
