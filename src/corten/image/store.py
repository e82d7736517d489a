"""``ImageStore``: everything the engine asks of images.  Synchronous, thread-safe; reads come from memory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from corten.errors import Conflict, DataLoss, InvalidParameter, NotFound, SystemFailure
from corten.image import commit as committing
from corten.image import history as histories
from corten.image import removal
from corten.image.archives import Archives
from corten.image.blobs import Blobs
from corten.image.catalog import Catalog, Image
from corten.image.check import StoreCheck
from corten.image.compression import DEFAULT_LIMITS, Limits
from corten.image.garbage import Garbage
from corten.image.host import FULL, KIND, MASKED, NAMES, HostImages, HostPlace, target_name
from corten.image.intake import Intake, Outgoing, Outlet
from corten.image.layers import Layers, Leases
from corten.image.metadata import ImageRecord, Layer, Metadata
from corten.image.register import Registrar
from corten.image.removal import InUse
from corten.image.unpackers import Unpackers
from corten.oci import config as image_config
from corten.oci.reference import Reference
from corten.snapshot.api import Snapshotter


class ImageStore:
    """The images below one data root.

    data_root: holds ``images.db`` and ``blobs/``; exec_root: hidden by the image ``host``
    host_root: what the image ``host`` shows; not "/" only in tests
    Errors: SystemFailure when the database cannot be opened.
    """

    def __init__(
        self,
        data_root: Path,
        snapshotter: Snapshotter,
        *,
        exec_root: Path,
        limits: Limits = DEFAULT_LIMITS,
        host_root: str = "/",
    ) -> None:
        self.snapshotter = snapshotter
        self._metadata = Metadata(data_root)
        self._blobs = Blobs(data_root)
        self._leases = Leases()
        self._layers = Layers(snapshotter, self._metadata, limits=limits)
        self._registrar = Registrar(self._blobs, self._metadata, self._layers, self._leases)
        self._unpackers = Unpackers()
        self._garbage = Garbage(self._metadata, snapshotter, self._blobs, self._leases)
        self._garbage.sweep_start()
        place = HostPlace((data_root, exec_root), host_root)
        self._host = HostImages(place, self._metadata, self._layers, self._registrar)
        self._catalog = Catalog(
            self._metadata, self._blobs, {name.canonical: partial(self._host.ensure, name) for name in (MASKED, FULL)}
        )
        self._host.ensure_all()
        self.archives = Archives(
            *(
                data_root,
                self._metadata,
                self._blobs,
                self._layers,
                self._registrar,
                self._catalog,
                self._garbage,
                limits,
            )
        )

    def close(self) -> None:
        self._metadata.close()

    # -- look up ------------------------------------------------------------------------------------------------------

    def get(self, ref: str) -> Image:
        """An image by name, name:tag, name@digest, id or unambiguous beginning of an id.

        Errors: NotFound("No such image: x"), also for a damaged one; InvalidParameter (malformed reference).
        """
        image = self.look_up(ref)
        if image.damage:
            raise NotFound(f"No such image: {ref} ({image.damage})")
        return image

    def look_up(self, ref: str) -> Image:
        """The image of ``get``, whether it is damaged or not.  Errors: NotFound, InvalidParameter."""
        return self._catalog.view(self._catalog.find(ref)[0])

    def all(self) -> list[Image]:
        """Every image, in no order."""
        return self._catalog.all()

    def is_builtin(self, image_id: str) -> bool:
        """Whether the image is ``host`` or ``host:full``, which are always there."""
        record = self._metadata.image(image_id)
        return record is not None and record.kind == KIND and any(name in NAMES for name in record.tags)

    def tagged_ns(self, image_id: str) -> int:
        """When the image got its newest name, or came into this store: nanoseconds since the epoch, 0 when unknown."""
        record = self._metadata.image(image_id)
        if record is None:
            return 0
        return max([record.added, *(self._metadata.tagged_at(name) for name in record.tags)])

    @contextlib.contextmanager
    def pin(self, ref: str) -> Iterator[Image]:
        """The image, kept from being removed while the block runs.  Errors: NotFound."""
        with self._metadata.lock:
            image = self.get(ref)
            self._leases.hold(image.id)
        try:
            yield image
        finally:
            self._leases.release(image.id)

    def history(self, ref: str) -> list[dict[str, Any]]:
        """Rows as the API answers them, newest first; sizes in bytes.  Errors: NotFound."""
        record, _ = self._catalog.find(ref)
        image = self._catalog.view(record)
        sizes = tuple(layer.size for layer in map(self._catalog.layer, record.layers) if not layer.is_host)
        ancestors: list[tuple[str, tuple[str, ...], int]] = []
        parent = self._metadata.image(image.parent)
        while parent is not None and len(ancestors) <= image_config.MAX_HISTORY:
            view = self._catalog.view(parent)
            ancestors.append((view.id, view.tags, len(image_config.history(view.config))))
            parent = self._metadata.image(view.parent)
        return histories.rows(image.id, image.config, sizes, image.tags, ancestors)

    # -- names and removal --------------------------------------------------------------------------------------------

    def tag(self, source: str, target: str) -> None:
        """Give an image another name; the name moves when another image has it.

        Errors: NotFound, InvalidParameter (reference), Conflict (the names of the built-in images).
        """
        name = target_name(target)
        record, _ = self._catalog.find(source)
        with self._metadata.change() as change:
            if self._metadata.image(record.id) is None:
                raise NotFound(f"No such image: {source}")
            change.set_tag(name.canonical, record.id, time.time_ns())

    def remove(self, ref: str, *, force: bool, prune: bool, in_use: InUse) -> list[dict[str, str]]:
        """Untag or delete, as dockerd does; the answer's rows, ``{"Untagged": …}`` and ``{"Deleted": …}``.

        prune:  also remove untagged parents that nothing else needs
        in_use: (container id, whether it runs) of an image's containers
        Errors: NotFound, Conflict.
        """
        with self._metadata.lock:
            record, name = self._catalog.find(ref)
            if self.is_builtin(record.id) and (name is None or name.canonical in NAMES):
                raise Conflict(f"conflict: unable to remove {ref} (cannot be forced) - it is built in")
            images = {image.id: image for image in self._metadata.images()}
            plan = removal.plan(record, ref, name, images, in_use, force=force, prune=prune)
            for image_id in plan.images:
                if self._leases.is_held(image_id):
                    short = removal.short(image_id)
                    raise Conflict(f"conflict: unable to delete {short} (cannot be forced) - it is in use right now")
            with self._metadata.change() as change:
                for canonical in plan.names:
                    change.remove_digest(canonical) if "@" in canonical else change.remove_tag(canonical)
                for image_id in plan.images:
                    change.remove_image(image_id)
        answer = plan.answer
        if plan.images:
            answer = answer + [{"Deleted": layer.chain_id} for layer in self._sweep() if not layer.is_host]
        return answer

    def _sweep(self) -> list[Layer]:
        self._catalog.forget()
        gone = self._garbage.sweep_layers()
        self._garbage.sweep_blobs(older_than_s=60)
        return sorted(gone, key=lambda layer: layer.created, reverse=True)

    def prune(
        self, *, in_use: InUse, every: bool = False, wanted: Callable[[Image], bool] = lambda image: True
    ) -> tuple[list[dict[str, str]], int]:
        """Remove unused images without a name, with ``every`` also named ones: (the answer's rows, bytes reclaimed).

        wanted: which of them may go
        """
        rows: list[dict[str, str]] = []
        before = self._stored()
        progressed = True
        while progressed:
            progressed = False
            for image in self.all():
                if self.is_builtin(image.id) or in_use(image.id) or (image.tags and not every) or not wanted(image):
                    continue
                for ref in (*image.tags, *image.digests) or (image.id,):
                    with contextlib.suppress(Conflict, NotFound):
                        rows += self.remove(ref, force=False, prune=True, in_use=in_use)
                        progressed = True
        return rows, before - self._stored()

    def _stored(self) -> int:
        return sum(layer.size for layer in self._metadata.layers())

    def check(self, running: Callable[[], Iterable[str]], mounted: Callable[[], Iterable[str]] = tuple) -> StoreCheck:
        """What finds damage and repairs it.

        running: ids of the containers that run at the moment; mounted: ids of the images that are mounted in them
        """

        def used() -> set[str]:
            below = {snapshot for container_id in running() for snapshot in self._garbage.below(container_id)}
            images = [record for image_id in mounted() if (record := self._metadata.image(image_id)) is not None]
            layers = [self._metadata.layer(key) for record in images for key in record.layers]
            return below | {layer.snapshot for layer in layers if layer is not None}

        return StoreCheck(self._metadata, self._blobs, self._layers, self._registrar, self._garbage, used)

    # -- made here ---------------------------------------------------------------------------------------------------

    def commit(
        self,
        container_id: str,
        base: str,
        config: dict[str, Any],
        *,
        command: str | Sequence[str] = "",
        author: str = "",
        comment: str = "",
        reference: str = "",
        changes: Iterable[str] = (),
    ) -> str:
        """A new image: ``base`` and on top of it what the container changed; its id.

        base:    image id the container was made of
        config:  the run configuration (``Env``, ``Cmd``, …); changes: Dockerfile instructions applied to it
        command: what the container ran, for the history
        Errors: NotFound, InvalidParameter, SystemFailure.  The container must not change meanwhile.
        """
        wanted = committing.CommitWanted.check(container_id, config, list(changes), command, author, comment)
        name = target_name(reference) if reference else None
        with self.pin(base) as image:
            record = self._metadata.image(image.id)
            assert record is not None
            below = [self._catalog.layer(key) for key in record.layers]

            with self._garbage.swept_on_failure(), self._registrar.session() as session:
                new = wanted.build(session, self._layers, self._registrar, image.id, image.config, below, name)
                return self._registrar.add([new])[0]

    # -- registries ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def intake(self) -> Iterator[Intake]:
        """An image on its way in from elsewhere; when the block raises nothing of it stays."""
        with self._garbage.swept_on_failure(), self._registrar.session() as session, self._unpackers.using():
            yield Intake(session, self._layers, self._registrar, self._metadata, self._blobs, self._unpackers)

    @contextlib.contextmanager
    def outlet(self, ref: str) -> Iterator[tuple[list[Outgoing], Outlet]]:
        """The images that a name means (all tags of a bare repository), kept while the block runs.

        Errors: NotFound; InvalidParameter for the image of this machine's root.
        """
        with self._registrar.session() as session:
            with self._metadata.lock:
                images = [self._outgoing(record, name) for record, name in self._catalog.named(ref)]
                for image in images:
                    for layer in image.layers:
                        session.hold(layer)
            yield images, Outlet(self._layers, self._metadata, self._blobs)

    def _outgoing(self, record: ImageRecord, name: Reference | None) -> Outgoing:
        if record.kind == KIND:
            raise InvalidParameter("the image of this machine's root cannot be pushed: nothing of it is copied")
        layers = tuple(layer for layer in map(self._catalog.layer, record.layers) if not layer.is_host)
        config = self._blobs.get(record.id)
        manifests = []
        for digest in dict.fromkeys(item.partition("@")[2] for item in record.digests):
            with contextlib.suppress(NotFound, DataLoss):
                manifests.append(self._blobs.get(digest))
        return Outgoing(record.id, config, image_config.parse_config(config), layers, name, tuple(manifests))

    def make_durable(self, image_id: str) -> None:
        """An image that was added without waiting for the disk outlives a power cut from now on.

        Errors: SystemFailure when the disk takes no more.
        """
        try:
            self._blobs.make_durable(image_id)
        except OSError as error:
            raise SystemFailure(f"image {image_id} cannot be kept: {error.strerror}", errno=error.errno or 0) from error

    def check_target(self, name: Reference) -> None:
        """Errors: Conflict for a name that belongs to a built-in image."""
        if name.canonical in NAMES:
            if self._host.lacking:
                raise Conflict(f"the built-in image {name.familiar} is not available: {self._host.lacking}")
            target_name(name.canonical)

    def open_layer_tar(self, layer_id: str) -> Iterator[bytes]:
        """The exact tar of a stored layer by its snapshot id.  Errors: NotFound, DataLoss."""
        layer = next((item for item in self._metadata.layers() if item.snapshot == layer_id), None)
        if layer is None:
            raise NotFound(f"layer {layer_id} does not exist")
        return self._layers.tar(layer)


__all__ = ["Image", "ImageStore", "InUse"]
