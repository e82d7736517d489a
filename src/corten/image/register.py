"""Layers become stacks, stacks become images: the one place where the store grows.

Layers are added as they are placed and held by a lease until their image is recorded; an image and all its names appear
in one transaction.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from corten.errors import DataLoss
from corten.image.blobs import Blobs
from corten.image.layers import Layers, Leases, Staged, layer_key
from corten.image.metadata import Change, ImageRecord, Layer, Metadata
from corten.oci.digest import Digest
from corten.oci.reference import Reference


@dataclass(frozen=True, slots=True)
class NewImage:
    """config: the exact bytes; layers: base first; names: tags to set; digests: repository digests to remember"""

    config: bytes
    layers: tuple[Layer, ...]
    names: tuple[Reference, ...] = ()
    digests: tuple[Reference, ...] = ()
    manifest: bytes = b""
    parent: str = ""
    kind: str = ""


class Registrar:
    """Thread-safe."""

    def __init__(self, blobs: Blobs, metadata: Metadata, layers: Layers, leases: Leases) -> None:
        self._blobs = blobs
        self._metadata = metadata
        self._layers = layers
        self._leases = leases
        self._placing = threading.Lock()

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """Everything placed within is kept from a sweep until the block ends."""
        session = Session(self._leases)
        try:
            yield session
        finally:
            session.close()

    def existing(self, session: Session, parent: Layer | None, diff_id: str) -> Layer | None:
        """The layer with that content on that parent, held by the session."""
        with self._metadata.lock:
            layer = self._metadata.layer(layer_key(parent, diff_id))
            if layer is not None:
                session.hold(layer)
            return layer

    def place(self, session: Session, staged: Staged, parent: Layer | None, expected: str = "") -> Layer:
        """Commit a staged layer on ``parent``; it belongs to the store, or is gone, when this returns or raises.

        expected: the diff ID that it must have
        Errors: DataLoss, InvalidParameter (too many layers).
        """
        try:
            if expected and staged.diff_id != expected:
                raise DataLoss(f"invalid diffID for layer: expected {expected}, got {staged.diff_id}")
            with self._placing:
                known = self.existing(session, parent, staged.diff_id)
                if known is not None:
                    self._layers.discard(staged)
                    return known
                layer = self._layers.commit(staged, parent)
                self.add_layer(session, layer)
                return layer
        except BaseException:
            self._layers.discard(staged)
            raise

    def add_layer(self, session: Session, layer: Layer) -> None:
        session.hold(layer)
        with self._metadata.change() as change:
            change.add_layer(layer)
        self._layers.snapshotter.moving.discard(layer.snapshot)

    def add(
        self,
        images: Iterable[NewImage],
        renamed: Callable[[str, str], None] = lambda name, image: None,
        *,
        durable: bool = True,
    ) -> list[str]:
        """Record images with their names, all or none; their ids.

        renamed: called for each name taken from another image, with that image's id; durable: as in ``Blobs.put``
        """
        images = list(images)
        self._put(images, durable=durable)  # outside of the lock, whose holders must not wait for the disk
        taken: list[tuple[str, str]] = []
        now = time.time_ns()
        with self._metadata.lock:
            ids = self._put(images, durable=durable)  # a sweep may just have taken what another image had left
            with self._metadata.change() as change:
                for image, image_id in zip(images, ids, strict=True):
                    self._add_one(change, image, image_id, now, taken)
        for name, old in taken:
            renamed(name, old)
        return list(ids)

    def _put(self, images: list[NewImage], *, durable: bool) -> list[Digest]:
        ids = []
        for image in images:
            ids.append(self._blobs.put(image.config, durable=durable))
            if image.manifest:
                self._blobs.put(image.manifest)
        return ids

    def _add_one(
        self, change: Change, image: NewImage, image_id: Digest, now: int, taken: list[tuple[str, str]]
    ) -> None:
        if self._metadata.image(image_id) is None and image_id not in change.new_images:
            layers = tuple(layer.key for layer in image.layers)
            change.add_image(ImageRecord(image_id, image.parent, now, image.kind, layers))
        for name in image.names:
            old = self._metadata.tagged(name.canonical)
            if old is not None and old != image_id:
                taken.append((name.familiar, old))
            change.set_tag(name.canonical, image_id, now)
        for digest in image.digests:
            change.set_digest(digest.canonical, image_id)


class Session:
    """Layers that must not be swept yet."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._held: list[str] = []

    def hold(self, layer: Layer) -> None:
        self._leases.hold(layer.key)
        self._held.append(layer.key)

    def close(self) -> None:
        for key in self._held:
            self._leases.release(key)
        self._held.clear()
