"""Images as archives: ``load``, ``save``, ``import``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from corten.errors import InvalidParameter
from corten.image import importing
from corten.image import save as saving
from corten.image.archive_members import Collector, Progress, read_directory
from corten.image.blobs import Blobs
from corten.image.catalog import Catalog
from corten.image.compression import Limits, decompressed
from corten.image.garbage import Garbage
from corten.image.host import KIND, target_name
from corten.image.layers import Layers
from corten.image.load import Loader
from corten.image.metadata import Metadata
from corten.image.pipes import chunks_of
from corten.image.register import Registrar
from corten.oci import config as image_config
from corten.oci.platform import Platform
from corten.oci.reference import Reference


def nothing(_: dict[str, Any]) -> None:
    """Progress that nobody wants to see."""


class Archives:
    """Reads and writes the images of a store as archives.  Synchronous, thread-safe.

    scratch: a directory on the store's file system for what an archive holds
    """

    def __init__(
        self,
        scratch: Path,
        metadata: Metadata,
        blobs: Blobs,
        layers: Layers,
        registrar: Registrar,
        catalog: Catalog,
        garbage: Garbage,
        limits: Limits,
    ) -> None:
        self._scratch = scratch
        self._metadata = metadata
        self._blobs = blobs
        self._layers = layers
        self._registrar = registrar
        self._catalog = catalog
        self._garbage = garbage
        self._limits = limits

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
                        target_name(name.canonical)
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
            for record, name in self._catalog.named(ref):
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
        name = target_name(reference) if reference else None
        source = importing.reported(chunks_of(stream), progress)
        with self._garbage.swept_on_failure(), self._registrar.session() as session:
            return self._registrar.add([wanted.build(session, self._layers, self._registrar, source, name)])[0]


def _renaming(progress: Progress) -> Callable[[str, str], None]:
    def renamed(name: str, image_id: str) -> None:
        progress(
            {"stream": f"The image {name} already exists, renaming the old one with ID {image_id} to empty string\n"}
        )

    return renamed
