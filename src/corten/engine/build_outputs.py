"""Results of builds as something else than images of this store: files, archives, names at a registry."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corten.build.assembly import Annotation, Assembly, Part, assemble, read_annotations
from corten.build.history import History, Record
from corten.build.layer_tar import LayerTar, Wanted
from corten.build.packing import MEDIA_TYPES, packer
from corten.build.provenance import MODES, PREDICATE, provenance, statement
from corten.build.sbom import PREDICATE as SPDX
from corten.build.sbom import document as spdx
from corten.build.selection import Source
from corten.build.tree import ROOT, RootTree
from corten.dockerapi.build_request import OutputRequest
from corten.dockerapi.registry_auth import RegistryAuth
from corten.engine.registries import Registries
from corten.engine.streams import iterate_in_thread, run_blocking
from corten.errors import InvalidParameter
from corten.image import tarwrite
from corten.image.intake import Outgoing, Outlet
from corten.image.metadata import Layer
from corten.image.pipes import CHUNK
from corten.image.save import blob_name, member_header
from corten.image.store import Image, ImageStore
from corten.oci import descriptor as media
from corten.oci import reference
from corten.oci.descriptor import Descriptor
from corten.oci.digest import Digest, hasher
from corten.oci.documents import encode
from corten.oci.manifest import index_document
from corten.oci.platform import from_document
from corten.oci.reference import Reference

Document = dict[str, Any]
FORMATS = ("tar", "oci", "docker", "registry")
_STATEMENT_FILES = {PREDICATE: "provenance.json", SPDX: "sbom.spdx.json"}


@dataclass(frozen=True, slots=True)
class Export:
    """top: what the archive's index names; None for files"""

    top: Descriptor | None
    chunks: AsyncIterator[bytes]


class BuildOutputs:
    def __init__(self, store: ImageStore, registries: Registries, history: History, scratch: Path) -> None:
        self._store = store
        self._registries = registries
        self._history = history
        self._scratch = scratch

    @contextlib.contextmanager
    def files_of(self, image_id: str) -> Iterator[RootTree | None]:
        """The files of an image within the block, None when it has none.  In a thread.  Errors: NotFound."""
        with self._store.pin(image_id) as image, _root(self._store, image) as root:
            yield root

    async def export(self, request: OutputRequest) -> Export:
        """A tar.  Errors: InvalidParameter, NotFound, before the first byte; DataLoss later."""
        if request.format == "registry":
            raise InvalidParameter("the result for a registry is pushed, not exported")
        wanted = CheckedOutput(request)
        stack = contextlib.ExitStack()
        try:
            work = await run_blocking(lambda: _Work(self._store, self._history, self._scratch, wanted, stack))
            top, make = await run_blocking(work.export)
        except BaseException:
            await run_blocking(stack.close)
            raise

        def chunks() -> Iterator[bytes]:
            with stack:
                yield from make()

        return Export(top, iterate_in_thread(chunks))

    async def push(self, request: OutputRequest, auth: RegistryAuth) -> AsyncIterator[Document]:
        """Progress, and at the end the descriptor.  Errors: InvalidParameter, NotFound, those of a push."""
        wanted = CheckedOutput(request)
        if not wanted.names:
            raise InvalidParameter("tag is needed when pushing to registry")
        for name in wanted.names:

            def publish(publication: Any, name: Reference = name) -> Document:
                with contextlib.ExitStack() as stack:
                    work = _Work(self._store, self._history, self._scratch, wanted, stack)
                    return work.publish(publication, "" if request.by_digest else name.tag)

            async for document in self._registries.publish(name, publish, auth):
                yield document


class CheckedOutput:
    """A request, checked.  Errors: InvalidParameter."""

    def __init__(self, request: OutputRequest) -> None:
        if request.format not in FORMATS:
            raise InvalidParameter(f"unknown output {request.format!r}: one of {', '.join(FORMATS)}")
        if not request.images:
            raise InvalidParameter("an output needs an image")
        if request.split is False and len(request.images) > 1:
            raise InvalidParameter("files of several platforms are put in a directory each (platform-split)")
        if request.provenance not in ("", *MODES):
            raise InvalidParameter(f"invalid mode of provenance: {request.provenance}")
        if request.format == "docker" and (
            len(request.images) > 1 or request.provenance or request.sbom or request.index
        ):
            raise InvalidParameter(
                "docker exporter does not currently support exporting manifest lists: use type=oci or a registry"
            )
        self.request = request
        self.names = [reference.parse(name).with_default_tag() for name in request.names]
        if any(name.digest for name in self.names):
            raise InvalidParameter("build tag cannot contain a digest")
        self.annotations: list[Annotation] = read_annotations(request.annotations)
        compression = request.compression or ("uncompressed" if request.format == "docker" else "gzip")
        self.compression = compression
        self.pack = packer(compression, request.level)
        # a registry may have a layer already, in whatever compression: it is asked unless the client wants one
        self.is_usual = request.format == "registry" and not request.compression and request.level is None


class _Work:
    """One output, in a thread; what it holds is given back with the stack."""

    def __init__(
        self, store: ImageStore, history: History, scratch: Path, wanted: CheckedOutput, stack: contextlib.ExitStack
    ) -> None:
        """Errors: NotFound."""
        self._store = store
        self._history = history
        self._scratch = scratch
        self._wanted = wanted
        self._stack = stack
        self._images: list[tuple[Image, Outgoing, Outlet]] = []
        self._blobs: dict[str, tuple[Descriptor, Callable[[], Iterator[bytes]]]] = {}
        for result in wanted.request.images:
            image = stack.enter_context(store.pin(result.image))
            outgoing, outlet = stack.enter_context(store.outlet(image.id))
            self._images.append((image, outgoing[0], outlet))

    # -- archives -----------------------------------------------------------------------------------------------------

    def export(self) -> tuple[Descriptor | None, Callable[[], Iterator[bytes]]]:
        if self._wanted.request.format == "tar":
            return None, self._files
        assembly = self._assembly(self._packed)
        return assembly.top, lambda: self._layout(assembly)

    def _assembly(self, layers: Callable[[Outgoing, Outlet], list[Descriptor]]) -> Assembly:
        parts = []
        for number, (image, outgoing, outlet) in enumerate(self._images):
            part = Part(
                outgoing.config,
                [layer.diff_id for layer in outgoing.layers],
                layers(outgoing, outlet),
                from_document(image.config),
                self._predicates(number, image),
            )
            parts.append(part)
        names = [name.familiar for name in self._wanted.names]
        request = self._wanted.request
        return assemble(parts, names, self._wanted.annotations, oci=request.oci_types, index=request.index)

    def _packed(self, image: Outgoing, outlet: Outlet) -> list[Descriptor]:
        return [self._blob(layer, outlet) for layer in image.layers]

    def _blob(self, layer: Layer, outlet: Outlet) -> Descriptor:
        known = self._blobs.get(layer.diff_id)
        if known is not None:
            return known[0]
        if self._wanted.compression == "uncompressed":
            made = Descriptor(media.OCI_LAYER, Digest(layer.diff_id), layer.tar_size)
            self._blobs[layer.diff_id] = (made, lambda: outlet.tar(layer))
            return made
        file = tempfile.TemporaryFile(dir=self._scratch, buffering=0)  # noqa: SIM115 the stack closes it
        self._stack.callback(file.close)
        running, size = hasher(None), 0
        for chunk in self._wanted.pack(outlet.tar(layer)):
            running.update(chunk)
            size += len(chunk)
            view = memoryview(chunk)
            while view:
                view = view[file.write(view) :]
        made = Descriptor(MEDIA_TYPES[self._wanted.compression], Digest(f"sha256:{running.hexdigest()}"), size)
        self._blobs[layer.diff_id] = (made, lambda: _file_chunks(file.fileno(), size))
        return made

    def _layout(self, assembly: Assembly) -> Iterator[bytes]:
        """An OCI layout; for Docker with the list that ``load`` reads."""
        yield member_header("blobs/", 0, directory=True) + member_header("blobs/sha256/", 0, directory=True)
        written: set[str] = set()
        for descriptor, make in self._blobs.values():
            if descriptor.digest in written:
                continue
            written.add(descriptor.digest)
            yield member_header(blob_name(descriptor.digest), descriptor.size)
            yield from make()
            yield tarwrite.padding(descriptor.size)
        for descriptor, content in (*assembly.documents.values(), *assembly.manifests):
            if descriptor.digest not in written:
                written.add(descriptor.digest)
                yield _file(blob_name(descriptor.digest), content)
        yield _file("index.json", encode(self._index(assembly)))
        yield _file("oci-layout", encode({"imageLayoutVersion": "1.0.0"}))
        if self._wanted.request.format == "docker":
            yield _file("manifest.json", encode(self._docker_list()))
        yield tarwrite.END

    def _index(self, assembly: Assembly) -> Document:
        if self._wanted.request.cache:
            notes = {media.ANNOTATION_REF_NAME: self._wanted.names[0].tag} if self._wanted.names else {}
            tops = [item for item, _ in assembly.manifests if item.media_type in media.MANIFESTS]
            return index_document([Descriptor(item.media_type, item.digest, item.size, notes) for item in tops])
        top = assembly.top
        names = [
            {media.ANNOTATION_IMAGE_NAME: name.canonical, media.ANNOTATION_REF_NAME: name.tag}
            for name in self._wanted.names
        ]
        return index_document(
            [
                Descriptor(top.media_type, top.digest, top.size, {**top.annotations, **notes}, top.platform)
                for notes in names or [{}]
            ]
        )

    def _docker_list(self) -> list[Document]:
        _, outgoing, _ = self._images[0]
        return [
            {
                "Config": blob_name(Digest(outgoing.id)),
                "RepoTags": [name.familiar for name in self._wanted.names] or None,
                "Layers": [blob_name(self._blobs[layer.diff_id][0].digest) for layer in outgoing.layers],
            }
        ]

    # -- files --------------------------------------------------------------------------------------------------------

    def _files(self) -> Iterator[bytes]:
        """The files of the results; those of several platforms in a directory each."""
        split = self._wanted.request.split
        if split is None:
            split = len(self._images) > 1
        for number, (image, _, _) in enumerate(self._images):
            target = f"/{str(from_document(image.config)).replace('/', '_')}" if split else "/"
            with _root(self._store, image) as root:
                sources = [Source(root, "", root.node("") or ROOT, "root")] if root is not None else []
                yield from LayerTar(Wanted(sources, target, True, 0), None).members()
            for predicate_type, predicate in self._predicates(number, image):
                content = encode(statement(predicate_type, predicate, []))
                yield _file(f"{target.strip('/')}/{_STATEMENT_FILES[predicate_type]}".lstrip("/"), content)
        yield tarwrite.END

    # -- registries ---------------------------------------------------------------------------------------------------

    def publish(self, publication: Any, tag: str) -> Document:
        """Push everything; the descriptor of what the name means now."""
        assembly = self._assembly(publication.layers if self._wanted.is_usual else self._packed)
        for descriptor, make in self._blobs.values():
            publication.blob(descriptor, make)
        for descriptor, content in assembly.documents.values():
            publication.blob(descriptor, lambda content=content: iter([content]))
        for descriptor, content in assembly.manifests:
            publication.manifest(content, descriptor, tag if descriptor is assembly.top else "")
        return assembly.top.document()

    # -- attestations -------------------------------------------------------------------------------------------------

    def _predicates(self, number: int, image: Image) -> list[tuple[str, Document]]:
        request = self._wanted.request
        found: list[tuple[str, Document]] = []
        record, log = self._record(request.images[number].build)
        if request.sbom:
            with _root(self._store, image) as root:
                name = self._wanted.names[0].familiar if self._wanted.names else image.id
                found.append((SPDX, spdx(root, name, record.completed)))
        if request.provenance:
            found.append((PREDICATE, provenance(record, request.provenance, log)))
        return found

    def _record(self, build: str) -> tuple[Record, list[Document]]:
        """Errors: NotFound for a build that the history does not have any more."""
        if not build:
            if self._wanted.request.provenance:
                raise InvalidParameter("provenance needs the id of the build")
            return Record(), []
        return self._history.get(build), self._history.log(build)


@contextlib.contextmanager
def _root(store: ImageStore, image: Image) -> Iterator[RootTree | None]:
    if not image.layers:
        yield None
        return
    with store.snapshotter.open_layer(image.layers[-1]) as descriptor:
        tree = RootTree(descriptor)
        try:
            yield tree
        finally:
            tree.close()


def _file(name: str, content: bytes) -> bytes:
    return member_header(name, len(content)) + content + tarwrite.padding(len(content))


def _file_chunks(descriptor: int, size: int) -> Iterator[bytes]:
    offset = 0
    while offset < size:
        data = os.pread(descriptor, min(CHUNK, size - offset), offset)
        offset += len(data)
        yield data
