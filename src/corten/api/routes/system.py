"""The engine itself: ping, version, information, events, disk usage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from corten.api import credentials, versions
from corten.api.documents import accepted, json_response, json_stream, read_document
from corten.api.http.messages import JSON, TEXT, Request, Response, StreamResponse
from corten.api.http.streaming import close_iterator
from corten.api.routing import Route, change, get
from corten.dockerapi.filters import parse_filters
from corten.dockerapi.timestamps import parse_moment
from corten.dockerapi.version import ApiVersion
from corten.engine.checks import CheckOptions
from corten.engine.prometheus import CONTENT_TYPE
from corten.errors import InvalidParameter

if TYPE_CHECKING:
    from corten.engine.engine import Engine

_PING_HEADERS = (
    ("Builder-Version", "2"),
    ("Swarm", "inactive"),
    ("Cache-Control", "no-cache, no-store, must-revalidate"),
    ("Pragma", "no-cache"),
)
_PONG = Response(200, b"OK", TEXT, _PING_HEADERS)
_SILENT_PONG = Response(200, b"", TEXT, _PING_HEADERS)  # dockerd says that a HEAD has no body
_EVENT_TYPES = ("application/jsonl", "application/x-ndjson", "application/json-seq")
_USAGE_TYPES = frozenset(("container", "image", "volume", "build-cache"))


def pong(engine: Engine, request: Request) -> Response:
    return _PONG


def silent_pong(engine: Engine, request: Request) -> Response:
    return _SILENT_PONG


async def ping(engine: Engine, request: Request) -> Response:
    return pong(engine, request)


async def version(engine: Engine, request: Request) -> Response:
    return json_response(await engine.system.version())


async def info(engine: Engine, request: Request) -> Response:
    return json_response(versions.info(await engine.system.info(), request.version))


async def events(engine: Engine, request: Request) -> StreamResponse:
    query = request.query
    since, until = query.text("since"), query.text("until")
    since_ns = parse_moment(since) if since else None
    until_ns = parse_moment(until) if until else None
    if since_ns is not None and until_ns is not None and until_ns < since_ns:
        raise InvalidParameter(f"`since` time ({since}) cannot be after `until` time ({until})")
    stream = engine.events.subscribe(since_ns, until_ns, parse_filters(query.text("filters")))
    media_type = accepted(request.headers.get("accept", ""), _EVENT_TYPES)
    if not media_type:
        media_type = JSON if request.version < (1, 52) else _EVENT_TYPES[0]
    return json_stream(_known(stream, request.version), at_once=True, endless=True, content_type=media_type)


async def _known(stream: AsyncIterator[dict[str, Any]], version: ApiVersion) -> AsyncIterator[dict[str, Any]]:
    """The events that clients of a version know, as they know them."""
    try:
        async for document in stream:
            event = versions.event(document, version)
            if event is not None:
                yield event
    finally:
        await close_iterator(stream)


async def disk_usage(engine: Engine, request: Request) -> Response:
    types = request.query.texts("type") if request.version >= (1, 42) else []
    for kind in types:
        if kind not in _USAGE_TYPES:
            raise InvalidParameter(f"unknown object type: {kind}")
    usage = await engine.system.disk_usage(types)
    return json_response(versions.disk_usage(usage, request.version, verbose=request.query.flag("verbose")))


async def check(engine: Engine, request: Request) -> StreamResponse:
    """Corten's own: what of images, containers and volumes is damaged or lost, one document for each finding."""
    options = CheckOptions(quick=request.query.flag("quick"), repair=request.query.flag("repair"))
    return json_stream(engine.checks.run(options, credentials.all_of(request)), at_once=True)


async def mirrors(engine: Engine, request: Request) -> Response:
    """Corten's own: mirrors of Docker Hub, first choice first."""
    return json_response({"Mirrors": engine.mirrors})


async def set_mirrors(engine: Engine, request: Request) -> Response:
    """Corten's own: other mirrors for the pulls that begin from now on, until the configuration is read again."""
    document = await read_document(request, dict)
    urls = document.get("Mirrors")
    if set(document) != {"Mirrors"} or not isinstance(urls, list):
        raise InvalidParameter('{"Mirrors": [URL, …]} is needed')
    engine.set_mirrors(urls)
    return await mirrors(engine, request)


async def metrics(engine: Engine, request: Request) -> Response:
    return Response(200, engine.metrics.text(), CONTENT_TYPE)


METRICS_ROUTES = (get("/metrics", metrics),)
ROUTES = (
    Route(method="GET", template="/_ping", handler=ping, plain=pong),
    Route(method="HEAD", template="/_ping", handler=ping, plain=silent_pong),
    get("/version", version),
    get("/info", info),
    get("/events", events),
    get("/system/df", disk_usage, since=(1, 25)),
    Route(method="POST", template="/system/check", handler=check),
    get("/system/mirrors", mirrors),
    change("PUT", "/system/mirrors", set_mirrors),
    *METRICS_ROUTES,
)
