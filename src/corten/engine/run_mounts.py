"""What is mounted for a container while its program runs: volumes, images, the /dev/shm that it shares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from corten.engine.container_volumes import ContainerVolumes
from corten.engine.image_mounts import ImageMounts
from corten.engine.live import Live
from corten.engine.mount_sources import prepare_sources
from corten.engine.streams import run_blocking
from corten.linux import mount as kernel_mount


class RunMounts:
    """Mounts it on the host and takes it off again.

    shm_directory: where the /dev/shm of the container of an id is mounted
    """

    def __init__(
        self, volumes: ContainerVolumes, image_mounts: ImageMounts, shm_directory: Callable[[str], Path]
    ) -> None:
        self._volumes = volumes
        self._image_mounts = image_mounts
        self._shm_directory = shm_directory

    async def acquire(self, live: Live) -> None:
        """Before a start.  What was mounted when it fails is given back by ``release``.

        Errors: those of the mounts: InvalidParameter, NotFound, SystemFailure, OSError.
        """
        container = live.container
        points = container.mount_points
        if points:

            def mount() -> None:
                prepare_sources(points)
                container.mount_points = self._image_mounts.mount_all(container.id, points)
                self._volumes.mount_all(container.id, points)

            await run_blocking(mount)
        self._mount_shm(live)

    async def release(self, live: Live) -> None:
        """The program does not run.  What is not mounted is no error."""
        container = live.container
        kinds = {point.type for point in container.mount_points}
        if "volume" in kinds:
            await run_blocking(self._volumes.unmount_all, container.id, container.mount_points)
        if "image" in kinds:
            await run_blocking(self._image_mounts.unmount_all, container.id)
        if container.host_config.ipc_mode == "shareable":
            self._unmount_shm(live)

    def _mount_shm(self, live: Live) -> None:
        """A shareable IPC namespace needs its /dev/shm where other containers can be given it."""
        host = live.container.host_config
        if host.ipc_mode != "shareable":
            return
        directory = self._shm_directory(live.container.id)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        label = f',context="{live.container.mount_label}"' if live.container.mount_label else ""
        kernel_mount.mount(
            "shm",
            str(directory),
            "tmpfs",
            kernel_mount.MS_NOSUID | kernel_mount.MS_NOEXEC | kernel_mount.MS_NODEV,
            f"mode=1777,size={host.shm_size}{label}",
        )
        live.shm_mounted = True

    def _unmount_shm(self, live: Live) -> None:
        directory = self._shm_directory(live.container.id)
        if not directory.exists():
            return
        if live.shm_mounted:
            kernel_mount.umount2(str(directory), kernel_mount.MNT_DETACH)
            live.shm_mounted = False
        directory.rmdir()
