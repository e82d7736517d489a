"""``/v2/<name>/blobs/uploads/``: blobs come in at once, in pieces, or from another repository."""

from __future__ import annotations

import re
from collections.abc import Callable

from corten.api.http.body import LengthFraming
from corten.api.http.messages import Request
from corten.oci.digest import Digest
from corten.registry.server import layout
from corten.registry.server.failures import Headers, Refusal
from corten.registry.server.replies import Reply
from corten.registry.server.repositories import Repositories
from corten.registry.server.spool import Upload

_CONTENT_RANGE = re.compile(r"(?:bytes[ =])?(\d{1,18})-(\d{0,18})(?:/(?:\d+|\*))?")


def _standing(upload: Upload, size: int) -> Headers:
    """Where the upload goes on."""
    return (
        ("Location", f"/v2/{upload.repository}/blobs/uploads/{upload.identity}"),
        ("Range", f"0-{max(0, size - 1)}"),
        ("Docker-Upload-UUID", upload.identity),
    )


def _made(name: str, digest: Digest) -> Reply:
    return Reply(201, headers=(("Location", f"/v2/{name}/blobs/{digest}"), ("Docker-Content-Digest", digest)))


async def begin(repositories: Repositories, request: Request, name: str, may_pull: Callable[[str], bool]) -> Reply:
    """POST: a new upload, all of a blob (``digest``), or a blob that is here already (``mount``, ``from``)."""
    query = request.query
    if "mount" in query:
        digest = layout.check_digest(query.text("mount"))
        if await _mounted(repositories, name, digest, query.text("from"), may_pull):
            return _made(name, digest)
    if "digest" in query:
        digest = layout.check_digest(query.text("digest"))
        upload = repositories.spool.begin(name)
        try:
            await upload.append(request.body)
        except BaseException:
            upload.remove()
            raise
        await repositories.commit(upload, digest)
        return _made(name, digest)
    upload = repositories.spool.begin(name)
    return Reply(202, headers=_standing(upload, 0))


async def _mounted(
    repositories: Repositories, name: str, digest: Digest, source: str, may_pull: Callable[[str], bool]
) -> bool:
    if not source:
        return await repositories.mount_from_any(name, digest, may_pull)
    layout.check_name(source)
    # whether it is there is nothing for somebody who may not read it: the answer is the same
    return may_pull(source) and await repositories.mount(name, digest, source)


async def status(repositories: Repositories, _request: Request, name: str, identity: str) -> Reply:
    upload = repositories.spool.get(name, identity)
    return Reply(204, headers=_standing(upload, upload.size))


async def append(repositories: Repositories, request: Request, name: str, identity: str) -> Reply:
    """PATCH: more of it."""
    upload = repositories.spool.get(name, identity)
    size = await _received(upload, request)
    return Reply(202, headers=_standing(upload, size))


async def finish(repositories: Repositories, request: Request, name: str, identity: str) -> Reply:
    """PUT: the rest of it, and what all of it is."""
    upload = repositories.spool.get(name, identity)
    digest = layout.check_digest(request.query.text("digest"))
    if not request.body.is_empty:
        await _received(upload, request)
    await repositories.commit(upload, digest)
    return _made(name, digest)


async def _received(upload: Upload, request: Request) -> int:
    """Errors: Refusal(RANGE_INVALID) for a piece that does not follow what is there, with where to go on."""
    text = request.headers.get("content-range", "")
    offset = None
    if text:
        match = _CONTENT_RANGE.fullmatch(text.strip())
        if match is None:
            raise Refusal("RANGE_INVALID", "malformed Content-Range", status=400)
        offset = int(match[1])
        framing = request.body.framing
        stated = request.headers.get("content-length", "")
        length = int(stated) if isinstance(framing, LengthFraming) and stated else None
        if match[2] and length is not None and int(match[2]) - offset + 1 != length:
            raise Refusal("SIZE_INVALID")
    try:
        return await upload.append(request.body, offset)
    except Refusal as refusal:
        if refusal.code == "RANGE_INVALID":
            refusal.headers = _standing(upload, upload.size)
        elif refusal.code == "SIZE_INVALID":
            upload.remove()
        raise


async def cancel(repositories: Repositories, _request: Request, name: str, identity: str) -> Reply:
    repositories.spool.get(name, identity).remove()
    return Reply(204)
