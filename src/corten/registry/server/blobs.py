"""``/v2/<name>/blobs/<digest>``: whole or a part."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator

from corten.api.http.messages import Request
from corten.oci.digest import Digest
from corten.registry.server import layout
from corten.registry.server.failures import Headers, Refusal
from corten.registry.server.replies import AnyReply, ChunkReply, FileReply, Reply
from corten.registry.server.repositories import Repositories
from corten.registry.server.storage import Missing

_OCTETS = "application/octet-stream"
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def headers_of(digest: Digest) -> Headers:
    return (
        ("Docker-Content-Digest", digest),
        ("ETag", f'"{digest}"'),
        ("Accept-Ranges", "bytes"),
        ("Cache-Control", "max-age=31536000"),
    )


async def get(repositories: Repositories, request: Request, name: str, reference: str) -> AnyReply:
    """GET and HEAD."""
    digest = layout.check_digest(reference)
    is_head = request.method == "HEAD"
    found = await repositories.blob(name, digest, promises=is_head)
    headers = headers_of(digest)
    if digest in request.headers.get("if-none-match", ""):
        return Reply(304, headers=headers)
    start, length = 0, found.size
    status = 200
    part = _part(request, digest, found.size)
    if part is not None:
        start, length = part
        status = 206
        headers += (("Content-Range", f"bytes {start}-{start + length - 1}/{found.size}"),)
    if is_head:
        return ChunkReply(_nothing(), length, status, _OCTETS, headers)
    try:
        content = await repositories.content(name, digest, start, length, found.size)
    except Missing:
        raise Refusal("BLOB_UNKNOWN", detail={"digest": digest}) from None
    if isinstance(content, AsyncGenerator):
        return ChunkReply(content, length, status, _OCTETS, headers)
    return FileReply(content, start, length, status, _OCTETS, headers)


async def _nothing() -> AsyncGenerator[bytes, None]:
    return
    yield b""


def _part(request: Request, digest: Digest, size: int) -> tuple[int, int] | None:
    """(first byte, number of bytes) of the one range that is wanted; None for all of it.

    Errors: Refusal(RANGE_INVALID) when nothing of the blob is in the range.
    """
    text = request.headers.get("range", "")
    condition = request.headers.get("if-range", "")
    if condition and digest not in condition:
        return None
    match = _RANGE.fullmatch(text.replace(" ", ""))
    if match is None or match[0] == "bytes=-":
        return None  # several ranges, other units: all of it is a valid answer
    first, last = match[1], match[2]
    if first:
        start, end = int(first), min(int(last) if last else size - 1, size - 1)
        if last and int(last) < start:
            return None
    else:
        start, end = max(0, size - int(last)), size - 1
    if start >= size or end < start:
        raise Refusal("RANGE_INVALID", headers=(("Content-Range", f"bytes */{size}"),))
    return start, end - start + 1


async def delete(repositories: Repositories, _request: Request, name: str, reference: str) -> Reply:
    digest = layout.check_digest(reference)
    await repositories.delete_blob(name, digest)
    return Reply(202, headers=(("Docker-Content-Digest", digest),))
