"""Lost content of images that are here, from the registries that are known to have it: ``image.check.Fetcher``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from corten.errors import CortenError, NotFound
from corten.image.layers import Staged
from corten.image.metadata import Blob
from corten.image.pipes import Chunks, verified
from corten.oci import descriptor as media
from corten.oci import documents, reference
from corten.oci.descriptor import Descriptor
from corten.oci.digest import Digest
from corten.oci.manifest import Index, Manifest, parse_document
from corten.oci.reference import Reference
from corten.registry.auth import Credentials
from corten.registry.downloads import Download
from corten.registry.failures import Cancelled
from corten.registry.pulling import is_attestation
from corten.registry.registry import Registry
from corten.registry.remote import Remote
from corten.registry.sources import Sources
from corten.registry.transport import Transport

_MAX_DEPTH = 3


class Refetch:
    """One transfer's worth of fetching.

    keys: the credentials for a domain
    """

    def __init__(self, registry: Registry, transport: Transport, keys: Callable[[str], Credentials]) -> None:
        self._registry = registry
        self._transport = transport
        self._keys = keys

    def _sources(self, name: Reference) -> Sources:
        return Sources(self._transport, name, self._keys(name.domain))

    # -- layers -------------------------------------------------------------------------------------------------------

    def layer(self, blobs: Sequence[Blob], unpack: Callable[[Chunks], Staged]) -> Staged:
        """Errors: NotFound when no registry is known to have it, else what the last one that was asked failed with."""
        last: CortenError = NotFound("no registry is known to have it")
        for blob in blobs:
            wanted = Descriptor(blob.media_type, Digest(blob.digest), blob.size)
            sources = self._sources(reference.parse(blob.repository))
            try:
                with self._registry.downloads.one(self._transport):
                    return sources.ask(partial(_unpacked, blob=wanted, unpack=unpack))
            except Cancelled:
                raise
            except CortenError as error:
                last = error
        raise last

    # -- documents ----------------------------------------------------------------------------------------------------

    def manifest(self, name: Reference) -> bytes:
        return self._sources(name).ask(lambda remote: remote.manifest(name.digest)).body

    def config(self, image_id: str, names: Sequence[Reference]) -> bytes:
        last: CortenError = NotFound("no registry is known to have it")
        for name in names:
            sources = self._sources(name)
            try:
                for manifest in self._manifests(sources, name.digest, 0):
                    config = manifest.config
                    if config.digest == image_id:
                        return _document(sources, config)
                last = NotFound(f"{name.familiar} has it no more")
            except Cancelled:
                raise
            except CortenError as error:
                last = error
        raise last

    def _manifests(self, sources: Sources, digest: str, depth: int) -> Iterator[Manifest]:
        """The manifest of that digest, or all that an index of that digest leads to."""
        content = sources.ask(lambda remote: remote.manifest(digest))
        known = media.MANIFESTS | media.INDEXES
        document = parse_document(content.body, content.media_type if content.media_type in known else "")
        if isinstance(document, Manifest):
            yield document
        elif depth < _MAX_DEPTH:
            yield from self._below(sources, document, depth + 1)

    def _below(self, sources: Sources, index: Index, depth: int) -> Iterator[Manifest]:
        for item in index.manifests:
            if not is_attestation(item):
                yield from self._manifests(sources, item.digest, depth)


def _document(sources: Sources, blob: Descriptor) -> bytes:
    return sources.ask(lambda remote: remote.document(blob.digest, blob.size, documents.MAX_CONFIG_BYTES))


def _unpacked(remote: Remote, blob: Descriptor, unpack: Callable[[Chunks], Staged]) -> Staged:
    download = Download(remote, blob, lambda _: None)
    try:
        return unpack(verified(download, blob.digest, blob.size))
    finally:
        download.close()
