"""An image out of an OCI layout of the client, taken into the image store without a name.

Source: OCI image-spec v1.1, image-layout.md; the client's reference is ``STORE@DIGEST``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from corten.buildkit.content import ContentStore
from corten.dockerapi.codec import encode
from corten.errors import InvalidParameter, NotFound
from corten.image import tarwrite
from corten.image.save import blob_name, member_header
from corten.oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor
from corten.oci.digest import parse_digest
from corten.oci.manifest import Index, Manifest, index_document, parse_document
from corten.oci.platform import Platform, this_machine

if TYPE_CHECKING:
    from corten.buildkit.sessions import Session
    from corten.engine.engine import Engine

_LOADED = "Loaded image ID: "


async def layout_image(engine: Engine, session: Session, text: str, platform: Platform | None) -> str:
    """The id of the image that ``text`` names.

    platform: of an index the image for it, None for this machine's
    Errors: InvalidParameter, NotFound, DataLoss, those of the session.
    """
    name, at, digest = text.partition("@")
    if not at:
        raise InvalidParameter(f"oci-layout reference {text[:200]!r} has no digest")
    # the store's name has no tag, and clients tell layouts from other stores by a prefix
    store = ContentStore(session, f"oci:{name.partition(':')[0]}")
    top = parse_digest(digest)
    descriptor = Descriptor(OCI_MANIFEST, top, await store.size(top))
    content = await store.read(top, descriptor.size)
    manifest = parse_document(content)
    if isinstance(manifest, Index):
        descriptor = _chosen(manifest, platform or this_machine(), text)
        content = await store.read(descriptor.digest, descriptor.size)
        manifest = parse_document(content)
    if not isinstance(manifest, Manifest):
        raise InvalidParameter(f"oci-layout {text[:200]!r}: an index within an index")
    documents = engine.images.load(_archive(store, descriptor, content, manifest), True)
    async for document in documents:
        line = document.get("stream", "")
        if line.startswith(_LOADED):
            return str(line.removeprefix(_LOADED).strip())
    raise NotFound(f"oci-layout {text[:200]!r} has no image")


def _chosen(index: Index, wanted: Platform, text: str) -> Descriptor:
    """Errors: NotFound."""
    ranked = [
        (item.platform.rank(wanted), number, item)
        for number, item in enumerate(index.manifests)
        if item.platform is not None and item.platform.rank(wanted) >= 0
    ]
    if not ranked:
        raise NotFound(f"oci-layout {text[:200]!r} has no image for {wanted}")
    return min(ranked)[2]


async def _archive(store: ContentStore, top: Descriptor, content: bytes, manifest: Manifest) -> AsyncIterator[bytes]:
    """The layout as a tar with this image alone."""
    listed = Descriptor(manifest.media_type, top.digest, top.size)
    for name, data in (
        ("oci-layout", encode({"imageLayoutVersion": "1.0.0"})),
        ("index.json", encode({**index_document([listed]), "mediaType": OCI_INDEX})),
        (blob_name(top.digest), content),
    ):
        yield member_header(name, len(data)) + data + tarwrite.padding(len(data))
    written = {top.digest}
    for blob in (manifest.config, *manifest.layers):
        if blob.digest in written:
            continue
        written.add(blob.digest)
        yield member_header(blob_name(blob.digest), blob.size)
        async for chunk in store.chunks(blob.digest, blob.size):
            yield chunk
        yield tarwrite.padding(blob.size)
    yield tarwrite.END
