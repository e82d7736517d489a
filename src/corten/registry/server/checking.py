"""What a pushed manifest is and needs, before it is stored.  Source: OCI image-spec v1.1, distribution-spec v1.1."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from corten.errors import InvalidParameter
from corten.oci import descriptor as media
from corten.oci import documents
from corten.oci.descriptor import Descriptor, parse_descriptor
from corten.oci.digest import Digest
from corten.oci.manifest import refuse_confusion
from corten.registry.server.failures import Refusal

NO_DIGEST = Digest("")
_KNOWN = media.MANIFESTS | media.INDEXES
_MAX_PARTS = 10_000  # descriptors: more does not fit in 4 MiB with sensible ones anyway
_FOREIGN = (media.OCI_LAYER_NONDISTRIBUTABLE, media.DOCKER_LAYER_FOREIGN)


@dataclass(frozen=True, slots=True)
class Checked:
    """blobs, manifests: what must be in the repository; subject: what it refers to, which need not be there

    foreign: layers that may be had elsewhere; those that were pushed all the same are kept
    """

    media_type: str
    blobs: tuple[Digest, ...] = ()
    manifests: tuple[Digest, ...] = ()
    foreign: tuple[Digest, ...] = ()
    subject: Digest = NO_DIGEST
    artifact_type: str = ""
    annotations: dict[str, str] | None = None

    def descriptor(self, digest: Digest, size: int) -> dict[str, Any]:
        """As a list of referrers has it."""
        found: dict[str, Any] = {"mediaType": self.media_type, "digest": digest, "size": size}
        if self.artifact_type:
            found["artifactType"] = self.artifact_type
        if self.annotations:
            found["annotations"] = self.annotations
        return found


def check_manifest(body: bytes, content_type: str = "") -> Checked:
    """content_type: what the client says it is, without parameters; nothing when it does not matter.

    Errors: Refusal(MANIFEST_INVALID).
    """
    try:
        return _checked(documents.load_object(body, "manifest"), content_type)
    except InvalidParameter as error:
        raise Refusal("MANIFEST_INVALID", str(error)) from None


def media_type_of(body: bytes) -> str:
    """The media type of a stored manifest, "" when it is none."""
    try:
        return check_manifest(body).media_type
    except Refusal:
        return ""


def _checked(document: dict[str, Any], content_type: str) -> Checked:
    refuse_confusion(document)
    if document.get("schemaVersion") != 2:
        raise InvalidParameter("invalid manifest: only schemaVersion 2 is supported")
    stated = documents.field(document, "mediaType", str, "manifest", "")
    if content_type in _KNOWN and stated and stated != content_type:
        raise InvalidParameter(f"invalid manifest: its mediaType {stated[:100]} does not match {content_type}")
    kind = stated or (content_type if content_type in _KNOWN else "")
    if not kind:
        kind = media.OCI_INDEX if "manifests" in document else media.OCI_MANIFEST
    if kind not in _KNOWN:
        raise InvalidParameter(f"invalid manifest: unsupported media type {kind[:100]}")
    subject = document.get("subject")
    artifact_type = documents.field(document, "artifactType", str, "manifest", "")
    annotations = documents.string_map(document, "annotations", "manifest")
    manifests: list[Descriptor] = []
    blobs: list[Descriptor] = []
    if kind in media.INDEXES:
        if "config" in document or "layers" in document:
            raise InvalidParameter("invalid manifest: an index has no config and no layers")
        manifests = _descriptors(document, "manifests")
    else:
        config = parse_descriptor(document.get("config"), "manifest")
        artifact_type = artifact_type or config.media_type
        blobs = [config, *_descriptors(document, "layers")]
    return Checked(
        kind,
        _digests(item for item in blobs if not item.media_type.startswith(_FOREIGN)),
        _digests(manifests),
        _digests(item for item in blobs if item.media_type.startswith(_FOREIGN)),
        parse_descriptor(subject, "manifest").digest if subject is not None else Digest(""),
        artifact_type,
        annotations or None,
    )


def _digests(descriptors: Iterable[Descriptor]) -> tuple[Digest, ...]:
    return tuple(dict.fromkeys(item.digest for item in descriptors))


def _descriptors(document: dict[str, Any], name: str) -> list[Descriptor]:
    found = documents.field(document, name, list, "manifest", [])
    if len(found) > _MAX_PARTS:
        raise InvalidParameter(f"invalid manifest: {len(found)} {name}, the limit is {_MAX_PARTS}")
    return [parse_descriptor(item, "manifest") for item in found]
