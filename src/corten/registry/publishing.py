"""A result that is more than one manifest to a registry: images, an index of them, documents beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from corten.errors import CortenError
from corten.image.intake import Outgoing, Outlet
from corten.oci.descriptor import Descriptor
from corten.registry.progress import LayerProgress, short
from corten.registry.pushing import Push, reached
from corten.registry.remote import Remote
from corten.registry.uploads import Upload
from corten.registry.words import push_error


class Publication(Push):
    """Blobs first, manifests that name them then.

    Errors of all methods: Unauthorized, Forbidden, Unavailable, DataLoss.
    """

    _opened: Remote | None = None

    def _remote(self) -> Remote:
        if self._opened is None:
            self._report({"status": f"The push refers to repository [{self._name.repository}]"})
            self._opened = reached(self._transport, self._name, self._credentials, [])
        return self._opened

    def layers(self, image: Outgoing, outlet: Outlet) -> list[Descriptor]:
        """The blobs of an image's layers, all of them at the registry now."""
        try:
            return self._layers(self._remote(), image, outlet)
        except CortenError as error:
            raise push_error(error, self._name) from error

    def blob(self, blob: Descriptor, make: Callable[[], Iterator[bytes]]) -> None:
        """Send what the registry does not have.  ``make``: the same bytes each time"""
        try:
            remote = self._remote()
            line = LayerProgress(self._report, short(blob.digest), blob.size)
            if remote.patiently(lambda: remote.blob_size(blob.digest)) is not None:
                line.state("Layer already exists")
                return
            line.state("Pushing")
            Upload(remote, make, expected=blob.digest).run()
            line.state("Pushed")
        except CortenError as error:
            raise push_error(error, self._name) from error

    def manifest(self, content: bytes, descriptor: Descriptor, tag: str = "") -> None:
        """Put a manifest or index under a tag, or under its digest."""
        try:
            self._remote().put_manifest(tag or descriptor.digest, content, descriptor.media_type)
        except CortenError as error:
            raise push_error(error, self._name) from error
        if tag:
            self._report({"status": f"{tag}: digest: {descriptor.digest} size: {len(content)}"})
