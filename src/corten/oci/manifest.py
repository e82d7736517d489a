"""Image manifests and indexes, OCI and Docker schema 2.

Source: OCI image-spec v1.1, manifest.md and image-index.md.  A document that could be read both ways is refused
(CVE-2021-41190): what it is must not depend on who reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from corten.errors import InvalidParameter
from corten.oci import descriptor as media
from corten.oci import documents
from corten.oci.descriptor import Descriptor, parse_descriptor

MAX_LAYERS = 127  # with a container's init layer 128 lower directories
MAX_MANIFESTS = 1024


@dataclass(frozen=True, slots=True)
class Manifest:
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    artifact_type: str = ""

    @property
    def is_image(self) -> bool:
        """Not an artifact or an attestation that only borrows the manifest's form."""
        return self.config.media_type in media.CONFIGS and all(
            media.is_layer(layer.media_type) for layer in self.layers
        )


@dataclass(frozen=True, slots=True)
class Index:
    media_type: str
    manifests: tuple[Descriptor, ...]


def parse_document(content: bytes, media_type: str = "") -> Manifest | Index:
    """The manifest or index in ``content``.

    media_type: what a registry or descriptor says it is; must agree with what the document says of itself
    Errors: InvalidParameter.
    """
    document = documents.load_object(content, "manifest")
    stated = documents.field(document, "mediaType", str, "manifest", "")
    if media_type and stated and media_type != stated:
        raise InvalidParameter(f"invalid manifest: mediaType {stated} does not match {media_type}")
    refuse_confusion(document)
    kind = stated or media_type
    if document.get("schemaVersion") != 2:
        version = document.get("schemaVersion")
        raise InvalidParameter(
            f"invalid manifest: schemaVersion {version if isinstance(version, int) else '?'} is not supported, only 2"
        )
    if not kind:
        kind = media.OCI_INDEX if "manifests" in document else media.OCI_MANIFEST
    if kind in media.INDEXES:
        return _index(document, kind)
    if kind in media.MANIFESTS:
        return _manifest(document, kind)
    raise InvalidParameter(f"invalid manifest: unsupported media type {kind[:100]}")


def refuse_confusion(document: dict[str, Any]) -> None:
    """Errors: InvalidParameter for a document that is two things, or schema 1."""
    if "manifests" in document and ("config" in document or "layers" in document):
        raise InvalidParameter("invalid manifest: it has both manifests and config or layers")
    if "fsLayers" in document:
        raise InvalidParameter("invalid manifest: schema 1 (fsLayers) is not supported")


def _manifest(document: dict[str, Any], kind: str) -> Manifest:
    if "manifests" in document:
        raise InvalidParameter("invalid manifest: an image manifest has no manifests")
    layers = documents.field(document, "layers", list, "manifest", [])
    if len(layers) > MAX_LAYERS:
        raise InvalidParameter(f"invalid manifest: max depth exceeded: {len(layers)} layers, the limit is {MAX_LAYERS}")
    return Manifest(
        media_type=kind,
        config=parse_descriptor(document.get("config"), "manifest"),
        layers=tuple(parse_descriptor(layer, "manifest") for layer in layers),
        artifact_type=documents.field(document, "artifactType", str, "manifest", ""),
    )


def _index(document: dict[str, Any], kind: str) -> Index:
    if "config" in document or "layers" in document:
        raise InvalidParameter("invalid manifest: an index has no config and no layers")
    manifests = documents.field(document, "manifests", list, "index", [])
    if len(manifests) > MAX_MANIFESTS:
        raise InvalidParameter(f"invalid index: {len(manifests)} manifests, the limit is {MAX_MANIFESTS}")
    return Index(kind, tuple(parse_descriptor(item, "index") for item in manifests))


def manifest_document(config: Descriptor, layers: list[Descriptor]) -> dict[str, Any]:
    """An OCI image manifest."""
    return {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "config": config.document(),
        "layers": [layer.document() for layer in layers],
    }


def index_document(manifests: list[Descriptor]) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [item.document() for item in manifests]}
