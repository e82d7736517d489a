"""Images as an archive: one tar that is a docker-archive and an OCI layout at once, as Docker 25 and later write it.

``blobs/sha256/<hex>`` holds every config, manifest and layer once, layers as plain tars; ``manifest.json`` and
``repositories`` speak to Docker, ``index.json`` and ``oci-layout`` to OCI tools.  The same images give the same bytes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corten.errors import DataLoss, InvalidParameter
from corten.image import tarheader as header
from corten.image import tarwrite
from corten.image.layers import Layers
from corten.image.metadata import Layer
from corten.image.tarheader import TarEntry
from corten.oci import descriptor as media
from corten.oci.descriptor import Descriptor
from corten.oci.digest import Digest, digest_of, split_digest
from corten.oci.documents import encode
from corten.oci.manifest import index_document, manifest_document
from corten.oci.platform import from_document
from corten.oci.reference import Reference

FORMATS = ("docker", "oci")


@dataclass(frozen=True, slots=True)
class SavedImage:
    """config: the exact bytes; document: parsed; layers: base first; names: the tags to save with it"""

    config: bytes
    document: dict[str, Any]
    layers: tuple[Layer, ...]
    names: tuple[Reference, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    documents: dict[str, bytes]  # member name -> content, written after the layers
    layers: dict[Digest, Layer]


def check_format(format: str) -> None:
    """Errors: InvalidParameter."""
    if format not in FORMATS:
        raise InvalidParameter(f"unknown archive format {format!r}: use one of {', '.join(FORMATS)}")


def _plan(images: list[SavedImage], format: str) -> _Plan:
    blobs: dict[str, bytes] = {}
    layers: dict[Digest, Layer] = {}
    docker: list[dict[str, Any]] = []
    repositories: dict[str, dict[str, str]] = {}
    index: list[Descriptor] = []
    for image in images:
        descriptors = []
        for layer in image.layers:
            digest = Digest(layer.diff_id)
            layers[digest] = layer
            descriptors.append(Descriptor(media.OCI_LAYER, digest, layer.tar_size))
        config = Descriptor(media.OCI_CONFIG, digest_of(image.config), len(image.config))
        blobs[blob_name(config.digest)] = image.config
        manifest = encode(manifest_document(config, descriptors))
        manifest_digest = digest_of(manifest)
        blobs[blob_name(manifest_digest)] = manifest
        platform = from_document(image.document)
        for name in image.names or (None,):
            notes = {}
            if name is not None:
                notes = {media.ANNOTATION_IMAGE_NAME: name.canonical, media.ANNOTATION_REF_NAME: name.tag}
                top = split_digest(Digest(image.layers[-1].diff_id))[1] if image.layers else ""
                repositories.setdefault(name.familiar_repository, {})[name.tag] = top
            index.append(Descriptor(media.OCI_MANIFEST, manifest_digest, len(manifest), notes, platform))
        docker.append(
            {
                "Config": blob_name(config.digest),
                "RepoTags": [name.familiar for name in image.names] or None,
                "Layers": [blob_name(item.digest) for item in descriptors],
            }
        )
    documents = dict(sorted(blobs.items()))
    documents["index.json"] = encode(index_document(index))
    documents["oci-layout"] = encode({"imageLayoutVersion": "1.0.0"})
    if format == "docker":
        documents["manifest.json"] = encode(docker)
        if repositories:
            documents["repositories"] = encode(repositories)
    return _Plan(documents, layers)


def blob_name(digest: Digest) -> str:
    return "blobs/" + "/".join(split_digest(digest))


def member_header(name: str, size: int, *, directory: bool = False) -> bytes:
    """The header of an archive's member; its data and their padding follow."""
    entry = TarEntry()
    entry.name = name.encode()
    entry.kind = header.DIRECTORY if directory else header.REGULAR
    entry.mode = 0o755 if directory else 0o644
    entry.size = size
    return tarwrite.encode(entry)


def save_tar(images: list[SavedImage], layers: Layers, format: str = "docker") -> Iterator[bytes]:
    """The archive, in pieces.

    Errors: DataLoss in the middle of the stream when a layer was changed on disk.
    """
    plan = _plan(images, format)
    yield member_header("blobs/", 0, directory=True) + member_header("blobs/sha256/", 0, directory=True)
    for digest, layer in plan.layers.items():
        yield member_header(blob_name(digest), layer.tar_size)
        written = 0
        for chunk in layers.tar(layer):
            written += len(chunk)
            if written > layer.tar_size:
                raise _wrong_size(layer, written)
            yield chunk
        if written != layer.tar_size:
            raise _wrong_size(layer, written)
        if fill := tarwrite.padding(written):
            yield fill
    for name, content in plan.documents.items():
        yield member_header(name, len(content)) + content + tarwrite.padding(len(content))
    yield tarwrite.END


def save_directory(images: list[SavedImage], layers: Layers, directory: Path, format: str = "oci") -> None:
    """The same as files in ``directory``, which must be empty or not exist.

    Errors: InvalidParameter (not empty), DataLoss, OSError.  Nothing stays in ``directory`` when it fails.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise InvalidParameter(f"{directory} is not empty")
    plan = _plan(images, format)
    written: list[Path] = []
    try:
        (directory / "blobs" / "sha256").mkdir(parents=True)
        for digest, layer in plan.layers.items():
            written.append(directory / blob_name(digest))
            with open(written[-1], "xb") as file:
                for chunk in layers.tar(layer):
                    file.write(chunk)
        for name, content in plan.documents.items():
            written.append(directory / name)
            written[-1].write_bytes(content)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        for path in (directory / "blobs" / "sha256", directory / "blobs"):
            with contextlib.suppress(OSError):
                os.rmdir(path)
        raise


def _wrong_size(layer: Layer, written: int) -> DataLoss:
    return DataLoss(f"layer {layer.diff_id} was changed on disk: {written} bytes instead of {layer.tar_size}")
