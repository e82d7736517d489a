"""What a daemon does at its start: find every container again, learn what ended, sweep what no record names."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from corten.config import Config
from corten.engine.container import Container, Status
from corten.engine.endpoints import Endpoints
from corten.engine.lifecycle import Lifecycle, now_ns
from corten.engine.live import Index, Live
from corten.engine.restart_policy import wants_restart
from corten.engine.shim_leftovers import read_start
from corten.engine.shims import ExitStatus, Shim, Shims
from corten.engine.store import Store
from corten.engine.tasks import Tasks
from corten.errors import CortenError, Unavailable
from corten.linux import mount as kernel_mount
from corten.linux import mounts, paths
from corten.snapshot.api import Snapshotter

logger = logging.getLogger(__name__)

_ASK_AGAIN_S = 5.0
LOST_EXIT_CODE = 255  # dockerd's code for a program that ended while nobody looked


class Recovery:
    """One pass over everything on disk and in the exec root."""

    def __init__(
        self,
        *,
        config: Config,
        store: Store,
        index: Index,
        shims: Shims,
        snapshotter: Snapshotter,
        lifecycle: Lifecycle,
        endpoints: Endpoints,
        tasks: Tasks,
    ) -> None:
        self._config = config
        self._store = store
        self._index = index
        self._shims = shims
        self._snapshotter = snapshotter
        self._lifecycle = lifecycle
        self._endpoints = endpoints
        self._tasks = tasks

    def load(self) -> None:
        """Records into memory, without touching anything else."""
        for container in self._store.containers():
            try:
                self._index.add(Live(container))
            except CortenError as error:
                logger.error("container %s is left out: %s", container.id, error)

    async def run(self) -> None:
        """Reconnect, record what ended, restart what the policies say, then sweep."""
        for live in self._index:
            self._lifecycle.hold_ids(live.container)
        await self._endpoints.adopt([live for live in self._index if live.container.is_running])
        await asyncio.gather(*(self._recover(live) for live in self._index))
        await self._remove_half_removed()
        self.sweep()
        for live in self._index:
            self._restart_if_wanted(live)

    async def _recover(self, live: Live) -> None:
        container = live.container
        if container.status not in (Status.RUNNING, Status.PAUSED):
            await self._adopt_unrecorded_start(live)
            if container.status is Status.RESTARTING:
                container.become(Status.EXITED)
                self._store.save(container)
            return
        try:
            found = await self._reconnect(live)
        except Unavailable as error:
            # busy or stopped, but there: its program runs, so nothing may be written down about its end
            self._keep_asking(live, error)
            return
        await self._settle(live, found)

    def _keep_asking(self, live: Live, error: Unavailable) -> None:
        logger.warning("%s: asking again", error)
        _expect_end(live)
        self._tasks.spawn(self._ask_again(live), f"reconnect {live.container.id[:12]}")

    async def _ask_again(self, live: Live) -> None:
        while True:
            await asyncio.sleep(_ASK_AGAIN_S)
            try:
                found = await self._reconnect(live)
            except Unavailable:
                continue
            await self._settle(live, found)
            return

    async def _settle(self, live: Live, found: Shim | ExitStatus | None) -> None:
        container = live.container
        if isinstance(found, Shim):
            if container.state.pid != found.pid:  # it had not come to write it down when it was asked
                await self._record_start(live, found.pid, found.started_ns)
            self._adopt(live, found)
            return
        status = found or ExitStatus(code=LOST_EXIT_CODE, at_ns=now_ns(), oom_killed=False)
        logger.info("container %s ended meanwhile with code %d", container.id[:12], status.code)
        _expect_end(live)
        await self._lifecycle.record_exit(live, status)

    async def _reconnect(self, live: Live) -> Shim | ExitStatus | None:
        """Errors: Unavailable when a shim is there and does not answer."""
        try:
            return await self._shims.reconnect(live.container.id)
        except Unavailable:
            raise
        except (CortenError, OSError) as error:
            logger.warning("the shim of container %s does not answer: %s", live.container.id[:12], error)
            return None

    def _adopt(self, live: Live, shim: Shim) -> None:
        live.shim = shim
        live.container.state.pid = shim.pid
        _expect_end(live)
        live.shm_mounted = live.container.host_config.ipc_mode == "shareable"
        self._lifecycle.watch(live, shim)
        self._lifecycle.on_started(live)

    async def _adopt_unrecorded_start(self, live: Live) -> None:
        """A daemon that died between starting a program and saving it leaves a shim behind a record of one stopped."""
        container = live.container
        if not (self._config.exec_root / container.id).is_dir() or container.status in (Status.REMOVING, Status.DEAD):
            self._forget_start(container)
            return
        try:
            found = await self._reconnect(live)
        except Unavailable as error:
            # its program may run: until that is known nobody may start it again or take its files away
            container.become(Status.RUNNING)
            await self._record_start(live, *read_start(self._config.exec_root / container.id))
            self._keep_asking(live, error)
            return
        if isinstance(found, Shim):
            container.become(Status.RUNNING)
            await self._record_start(live, found.pid, found.started_ns)
            self._adopt(live, found)
            return
        self._forget_start(container)
        if found is not None:
            await self._shims.forget(container.id)

    async def _record_start(self, live: Live, pid: int, started_ns: int) -> None:
        """pid: 0 while it is not known"""
        live.container.state.pid, live.container.state.started_ns = pid, started_ns
        if pid:
            await self._endpoints.adopt([live])
        self._store.save(live.container)

    def _forget_start(self, container: Container) -> None:
        """What was recorded for a program that does not run."""
        self._endpoints.forget(container)
        self._lifecycle.release_ids(container)

    async def _remove_half_removed(self) -> None:
        for live in self._index:
            if live.container.status in (Status.REMOVING, Status.DEAD) and self._lifecycle.auto_remove is not None:
                await self._lifecycle.auto_remove(live)

    def _restart_if_wanted(self, live: Live) -> None:
        container = live.container
        if container.status is not Status.EXITED or live.backoff is not None or live.removing:
            return
        if wants_restart(container, at_boot=True):
            self._tasks.spawn(self._start(live), f"start {container.id[:12]}")

    async def _start(self, live: Live) -> None:
        try:
            await self._lifecycle.start(live)
        except CortenError as error:
            logger.warning("container %s does not start again: %s", live.container.id[:12], error)

    # -- sweep ------------------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Remove directories and mounts below our roots that belong to no container."""
        known = {live.container.id for live in self._index}
        running = {live.container.id for live in self._index if live.container.is_running}
        self._unmount_leftovers(running)
        for snapshot_id in self._snapshotter.ids():
            container_id = snapshot_id.removesuffix("-init")
            if len(container_id) == 64 and container_id not in known and self._snapshotter.is_container(container_id):
                logger.info("sweeping the file system of unknown container %s", container_id[:12])
                try:
                    self._snapshotter.remove(container_id)
                except OSError as error:  # what lies about is no reason to serve nobody
                    logger.warning("cannot remove the file system of container %s: %s", container_id[:12], error)
        self._sweep_directory(self._config.data_root / "containers", known)

    def _unmount_leftovers(self, running: set[str]) -> None:
        # the kernel's table has no links in its paths
        roots = (f"{os.path.realpath(self._config.data_root)}/", f"{os.path.realpath(self._config.exec_root)}/shm/")
        for mount in reversed(mounts.read()):
            parts = set(Path(mount.target).parts)
            if not mount.target.startswith(roots) or (
                not mount.target.endswith("/merged") and "/shm/" not in mount.target
            ):
                continue
            if not parts & running:
                logger.info("unmounting leftover %s", mount.target)
                try:
                    kernel_mount.umount2(mount.target, kernel_mount.MNT_DETACH)
                except OSError as error:
                    logger.warning("cannot unmount %s: %s", mount.target, error)

    @staticmethod
    def _sweep_directory(directory: Path, known: set[str]) -> None:
        if not directory.is_dir():
            return
        descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in os.listdir(directory):
                if len(name) == 64 and name not in known:
                    paths.remove_tree(descriptor, name)
        finally:
            os.close(descriptor)


def _expect_end(live: Live) -> None:
    """Somebody may be waiting already, since before the shim has answered."""
    if live.stopped is None:
        live.stopped = asyncio.get_running_loop().create_future()
