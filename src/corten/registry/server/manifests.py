"""``/v2/<name>/manifests/<reference>`` and ``/v2/<name>/referrers/<digest>``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from corten.api.http.body import BodyTooLarge
from corten.api.http.messages import Request
from corten.oci import descriptor as media
from corten.oci import documents
from corten.oci.digest import Digest
from corten.registry.server import layout
from corten.registry.server.failures import Refusal
from corten.registry.server.replies import Reply
from corten.registry.server.repositories import Repositories
from corten.registry.server.storage import Missing

_MAX_REFERRERS_BYTES = 4 << 20


async def get(repositories: Repositories, request: Request, name: str, reference: str) -> Reply:
    """GET and HEAD."""
    stays = await _stays(repositories, name, reference)
    found = await repositories.manifest(name, reference)
    tag = f'"{found.digest}"'
    headers = (("Docker-Content-Digest", found.digest), ("ETag", tag))
    if _matches(request.headers.get("if-none-match", ""), tag):
        return Reply(304, headers=headers, stays=stays)
    return Reply(200, found.body, found.media_type, headers, stays=stays)


def _matches(conditions: str, tag: str) -> bool:
    return any(item.strip().removeprefix("W/") in (tag, tag.strip('"'), "*") for item in conditions.split(",") if item)


async def _stays(repositories: Repositories, name: str, reference: str) -> Callable[[], bool] | None:
    """What tells whether this reference still means the same; asked before the content is looked at."""
    stamp = repositories.storage.stamp
    try:
        keys = []
        if ":" not in reference:
            if not repositories.tags_stay:
                return None
            keys.append(layout.tag(name, layout.check_tag(reference)))
            before = stamp(keys[0])
            if before is None:
                return None
        digest = await repositories.resolve(name, reference)
        keys.append(layout.revision(name, digest))
        stamps = [before, stamp(keys[1])] if len(keys) == 2 else [stamp(keys[0])]
    except Missing:
        return None
    if None in stamps:
        return None
    if len(keys) == 1:
        (only,), (wanted,) = keys, stamps
        return lambda: stamp(only) == wanted
    return lambda: [stamp(key) for key in keys] == stamps


async def put(repositories: Repositories, request: Request, name: str, reference: str) -> Reply:
    try:
        body = await request.body.read(documents.MAX_MANIFEST_BYTES, request.limits.body_timeout_s)
    except BodyTooLarge:
        raise Refusal(
            "MANIFEST_INVALID", f"manifest is larger than {documents.MAX_MANIFEST_BYTES} bytes", status=413
        ) from None
    except TimeoutError:
        raise Refusal("MANIFEST_INVALID", "the manifest did not arrive in time", status=408, closes=True) from None
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    digest, subject = await repositories.put_manifest(name, reference, body, content_type)
    headers = [("Location", f"/v2/{name}/manifests/{digest}"), ("Docker-Content-Digest", digest)]
    if subject:
        headers.append(("OCI-Subject", subject))
    return Reply(201, headers=tuple(headers))


async def delete(repositories: Repositories, _request: Request, name: str, reference: str) -> Reply:
    await repositories.delete_manifest(name, reference)
    return Reply(202)


async def referrers(repositories: Repositories, request: Request, name: str, reference: str) -> Reply:
    """What refers to a manifest, as an index; an empty one when nothing does."""
    subject = layout.check_digest(reference)
    artifact_type = request.query.text("artifactType")
    found = await repositories.referrers(name, subject, artifact_type)
    last = request.query.text("last")
    found = sorted((item for item in found if item["digest"] > last), key=lambda item: str(item["digest"]))
    page: list[dict[str, Any]] = []
    size = 0
    for item in found:
        size += len(documents.encode(item)) + 1
        if page and size > _MAX_REFERRERS_BYTES - 1024:
            break
        page.append(item)
    headers: list[tuple[str, str]] = []
    if artifact_type:
        headers.append(("OCI-Filters-Applied", "artifactType"))
    if len(page) < len(found):
        headers.append(("Link", _next(name, subject, str(page[-1]["digest"]), artifact_type)))
    document = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": page}
    return Reply(200, documents.encode(document), media.OCI_INDEX, tuple(headers))


def _next(name: str, subject: Digest, last: str, artifact_type: str) -> str:
    from urllib.parse import urlencode

    query = {"last": last} | ({"artifactType": artifact_type} if artifact_type else {})
    return f'</v2/{name}/referrers/{subject}?{urlencode(query)}>; rel="next"'
