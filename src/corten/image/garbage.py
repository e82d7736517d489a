"""Mark and sweep: what no image, no container and no work in progress uses goes.

Layers leave the database first and the disk afterwards; what a crash leaves between is swept at the next start.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from corten.errors import CortenError
from corten.image.blobs import Blobs
from corten.image.layers import Leases
from corten.image.metadata import Layer, Metadata
from corten.snapshot.api import Snapshotter

logger = logging.getLogger(__name__)


class Garbage:
    """Thread-safe: one sweep at a time, under the database's lock."""

    def __init__(self, metadata: Metadata, snapshotter: Snapshotter, blobs: Blobs, leases: Leases) -> None:
        self._metadata = metadata
        self._snapshotter = snapshotter
        self._blobs = blobs
        self._leases = leases

    def sweep_layers(self) -> list[Layer]:
        """Remove unused layers; the removed ones.  Errors: SystemFailure when the database refuses."""
        with self._metadata.lock:
            layers = {layer.key: layer for layer in self._metadata.layers()}
            unused = [layers[key] for key in layers.keys() - self._marked(layers)]
            if not unused:
                return []
            self._snapshotter.moving.update(layer.snapshot for layer in unused)
            with self._metadata.change() as change:
                for layer in unused:
                    change.remove_layer(layer.key)
        for layer in unused:
            self._discard(layer.snapshot)
        return unused

    @contextlib.contextmanager
    def swept_on_failure(self) -> Iterator[None]:
        """When the block raises, layers that it has left behind go."""
        try:
            yield
        except BaseException:
            self.sweep_layers()
            raise

    def _marked(self, layers: dict[str, Layer]) -> set[str]:
        """Keys of layers in use, with all that they stand on."""
        held = self._leases.held()
        pending = [key for image in self._metadata.images() for key in image.layers]
        for image_id in held:
            record = self._metadata.image(image_id)
            pending += record.layers if record else ()
        pending += held & layers.keys()
        containers = self._used_by_containers()
        pending += [layer.key for layer in layers.values() if layer.snapshot in containers]
        marked: set[str] = set()
        while pending:
            key = pending.pop()
            if key in marked or key not in layers:
                continue
            marked.add(key)
            pending.append(layers[key].parent)
        return marked

    def _used_by_containers(self) -> set[str]:
        """Snapshots below containers, also of images that were removed by force."""
        used: set[str] = set()
        for snapshot in self._snapshotter.ids():
            if not snapshot.endswith("-init") and self._snapshotter.is_container(snapshot):
                used |= self.below(snapshot)
        return used

    def below(self, container_id: str) -> set[str]:
        """Snapshots that a container stands on, none where layers are whole copies."""
        lower = self._snapshotter.data(container_id).get("LowerDir", "")
        # …/<id>/diff; a directory of the host is kept by the image that shows it
        return {os.path.basename(os.path.dirname(path)) for path in lower.split(":")}

    def _discard(self, snapshot: str) -> None:
        try:
            self._snapshotter.discard(snapshot)
        except (OSError, CortenError) as error:
            self._snapshotter.moving.discard(snapshot)
            logger.warning("layer %s could not be removed and stays until the next start: %s", snapshot, error)

    def sweep_blobs(self, *, older_than_s: float = 0.0) -> int:
        """Remove configs and manifests that no image names; bytes freed."""
        with self._metadata.lock:
            return self._blobs.sweep(self.used_blobs(), older_than_s=older_than_s)

    def used_blobs(self) -> set[str]:
        """Digests of the configs and manifests that images name."""
        used: set[str] = set()
        for image in self._metadata.images():
            used.add(image.id)
            used.update(name.partition("@")[2] for name in image.digests)
        return used

    def sweep_start(self) -> None:
        """Before anything runs: staged layers, snapshots that no record names, names of nothing, half-written blobs."""
        known = {layer.snapshot for layer in self._metadata.layers()}
        for snapshot in self._snapshotter.ids():
            if snapshot not in known and not self._snapshotter.is_container(snapshot):
                logger.info("removing the unfinished layer %s", snapshot)
                self._discard(snapshot)
        for link in self._snapshotter.strays(known):
            link.unlink(missing_ok=True)
        self.sweep_layers()
        self.sweep_blobs()
