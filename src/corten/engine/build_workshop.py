"""What builds need of the engine: containers for steps, pulls for base images.  Called from the builds' threads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from corten.build.loops import on_loop
from corten.build.workshop import Cancellation, Cancelled, Report, Step
from corten.cdi.catalogue import Found
from corten.dockerapi.container import (
    ContainerCreate,
    DeviceRequest,
    HealthConfig,
    HostConfig,
    ImageOptions,
    LogConfig,
    Mount,
    TmpfsOptions,
    Ulimit,
)
from corten.dockerapi.queries import AttachQuery
from corten.dockerapi.registry_auth import RegistryAuth
from corten.engine.containers import Containers
from corten.engine.devices import CDI
from corten.engine.registries import Registries
from corten.errors import Conflict, CortenError, NotFound
from corten.oci import reference

logger = logging.getLogger(__name__)
T = TypeVar("T")
_HEADER = 8
_PIECE = 1 << 16
_STDERR = 2


class EngineWorkshop:
    """A ``Workshop`` over this engine's containers and registries, for one build.

    credentials: of a registry, as the client gives them, called in the builds' threads
    network: of steps that ask for none; devices: looks for those of this machine
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        containers: Containers,
        registries: Registries,
        credentials: Callable[[str], RegistryAuth],
        network: str,
        devices: Callable[[], Found],
    ) -> None:
        self._loop = loop
        self._containers = containers
        self._registries = registries
        self._credentials = credentials
        self._network = network
        self.devices = devices

    def _call(self, work: Awaitable[T]) -> T:
        return on_loop(self._loop, work)

    # -- steps --------------------------------------------------------------------------------------------------------

    def run(
        self,
        step: Step,
        started: Callable[[str], None],
        output: Callable[[bool, bytes], None],
        cancellation: Cancellation,
    ) -> tuple[str, int]:
        created: dict[str, Any] = self._call(
            self._containers.create(self._request(step), "", image_volumes=step.has_volumes)
        )
        container_id: str = created["Id"]
        started(container_id)
        cancellation.check()
        stream, waiter = self._call(self._begin(container_id))
        with stream:
            stop = _Stop(self, stream, container_id)
            with cancellation.calling(stop):
                _read_frames(stream, output)
        if stop.failed:
            cancellation.check()
        result = self._call(waiter)
        cancellation.check()
        return container_id, int(result["StatusCode"])

    async def _begin(self, container_id: str) -> tuple[socket.socket, asyncio.Future[dict[str, Any]]]:
        session = await self._containers.attach(container_id, AttachQuery(stdout=True, stderr=True))
        try:
            waiter = await self._containers.wait(container_id, "next-exit")
            await self._containers.start(container_id)
        except BaseException:
            session.sock.close()
            raise
        session.sock.setblocking(True)
        return session.sock, waiter

    def kill_soon(self, container_id: str, otherwise: Callable[[], None]) -> None:
        """From any thread; one that has just ended is no error.  ``otherwise`` is called when it cannot be killed."""

        async def kill() -> None:
            try:
                await self._containers.kill(container_id, "SIGKILL")
            except (Conflict, NotFound):
                return
            except CortenError as error:
                logger.warning("a step of a cancelled build cannot be killed: %s", error)
                otherwise()

        asyncio.run_coroutine_threadsafe(kill(), self._loop)

    def remove(self, container_id: str) -> None:
        with contextlib.suppress(NotFound, Conflict, Cancelled):
            self._call(self._containers.remove(container_id, force=True, volumes=True))

    def _request(self, step: Step) -> ContainerCreate:
        limits = step.limits
        host = HostConfig(
            memory=limits.memory,
            memory_swap=limits.memory_swap,
            cpu_shares=limits.cpu_shares,
            cpu_period=limits.cpu_period,
            cpu_quota=limits.cpu_quota,
            cpuset_cpus=limits.cpuset_cpus,
            cpuset_mems=limits.cpuset_mems,
            shm_size=limits.shm_size,
            cgroup_parent=limits.cgroup_parent,
            extra_hosts=list(limits.extra_hosts),
            ulimits=[Ulimit(name=name, soft=soft, hard=hard) for name, soft, hard in limits.ulimits],
            network_mode=step.network or self._network,
            log_config=LogConfig(type="none"),
            mounts=[_mount(mount) for mount in step.mounts],
            privileged=step.is_privileged,
            device_requests=[DeviceRequest(driver=CDI, device_ids=list(step.devices))] if step.devices else [],
        )
        return ContainerCreate(
            image=step.image,
            entrypoint=[""],
            cmd=list(step.command),
            env=list(step.environment),
            healthcheck=HealthConfig(test=["NONE"]),
            hostname=limits.hostname,
            host_config=host,
        )

    # -- images -------------------------------------------------------------------------------------------------------

    def pull(self, name: str, platform: str, report: Report, cancellation: Cancellation) -> None:
        parsed = reference.parse(name).with_default_tag()
        auth = self._credentials(parsed.domain)
        documents = self._registries.pull(str(parsed), "", platform, auth)
        try:
            while (document := on_loop(self._loop, anext(documents, None), cancellation)) is not None:
                report(document)
        finally:
            self._call(documents.aclose())


class _Stop:
    """Ends a step from another thread: its output ends with its program."""

    def __init__(self, workshop: EngineWorkshop, stream: socket.socket, container_id: str) -> None:
        self._workshop = workshop
        self._stream = stream
        self._container_id = container_id
        self.failed = False

    def __call__(self) -> None:
        self._workshop.kill_soon(self._container_id, self._give_up)

    def _give_up(self) -> None:
        self.failed = True
        with contextlib.suppress(OSError):
            self._stream.shutdown(socket.SHUT_RDWR)


def _read_frames(stream: socket.socket, output: Callable[[bool, bytes], None]) -> None:
    """What the program writes, until it has ended.  Source: the Engine API, "Stream format" of attach."""
    kept = b""
    left = 0
    is_error = False
    while True:
        try:
            data = stream.recv(_PIECE)
        except OSError:
            return
        if not data:
            return
        data = kept + data
        position = 0
        while position < len(data):
            if not left:
                if len(data) - position < _HEADER:
                    break
                is_error = data[position] == _STDERR
                left = int.from_bytes(data[position + 4 : position + _HEADER], "big")
                position += _HEADER
                continue
            piece = data[position : position + left]
            position += len(piece)
            left -= len(piece)
            output(is_error, piece)
        kept = data[position:]


def _mount(mount: Any) -> Mount:
    if mount.type == "tmpfs":
        return Mount(
            type="tmpfs",
            target=mount.target,
            tmpfs_options=TmpfsOptions(size_bytes=mount.size, mode=mount.mode) if mount.size or mount.mode else None,
        )
    options = ImageOptions(subpath=mount.subpath) if mount.type == "image" and mount.subpath else None
    return Mount(
        type=mount.type,
        source=mount.source,
        target=mount.target,
        read_only=mount.read_only,
        image_options=options,
    )
