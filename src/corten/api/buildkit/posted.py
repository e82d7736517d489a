"""``POST /build?version=2``: builds of Docker's command line before buildx, which has a session but no ``/grpc``.

Source: the Engine API's "Build an image" (version, session, remote, buildid, outputs) and moby/moby, builder-next: the
messages of ``Control/Status`` come as documents of the id "moby.buildkit.trace".
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from corten.api.buildkit.attributes import CacheEntry
from corten.api.buildkit.exporters import STORED, read_outputs
from corten.api.buildkit.failures import grpc_error
from corten.api.buildkit.solving import Solving
from corten.api.buildkit.wishes import Wishes
from corten.dockerapi.build import BuildQuery, json_value, read_build_query
from corten.dockerapi.registry_auth import RegistryAuth
from corten.errors import CortenError, InvalidParameter

if TYPE_CHECKING:
    from corten.api.http.query import Query

Document = dict[str, Any]
_SESSION, _UPLOAD = "client-session", "upload-request"
_OURS = frozenset({"version", "session", "outputs"})
_TRUE = ("1", "t", "true")


def is_upload(query: Query) -> bool:
    return query.text("buildid").startswith(f"{_UPLOAD}:")


async def take_upload(solving: Solving, query: Query, body: AsyncIterator[bytes]) -> None:
    """Errors: those of ``Uploads.give``."""
    await solving.uploads.give(query.text("buildid").partition(":")[2], body)


def build(
    solving: Solving, query: Query, body: AsyncIterator[bytes], credentials: Mapping[str, RegistryAuth]
) -> AsyncIterator[Document]:
    """The documents of a build.  Errors: InvalidParameter, others in the stream."""

    def text(name: str) -> str:
        value = query.text(name)
        return "" if name in _OURS or (name == "remote" and value in (_SESSION, _UPLOAD)) else value

    wanted = read_build_query(text, query.texts, query.flag)
    outputs = json_value(query.text("outputs"), list[dict[str, Any]] | None, "outputs") or [{"Type": "moby"}]
    if len(outputs) > 1:
        raise InvalidParameter("multiple outputs not supported")
    kind, attributes = outputs[0].get("Type", ""), dict(outputs[0].get("Attrs") or {})
    if kind in STORED and wanted.tags:
        attributes["name"] = ",".join(wanted.tags)
    exporters = () if kind == "cacheonly" else ((kind, attributes),)
    has_inline = (wanted.arguments.get("BUILDKIT_INLINE_CACHE") or "").lower() in _TRUE
    wishes = Wishes(
        ref=secrets.token_hex(12),
        session=query.text("session"),
        attributes=_attributes(wanted),
        outputs=tuple(read_outputs(exporters)),
        exporters=exporters,
        cache_exports=(CacheEntry("inline", {}),) if has_inline else (),
        entitlements=frozenset({"network.host"} if wanted.network == "host" else ()),
        credentials=credentials,
    )
    return _documents(solving, wishes, wanted, query.text("remote"), body)


def _attributes(query: BuildQuery) -> dict[str, str]:
    """As the frontend takes them.  Errors: InvalidParameter for what only the classic builder does."""
    if query.network not in ("", "default", "none", "host"):
        raise InvalidParameter(f"network mode {query.network!r} not supported by buildkit")
    if query.squash:
        raise InvalidParameter("squash is not supported by builder version 2")
    found = {
        "filename": query.dockerfile,
        "target": query.target,
        "context": query.remote,
        "platform": query.platform,
        "image-resolve-mode": "pull" if query.pull else "default",
        "cgroup-parent": query.cgroup_parent,
        "add-hosts": ",".join(_host(item) for item in query.extra_hosts),
        "cache-from": ",".join(query.cache_from),
        "force-network-mode": query.network if query.network != "default" else "",
        "shm-size": str(query.shm_size or ""),
        "ulimit": ",".join(f"{item.name}={item.soft}:{item.hard}" for item in query.ulimits),
        "memory": str(query.memory or ""),
        "memswap": str(query.memory_swap or ""),
        "cpushares": str(query.cpu_shares or ""),
        "cpuperiod": str(query.cpu_period or ""),
        "cpuquota": str(query.cpu_quota or ""),
        "cpusetcpus": query.cpuset_cpus,
        "cpusetmems": query.cpuset_mems,
    }
    found = {name: value for name, value in found.items() if value}
    found.update({f"build-arg:{name}": value for name, value in query.arguments.items() if value is not None})
    found.update({f"label:{name}": value for name, value in query.labels.items()})
    if query.no_cache:
        found["no-cache"] = ""
    return found


def _host(text: str) -> str:
    name, _, address = text.partition(":")
    return f"{name}={address}"


async def _documents(
    solving: Solving, wishes: Wishes, wanted: BuildQuery, remote: str, body: AsyncIterator[bytes]
) -> AsyncIterator[Document]:
    build_id = wanted.id
    given: AsyncIterator[bytes] | None = body if not remote else None
    if remote == _UPLOAD:
        given = await solving.uploads.take(build_id)
    solve = asyncio.ensure_future(solving.solve(wishes, given))
    if build_id:
        solving.by_build_id[build_id] = wishes.ref
    try:
        job = await solving.jobs.wait(wishes.ref)
        async for message in job.follow():
            yield {"id": "moby.buildkit.trace", "aux": base64.b64encode(message).decode()}
        response = await _answer(solve)
        if "containerimage.digest" in response and any(output.is_stored for output in wishes.outputs):
            image = response["containerimage.digest"]
            yield {"id": "moby.image.id", "aux": {"ID": image}}
            if wanted.quiet:
                yield {"stream": f"{image}\n"}
    finally:
        solving.by_build_id.pop(build_id, None)
        if not solve.done():
            solve.cancel()
        try:
            with contextlib.suppress(CortenError, asyncio.CancelledError):
                await solve
        finally:
            if remote == _UPLOAD:
                solving.uploads.end(build_id)


async def _answer(solve: asyncio.Future[dict[str, str]]) -> dict[str, str]:
    try:
        return await solve
    except CortenError as error:
        raise grpc_error(error) from error
