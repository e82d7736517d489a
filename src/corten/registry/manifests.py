"""Manifests and indexes as things to look at and to make: what ``corten manifest`` does with a registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from corten.errors import InvalidParameter
from corten.oci import config as image_config
from corten.oci import descriptor as media
from corten.oci import documents, reference
from corten.oci.descriptor import Descriptor
from corten.oci.digest import Digest, digest_of
from corten.oci.manifest import Index
from corten.oci.platform import Platform, from_document, normalize
from corten.oci.reference import Reference
from corten.registry.auth import Credentials
from corten.registry.copying import Copy, read
from corten.registry.progress import Report
from corten.registry.registry import Registry
from corten.registry.remote import Content
from corten.registry.sources import Sources
from corten.registry.transport import Transport


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a list that is being made: where it is, what it is."""

    name: str
    media_type: str
    digest: str
    size: int
    os: str
    architecture: str
    variant: str = ""

    def descriptor(self) -> dict[str, Any]:
        platform: Platform = normalize(self.os, self.architecture, self.variant)
        return Descriptor(self.media_type, Digest(self.digest), self.size, {}, platform).document()


class Lookup:
    """Questions about one reference.  Errors of all: NotFound, Unavailable, DataLoss, InvalidParameter."""

    def __init__(self, registry: Registry, transport: Transport, name: str, credentials: Credentials) -> None:
        self.name = reference.parse(name).with_default_tag()
        nowhere: Report = lambda _: None  # noqa: E731
        self._copy = Copy(registry, transport, self.name, self.name, (credentials, credentials), nowhere)
        self._sources = Sources(transport, self.name, credentials)

    def content(self) -> Content:
        return self._copy.content(self.name.digest or self.name.tag)

    def document(self) -> dict[str, Any]:
        """The manifest or index itself, checked."""
        content = self.content()
        read(content)
        return documents.load_object(content.body, "manifest")

    def entry(self) -> Entry:
        """The image that the reference names, for a list.  Errors: InvalidParameter for an index."""
        content = self.content()
        manifest = read(content)
        if isinstance(manifest, Index):
            raise InvalidParameter(f"{self.name.familiar} is a manifest list: only single images can be put in one")
        platform = self._platform(content)
        return Entry(
            Reference(self.name.domain, self.name.path, digest=content.digest).canonical,
            manifest.media_type,
            content.digest,
            len(content.body),
            platform.os,
            platform.architecture,
            platform.variant,
        )

    def _platform(self, content: Content) -> Platform:
        manifest = read(content)
        assert not isinstance(manifest, Index)
        if not manifest.is_image:
            return Platform("unknown", "unknown")
        config = manifest.config
        body = self._sources.ask(lambda remote: remote.document(config.digest, config.size, documents.MAX_CONFIG_BYTES))
        return from_document(image_config.parse_config(body))

    def verbose(self) -> Any:
        """Each image with its descriptor: an object for a single one, a list for an index."""
        content = self.content()
        document = read(content)
        if not isinstance(document, Index):
            return self._described(content, self._platform(content))
        found = []
        for item in document.manifests:
            found.append(self._described(self._copy.content(item.digest), item.platform))
        return found

    def _described(self, content: Content, platform: Platform | None) -> dict[str, Any]:
        document = read(content)
        descriptor = Descriptor(document.media_type, content.digest, len(content.body), {}, platform)
        name = Reference(self.name.domain, self.name.path, self.name.tag, "" if self.name.tag else content.digest)
        key = "OCIManifest" if document.media_type in (media.OCI_MANIFEST, media.OCI_INDEX) else "SchemaV2Manifest"
        return {
            "Ref": f"{name.canonical}@{content.digest}" if self.name.tag else name.canonical,
            "Descriptor": descriptor.document(),
            key: documents.load_object(content.body, "manifest"),
        }


def made_list(entries: list[Entry]) -> tuple[bytes, str]:
    """(bytes, media type) of an index: OCI's when all its images are, else Docker's manifest list."""
    is_oci = all(entry.media_type in (media.OCI_MANIFEST, media.OCI_INDEX) for entry in entries)
    media_type = media.OCI_INDEX if is_oci else media.DOCKER_INDEX
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": [entry.descriptor() for entry in entries],
    }
    return documents.encode(document), media_type


def push_list(
    registry: Registry,
    transport: Transport,
    target: str,
    entries: list[Entry],
    keys: dict[str, Credentials],
    report: Report,
) -> str:
    """Put a list and what it names into the target's repository; the list's digest.

    keys: credentials by domain
    Errors: NotFound, Unauthorized, Forbidden, Unavailable, DataLoss.
    """
    name = reference.parse(target).with_default_tag()
    anonymous = Credentials()
    own = keys.get(name.domain, anonymous)
    copy = Copy(registry, transport, name, name, (own, own), report)
    for entry in entries:
        source = reference.parse(entry.name)
        if (source.domain, source.path) == (name.domain, name.path):
            continue
        pair = (keys.get(source.domain, anonymous), own)
        Copy(registry, transport, source, name, pair, report).run_digest(source.digest)
    body, media_type = made_list(entries)
    copy.put_only(Content(body, media_type, digest_of(body)), name.tag)
    return digest_of(body)
