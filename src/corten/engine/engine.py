"""The engine as one object: what the API edge and the composition root hold."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from corten.buildkit.sessions import Sessions
from corten.cgroup import systemd
from corten.cgroup.hierarchy import Hierarchies
from corten.config import Config, mirror_urls
from corten.engine.builds import Builds
from corten.engine.checks import Checks
from corten.engine.containers import Containers
from corten.engine.default_network import instance_of
from corten.engine.devices import Devices
from corten.engine.endpoints import Endpoints
from corten.engine.events import Events
from corten.engine.execs import Execs
from corten.engine.health import HealthMonitor
from corten.engine.image_mounts import ImageMounts
from corten.engine.images import Images
from corten.engine.lifecycle import Lifecycle
from corten.engine.live import Index, Live
from corten.engine.metrics import Metrics
from corten.engine.network_records import NetworkTable
from corten.engine.networks import Networks
from corten.engine.oom_watch import OomWatch
from corten.engine.preparation import HostFacts, Preparation
from corten.engine.recover import Recovery
from corten.engine.registries import Registries
from corten.engine.runtimes import Runtimes
from corten.engine.shims import Shims
from corten.engine.store import RootLock, Store
from corten.engine.streams import run_blocking
from corten.engine.system import System
from corten.engine.tasks import Tasks
from corten.engine.user_namespaces import Pool, UserNamespaces, remapped
from corten.engine.volumes import Volumes
from corten.errors import InvalidParameter
from corten.image.store import ImageStore
from corten.network.outside import Outside
from corten.network.plumbing import Plumbing
from corten.snapshot import open_snapshotter

logger = logging.getLogger(__name__)


class Engine:
    """Everything that one daemon owns.  Build with ``await Engine.open(config)``.

    outside: the host's network, when the daemon lives in one of its user
    """

    containers: Containers
    execs: Execs
    images: Images
    volumes: Volumes
    registries: Registries
    builds: Builds
    sessions: Sessions
    events: Events
    checks: Checks
    system: System

    def __init__(self, config: Config, outside: Outside | None = None) -> None:
        self.config = config
        self._outside = outside
        self.tasks = Tasks()
        self.index = Index()
        self.events = Events()
        self.metrics = Metrics()
        self.sessions = Sessions()

    @classmethod
    async def open(cls, config: Config, outside: Outside | None = None) -> Engine:
        """Lock the roots, open state and images, start the spawner, find every container again.

        Errors: Conflict when another daemon uses the data root, SystemFailure when the state cannot be opened.
        """
        engine = cls(config, outside)
        await engine._open()
        return engine

    async def _open(self) -> None:
        self._remap = remapped(self.config.userns_remap)
        Pool.of(self.config.userns_pool)
        if self._remap:
            # as dockerd: what was made with other ids is not mixed with it
            owner = f"{self._remap.uids[0]['hostID']}.{self._remap.gids[0]['hostID']}"
            self.config.data_root.mkdir(parents=True, exist_ok=True, mode=0o710)
            self.config = replace(self.config, data_root=self.config.data_root / owner)
        config = self.config
        for root, mode in ((config.data_root, 0o710), (config.exec_root, 0o711)):
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            # programs of other users may have to reach a socket or a mounted volume: on a machine's own daemon
            root.chmod(0o700 if config.rootless else mode)
        for name in ("containers", "volumes"):
            (config.data_root / name).mkdir(exist_ok=True, mode=0o710)
        self._lock = RootLock(config.data_root)
        try:
            await self._compose()
        except BaseException:
            self._lock.release()
            raise

    async def _compose(self) -> None:
        """Every part, from below to above; each needs those before it."""
        starting = asyncio.ensure_future(Shims.open(self.config.exec_root))
        self._open_storage()
        self._shims = await starting
        self._make_networks()
        await self._make_containers()
        self._make_services()
        await self._recover()

    def _open_storage(self) -> None:
        config = self.config
        self._store = Store(config.data_root)
        self.snapshotter = open_snapshotter(config.data_root, config.storage_driver)
        if config.selinux_enabled and self.snapshotter.name != "overlay2":
            raise InvalidParameter("--selinux-enabled: only with overlay2 the files of a container have its label")
        self._image_store = ImageStore(config.data_root, self.snapshotter, exec_root=config.exec_root)
        self.volumes = Volumes(config.data_root, self._store.connection, self.events)
        self._image_mounts = ImageMounts(config.exec_root, self._image_store, self.snapshotter)

    def _make_networks(self) -> None:
        config, outside = self.config, self._outside
        self.networks = Networks(
            config,
            NetworkTable(self._store.connection),
            self.index,
            self.events,
            Plumbing(instance=instance_of(config), directory=config.exec_root, outside=outside),
            lacking=outside.lacking if outside is not None else "",
        )
        self._endpoints = Endpoints(self.networks, self.index, config, self._shims.lend, self.metrics)

    async def _make_containers(self) -> None:
        config = self.config
        hierarchies = Hierarchies.read()
        if config.cgroup_driver == "systemd":
            systemd.require(is_v2=hierarchies.is_v2)
        self.facts = HostFacts.read(hierarchies)
        self.user_namespaces = UserNamespaces(
            self._remap,
            config.userns_pool,
            automatic=config.userns_remap == "auto",
            rootless=config.rootless,
            driver=self.snapshotter.name,
        )
        self.runtimes = Runtimes(config)
        self.devices = Devices(config.cdi_directories)
        preparation = Preparation(
            config,
            self.facts,
            self.index,
            self._endpoints,
            self.devices,
            lambda container_id: self.snapshotter.open_rootfs(container_id, True),
        )
        await run_blocking(preparation.selinux.label_layers, config.data_root / self.snapshotter.name)
        self.apparmor_problem = preparation.apparmor.problem
        if self.apparmor_problem:
            logger.warning("%s", self.apparmor_problem)
        self._lifecycle = Lifecycle(
            config=config,
            store=self._store,
            events=self.events,
            shims=self._shims,
            snapshotter=self.snapshotter,
            volumes=self.volumes.of_containers,
            image_mounts=self._image_mounts,
            endpoints=self._endpoints,
            preparation=preparation,
            tasks=self.tasks,
            runtimes=self.runtimes,
            user_namespaces=self.user_namespaces,
        )
        self._lifecycle.on_started = self._started
        self._lifecycle.on_stopped = self._stopped
        self._oom_watch = OomWatch(preparation.cgroup_path, self._lifecycle.tell_oom)
        self._health = HealthMonitor(self._probe, self._health_changed, self.tasks)
        self.containers = Containers(
            config=config,
            facts=self.facts,
            index=self.index,
            store=self._store,
            images=self._image_store,
            snapshotter=self.snapshotter,
            volumes=self.volumes.of_containers,
            image_mounts=self._image_mounts,
            endpoints=self._endpoints,
            lifecycle=self._lifecycle,
            preparation=preparation,
            health=self._health,
            tasks=self.tasks,
            events=self.events,
            metrics=self.metrics,
            user_namespaces=self.user_namespaces,
            devices=self.devices,
        )
        self.execs = Execs(self.containers, self._lifecycle, preparation, self.tasks)

    def _make_services(self) -> None:
        config, store = self.config, self._image_store
        self.images = Images(store, self.events, self.containers)
        self.registries = Registries(config, store, self.events)
        self.builds = Builds(config, store, self.containers, self.images, self.registries, self.events, self.devices)
        self.checks = Checks(config, self.index, store, self.snapshotter, self.volumes, self.registries)
        self.system = System(self)
        self.metrics.describe(self)

    async def _recover(self) -> None:
        """Find again what an earlier daemon has left."""
        recovery = Recovery(
            config=self.config,
            store=self._store,
            index=self.index,
            shims=self._shims,
            snapshotter=self.snapshotter,
            lifecycle=self._lifecycle,
            endpoints=self._endpoints,
            tasks=self.tasks,
        )
        recovery.load()
        self.networks.open()
        self._recover_volumes()
        await recovery.run()
        await self.builds.clear_leftovers()
        self.networks.watch(asyncio.get_running_loop())

    def _recover_volumes(self) -> None:
        """Before any exit is recorded: what ended meanwhile must release the volumes that it had."""
        containers = [live.container for live in self.index]
        running = {
            container.id: container.mount_points
            for container in containers
            if container.is_running or (self.config.exec_root / container.id).is_dir()
        }
        self.volumes.of_containers.recover(running, {container.id for container in containers})
        self._image_mounts.sweep(running)

    # -- health -----------------------------------------------------------------------------------------------------

    def _started(self, live: Live) -> None:
        self._health.started(live.container)
        if self.facts.cgroups:
            self._oom_watch.started(live)

    def _stopped(self, live: Live) -> None:
        self._health.stopped(live.container.id)
        self._oom_watch.stopped(live.container.id)
        self.execs.drop_container(live)

    async def _probe(self, container_id: str, command: list[str], timeout_s: float) -> tuple[int, bytes]:
        self.metrics.health_checks.add()
        try:
            code, output = await self.execs.probe(container_id, command, timeout_s)
        except Exception:
            self.metrics.health_checks_failed.add()
            raise
        if code:
            self.metrics.health_checks_failed.add()
        return code, output

    def _health_changed(self, container_id: str, status: str) -> None:
        live = self.index.find(container_id)
        self._lifecycle.publish(live, f"health_status: {status}")

    # -- end --------------------------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """No program runs and none is about to."""
        return not any(live.container.is_running or live.backoff is not None for live in self.index)

    def reload(self, config: Config) -> None:
        """The configuration has changed in what may change at run time."""
        self.config = config
        self.registries.reload(config)
        self.runtimes.reload(config)
        self.events.publish("daemon", "reload", self.system.id, self.system.reload_attributes())

    @property
    def mirrors(self) -> list[str]:
        """Of Docker Hub, first choice first."""
        return list(self.config.registry_mirrors)

    def set_mirrors(self, urls: Sequence[Any]) -> None:
        """Other mirrors until the configuration is read again.  Errors: InvalidParameter."""
        self.reload(replace(self.config, registry_mirrors=mirror_urls(urls)))

    async def close(self) -> None:
        """Stop containers unless they live on without the daemon, then release everything."""
        self.sessions.close()
        await self.builds.close()
        if not self.config.live_restore:
            await self._lifecycle.shut_down(list(self.index), self.config.shutdown_timeout)
        self._lifecycle.shutting_down = True
        await self.registries.close()
        await self.tasks.close()
        self._oom_watch.close()
        for live in self.index:
            if live.shim is not None:
                await live.shim.close()
        await self._shims.close()
        self._endpoints.close()
        await self.networks.close(
            name for live in self.index if live.container.is_running for name in live.container.networks
        )
        self._store.close()
        self._lock.release()

    def describe(self) -> dict[str, Any]:
        """Counts by state, for ``info`` and metrics."""
        states = [str(live.container.status) for live in self.index]
        return {state: states.count(state) for state in set(states)}
