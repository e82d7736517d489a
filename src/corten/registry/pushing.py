"""Images to a registry: what it has is found out first, what can be mounted is mounted, the rest is packed and sent.

    for each layer, some at a time:  known blobs: HEAD ─ mount from a repository that has one ─ else pack and upload
    config ─ manifest (the one that the image came with, where all its blobs are there; else one of the blobs at hand)

A layer is compressed while it is sent, once: what it became is remembered.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from corten.errors import CortenError, InvalidParameter, NotFound
from corten.image.intake import Outgoing, Outlet
from corten.image.metadata import Blob, Layer
from corten.image.store import ImageStore
from corten.oci import descriptor as media
from corten.oci.descriptor import Descriptor
from corten.oci.digest import Digest, digest_of
from corten.oci.documents import encode
from corten.oci.manifest import Manifest, parse_document
from corten.oci.reference import Reference
from corten.registry.auth import Credentials
from corten.registry.failures import Cancelled, Refused, RegistryFailure, Unreachable
from corten.registry.packing import compressed
from corten.registry.progress import LayerProgress, Report, short
from corten.registry.registry import Registry
from corten.registry.remote import Remote
from corten.registry.transport import Transport
from corten.registry.uploads import Sent, Upload
from corten.registry.words import push_error

_DOCKER_GZIP = media.DOCKER_LAYER + ".gzip"
_GZIP_TYPES = frozenset({_DOCKER_GZIP, media.OCI_LAYER + "+gzip"})
_WHOLE_BYTES = 1 << 20  # a layer's tar up to here is packed before it is sent
_MAX_TRIED = 4  # known blobs of a layer that are asked for before it is packed anew


@dataclass(frozen=True, slots=True)
class Pushed:
    """A name that the registry has now; ``size``: bytes of its manifest"""

    name: Reference
    digest: Digest
    size: int


class Push:
    """One push of a name or of all tags of a repository.  ``run`` in a thread; ``transport.abort`` ends it."""

    def __init__(
        self,
        registry: Registry,
        store: ImageStore,
        transport: Transport,
        name: Reference,
        credentials: Credentials,
        report: Report,
    ) -> None:
        self._registry = registry
        self._store = store
        self._transport = transport
        self._name = name
        self._credentials = credentials
        self._report = report

    def run(self) -> list[Pushed]:
        """Errors: NotFound (no such image here), Unauthorized, Unavailable, DataLoss, InvalidParameter."""
        try:
            self._report({"status": f"The push refers to repository [{self._name.repository}]"})
            with self._images() as (named, outlet):
                known = [outlet.blobs(layer.diff_id) for image in named for layer in image.layers]
                sources = self._sources(blob for blobs in known for blob in blobs)
                remote = reached(self._transport, self._name, self._credentials, sources)
                return [self._image(remote, image, outlet) for image in named]
        except CortenError as error:
            raised = push_error(error, self._name)
            if raised is error:
                raise
            raise raised from error

    @contextlib.contextmanager
    def _images(self) -> Iterator[tuple[list[Outgoing], Outlet]]:
        """The images with the tags to push.  Errors: NotFound, in Docker's words."""
        missing = NotFound(f"An image does not exist locally with the tag: {self._name.familiar_repository}")
        with contextlib.ExitStack() as stack:
            try:
                images, outlet = stack.enter_context(self._store.outlet(self._name.familiar))
            except NotFound:
                raise missing from None
            named = [image for image in images if image.name is not None]
            if not named:
                raise missing
            yield named, outlet

    def _sources(self, blobs: Iterator[Blob]) -> list[str]:
        """Repositories of the same registry that have some of the layers: tokens are asked for them too."""
        prefix = f"{self._name.domain}/"
        found = {blob.repository.removeprefix(prefix) for blob in blobs if blob.repository.startswith(prefix)}
        return sorted(found - {self._name.path})[:8]

    # -- one image ----------------------------------------------------------------------------------------------------

    def _image(self, remote: Remote, image: Outgoing, outlet: Outlet) -> Pushed:
        assert image.name is not None
        blobs = self._layers(remote, image, outlet)
        config = Descriptor(media.DOCKER_CONFIG, Digest(image.id), len(image.config))
        self._config(remote, config, image.config)
        body, media_type = self._kept(image, blobs) or made_manifest(config, blobs)
        digest = remote.put_manifest(image.name.tag, body, media_type)
        outlet.add_digest(Reference(image.name.domain, image.name.path, digest=digest), image.id, body)
        self._report({"status": f"{image.name.tag}: digest: {digest} size: {len(body)}"})
        aux = {"Tag": image.name.tag, "Digest": digest, "Size": len(body)}
        self._report({"progressDetail": {}, "aux": aux})
        return Pushed(image.name, digest, len(body))

    @staticmethod
    def _kept(image: Outgoing, blobs: list[Descriptor]) -> tuple[bytes, str] | None:
        """The manifest that the image came with, when just these blobs are its layers: its digest stays."""
        for body in image.manifests:
            with contextlib.suppress(InvalidParameter):
                document = parse_document(body)
                if (
                    isinstance(document, Manifest)
                    and document.config.digest == image.id
                    and [item.digest for item in document.layers] == [item.digest for item in blobs]
                ):
                    return body, document.media_type
        return None

    @staticmethod
    def _config(remote: Remote, config: Descriptor, content: bytes) -> None:
        if remote.patiently(lambda: remote.blob_size(config.digest)) is None:
            remote.patiently(lambda: remote.finish_upload(remote.start_upload(), config.digest, content))

    def _layers(self, remote: Remote, image: Outgoing, outlet: Outlet) -> list[Descriptor]:
        """The layers' blobs, all of them at the registry now."""
        unique = {layer.diff_id: layer for layer in image.layers}
        lines = {
            key: LayerProgress(self._report, short(layer.key.rpartition("host:")[2]), layer.tar_size)
            for key, layer in unique.items()
        }
        for line in lines.values():
            line.state("Preparing")
        if not unique:
            return []
        running: dict[str, Future[Descriptor]] = {}
        with ThreadPoolExecutor(min(len(unique), self._registry.settings.uploads), thread_name_prefix="push") as pool:
            try:
                for key, layer in reversed(unique.items()):
                    work = LayerPush(self._registry, self._name, remote, layer, outlet, lines[key])
                    running[key] = pool.submit(work.run)
                return [running[layer.diff_id].result() for layer in image.layers]
            except BaseException:
                self._transport.abort()
                for future in running.values():
                    future.cancel()
                raise self._first(list(running.values())) from None

    @staticmethod
    def _first(futures: list[Future[Descriptor]]) -> BaseException:
        """The error that ended the push, not those that its end caused elsewhere."""
        errors = [future.exception() for future in futures if not future.cancelled()]
        real = [error for error in errors if error is not None and not isinstance(error, Cancelled)]
        return real[0] if real else Cancelled()


def reached(transport: Transport, name: Reference, credentials: Credentials, sources: list[str]) -> Remote:
    """A repository to push to, at the address where its registry answers.

    sources: repositories of the same registry that are mounted from
    Errors: RegistryFailure.
    """
    last: Unreachable | None = None
    for endpoint in transport.hosts.endpoints(name.domain, "push"):
        if not endpoint.is_origin:
            continue
        remote = Remote(transport, endpoint, name.path, credentials, actions="pull,push", sources=sources)
        try:
            remote.ping()
        except Unreachable as error:
            if error.is_tls:
                raise
            last = error
        else:
            return remote
    raise last or Unreachable(f"{name.domain}: no registry to push to", passing=False)


def made_manifest(config: Descriptor, blobs: list[Descriptor]) -> tuple[bytes, str]:
    """(bytes, media type) of a manifest: Docker's schema 2, OCI's where a layer is not gzip."""
    kinds = {blob.media_type for blob in blobs}
    if kinds <= _GZIP_TYPES:
        manifest_type, config_type = media.DOCKER_MANIFEST, media.DOCKER_CONFIG
        layers = [Descriptor(_DOCKER_GZIP, blob.digest, blob.size) for blob in blobs]
    else:
        manifest_type, config_type = media.OCI_MANIFEST, media.OCI_CONFIG
        layers = [Descriptor(_oci_type(blob.media_type), blob.digest, blob.size) for blob in blobs]
    document = {
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": Descriptor(config_type, config.digest, config.size).document(),
        "layers": [layer.document() for layer in layers],
    }
    return encode(document), manifest_type


def _oci_type(media_type: str) -> str:
    if media_type.startswith(media.OCI_LAYER):
        return media_type
    suffix = media_type.removeprefix(media.DOCKER_LAYER).removeprefix(media.DOCKER_LAYER_FOREIGN).lstrip(".+")
    return f"{media.OCI_LAYER}+{suffix}" if suffix in ("gzip", "zstd") else media.OCI_LAYER


class LayerPush:
    """One layer's way to the registry."""

    def __init__(
        self,
        registry: Registry,
        name: Reference,
        remote: Remote,
        layer: Layer,
        outlet: Outlet,
        progress: LayerProgress,
    ) -> None:
        self._registry = registry
        self._name = name
        self._remote = remote
        self._layer = layer
        self._outlet = outlet
        self._progress = progress

    def run(self) -> Descriptor:
        """The blob that holds the layer there.  Errors: RegistryFailure, DataLoss, Cancelled."""
        with self._registry.uploads.one(self._remote.transport):
            known = self._outlet.blobs(self._layer.diff_id)
            return self._present(known) or self._mounted(known) or self._sent()

    def _descriptor(self, blob: Blob) -> Descriptor:
        return Descriptor(blob.media_type, Digest(blob.digest), blob.size)

    def _remember(self, blob: Descriptor) -> None:
        layer = self._layer
        record = Blob(layer.diff_id, blob.digest, self._name.repository, blob.size, blob.media_type, time.time_ns())
        self._outlet.remember((record,))

    def _present(self, known: list[Blob]) -> Descriptor | None:
        tried: set[str] = set()
        for blob in known:
            if blob.digest in tried or len(tried) >= _MAX_TRIED:
                continue
            tried.add(blob.digest)
            size = self._remote.patiently(partial(self._remote.blob_size, Digest(blob.digest)))
            if size is None or size not in (-1, blob.size):
                continue
            self._progress.state("Layer already exists")
            found = self._descriptor(blob)
            self._remember(found)
            return found
        return None

    def _mounted(self, known: list[Blob]) -> Descriptor | None:
        prefix = f"{self._name.domain}/"
        candidates = [
            blob for blob in known if blob.repository.startswith(prefix) and blob.repository != self._name.repository
        ]
        for blob in candidates[:_MAX_TRIED]:
            source = blob.repository.removeprefix(prefix)
            try:
                location = self._remote.start_upload(mount=Digest(blob.digest), source=source)
            except Refused:
                continue  # not allowed there: sent like any other
            if location:
                # the registry would rather have the bytes: this upload is not needed
                with contextlib.suppress(RegistryFailure):
                    self._remote.cancel_upload(location)
                continue
            found = self._descriptor(blob)
            self._progress.state(f"Mounted from {source}")
            self._remember(found)
            return found
        return None

    # -- upload -------------------------------------------------------------------------------------------------------

    def _sent(self) -> Descriptor:
        blob = self._sent_whole() if self._layer.tar_size <= _WHOLE_BYTES else Upload(self._remote, self._packed).run()
        self._progress.state("Pushed")
        found = Descriptor(_DOCKER_GZIP, blob.digest, blob.size)
        self._remember(found)
        return found

    def _sent_whole(self) -> Sent:
        """A small layer in one request; when the registry has these very bytes, without one."""
        remote, content = self._remote, b"".join(self._packed())
        digest = digest_of(content)
        if remote.patiently(lambda: remote.blob_size(digest)) is None:
            remote.patiently(lambda: remote.finish_upload(remote.start_upload(), digest, content))
        return Sent(digest, len(content))

    def _moved(self, count: int) -> None:
        self._progress.moved("Pushing", count)

    def _packed(self) -> Iterator[bytes]:
        return compressed(self._outlet.tar(self._layer), self._moved)
