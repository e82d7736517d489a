"""Images from an archive: docker-archive (``manifest.json``) or OCI layout (``index.json``), in one pass.

An archive that is both, as Docker writes since version 25, is read by its ``manifest.json``; its index gives the
digests of the manifests.  Every config, manifest and layer is checked against the digest that names it; images
appear all together at the end or not at all.

Source: Docker's image specification v1.2 ("Combined Image JSON + Filesystem Changeset Format"), OCI image-spec v1.1
image-layout.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from corten.errors import DataLoss, InvalidParameter, NotFound
from corten.image.archive_members import Member, Members
from corten.image.layers import Layers
from corten.image.metadata import Layer, Metadata
from corten.image.pipes import chunks_of
from corten.image.register import NewImage, Registrar, Session
from corten.oci import config as image_config
from corten.oci import descriptor as media
from corten.oci import documents, reference
from corten.oci.descriptor import Descriptor
from corten.oci.digest import Digest, digest_of, split_digest
from corten.oci.manifest import Index, Manifest, parse_document
from corten.oci.platform import Platform, from_document, this_machine
from corten.oci.reference import Reference

_MAX_IMAGES = 1024
_MAX_INDEX_DEPTH = 4


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An image that the archive offers: its config, the layers' member names, base first."""

    config: bytes
    layers: tuple[tuple[str, Descriptor | None], ...]
    names: tuple[Reference, ...]
    digests: tuple[Reference, ...] = ()
    manifest: bytes = b""


class Loader:
    """Builds images of an archive's members.

    platform: for which they must be; None prefers this machine's and takes others
    """

    def __init__(
        self,
        members: Members,
        registrar: Registrar,
        layers: Layers,
        metadata: Metadata,
        platform: Platform | None = None,
    ) -> None:
        self._platform = platform
        self._members = members
        self._registrar = registrar
        self._layers = layers
        self._metadata = metadata

    def images(self, session: Session) -> list[NewImage]:
        """What the archive holds, its layers placed.  Errors: InvalidParameter, DataLoss, SystemFailure."""
        docker = self._members.document("manifest.json")
        if docker is not None:
            wanted = self._docker(docker)
        elif self._members.document("index.json") is not None:
            wanted = self._oci()
        else:
            raise InvalidParameter("invalid image archive: it has neither a manifest.json nor an index.json")
        if not wanted:
            raise InvalidParameter("invalid image archive: it holds no image")
        for item in wanted:
            self._check_platform(item)
        return [self._image(session, item) for item in wanted]

    def _check_platform(self, item: _Wanted) -> None:
        if self._platform is None:
            return
        actual = from_document(documents.load_object(item.config, "image config"))
        if actual.rank(self._platform) not in (0, 1):
            named = item.names[0].familiar if item.names else digest_of(item.config)
            raise NotFound(f"requested platform ({self._platform}) does not match that of image {named}: {actual}")

    # -- docker-archive -----------------------------------------------------------------------------------------------

    def _docker(self, content: bytes) -> list[_Wanted]:
        listed = documents.load_json(content, "manifest.json")
        if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
            raise InvalidParameter("invalid manifest.json: expected a list of objects")
        if len(listed) > _MAX_IMAGES:
            raise InvalidParameter(f"invalid manifest.json: {len(listed)} images, the limit is {_MAX_IMAGES}")
        manifests = self._manifests_by_config()
        return [self._docker_image(item, manifests) for item in listed]

    def _docker_image(self, item: dict[str, Any], manifests: dict[str, tuple[Digest, bytes]]) -> _Wanted:
        place = documents.field(item, "Config", str, "manifest.json", "")
        config = self._members.document(place) if place else None
        if config is None:
            raise InvalidParameter(f"invalid manifest.json: config {place[:100]!r} is not in the archive")
        digest = digest_of(config)
        promised = place.rpartition("/")[2].removesuffix(".json")
        if len(promised) == 64 and f"sha256:{promised}" != digest:
            raise DataLoss(f"invalid image config: expected digest sha256:{promised}, got {digest}")
        names = tuple(_tag(text) for text in documents.strings(item, "RepoTags", "manifest.json"))
        manifest_digest, manifest = manifests.get(digest, (Digest(""), b""))
        repositories = {name.repository: name for name in names}
        return _Wanted(
            config=config,
            layers=tuple((name, None) for name in documents.strings(item, "Layers", "manifest.json")),
            names=names,
            digests=tuple(
                Reference(name.domain, name.path, digest=manifest_digest) for name in repositories.values() if manifest
            ),
            manifest=manifest,
        )

    def _manifests_by_config(self) -> dict[str, tuple[Digest, bytes]]:
        """Config digest -> manifest, of the index that Docker 25 and later put beside manifest.json."""
        if self._members.document("index.json") is None:
            return {}
        found = {}
        for descriptor in self._top().manifests:
            content = self._members.document(_blob_name(descriptor.digest))
            if content is None or digest_of(content, split_digest(descriptor.digest)[0]) != descriptor.digest:
                continue
            document = parse_document(content, descriptor.media_type)
            if isinstance(document, Manifest):
                found[str(document.config.digest)] = (descriptor.digest, content)
        return found

    # -- OCI layout ---------------------------------------------------------------------------------------------------

    def _top(self) -> Index:
        content = self._members.document("index.json")
        assert content is not None
        index = parse_document(content, "")
        if not isinstance(index, Index):
            raise InvalidParameter("invalid index.json: expected an index")
        return index

    def _oci(self) -> list[_Wanted]:
        layout = self._members.document("oci-layout")
        if layout is not None:
            version = documents.load_object(layout, "oci-layout").get("imageLayoutVersion")
            if not isinstance(version, str) or not version.startswith("1."):
                raise InvalidParameter("invalid oci-layout: only imageLayoutVersion 1 is supported")
        by_name: dict[str, tuple[Reference | None, list[Descriptor]]] = {}
        for descriptor in self._top().manifests:
            if not _is_attestation(descriptor):
                key, name = _stated_name(descriptor)
                by_name.setdefault(key, (name, []))[1].append(descriptor)
        images = []
        for name, descriptors in by_name.values():
            plain = [item for item in descriptors if item.platform is None]
            choices = [item for item in descriptors if item.platform is not None]
            for descriptor in plain + ([_best(choices, self._platform)] if choices else []):
                image = self._oci_image(descriptor, name, 0)
                if image is not None:
                    images.append(image)
        return images

    def _oci_image(self, descriptor: Descriptor, name: Reference | None, depth: int) -> _Wanted | None:
        content = self._content(descriptor)
        document = parse_document(content, descriptor.media_type)
        if isinstance(document, Index):
            if depth >= _MAX_INDEX_DEPTH:
                raise InvalidParameter("invalid index: nested too deeply")
            choices = [item for item in document.manifests if not _is_attestation(item) and self._has(item)]
            if not choices:
                raise InvalidParameter(f"invalid index {descriptor.digest}: none of its manifests is in the archive")
            return self._oci_image(_best(choices, self._platform), name, depth + 1)
        if not document.is_image:
            return None
        return _Wanted(
            config=self._content(document.config, limit=documents.MAX_CONFIG_BYTES),
            layers=tuple((_blob_name(layer.digest), layer) for layer in document.layers),
            names=(name,) if name else (),
            digests=(Reference(name.domain, name.path, digest=descriptor.digest),) if name else (),
            manifest=content,
        )

    def _has(self, descriptor: Descriptor) -> bool:
        return self._members.document(_blob_name(descriptor.digest)) is not None

    def _content(self, descriptor: Descriptor, *, limit: int = documents.MAX_MANIFEST_BYTES) -> bytes:
        """A document blob, checked.  Errors: InvalidParameter (missing, too large), DataLoss."""
        content = self._members.document(_blob_name(descriptor.digest))
        if content is None:
            raise InvalidParameter(f"invalid image archive: {descriptor.digest} is not in the archive")
        if len(content) > limit:
            raise InvalidParameter(
                f"invalid image archive: {descriptor.digest} has {len(content)} bytes, the limit is {limit}"
            )
        _check(descriptor, digest_of(content, split_digest(descriptor.digest)[0]), len(content))
        return content

    # -- layers -------------------------------------------------------------------------------------------------------

    def _image(self, session: Session, wanted: _Wanted) -> NewImage:
        document = image_config.parse_config(wanted.config)
        image_config.check_layer_count(document, len(wanted.layers))
        layers: list[Layer] = []
        for diff_id, (name, descriptor) in zip(image_config.diff_ids(document), wanted.layers, strict=True):
            parent = layers[-1] if layers else None
            layers.append(self._layer(session, parent, diff_id, name, descriptor))
        return NewImage(wanted.config, tuple(layers), wanted.names, wanted.digests, wanted.manifest)

    def _layer(
        self, session: Session, parent: Layer | None, diff_id: Digest, name: str, descriptor: Descriptor | None
    ) -> Layer:
        member = self._members.blob(name)
        if member is None:
            raise InvalidParameter(f"invalid image archive: layer {name[:120]!r} is not in the archive")
        if member.error is not None:
            raise member.error
        if descriptor is not None and member.digest is not None:
            _check(descriptor, member.digest, member.size)
        if member.staged is not None and member.staged.diff_id != diff_id:
            raise DataLoss(f"invalid diffID for layer {name[:120]}: expected {diff_id}, got {member.staged.diff_id}")
        known = self._registrar.existing(session, parent, diff_id)
        if known is not None:
            return known
        if member.staged is not None:
            staged, member.staged = member.staged, None
            return self._registrar.place(session, staged, parent, diff_id)
        return self._again(session, member, parent, diff_id)

    def _again(self, session: Session, member: Member, parent: Layer | None, diff_id: Digest) -> Layer:
        """A layer that waits in a file, or that the store has already, on another parent."""
        if member.file is not None:
            member.file.seek(0)
            staged = self._layers.stage(chunks_of(member.file), parent)
            return self._registrar.place(session, staged, parent, diff_id)
        elsewhere = self._metadata.layer_by_diff_id(diff_id)
        if elsewhere is None:
            raise NotFound(f"layer {diff_id} disappeared while the archive was read")
        return self._registrar.place(session, self._layers.copy(elsewhere, parent), parent, diff_id)


def _check(descriptor: Descriptor, digest: str, size: int) -> None:
    if size != descriptor.size:
        raise DataLoss(f"invalid content {descriptor.digest}: {size} bytes instead of {descriptor.size}")
    if digest != descriptor.digest:
        raise DataLoss(f"invalid content: expected digest {descriptor.digest}, got {digest}")


def _blob_name(digest: Digest) -> str:
    algorithm, encoded = split_digest(digest)
    return f"blobs/{algorithm}/{encoded}"


def _tag(text: str) -> Reference:
    name = reference.parse(text)
    if not name.tag or name.digest:
        raise InvalidParameter(f"invalid tag {text[:150]!r}")
    return name


def _is_attestation(descriptor: Descriptor) -> bool:
    stated = descriptor.platform
    return media.ANNOTATION_REFERENCE_TYPE in descriptor.annotations or (stated is not None and stated.is_unknown)


def _stated_name(descriptor: Descriptor) -> tuple[str, Reference | None]:
    """(what tells images of an index apart, the name to give).

    ``ref.name`` may be a full name, as skopeo writes it, or only a tag, as the layout's specification has it: then the
    repository comes from containerd's annotation, or nobody knows it.
    """
    whole = descriptor.annotations.get(media.ANNOTATION_IMAGE_NAME, "")
    word = descriptor.annotations.get(media.ANNOTATION_REF_NAME, "")
    name = reference.try_parse(whole) if whole else None
    if name is None and (":" in word or "/" in word):
        name = reference.try_parse(word)
    elif name is not None and word != name.tag and reference.is_tag(word):
        name = name.with_tag(word)
    if name is not None and not name.digest:
        name = name.with_default_tag()
        return name.canonical, name
    return word, None


def _best(choices: list[Descriptor], wanted: Platform | None) -> Descriptor:
    """The manifest for ``wanted``, or this machine; when there is none, the first: an archive may be meant for
    elsewhere.
    """
    here = wanted or this_machine()
    ranked = [(item.platform.rank(here) if item.platform else 0, item) for item in choices]
    fitting = [pair for pair in ranked if pair[0] >= 0]
    return min(fitting, key=lambda pair: pair[0])[1] if fitting else choices[0]
