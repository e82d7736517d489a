"""Images that come layer by layer from somewhere else, and leave that way: what a pull and a push need of the store.

Nothing is visible until ``add``; what was staged or placed and is not an image's in the end is swept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from corten.errors import NotFound
from corten.image.blobs import Blobs
from corten.image.commit import stage_changes
from corten.image.extract import NONE_GIVEN, Given
from corten.image.layers import Layers, Staged
from corten.image.metadata import Blob, Layer, Metadata
from corten.image.pipes import Chunks
from corten.image.register import NewImage, Registrar, Session
from corten.image.unpackers import Unpackers
from corten.oci.reference import Reference

_BESIDE_BYTES = 1 << 20  # below this a process costs more than it saves


class Intake:
    """One image on its way in.  Thread-safe; layers may be staged side by side where ``can_stage_early``."""

    def __init__(
        self,
        session: Session,
        layers: Layers,
        registrar: Registrar,
        metadata: Metadata,
        blobs: Blobs,
        unpackers: Unpackers,
    ) -> None:
        self._unpackers = unpackers
        self._blobs = blobs
        self._session = session
        self._layers = layers
        self._registrar = registrar
        self._metadata = metadata

    @property
    def can_stage_early(self) -> bool:
        """Whether a layer may be unpacked before those below it."""
        return self._layers.can_stage_early

    def existing(self, parent: Layer | None, diff_id: str) -> Layer | None:
        """The layer with that content on that parent, kept from now on."""
        return self._registrar.existing(self._session, parent, diff_id)

    def elsewhere(self, diff_id: str) -> Layer | None:
        """A layer with that content on whatever parent, kept from now on."""
        with self._metadata.lock:
            found = self._metadata.layer_by_diff_id(diff_id)
            if found is not None:
                self._session.hold(found)
            return found

    def stage(self, source: Chunks, parent: Layer | None = None, *, size: int = 0, given: Given = NONE_GIVEN) -> Staged:
        """Unpack a layer's blob.

        size: bytes of the blob; a large one has a process of its own
        given: files that may become the layer's, see ``ExtractOptions``
        Errors: as ``Layers.stage``.
        """
        if parent is None and size >= _BESIDE_BYTES and self.can_stage_early:
            return self._layers.stage_beside(source, self._unpackers)
        return self._layers.stage(source, parent, given=given)

    def copy(self, layer: Layer, parent: Layer | None) -> Staged:
        return self._layers.copy(layer, parent)

    def changes(self, container_id: str, parent: Layer | None) -> Staged:
        """What a container that has ended changed.  Errors: SystemFailure."""
        return stage_changes(self._layers, container_id, parent)

    def has_changes(self, container_id: str) -> bool:
        """Whether a container's own layer has any file; without one there is nothing to stage."""
        snapshotter = self._layers.snapshotter
        if not snapshotter.overlay_whiteouts:
            return True  # a copy of the whole tree: told apart when it is compared
        with os.scandir(snapshotter.upper_path(container_id)) as entries:
            return any(True for _ in entries)

    def discard(self, staged: Staged) -> None:
        self._layers.discard(staged)

    def place(self, staged: Staged, parent: Layer | None, expected: str) -> Layer:
        """Errors: DataLoss when the staged layer is not what the config says."""
        return self._registrar.place(self._session, staged, parent, expected)

    def layers_of(self, image_id: str) -> tuple[Layer, ...]:
        """The layers of an image that is here, kept from now on.  Errors: NotFound."""
        with self._metadata.lock:
            record = self._metadata.image(image_id)
            found = [self._metadata.layer(key) for key in record.layers] if record is not None else [None]
            kept = tuple(layer for layer in found if layer is not None)
            if len(kept) != len(found):
                raise NotFound(f"No such image: {image_id}")
            for layer in kept:
                self._session.hold(layer)
        return kept

    def config(self, image_id: str) -> bytes:
        """An image's config, exact bytes, checked.  Errors: NotFound, DataLoss."""
        return self._blobs.get(image_id)

    def has_image(self, image_id: str) -> bool:
        return self._metadata.image(image_id) is not None

    def named(self, name: Reference) -> str | None:
        """The id of the image that has this name now."""
        if name.digest:
            return self._metadata.digested(Reference(name.domain, name.path, digest=name.digest).canonical)
        return self._metadata.tagged(name.canonical)

    def add(self, image: NewImage, blobs: tuple[Blob, ...] = (), *, durable: bool = True) -> str:
        """Record the image with its names and what is known of its layers' blobs; its id.

        durable: False for one that is on the way to another, which ``ImageStore.make_durable`` is called for
        """
        (image_id,) = self._registrar.add([image], durable=durable)
        remember_blobs(self._metadata, blobs)
        return image_id


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An image on its way out.

    config: exact bytes; layers: base first; name: its tag, None when it was named by something else
    manifests: as its registries served it
    """

    id: str
    config: bytes
    document: dict[str, Any]
    layers: tuple[Layer, ...]
    name: Reference | None
    manifests: tuple[bytes, ...]


class Outlet:
    """The store's side of a push."""

    def __init__(self, layers: Layers, metadata: Metadata, blobs: Blobs) -> None:
        self._layers = layers
        self._metadata = metadata
        self._blobs = blobs

    def tar(self, layer: Layer) -> Iterator[bytes]:
        """The layer's exact tar.  Errors: DataLoss when it was changed on disk."""
        return self._layers.tar(layer)

    def blobs(self, diff_id: str) -> list[Blob]:
        """Blobs that are known to hold a layer, newest first."""
        return self._metadata.blobs_of(diff_id)

    def remember(self, blobs: tuple[Blob, ...]) -> None:
        remember_blobs(self._metadata, blobs)

    def add_digest(self, name: Reference, image_id: str, manifest: bytes) -> None:
        """The image is known by this repository digest from now on; nothing happens when it is gone meanwhile."""
        self._blobs.put(manifest)
        with self._metadata.lock:
            if self._metadata.image(image_id) is not None:
                self._blobs.put(manifest)  # it is not swept once it is named
                with self._metadata.change() as change:
                    change.set_digest(name.canonical, image_id)


def remember_blobs(metadata: Metadata, blobs: tuple[Blob, ...]) -> None:
    if blobs:
        with metadata.change() as change:
            for blob in blobs:
                change.add_blob(blob)
