"""Manifests of a result: one image, or an index of several, with what is attested of them beside.

Sources: OCI image-spec v1.1, manifest.md and image-index.md; BuildKit, "Image attestation storage": an attestation is a
manifest of its own for the platform unknown/unknown that names its image by an annotation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from corten.build.provenance import statement
from corten.errors import InvalidParameter
from corten.oci import descriptor as media
from corten.oci.descriptor import Descriptor
from corten.oci.digest import digest_of
from corten.oci.documents import encode
from corten.oci.platform import Platform, parse_platform

Document = dict[str, Any]
IN_TOTO = "application/vnd.in-toto+json"
_REFERENCE_DIGEST = "vnd.docker.reference.digest"
_PREDICATE_TYPE = "in-toto.io/predicate-type"
_ANNOTATION = re.compile(r"(?:(?P<kind>manifest|index|manifest-descriptor|index-descriptor)(?:\[(?P<for>[^]]+)\])?:)?")
_OCI_LAYER_TYPES = {
    media.DOCKER_LAYER + ".gzip": media.OCI_LAYER + "+gzip",
    media.DOCKER_LAYER + ".zstd": media.OCI_LAYER + "+zstd",
    media.DOCKER_LAYER: media.OCI_LAYER,
}
_DOCKER_LAYER_TYPES = {known: docker for docker, known in _OCI_LAYER_TYPES.items() if "zstd" not in docker}


@dataclass(frozen=True, slots=True)
class Annotation:
    """kind: where it stands; platform: of one image alone, None for all"""

    kind: str
    platform: Platform | None
    name: str
    value: str


def read_annotations(texts: list[str]) -> list[Annotation]:
    """``[TYPE[PLATFORM]:]NAME=VALUE``, several types with commas.  Errors: InvalidParameter."""
    found = []
    for text in texts:
        where, colon, rest = text.partition(":")
        kinds = [_ANNOTATION.fullmatch(part + ":") for part in where.split(",")] if colon else []
        if not kinds or not all(kinds) or "=" in where:
            kinds, rest = [_ANNOTATION.fullmatch("manifest:")], text
        name, equals, value = rest.partition("=")
        if not name or not equals:
            raise InvalidParameter(f"invalid annotation {text!r}: [TYPE:]NAME=VALUE is needed")
        for match in kinds:
            assert match is not None
            platform = parse_platform(match["for"]) if match["for"] else None
            found.append(Annotation(match["kind"] or "manifest", platform, name, value))
    return found


@dataclass(frozen=True, slots=True)
class Part:
    """One image of a result.  layers: its blobs, base first; predicates: (type, predicate) of its attestations"""

    config: bytes
    diff_ids: list[str]
    layers: list[Descriptor]
    platform: Platform
    predicates: list[tuple[str, Document]] = field(default_factory=list)


@dataclass(slots=True)
class Assembly:
    """documents: configs and statements; manifests: in the order in which they can be pushed; top: the last of them"""

    documents: dict[str, tuple[Descriptor, bytes]] = field(default_factory=dict)
    manifests: list[tuple[Descriptor, bytes]] = field(default_factory=list)

    @property
    def top(self) -> Descriptor:
        return self.manifests[-1][0]

    def document(self, content: bytes, media_type: str, **more: Any) -> Descriptor:
        made = Descriptor(media_type, digest_of(content), len(content), **more)
        self.documents[made.digest] = (made, content)
        return made

    def manifest(self, document: Document, notes: dict[str, str], **more: Any) -> Descriptor:
        """notes: annotations of the manifest itself; more: what its descriptor has"""
        if notes:
            document = {**document, "annotations": notes}
        content = encode(document)
        made = Descriptor(document["mediaType"], digest_of(content), len(content), **more)
        self.manifests.append((made, content))
        return made


def assemble(
    parts: list[Part], names: list[str], annotations: list[Annotation], *, oci: bool, index: bool = False
) -> Assembly:
    """One manifest for one image without attestations, unless an index is wanted; else an index.

    names: of the result, for the subjects of its attestations
    oci: OCI's media types; Docker's have neither annotations nor attestations
    Errors: InvalidParameter for annotations that have no place.
    """
    assembly = Assembly()
    has_index = index or len(parts) > 1 or any(part.predicates for part in parts)
    if not has_index and any(item.kind.startswith("index") for item in annotations):
        raise InvalidParameter("index annotations not supported for single platform export")
    if not oci and (annotations or any(part.predicates for part in parts)):
        raise InvalidParameter("annotations and attestations need OCI media types (oci-mediatypes=true)")
    listed: list[Descriptor] = []
    attested: list[Descriptor] = []
    for part in parts:
        listed.append(_image(assembly, part, annotations, oci=oci))
        if part.predicates:
            attested.append(_attestation(assembly, part, listed[-1], names))
    if has_index:
        kind = media.OCI_INDEX if oci else media.DOCKER_INDEX
        document = {
            "schemaVersion": 2,
            "mediaType": kind,
            "manifests": [item.document() for item in (*listed, *attested)],
        }
        descriptor_notes = _chosen(annotations, "index-descriptor", None)
        assembly.manifest(document, _chosen(annotations, "index", None), annotations=descriptor_notes)
    return assembly


def _chosen(annotations: list[Annotation], kind: str, platform: Platform | None) -> dict[str, str]:
    return {item.name: item.value for item in annotations if item.kind == kind and item.platform in (None, platform)}


def _image(assembly: Assembly, part: Part, annotations: list[Annotation], *, oci: bool) -> Descriptor:
    types = _OCI_LAYER_TYPES if oci else _DOCKER_LAYER_TYPES
    layers = [Descriptor(types.get(item.media_type, item.media_type), item.digest, item.size) for item in part.layers]
    config = assembly.document(part.config, media.OCI_CONFIG if oci else media.DOCKER_CONFIG)
    document = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST if oci else media.DOCKER_MANIFEST,
        "config": config.document(),
        "layers": [layer.document() for layer in layers],
    }
    return assembly.manifest(
        document,
        _chosen(annotations, "manifest", part.platform),
        annotations=_chosen(annotations, "manifest-descriptor", part.platform),
        platform=part.platform,
    )


def _attestation(assembly: Assembly, part: Part, image: Descriptor, names: list[str]) -> Descriptor:
    platform = str(part.platform).replace("/", "%2F")
    digest = dict([image.digest.split(":", 1)])
    subjects: list[Document] = [
        {"name": f"pkg:docker/{name.rpartition(':')[0]}@{name.rpartition(':')[2]}?platform={platform}",
         "digest": digest}
        for name in names
    ] or [{"name": "_", "digest": digest}]  # fmt: skip
    layers = []
    for predicate_type, predicate in part.predicates:
        content = encode(statement(predicate_type, predicate, subjects))
        layers.append(assembly.document(content, IN_TOTO, annotations={_PREDICATE_TYPE: predicate_type}))
    config = assembly.document(
        encode(
            {
                "architecture": "unknown",
                "os": "unknown",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
            }
        ),
        media.OCI_CONFIG,
    )
    document = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "config": config.document(),
        "layers": [layer.document() for layer in layers],
    }
    return assembly.manifest(
        document,
        {},
        annotations={media.ANNOTATION_REFERENCE_TYPE: "attestation-manifest", _REFERENCE_DIGEST: image.digest},
        platform=Platform("unknown", "unknown"),
    )
