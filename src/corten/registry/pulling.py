"""An image from a registry: resolve, choose, fetch, unpack, appear.

    reference ─ manifest or index ─ (platform) ─ manifest ─ config ─┐
    layers, some at a time:  socket → sha256 → inflate → sha256 → unpacked, staged     (threads)
                             placed on each other in order, as soon as all below are   (the caller's thread)
    image, name and digest appear in one transaction

Layers that are here already are neither fetched nor unpacked.  When anything fails, nothing stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from corten.errors import CortenError, DataLoss, InvalidParameter, NotFound
from corten.image.intake import Intake
from corten.image.layers import Staged
from corten.image.metadata import Blob, Layer
from corten.image.pipes import verified
from corten.image.register import NewImage
from corten.image.store import ImageStore
from corten.oci import config as image_config
from corten.oci import descriptor as media
from corten.oci import documents
from corten.oci.descriptor import Descriptor
from corten.oci.digest import Digest
from corten.oci.manifest import Index, Manifest, parse_document
from corten.oci.platform import Platform, from_document, this_machine
from corten.oci.reference import Reference
from corten.registry.auth import Credentials
from corten.registry.downloads import Download
from corten.registry.progress import LayerProgress, Report, short
from corten.registry.registry import Registry
from corten.registry.remote import Content, Remote
from corten.registry.sources import Sources
from corten.registry.transport import Transport
from corten.registry.words import pull_error

_MAX_DEPTH = 3
_KNOWN = media.MANIFESTS | media.INDEXES


@dataclass(frozen=True, slots=True)
class Pulled:
    """digest: of what the reference names, an index or a manifest; is_new: the store did not have it by that name"""

    image_id: str
    digest: Digest
    is_new: bool


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One layer to come: its place among the image's layers, what it must be, its blob."""

    position: int
    diff_id: Digest
    blob: Descriptor
    progress: LayerProgress


class Pull:
    """One pull.  ``run`` in a thread; ``transport.abort`` from another one ends it.

    platform: None means this machine's
    """

    def __init__(
        self,
        registry: Registry,
        store: ImageStore,
        transport: Transport,
        name: Reference,
        credentials: Credentials,
        report: Report,
        *,
        platform: Platform | None = None,
    ) -> None:
        self._registry = registry
        self._store = store
        self._transport = transport
        self._name = name
        self._report = report
        self._platform = platform
        self._sources = Sources(transport, name, credentials)

    def run(self) -> Pulled:
        """Errors: NotFound, Unauthorized, Unavailable, InvalidParameter, DataLoss, SystemFailure in Docker's words."""
        try:
            with self._store.intake() as intake:
                return self._pull(intake)
        except CortenError as error:
            raised = pull_error(error, self._name)
            if raised is error:
                raise
            raise raised from error

    # -- documents ----------------------------------------------------------------------------------------------------

    def _pull(self, intake: Intake) -> Pulled:
        self._store.check_target(self._name)
        top, document = self._content(self._name.digest or self._name.tag, "")
        self._report({"status": f"Pulling from {self._name.path}", "id": self._name.digest or self._name.tag})
        manifest = self._manifest(document, 0)
        if not manifest.is_image:
            raise InvalidParameter(f'Encountered remote "{manifest.config.media_type[:100]}"(unknown) when fetching')
        before = intake.named(self._name)
        named = Reference(self._name.domain, self._name.path, digest=top.digest)
        image_id = str(manifest.config.digest)
        is_known = before == image_id and intake.named(named) == image_id
        image = self._present(intake, image_id) or self._fetch(intake, manifest)
        names = () if self._name.digest else (self._name,)
        blobs = self._blobs(manifest, image)
        image_id = intake.add(NewImage(image.config, image.layers, names, (named,), top.body), blobs)
        self._warn_of_platform(image.config)
        self._report({"status": f"Digest: {top.digest}"})
        what = "Image is up to date for" if is_known else "Downloaded newer image for"
        self._report({"status": f"Status: {what} {self._name.familiar}"})
        return Pulled(image_id, top.digest, not is_known)

    def _content(self, reference: str, stated: str) -> tuple[Content, Manifest | Index]:
        """A manifest or index, read.  ``stated``: the media type that its descriptor says."""

        def get(remote: Remote) -> tuple[Content, Manifest | Index]:
            content = remote.manifest(reference)
            served = content.media_type if content.media_type in _KNOWN else ""
            if stated and served and served != stated:
                raise InvalidParameter(f"invalid manifest: served as {served}, its index says {stated}")
            if "docker.distribution.manifest.v1+" in content.media_type:
                raise InvalidParameter("invalid manifest: Docker's image format v1 (schema 1) is not supported")
            return content, parse_document(content.body, served or stated)

        return self._sources.ask(get, capability="pull" if stated else "resolve")

    def _manifest(self, document: Manifest | Index, depth: int) -> Manifest:
        if isinstance(document, Manifest):
            return document
        if depth >= _MAX_DEPTH:
            raise InvalidParameter("invalid index: nested too deeply")
        chosen = choose(document, self._platform or this_machine())
        content, below = self._content(chosen.digest, chosen.media_type)
        if len(content.body) != chosen.size:
            raise DataLoss(f"invalid content {chosen.digest}: {len(content.body)} bytes instead of {chosen.size}")
        return self._manifest(below, depth + 1)

    def _warn_of_platform(self, config: bytes) -> None:
        actual = from_document(image_config.parse_config(config))
        if self._platform is not None and actual.rank(self._platform) < 0:
            self._report(
                {
                    "status": f"WARNING: image with reference {self._name.familiar} was found but does not match the "
                    f"specified platform: wanted {self._platform}, actual: {actual}"
                }
            )

    # -- layers -------------------------------------------------------------------------------------------------------

    @staticmethod
    def _present(intake: Intake, image_id: str) -> NewImage | None:
        """The image when the store has it already."""
        if not intake.has_image(image_id):
            return None
        try:
            return NewImage(intake.config(image_id), intake.layers_of(image_id))
        except CortenError:
            return None  # it went away this moment, or is damaged: fetched like any other

    def _blobs(self, manifest: Manifest, image: NewImage) -> tuple[Blob, ...]:
        now = time.time_ns()
        layers = [layer for layer in image.layers if not layer.is_host]
        if len(layers) != len(manifest.layers):
            return ()
        pairs = zip(layers, manifest.layers, strict=True)
        return tuple(
            Blob(layer.diff_id, blob.digest, self._name.repository, blob.size, blob.media_type, now)
            for layer, blob in pairs
        )

    def _fetch(self, intake: Intake, manifest: Manifest) -> NewImage:
        """The image with all its layers placed; its config is checked before the first layer is asked for."""
        content = self._sources.ask(
            lambda remote: remote.document(manifest.config.digest, manifest.config.size, documents.MAX_CONFIG_BYTES)
        )
        config = image_config.parse_config(content)
        image_config.check_layer_count(config, len(manifest.layers))
        diff_ids = image_config.diff_ids(config)
        wanted = [
            _Wanted(number, diff_id, blob, LayerProgress(self._report, short(blob.digest), blob.size))
            for number, (diff_id, blob) in enumerate(zip(diff_ids, manifest.layers, strict=True))
        ]
        layers: list[Layer] = []
        for item in wanted:
            known = intake.existing(layers[-1] if layers else None, item.diff_id)
            if known is None:
                break
            item.progress.state("Already exists")
            layers.append(known)
        missing = wanted[len(layers) :]
        for item in missing:
            item.progress.state("Pulling fs layer")
        if intake.can_stage_early:
            self._side_by_side(intake, missing, layers)
        else:
            for item in missing:
                parent = layers[-1] if layers else None
                layers.append(self._placed(intake, item, parent, self._staged(intake, item, parent)))
        return NewImage(content, tuple(layers))

    def _side_by_side(self, intake: Intake, missing: list[_Wanted], layers: list[Layer]) -> None:
        """Stage several layers at once and place them in order; ``layers`` grows."""
        if not missing:
            return
        count = min(len(missing), self._registry.settings.downloads)
        running: dict[int, Future[Staged]] = {}
        seen: set[str] = set()
        with ThreadPoolExecutor(count, thread_name_prefix="pull") as pool:
            try:
                for item in missing:
                    # content that comes twice in an image is copied once the first one stands
                    if item.diff_id not in seen:
                        running[item.position] = pool.submit(self._staged, intake, item, None)
                        seen.add(item.diff_id)
                for item in missing:
                    parent = layers[-1] if layers else None
                    future = running.pop(item.position, None)
                    staged = future.result() if future is not None else self._staged(intake, item, parent)
                    layers.append(self._placed(intake, item, parent, staged))
            except BaseException:
                self._transport.abort()
                for future in running.values():
                    if not future.cancel() and future.exception() is None:
                        intake.discard(future.result())
                raise

    def _placed(self, intake: Intake, item: _Wanted, parent: Layer | None, staged: Staged) -> Layer:
        layer = intake.place(staged, parent, item.diff_id)
        item.progress.state("Pull complete")
        return layer

    def _staged(self, intake: Intake, item: _Wanted, parent: Layer | None) -> Staged:
        """The layer unpacked, from this machine or a registry."""
        self._transport.check()
        elsewhere = intake.elsewhere(item.diff_id)
        if elsewhere is not None:
            item.progress.state("Extracting")
            return intake.copy(elsewhere, parent)
        with self._registry.downloads.one(self._transport):
            return self._sources.ask(lambda remote: self._downloaded(remote, intake, item, parent))

    def _downloaded(self, remote: Remote, intake: Intake, item: _Wanted, parent: Layer | None) -> Staged:
        blob, progress = item.blob, item.progress

        def arrived(count: int) -> None:
            progress.moved("Downloading", count)
            if count == blob.size:
                progress.state("Verifying Checksum")

        download = Download(remote, blob, arrived)
        source: Callable[[], bytes] = download
        if not blob.digest.startswith("sha256:"):
            source = verified(download, blob.digest, blob.size)
        try:
            staged = intake.stage(source, parent, size=blob.size)
        except (InvalidParameter, DataLoss) as error:
            raise type(error)(f"layer {blob.digest}: {error}") from error
        finally:
            download.close()
        if staged.blob_size != blob.size or (blob.digest.startswith("sha256:") and staged.blob != blob.digest):
            intake.discard(staged)
            raise DataLoss(f"filesystem layer verification failed for digest {blob.digest}")
        if staged.diff_id != item.diff_id:
            intake.discard(staged)
            raise DataLoss(f"invalid diffID for layer {item.position}: expected {item.diff_id}, got {staged.diff_id}")
        progress.state("Download complete")
        progress.moved("Extracting", blob.size, always=True)
        return staged


def tags_of(transport: Transport, name: Reference, credentials: Credentials) -> list[str]:
    """All tags of a repository.  Errors: as ``Pull.run``; NotFound for a repository without one."""
    try:
        tags = Sources(transport, name, credentials).ask(lambda remote: remote.tags(), capability="resolve")
    except CortenError as error:
        raise pull_error(error, name) from error
    if not tags:
        raise NotFound(f"repository {name.familiar_repository} not found: it has no tags")
    return tags


def is_attestation(descriptor: Descriptor) -> bool:
    """Whether an index lists it beside its images: signatures and build attestations are nothing to run."""
    stated = descriptor.platform
    return media.ANNOTATION_REFERENCE_TYPE in descriptor.annotations or (stated is not None and stated.is_unknown)


def choose(index: Index, wanted: Platform) -> Descriptor:
    """The manifest of an index that serves a platform best, the first of equals.

    Errors: NotFound, in Docker's words.
    """
    ranked: list[tuple[int, int, Descriptor]] = []
    for number, item in enumerate(index.manifests):
        if is_attestation(item) or item.media_type not in _KNOWN:
            continue
        rank = item.platform.rank(wanted) if item.platform is not None else 100
        if rank >= 0:
            ranked.append((rank, number, item))
    if not ranked:
        raise NotFound(f"no matching manifest for {wanted} in the manifest list entries")
    return min(ranked, key=lambda entry: entry[:2])[2]
