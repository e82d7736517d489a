"""Layers as ``overlay.py`` keeps them, shown by fuse-overlayfs: below a data root that overlayfs itself refuses.

The directories are the same, in ``<data-root>/fuse-overlayfs``; only who mounts them differs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from corten.errors import NotImplementedYet
from corten.linux import fuse_overlay
from corten.snapshot.api import RootfsMount
from corten.snapshot.overlay import OverlaySnapshotter


class FuseOverlaySnapshotter(OverlaySnapshotter):
    """Layers below ``<data-root>/fuse-overlayfs``."""

    name = "fuse-overlayfs"

    def register_directory(self, layer_id: str, directory: str) -> None:
        # it would show the mounts below "/", its own among them
        raise NotImplementedYet(f"{self.name} cannot show {directory} as a layer: the host image needs overlay2")

    def rootfs(self, container_id: str) -> RootfsMount:
        mount = super().rootfs(container_id)
        mount["type"] = self.name
        return mount

    @contextlib.contextmanager
    def open_rootfs(self, container_id: str, read_only: bool) -> Iterator[int]:
        mount = self.rootfs(container_id)
        if read_only:
            descriptor = fuse_overlay.detached([mount["upper"], *mount["lower"]], None, None)
        else:
            descriptor = fuse_overlay.detached(mount["lower"], mount["upper"], mount["work"])
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def open_layer(self, layer_id: str) -> Iterator[int]:
        descriptor = fuse_overlay.detached([f"{self._root}/{link}" for link in self._below(layer_id)], None, None)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
