"""What a container has on disk: its writable layer, its own directory, the volumes that it refers to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from corten.engine import create
from corten.engine.container import Container
from corten.engine.container_volumes import ContainerVolumes
from corten.engine.streams import run_blocking
from corten.errors import NotFound
from corten.image.store import ImageStore
from corten.linux import paths
from corten.snapshot.api import Snapshotter


class ContainerDisk:
    """Makes, measures and discards it.

    directory: where the container of an id keeps its log files, hosts and spec
    """

    def __init__(
        self, snapshotter: Snapshotter, volumes: ContainerVolumes, images: ImageStore, directory: Callable[[str], Path]
    ) -> None:
        self._snapshotter = snapshotter
        self._volumes = volumes
        self._images = images
        self._directory = directory

    async def make(self, container: Container, parent: str | None) -> None:
        """parent: the top layer of its image, None for an image without layers

        A failure leaves parts behind: the caller discards them.
        """
        self._directory(container.id).mkdir(mode=0o710, parents=True)
        size = create.storage_size(container.host_config.storage_opt)
        if size:
            # a file system is made: too long for the loop
            await run_blocking(partial(self._snapshotter.create, container.id, parent, size_limit=size))
        else:
            self._snapshotter.create(container.id, parent)
        await self._make_volumes(container)

    async def _make_volumes(self, container: Container) -> None:
        if any(point.type == "volume" for point in container.mount_points):

            def root() -> contextlib.AbstractContextManager[int]:
                return self._snapshotter.open_rootfs(container.id, True)

            await run_blocking(self._volumes.acquire_all, container.id, container.mount_points, root)

    async def discard(self, container: Container) -> None:
        """Take away all that a container has on disk, in an order that a crash in between leaves harmless."""
        await run_blocking(self._volumes.release, container.id)
        await run_blocking(self._snapshotter.remove, container.id)
        await run_blocking(_remove_directory, self._directory(container.id))

    async def sizes(self, container: Container) -> tuple[int, int]:
        """Bytes: what it has written, and that with its image."""
        return await run_blocking(self._measure, container)

    def _measure(self, container: Container) -> tuple[int, int]:
        written = self._snapshotter.usage(container.id)
        try:
            base = self._images.get(container.image_id).size
        except NotFound:
            base = 0
        return written, written + base


def _remove_directory(directory: Path) -> None:
    """A container's own directory: log files, hosts, spec."""
    if not directory.exists():
        return
    parent = os.open(directory.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        paths.remove_tree(parent, directory.name)
    finally:
        os.close(parent)
