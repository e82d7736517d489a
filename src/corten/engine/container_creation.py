"""``create``: a request and an image become a container."""

from __future__ import annotations

import os
from typing import Any

from corten.config import Config
from corten.dockerapi.container import ContainerCreate, HostConfig, LogConfig
from corten.engine import create
from corten.engine.container import Container
from corten.engine.container_disk import ContainerDisk
from corten.engine.container_volumes import ContainerVolumes
from corten.engine.devices import Devices
from corten.engine.endpoint_wishes import is_sharing, wanted_networks
from corten.engine.endpoints import Endpoints
from corten.engine.image_mounts import ImageMounts
from corten.engine.lifecycle import Lifecycle, now_ns
from corten.engine.limits import Machine
from corten.engine.live import Index, Live
from corten.engine.logs import log_path, validate_log_config
from corten.engine.metrics import Metrics, timed
from corten.engine.mount_points import MountPoint, resolve_mount_points
from corten.engine.names import new_id, random_name, valid_name
from corten.engine.preparation import HostFacts, Preparation
from corten.engine.store import Store
from corten.engine.user_namespaces import UserNamespaces
from corten.errors import InvalidParameter, NotFound
from corten.image.catalog import Image
from corten.image.store import ImageStore


class ContainerCreation:
    """Makes the containers of this daemon."""

    def __init__(
        self,
        *,
        config: Config,
        facts: HostFacts,
        machine: Machine,
        index: Index,
        store: Store,
        images: ImageStore,
        disk: ContainerDisk,
        driver: str,
        volumes: ContainerVolumes,
        image_mounts: ImageMounts,
        endpoints: Endpoints,
        lifecycle: Lifecycle,
        preparation: Preparation,
        metrics: Metrics,
        user_namespaces: UserNamespaces,
        devices: Devices,
    ) -> None:
        """driver: the snapshotter's name"""
        self._config = config
        self._facts = facts
        self._machine = machine
        self._index = index
        self._store = store
        self._images = images
        self._disk = disk
        self._driver = driver
        self._volumes = volumes
        self._image_mounts = image_mounts
        self._endpoints = endpoints
        self._lifecycle = lifecycle
        self._preparation = preparation
        self.metrics = metrics
        self._user_namespaces = user_namespaces
        self._devices = devices

    @timed("create")
    async def create(
        self, request: ContainerCreate, name: str, platform: str = "", *, image_volumes: bool = True
    ) -> dict[str, Any]:
        """Make a container of an image; nothing of it stays when any step fails.

        platform: what the image must be for ("linux/arm64"), nothing when the caller does not mind
        image_volumes: what the image declares as a volume is one; False leaves it part of the container's files
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
            container = self._container(request, image, name, image_volumes=image_volumes)
            await self._add(container, image.layers[-1] if image.layers else None)
        return {"Id": container.id, "Warnings": container.warnings}

    async def _add(self, container: Container, parent: str | None) -> None:
        """On disk and in the index, or nowhere.  parent: the image's top layer"""
        live = Live(container)
        with self._image_mounts.pinned(container.mount_points):
            self._index.add(live)
            try:
                await self._disk.make(container, parent)
                self._store.save(container)
            except BaseException:
                try:
                    await self._disk.discard(container)
                finally:
                    self._index.drop(live)  # the last: what is on disk always has its container here
                raise
        self._lifecycle.publish(live, "create")

    def _container(self, request: ContainerCreate, image: Image, name: str, *, image_volumes: bool) -> Container:
        """What the request asks for, complete and checked; nothing of it is made yet."""
        create.check_shared_namespaces(request)
        config = create.merge_image(request, image.config)
        if not image_volumes:
            config.volumes = dict(request.volumes)
        create.check_config(config)
        host = create.split_request(request)
        if config.network_disabled:
            host.network_mode = "none"
        warnings = self._complete(host)
        networks = self._endpoints.resolve(wanted_networks(request, host), host)
        container = Container(
            id=new_id(),
            name=name or self._free_name(),
            created_ns=now_ns(),
            image_id=image.id,
            config=config,
            host_config=host,
            driver=self._driver,
            warnings=warnings,
            networks=networks,
        )
        self._set_hostname(container)
        container.process_label, container.mount_label = self._labels(container)
        container.mount_points = self._mount_points(container)
        self._user_namespaces.check_mounts(host, container.mount_points)
        directory = self._preparation.directory(container.id)
        container.log_path = log_path(host.log_config.type, directory, container.id)
        return container

    def _complete(self, host: HostConfig) -> list[str]:
        """Fill in this daemon's defaults and check the whole; returns warnings."""
        asks_for_network = host.network_mode not in ("", "default")
        runtimes = self._lifecycle.runtimes
        create.fill_defaults(
            host,
            log=LogConfig(type=self._config.log_driver, config=dict(self._config.log_opts)),
            shm_size=self._config.default_shm_size,
            ipc_mode=self._config.default_ipc_mode,
            cgroupns_mode=self._config.default_cgroupns_mode or ("private" if self._facts.cgroup_v2 else "host"),
            init=self._config.init,
            runtime=runtimes.default,
            network=self._endpoints.default_mode,
        )
        runtimes.check(host.runtime)
        self._devices.check(host)
        warnings = create.check_host_config(host, self._machine, frozenset(self._facts.capabilities))
        self._user_namespaces.check(host, own_runtime=not runtimes.command(host.runtime))
        if self._endpoints.lacking and not asks_for_network:
            warnings.append(f"{self._endpoints.lacking}: the container has no network")
        if host.network_mode == "host" and (host.port_bindings or host.publish_all_ports):
            warnings.append("Published ports are discarded when using host network mode")
        self._check_named(host)
        return warnings

    def _check_named(self, host: HostConfig) -> None:
        """What a request names besides its image is there: NotFound is the image's alone, clients pull it then."""
        try:
            validate_log_config(host.log_config.type, host.log_config.config)
            for mode in (host.network_mode, host.ipc_mode, host.pid_mode):
                if mode.startswith("container:"):
                    self._index.find(mode.partition(":")[2])
        except NotFound as error:
            raise InvalidParameter(error.message) from None

    def _labels(self, container: Container) -> tuple[str, str]:
        """SELinux's; what its security options lack is told now, and not at the start."""
        return self._preparation.selinux.labels(
            container.host_config,
            self._preparation.security(container).labels,
            lambda reference: self._index.find(reference).container,
            (live.container.process_label for live in self._index),
        )

    def _set_hostname(self, container: Container) -> None:
        """As asked for; else the machine's, that of the container whose network it shares, or its short id."""
        config, mode = container.config, container.host_config.network_mode
        if mode == "host" and not config.hostname:
            config.hostname = os.uname().nodename
        if is_sharing(mode):
            whose = self._index.find(mode.partition(":")[2]).container.config
            config.hostname, config.domainname = whose.hostname, whose.domainname
        config.hostname = config.hostname or container.id[:12]

    def _free_name(self) -> str:
        attempt = 0
        while self._index.has_name(name := random_name(attempt)):
            attempt += 1
        return name

    def _mount_points(self, container: Container) -> list[MountPoint]:
        def others(reference: str) -> list[MountPoint]:
            return self._index.find(reference).container.mount_points

        points = resolve_mount_points(
            container.host_config, container.config.volumes, others, daemon_root=str(self._config.data_root)
        )
        return [self._image_mounts.located(self._volumes.located(point)) for point in points]
