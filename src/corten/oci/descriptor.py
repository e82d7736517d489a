"""Content descriptors and media types.  Source: OCI image-spec v1.1, descriptor.md, media-types.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from corten.errors import InvalidParameter
from corten.oci import documents
from corten.oci.digest import Digest, parse_digest
from corten.oci.platform import Platform, from_document

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_NONDISTRIBUTABLE = "application/vnd.oci.image.layer.nondistributable.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"

MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})

ANNOTATION_REF_NAME = "org.opencontainers.image.ref.name"
ANNOTATION_IMAGE_NAME = "io.containerd.image.name"
ANNOTATION_REFERENCE_TYPE = "vnd.docker.reference.type"  # "attestation-manifest": no image

_LAYER_BASES = (OCI_LAYER, OCI_LAYER_NONDISTRIBUTABLE, DOCKER_LAYER, DOCKER_LAYER_FOREIGN)
_MAX_SIZE = 1 << 62


def is_layer(media_type: str) -> bool:
    """A file-system layer in any compression ("…tar+gzip", Docker's "…tar.gzip")."""
    return any(media_type == base or media_type.startswith((base + "+", base + ".")) for base in _LAYER_BASES)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a manifest says about a blob; ``size`` is bytes."""

    media_type: str
    digest: Digest
    size: int
    annotations: dict[str, str] = field(default_factory=dict)
    platform: Platform | None = None

    def document(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        result: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.annotations:
            result["annotations"] = dict(self.annotations)
        if self.platform:
            result["platform"] = {"architecture": self.platform.architecture, "os": self.platform.os}
            if self.platform.variant:
                result["platform"]["variant"] = self.platform.variant
        return result


def parse_descriptor(value: Any, what: str) -> Descriptor:
    """Errors: InvalidParameter; ``urls`` are ignored, foreign layers are never fetched from there."""
    if not isinstance(value, dict):
        raise InvalidParameter(f"invalid {what}: a descriptor must be an object")
    size = documents.field(value, "size", int, what, -1)
    if not 0 <= size <= _MAX_SIZE:
        raise InvalidParameter(f"invalid {what}: a descriptor's size must be a number of bytes, not {size}")
    stated = documents.field(value, "platform", dict, what)
    return Descriptor(
        media_type=documents.field(value, "mediaType", str, what, ""),
        digest=parse_digest(value.get("digest")),
        size=size,
        annotations=documents.string_map(value, "annotations", what),
        platform=from_document(stated) if stated else None,
    )
