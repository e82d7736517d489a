"""Images out of OCI layouts of the client, taken into the image store without a name, and layouts that it is given.

Source: OCI image-spec v1.1, image-layout.md; the client's reference is ``STORE@DIGEST``.  Caches of the type "local"
are layouts, too; names of their stores: moby/buildkit, cache/remotecache/local.
"""

from __future__ import annotations

import asyncio
import tarfile
from collections.abc import AsyncIterator
from typing import IO, TYPE_CHECKING, BinaryIO

from corten.build.loops import on_loop
from corten.build.tree import CHUNK
from corten.buildkit.content import ContentStore
from corten.dockerapi.codec import encode
from corten.engine.streams import feed_thread, run_blocking
from corten.errors import InvalidParameter, NotFound
from corten.image import tarwrite
from corten.image.save import blob_name, member_header
from corten.oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor
from corten.oci.digest import Digest, parse_digest
from corten.oci.manifest import Index, Manifest, index_document, parse_document
from corten.oci.platform import Platform, this_machine

if TYPE_CHECKING:
    from corten.build.workshop import Cancellation
    from corten.buildkit.sessions import Session
    from corten.engine.engine import Engine

LOCAL = "local:"
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
    content = await store.read(top, await store.size(top))
    document = parse_document(content)
    if isinstance(document, Manifest):
        return await _taken_in(engine, store, Descriptor(OCI_MANIFEST, top, len(content)), content)
    chosen = _chosen(document, platform or this_machine(), text)
    return await _taken_in(engine, store, chosen, await store.read(chosen.digest, chosen.size))


async def cached_images(engine: Engine, session: Session, directory: str, digest: str) -> list[str]:
    """Ids of all images of a cache that the client has in a directory.

    digest: of the cache's index, or of its only manifest
    Errors: as ``layout_image``.
    """
    store = ContentStore(session, f"{LOCAL}{directory}")
    top = parse_digest(digest)
    content = await store.read(top, await store.size(top))
    document = parse_document(content)
    if isinstance(document, Manifest):
        return [await _taken_in(engine, store, Descriptor(OCI_MANIFEST, top, len(content)), content)]
    return [
        await _taken_in(engine, store, item, await store.read(item.digest, item.size)) for item in document.manifests
    ]


async def write_layout(
    session: Session, directory: str, chunks: AsyncIterator[bytes], cancellation: Cancellation
) -> None:
    """The blobs of an OCI layout go to a directory of the client; what its index names the client writes itself.

    chunks: the layout as a tar
    Errors: NotImplementedYet (the client takes none), Cancelled, those of the session and of ``chunks``.
    """
    store = ContentStore(session, f"{LOCAL}{directory}")
    loop = asyncio.get_running_loop()

    def work(file: BinaryIO) -> None:
        with tarfile.open(fileobj=file, mode="r|") as archive:
            for member in archive:
                place, _, name = member.name.rpartition("/")
                blob = archive.extractfile(member) if place == "blobs/sha256" else None
                if blob is not None:
                    writing = store.write(Digest(f"sha256:{name}"), member.size, _chunks(blob))
                    on_loop(loop, writing, cancellation)

    await feed_thread(chunks, work)


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    """Of a file that a thread waits with until it has been read."""
    while chunk := await asyncio.to_thread(file.read, CHUNK):
        yield chunk


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


async def _taken_in(engine: Engine, store: ContentStore, top: Descriptor, content: bytes) -> str:
    """The id of the image of a manifest, which is here from now on.

    content: of the manifest
    Errors: InvalidParameter, DataLoss, those of the session.
    """
    manifest = parse_document(content)
    if not isinstance(manifest, Manifest):
        raise InvalidParameter(f"{top.digest} of the client's layout: an index within an index")
    image = str(manifest.config.digest)
    if await run_blocking(_is_here, engine, image):
        return image
    async for document in engine.images.load(_archive(store, top, content, manifest), True):
        line = document.get("stream", "")
        if line.startswith(_LOADED):
            return str(line.removeprefix(_LOADED).strip())
    raise NotFound(f"{top.digest} of the client's layout is no image")


def _is_here(engine: Engine, image: str) -> bool:
    try:
        with engine.builds.held(image):
            return True
    except NotFound:
        return False


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
