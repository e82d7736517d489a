"""The engine as one object: what the API edge and the composition root hold."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from corten.cgroup.hierarchy import Hierarchies
from corten.config import Config
from corten.engine.containers import Containers
from corten.engine.events import Events
from corten.engine.execs import Execs
from corten.engine.health import HealthMonitor
from corten.engine.images import Images
from corten.engine.lifecycle import Lifecycle
from corten.engine.live import Index, Live
from corten.engine.preparation import HostFacts, Preparation
from corten.engine.recover import Recovery
from corten.engine.shims import Shims
from corten.engine.store import RootLock, Store
from corten.engine.system import System
from corten.engine.tasks import Tasks
from corten.engine.volumes import Volumes
from corten.image.store import ImageStore
from corten.snapshot import open_snapshotter

logger = logging.getLogger(__name__)


class Engine:
    """Everything that one daemon owns.  Build with ``await Engine.open(config)``."""

    containers: Containers
    execs: Execs
    images: Images
    volumes: Volumes
    events: Events
    system: System

    def __init__(self, config: Config) -> None:
        self.config = config
        self.tasks = Tasks()
        self.index = Index()
        self.events = Events()

    @classmethod
    async def open(cls, config: Config) -> Engine:
        """Lock the roots, open state and images, start the spawner, find every container again.

        Errors: Conflict when another daemon uses the data root, SystemFailure when the state cannot be opened.
        """
        engine = cls(config)
        await engine._open()
        return engine

    async def _open(self) -> None:
        config = self.config
        for root in (config.data_root, config.exec_root):
            root.mkdir(parents=True, exist_ok=True, mode=0o710)
            root.chmod(0o711 if root is config.exec_root else 0o710)
        for name in ("containers", "volumes"):
            (config.data_root / name).mkdir(exist_ok=True, mode=0o710)
        self._lock = RootLock(config.data_root)
        try:
            await self._compose()
        except BaseException:
            self._lock.release()
            raise

    async def _compose(self) -> None:
        config = self.config
        starting = asyncio.ensure_future(Shims.open(config.exec_root))
        self._store = Store(config.data_root)
        self.snapshotter = open_snapshotter(config.data_root, config.storage_driver)
        store = ImageStore(config.data_root, self.snapshotter, exec_root=config.exec_root)
        facts = HostFacts.read(cgroup_v2=Hierarchies.read().is_v2)
        self.volumes = Volumes(config.data_root, self._store.connection, self.events)
        self._shims = await starting
        preparation = Preparation(config, facts, self.index)
        lifecycle = self._lifecycle = Lifecycle(
            config=config,
            store=self._store,
            events=self.events,
            shims=self._shims,
            snapshotter=self.snapshotter,
            volumes=self.volumes,
            preparation=preparation,
            tasks=self.tasks,
        )
        self._health = HealthMonitor(self._probe, self._health_changed, self.tasks)
        self.containers = Containers(
            config=config,
            facts=facts,
            index=self.index,
            store=self._store,
            images=store,
            snapshotter=self.snapshotter,
            volumes=self.volumes,
            lifecycle=lifecycle,
            preparation=preparation,
            health=self._health,
            tasks=self.tasks,
            events=self.events,
        )
        self.execs = Execs(self.containers, lifecycle, preparation, self.tasks)
        self.images = Images(store, self.events, self.containers)
        self.system = System(self)
        lifecycle.on_started = self._started
        lifecycle.on_stopped = self._stopped
        recovery = Recovery(
            config=config,
            store=self._store,
            index=self.index,
            shims=self._shims,
            snapshotter=self.snapshotter,
            lifecycle=lifecycle,
            tasks=self.tasks,
        )
        recovery.load()
        self._recover_volumes()
        await recovery.run()

    def _recover_volumes(self) -> None:
        """Before any exit is recorded: what ended meanwhile must release the volumes that it had."""
        containers = [live.container for live in self.index]
        running = {
            container.id: container.mount_points
            for container in containers
            if container.is_running or (self.config.exec_root / container.id).is_dir()
        }
        self.volumes.recover(running, {container.id for container in containers})

    # -- health -----------------------------------------------------------------------------------------------------

    def _started(self, live: Live) -> None:
        self._health.started(live.container)

    def _stopped(self, live: Live) -> None:
        self._health.stopped(live.container.id)
        self.execs.drop_container(live)

    async def _probe(self, container_id: str, command: list[str], timeout_s: float) -> tuple[int, bytes]:
        return await self.execs.probe(container_id, command, timeout_s)

    def _health_changed(self, container_id: str, status: str) -> None:
        live = self.index.find(container_id)
        self._lifecycle.publish(live, f"health_status: {status}")

    # -- end --------------------------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """No program runs and none is about to."""
        return not any(live.container.is_running or live.backoff is not None for live in self.index)

    async def close(self) -> None:
        """Stop containers unless they live on without the daemon, then release everything."""
        if not self.config.live_restore:
            await self._lifecycle.shut_down(list(self.index), self.config.shutdown_timeout)
        self._lifecycle.shutting_down = True
        await self.tasks.close()
        for live in self.index:
            if live.shim is not None:
                await live.shim.close()
        await self._shims.close()
        self._store.close()
        self._lock.release()

    def describe(self) -> dict[str, Any]:
        """Counts by state, for ``info`` and metrics."""
        states = [str(live.container.status) for live in self.index]
        return {state: states.count(state) for state in set(states)}
