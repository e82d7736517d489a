"""``ImageStore``: everything the engine asks of images.  Synchronous, thread-safe; reads come from memory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from corten.errors import Conflict, DataLoss, InvalidParameter, NotFound, SystemFailure
from corten.image import commit as committing
from corten.image import history as histories
from corten.image import importing, removal
from corten.image import save as saving
from corten.image.archive_members import Collector, Progress, read_directory
from corten.image.blobs import Blobs
from corten.image.catalog import Catalog, Image
from corten.image.check import StoreCheck
from corten.image.compression import DEFAULT_LIMITS, Limits, decompressed
from corten.image.garbage import Garbage
from corten.image.host import FULL, KIND, MASKED, HostImages, HostPlace
from corten.image.intake import Intake, Outgoing, Outlet
from corten.image.layers import Layers, Leases
from corten.image.load import Loader
from corten.image.metadata import ImageRecord, Layer, Metadata
from corten.image.pipes import chunks_of
from corten.image.register import NewImage, Registrar, Session
from corten.image.removal import InUse
from corten.image.unpackers import Unpackers
from corten.oci import config as image_config
from corten.oci import reference
from corten.oci.digest import is_digest
from corten.oci.platform import Platform
from corten.oci.reference import Reference
from corten.snapshot.api import Snapshotter

_HOST_NAMES = {MASKED.canonical: MASKED, FULL.canonical: FULL}


def nothing(_: dict[str, Any]) -> None:
    """Progress that nobody wants to see."""


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
        self._limits = limits
        self._metadata = Metadata(data_root)
        self._blobs = Blobs(data_root)
        self._scratch = data_root
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
        """The same, whether it is damaged or not."""
        return self._catalog.view(self._catalog.find(ref)[0])

    def all(self) -> list[Image]:
        """Every image, in no order."""
        return self._catalog.all()

    def is_builtin(self, image_id: str) -> bool:
        """Whether the image is ``host`` or ``host:full``, which are always there."""
        record = self._metadata.image(image_id)
        return record is not None and record.kind == KIND and any(name in _HOST_NAMES for name in record.tags)

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
        name = self._target(target)
        record, _ = self._catalog.find(source)
        with self._metadata.change() as change:
            if self._metadata.image(record.id) is None:
                raise NotFound(f"No such image: {source}")
            change.set_tag(name.canonical, record.id, time.time_ns())

    def _target(self, text: str) -> Reference:
        name = reference.parse(text)
        if name.digest:
            raise InvalidParameter("refusing to create a tag with a digest reference")
        name = name.with_default_tag()
        if name.canonical in _HOST_NAMES:
            raise Conflict(f"the name {name.familiar} belongs to the built-in image of this machine's root")
        return name

    def remove(self, ref: str, *, force: bool, prune: bool, in_use: InUse) -> list[dict[str, str]]:
        """Untag or delete, as dockerd does; the answer's rows, ``{"Untagged": …}`` and ``{"Deleted": …}``.

        prune:  also remove untagged parents that nothing else needs
        in_use: (container id, whether it runs) of an image's containers
        Errors: NotFound, Conflict.
        """
        with self._metadata.lock:
            record, name = self._catalog.find(ref)
            if self.is_builtin(record.id) and (name is None or name.canonical in _HOST_NAMES):
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

    # -- in and out ---------------------------------------------------------------------------------------------------

    def load(self, stream: BinaryIO, progress: Progress = nothing, *, platform: Platform | None = None) -> list[str]:
        """Images of an archive (docker-archive or OCI layout, any compression): their names, ids of those without.

        stream: read once, to its end; progress: documents as the API streams them
        platform: which of an image for several platforms; without it this machine's, else the first
        Errors: InvalidParameter, DataLoss (bad archive), NotFound (platform), SystemFailure (no space).  Nothing stays
        when it fails.
        """

        def read(collector: Collector) -> None:
            _, plain = decompressed(chunks_of(stream), self._limits)
            collector.read(plain)

        return self._load(read, progress, platform)

    def load_directory(self, directory: Path, progress: Progress = nothing) -> list[str]:
        """The same from an unpacked archive, for instance an OCI layout."""
        return self._load(lambda collector: read_directory(directory, collector), progress)

    def _load(
        self, read: Callable[[Collector], None], progress: Progress, platform: Platform | None = None
    ) -> list[str]:
        collector = Collector(self._layers, self._scratch, self._has_layer, progress)
        try:
            with self._registrar.session() as session:
                read(collector)
                loader = Loader(collector.members, self._registrar, self._layers, self._metadata, platform)
                images = loader.images(session)
                for image in images:
                    for name in image.names:
                        self._target(name.canonical)
                ids = self._registrar.add(images, _renaming(progress))
        except BaseException:
            collector.members.close(self._layers)
            self._garbage.sweep_layers()
            raise
        collector.members.close(self._layers)
        loaded: list[str] = []
        for image, image_id in zip(images, ids, strict=True):
            loaded += [name.familiar for name in image.names] or [image_id]
        return list(dict.fromkeys(loaded))

    def _has_layer(self, diff_id: str) -> bool:
        return self._metadata.layer_by_diff_id(diff_id) is not None

    def save(self, refs: Iterable[str], *, format: str = "docker") -> Iterator[bytes]:
        """Images as one tar: "docker" is docker-archive and OCI layout at once, "oci" the layout alone.

        A repository without a tag means all its tags.
        Errors: NotFound, InvalidParameter before the first byte; DataLoss later.
        """
        saving.check_format(format)
        images = self._saved(refs)
        return self._held_save(images, format)

    def _held_save(self, images: list[saving.SavedImage], format: str) -> Iterator[bytes]:
        with self._registrar.session() as session:
            for image in images:
                for layer in image.layers:
                    session.hold(layer)
            yield from saving.save_tar(images, self._layers, format)

    def save_directory(self, refs: Iterable[str], directory: Path, *, format: str = "oci") -> None:
        """The same as files in an empty directory."""
        saving.check_format(format)
        saving.save_directory(self._saved(refs), self._layers, directory, format)

    def _saved(self, refs: Iterable[str]) -> list[saving.SavedImage]:
        chosen: dict[str, dict[str, Reference]] = {}
        for ref in refs:
            for record, name in self._save_targets(ref):
                names = chosen.setdefault(record.id, {})
                if name is not None:
                    names[name.canonical] = name
        if not chosen:
            raise InvalidParameter("no images given to save")
        images = []
        for image_id, names in chosen.items():
            record = self._catalog.find(image_id)[0]
            if record.kind == KIND:
                raise InvalidParameter("the image of this machine's root cannot be saved: nothing of it is copied")
            layers = tuple(layer for layer in map(self._catalog.layer, record.layers) if not layer.is_host)
            content = self._blobs.get(image_id)
            images.append(saving.SavedImage(content, image_config.parse_config(content), layers, tuple(names.values())))
        return images

    def _save_targets(self, ref: str) -> list[tuple[ImageRecord, Reference | None]]:
        name = None if is_digest(ref) else reference.try_parse(ref)
        if name is not None and name.is_name_only:
            tagged = self._metadata.tags_of_repository(name.repository)
            found = [(self._metadata.image(image), reference.parse(tag)) for tag, image in sorted(tagged.items())]
            listed = [(record, tag) for record, tag in found if record is not None]
            if listed:
                return list(listed)
        single, named = self._catalog.find(ref)
        return [(single, named if named is not None and named.tag else None)]

    def import_tar(
        self,
        stream: BinaryIO,
        *,
        reference: str = "",
        changes: Iterable[str] = (),
        message: str = "",
        platform: str = "",
        progress: Progress = nothing,
    ) -> str:
        """An image of one layer, from a tar of a file system in any compression; its id.

        changes: Dockerfile instructions for the configuration
        Errors: InvalidParameter, DataLoss, SystemFailure.  Nothing stays when it fails.
        """
        wanted = importing.ImportWanted.check(list(changes), message, platform)
        name = self._target(reference) if reference else None
        source = importing.reported(chunks_of(stream), progress)
        return self._one_layer(lambda session: wanted.build(session, self._layers, self._registrar, source, name))

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
        name = self._target(reference) if reference else None
        with self.pin(base) as image:
            record = self._metadata.image(image.id)
            assert record is not None
            below = [self._catalog.layer(key) for key in record.layers]

            def build(session: Session) -> NewImage:
                return wanted.build(session, self._layers, self._registrar, image.id, image.config, below, name)

            return self._one_layer(build)

    def _one_layer(self, build: Callable[[Session], NewImage]) -> str:
        try:
            with self._registrar.session() as session:
                return self._registrar.add([build(session)])[0]
        except BaseException:
            self._garbage.sweep_layers()
            raise

    # -- registries ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def intake(self) -> Iterator[Intake]:
        """An image on its way in from elsewhere; when the block raises nothing of it stays."""
        try:
            with self._registrar.session() as session, self._unpackers.using():
                yield Intake(session, self._layers, self._registrar, self._metadata, self._blobs, self._unpackers)
        except BaseException:
            self._garbage.sweep_layers()
            raise

    @contextlib.contextmanager
    def outlet(self, ref: str) -> Iterator[tuple[list[Outgoing], Outlet]]:
        """The images that a name means (all tags of a bare repository), kept while the block runs.

        Errors: NotFound; InvalidParameter for the image of this machine's root.
        """
        with self._registrar.session() as session:
            with self._metadata.lock:
                images = [self._outgoing(record, name) for record, name in self._save_targets(ref)]
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
        if name.canonical in _HOST_NAMES:
            self._target(name.canonical)

    def open_layer_tar(self, layer_id: str) -> Iterator[bytes]:
        """The exact tar of a stored layer by its snapshot id.  Errors: NotFound, DataLoss."""
        layer = next((item for item in self._metadata.layers() if item.snapshot == layer_id), None)
        if layer is None:
            raise NotFound(f"layer {layer_id} does not exist")
        return self._layers.tar(layer)


def _renaming(progress: Progress) -> Callable[[str, str], None]:
    def renamed(name: str, image_id: str) -> None:
        progress(
            {"stream": f"The image {name} already exists, renaming the old one with ID {image_id} to empty string\n"}
        )

    return renamed


__all__ = ["Image", "ImageStore", "InUse"]
