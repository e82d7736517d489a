"""Images by name and id, as they are now: read from memory."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from corten.errors import CortenError, InvalidParameter, NotFound
from corten.image.blobs import Blobs
from corten.image.metadata import ImageRecord, Layer, Metadata
from corten.oci import config as image_config
from corten.oci import reference
from corten.oci.digest import is_digest, is_hex_id
from corten.oci.reference import Reference

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Image:
    """An image as it is now.

    id: "sha256:<hex>", the digest of the config; config: the OCI image config; layers: snapshot ids, base first
    tags: familiar names ("busybox:latest"); digests: "busybox@sha256:…"; size: bytes of all layers
    damage: what was lost of it, "" for nothing: such an image can be listed and removed, and not used
    """

    id: str
    config: dict[str, Any]
    layers: tuple[str, ...]
    tags: tuple[str, ...]
    digests: tuple[str, ...]
    size: int
    parent: str
    layer_sizes: tuple[int, ...]
    damage: str = ""


class Catalog:
    """Thread-safe.  A view of an image is made once and kept as long as its record stays the same.

    built_in: canonical names of images that are made when they are asked for, with what makes them
    """

    def __init__(self, metadata: Metadata, blobs: Blobs, built_in: Mapping[str, Callable[[], object]]) -> None:
        self._metadata = metadata
        self._blobs = blobs
        self._built_in = built_in
        self._images: dict[str, Image] = {}
        self._views: dict[str, ImageRecord] = {}
        self._viewing = threading.Lock()

    def find(self, ref: str) -> tuple[ImageRecord, Reference | None]:
        """The image, and the name that was asked for (None when it was an id).

        Errors: NotFound("No such image: x"), InvalidParameter (malformed reference, ambiguous id).
        """
        if is_digest(ref):
            record = self._metadata.image(ref)
            if record is None:
                raise NotFound(f"No such image: {ref}")
            return record, None
        prefix = ref.removeprefix("sha256:")
        if len(prefix) == 64 and (record := self._metadata.image(f"sha256:{prefix}")):
            return record, None
        name = None if ref.startswith("sha256:") else self._parsed(ref)
        if name is not None:
            named = name.with_default_tag()
            if named.canonical in self._built_in:
                self._built_in[named.canonical]()
            found = (
                self._metadata.digested(Reference(named.domain, named.path, digest=named.digest).canonical)
                if named.digest
                else None
            )
            found = found or self._metadata.tagged(named.canonical)
            record = self._metadata.image(found) if found else None
            if record is not None:
                return record, named
        matches = self._by_prefix(prefix)
        if len(matches) == 1:
            return matches[0], None
        if len(matches) > 1:
            raise InvalidParameter(f"image id prefix {ref} is ambiguous: it matches {len(matches)} images")
        raise NotFound(f"No such image: {name.with_default_tag().familiar if name else ref}")

    def named(self, ref: str) -> list[tuple[ImageRecord, Reference | None]]:
        """All that leaves when ``ref`` is saved or pushed: a repository without a tag means all its tags.

        Errors: as ``find``.
        """
        name = None if is_digest(ref) else reference.try_parse(ref)
        if name is not None and name.is_name_only:
            tagged = self._metadata.tags_of_repository(name.repository)
            found = [(self._metadata.image(image), reference.parse(tag)) for tag, image in sorted(tagged.items())]
            listed = [(record, tag) for record, tag in found if record is not None]
            if listed:
                return list(listed)
        record, named = self.find(ref)
        return [(record, named if named is not None and named.tag else None)]

    @staticmethod
    def _parsed(ref: str) -> Reference | None:
        if not ref:
            raise InvalidParameter("invalid reference format")
        if is_hex_id(ref):
            return None
        return reference.parse(ref)

    def _by_prefix(self, prefix: str) -> list[ImageRecord]:
        if not prefix or len(prefix) > 64 or not all(letter in "0123456789abcdef" for letter in prefix):
            return []
        return [image for image in self._metadata.images() if image.id[7:].startswith(prefix)]

    def all(self) -> list[Image]:
        """Every image, in no order."""
        return [self.view(record) for record in self._metadata.images()]

    def view(self, record: ImageRecord) -> Image:
        """The image of a record, damaged ones included."""
        if self._views.get(record.id) is record:
            return self._images[record.id]
        known = self._images.get(record.id)
        config, damage = (known.config, "") if known else self._config(record.id)
        found = [self._metadata.layer(key) for key in record.layers]
        layers = [layer for layer in found if layer is not None]
        if len(layers) != len(found):
            damage = "some of its layers are not recorded"
        image = Image(
            id=record.id,
            config=config,
            layers=tuple(layer.snapshot for layer in layers),
            tags=tuple(reference.parse(name).familiar for name in record.tags),
            digests=tuple(reference.parse(name).familiar for name in record.digests),
            size=sum(layer.size for layer in layers),
            parent=record.parent if self._metadata.image(record.parent) else "",
            layer_sizes=tuple(layer.size for layer in layers),
            damage=damage,
        )
        if not damage:
            with self._viewing:
                self._images[record.id] = image
                self._views[record.id] = record
        return image

    def layer(self, key: str) -> Layer:
        """Errors: NotFound."""
        layer = self._metadata.layer(key)
        if layer is None:
            raise NotFound(f"layer {key} is missing")
        return layer

    def _config(self, image_id: str) -> tuple[dict[str, Any], str]:
        """(config, why there is none)."""
        try:
            return image_config.parse_config(self._blobs.get(image_id)), ""
        except CortenError as error:
            logger.warning("image %s cannot be used: %s", image_id, error)
            return {}, str(error)

    def forget(self) -> None:
        """Drop views of images that are gone."""
        with self._viewing:
            for image_id in [item for item in self._images if self._metadata.image(item) is None]:
                del self._images[image_id]
                self._views.pop(image_id, None)
