"""Whether the store is whole: every digest, every layer's files, every name and directory; and making it whole again.

A finding names one thing that is wrong.  What can be had again is fetched (``Fetcher``), what nothing names is removed,
the rest is for whoever owns the machine to decide: nothing that a user made is ever thrown away here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from corten.errors import Conflict, CortenError, DataLoss, NotFound
from corten.image.blobs import Blobs
from corten.image.garbage import Garbage
from corten.image.layer_check import damage
from corten.image.layers import Layers, Staged
from corten.image.metadata import Blob, ImageRecord, Layer, Metadata
from corten.image.pipes import Chunks
from corten.image.register import Registrar
from corten.oci import config as image_config
from corten.oci import reference
from corten.oci.reference import Reference

LAYER, LINK, CONFIG, MANIFEST = "layer", "link", "config", "manifest"
IMAGE, NAME, SNAPSHOT, BLOB = "image", "name", "directory", "blob"
_YOUNG_S = 60  # a blob without an image may belong to one that appears this moment


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong.

    kind: what it is; id: its digest, key or name; images: names (ids of the nameless) of those that need it
    """

    kind: str
    id: str
    problem: str
    images: tuple[str, ...] = ()


class Fetcher(Protocol):
    """Where lost content can be had again.  Errors of both: CortenError saying why not."""

    def layer(self, blobs: Sequence[Blob], unpack: Callable[[Chunks], Staged]) -> Staged:
        """A layer, unpacked from the first of its blobs that can be had."""
        ...

    def config(self, image_id: str, names: Sequence[Reference]) -> bytes:
        """An image's config.  names: digests of manifests or indexes that lead to it."""
        ...

    def manifest(self, name: Reference) -> bytes:
        """What a name with a digest names, checked."""
        ...


class StoreCheck:
    """One look at everything; in a thread of its own, while the store is used.

    running: snapshots below programs that run now
    """

    def __init__(
        self,
        metadata: Metadata,
        blobs: Blobs,
        layers: Layers,
        registrar: Registrar,
        garbage: Garbage,
        running: Callable[[], set[str]],
    ) -> None:
        self._metadata = metadata
        self._blobs = blobs
        self._layers = layers
        self._snapshotter = layers.snapshotter
        self._registrar = registrar
        self._garbage = garbage
        self._running = running
        self._repairs: dict[str, Callable[[Finding, Fetcher], str]] = {
            LAYER: self._repair_layer,
            LINK: self._repair_link,
            CONFIG: self._repair_config,
            MANIFEST: self._repair_manifest,
            NAME: self._repair_name,
            SNAPSHOT: self._repair_snapshot,
            BLOB: self._repair_blob,
        }

    # -- looking ------------------------------------------------------------------------------------------------------

    def findings(self, *, quick: bool = False) -> Iterator[Finding]:
        """Everything that is wrong, layers before what stands on them.

        quick: files are not read: only that everything has its place
        """
        for layer in self._base_first():
            yield from self._of_layer(layer, quick=quick)
        for record in self._metadata.images():
            yield from self._of_image(record)
        yield from self._of_names()
        yield from self._unnamed()

    @property
    def counts(self) -> dict[str, int]:
        return {"Layers": len(self._metadata.layers()), "Images": len(self._metadata.images())}

    def _base_first(self) -> list[Layer]:
        return sorted(self._metadata.layers(), key=lambda layer: len(self._layers.stack(layer)))

    def _of_layer(self, layer: Layer, *, quick: bool) -> Iterator[Finding]:
        with self._registrar.session() as session:
            session.hold(layer)
            if self._metadata.layer(layer.key) is not layer:
                return  # it was removed meanwhile
            problem = self._snapshotter.flaw(layer.snapshot)
            if not problem and not layer.is_host:
                problem = self._damage(layer, quick=quick)
            if problem:
                yield Finding(LAYER, layer.key, problem, self._users(layer))
            parent = self._metadata.layer(layer.parent)
            if layer.parent and parent is None:
                yield Finding(
                    IMAGE, layer.key, f"the layer {layer.parent} below it is not recorded", self._users(layer)
                )
            elif not problem and not self._is_linked(layer, parent):
                yield Finding(LINK, layer.key, "it is not linked to what it stands on", self._users(layer))

    def _is_linked(self, layer: Layer, parent: Layer | None) -> bool:
        if parent is not None and self._snapshotter.flaw(parent.snapshot):
            return True  # what is below was told already
        return self._snapshotter.is_linked(layer.snapshot, parent.snapshot if parent else None)

    def _damage(self, layer: Layer, *, quick: bool) -> str:
        if quick:
            return "" if self._layers.has_split(layer) else "its tar-split is missing"
        return damage(
            self._layers.tar(layer),
            self._layers.path(layer),
            overlay=self._snapshotter.overlay_whiteouts,
            rights=self._layers.rights,
        )

    def _users(self, layer: Layer) -> tuple[str, ...]:
        return tuple(
            name for record in self._metadata.images() if layer.key in record.layers for name in _names(record)
        )

    def _of_image(self, record: ImageRecord) -> Iterator[Finding]:
        lost = [key for key in record.layers if self._metadata.layer(key) is None]
        for key in lost:
            yield Finding(IMAGE, record.id, f"its layer {key} is not recorded", _names(record))
        problem = self._content_problem(record.id)
        if problem:
            yield Finding(CONFIG, record.id, problem, _names(record))
        elif not lost:
            yield from self._of_config(record)
        for name in record.digests:
            problem = self._content_problem(reference.parse(name).digest)
            if problem:
                yield Finding(MANIFEST, name, problem, _names(record))

    def _content_problem(self, digest: str) -> str:
        try:
            self._blobs.get(digest)
        except NotFound:
            return "it is missing"
        except (CortenError, OSError) as error:
            return str(error)
        return ""

    def _of_config(self, record: ImageRecord) -> Iterator[Finding]:
        try:
            stated = image_config.diff_ids(image_config.parse_config(self._blobs.get(record.id)))
        except CortenError as error:
            yield Finding(IMAGE, record.id, str(error), _names(record))
            return
        layers = [layer for key in record.layers if (layer := self._metadata.layer(key)) is not None]
        if list(stated) != [layer.diff_id for layer in layers if not layer.is_host]:
            yield Finding(IMAGE, record.id, "its layers are not those that its config says", _names(record))

    def _of_names(self) -> Iterator[Finding]:
        for name, image_id in self._metadata.names():
            if self._metadata.image(image_id) is None:
                yield Finding(NAME, name, f"it names the image {image_id}, which is not recorded")

    def _unnamed(self) -> Iterator[Finding]:
        for snapshot in self._stray_snapshots():
            yield Finding(SNAPSHOT, snapshot, "no layer and no container is recorded for it")
        for link in self._snapshotter.strays({layer.snapshot for layer in self._metadata.layers()}):
            yield Finding(SNAPSHOT, str(link), "it leads to no layer")
        for digest in self._blobs.unused(self._garbage.used_blobs(), older_than_s=_YOUNG_S):
            yield Finding(BLOB, digest, "no image needs it")

    def _stray_snapshots(self) -> list[str]:
        # in this order: what is moving is on disk before it is recorded, and leaves the record before the disk
        found = self._snapshotter.ids()
        moving = set(self._snapshotter.moving)
        known = {layer.snapshot for layer in self._metadata.layers()}
        still = self._snapshotter.ids()
        return sorted(
            snapshot for snapshot in (found & still) - moving - known if not self._snapshotter.is_container(snapshot)
        )

    # -- repairing ----------------------------------------------------------------------------------------------------

    def repair(self, finding: Finding, fetcher: Fetcher) -> str:
        """Make good what was found; what was done, in words.  Errors: CortenError saying why it cannot be."""
        action = self._repairs.get(finding.kind)
        if action is None:
            raise Conflict("remove it and pull or load it again")
        try:
            return action(finding, fetcher)
        except OSError as error:
            raise DataLoss(str(error)) from error

    def _repair_layer(self, finding: Finding, fetcher: Fetcher) -> str:
        layer = self._metadata.layer(finding.id)
        if layer is None:
            return "removed meanwhile"
        if layer.is_host:
            raise Conflict("start the daemon again: it makes the image of this machine's root anew")
        parent = self._metadata.layer(layer.parent) if layer.parent else None
        with self._registrar.session() as session:
            session.hold(layer)
            self._check_unused(layer)
            base = None if self._layers.can_stage_early else parent
            blobs = self._metadata.blobs_of(layer.diff_id)
            staged = fetcher.layer(blobs, lambda source: self._layers.stage(source, base))
            try:
                if staged.diff_id != layer.diff_id:
                    raise DataLoss(f"what came instead has the diff ID {staged.diff_id}")
                self._layers.commit(staged, parent)
                self._check_unused(layer)
                self._snapshotter.replace(layer.snapshot, staged.snapshot)
            except BaseException:
                self._layers.discard(staged)
                raise
        return "fetched again"

    def _check_unused(self, layer: Layer) -> None:
        if layer.snapshot in self._running():
            raise Conflict("a running container uses it: stop that first")

    def _repair_link(self, finding: Finding, _: Fetcher) -> str:
        layer = self._metadata.layer(finding.id)
        if layer is None:
            return "removed meanwhile"
        parent = self._metadata.layer(layer.parent) if layer.parent else None
        self._snapshotter.relink(layer.snapshot, parent.snapshot if parent else None)
        return "linked again"

    def _repair_config(self, finding: Finding, fetcher: Fetcher) -> str:
        record = self._metadata.image(finding.id)
        if record is None:
            return "removed meanwhile"
        names = [reference.parse(name) for name in record.digests]
        self._blobs.restore(fetcher.config(record.id, names), record.id)
        return "fetched again"

    def _repair_manifest(self, finding: Finding, fetcher: Fetcher) -> str:
        name = reference.parse(finding.id)
        self._blobs.restore(fetcher.manifest(name), name.digest)
        return "fetched again"

    def _repair_name(self, finding: Finding, _: Fetcher) -> str:
        with self._metadata.change() as change:
            change.remove_digest(finding.id) if "@" in finding.id else change.remove_tag(finding.id)
        return "removed"

    def _repair_snapshot(self, finding: Finding, _: Fetcher) -> str:
        if "/" in finding.id:
            os.unlink(finding.id)
        elif finding.id in self._stray_snapshots():
            self._snapshotter.discard(finding.id)
        return "removed"

    def _repair_blob(self, finding: Finding, _: Fetcher) -> str:
        with self._metadata.lock:
            if finding.id not in self._garbage.used_blobs():
                self._blobs.remove(finding.id)
        return "removed"


def _names(record: ImageRecord) -> tuple[str, ...]:
    return tuple(reference.parse(name).familiar for name in record.tags) or (record.id,)
