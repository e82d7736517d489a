"""The engine itself: ping, version, information, events, disk usage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corten.api.documents import json_response, json_stream
from corten.api.http.messages import TEXT, Request, Response, StreamResponse
from corten.api.routing import Route, get
from corten.dockerapi.filters import parse_filters
from corten.dockerapi.timestamps import parse_moment
from corten.errors import InvalidParameter, NotImplementedYet

if TYPE_CHECKING:
    from corten.engine.engine import Engine

_PING_HEADERS = (
    ("Builder-Version", "1"),
    ("Swarm", "inactive"),
    ("Cache-Control", "no-cache, no-store, must-revalidate"),
    ("Pragma", "no-cache"),
)
_PONG = Response(200, b"OK", TEXT, _PING_HEADERS)
_USAGE_TYPES = frozenset(("container", "image", "volume", "build-cache"))


def pong(engine: Engine, request: Request) -> Response:
    return _PONG


async def ping(engine: Engine, request: Request) -> Response:
    return pong(engine, request)


async def version(engine: Engine, request: Request) -> Response:
    return json_response(await engine.system.version())


async def info(engine: Engine, request: Request) -> Response:
    return json_response(await engine.system.info())


async def events(engine: Engine, request: Request) -> StreamResponse:
    query = request.query
    since, until = query.text("since"), query.text("until")
    since_ns = parse_moment(since) if since else None
    until_ns = parse_moment(until) if until else None
    if since_ns is not None and until_ns is not None and until_ns < since_ns:
        raise InvalidParameter(f"`since` time ({since}) cannot be after `until` time ({until})")
    stream = engine.events.subscribe(since_ns, until_ns, parse_filters(query.text("filters")))
    return json_stream(stream, at_once=True, endless=True)


async def disk_usage(engine: Engine, request: Request) -> Response:
    types = request.query.texts("type") if request.version >= (1, 42) else []
    for kind in types:
        if kind not in _USAGE_TYPES:
            raise InvalidParameter(f"unknown object type: {kind}")
    return json_response(await engine.system.disk_usage(types))


async def auth(engine: Engine, request: Request) -> Response:
    raise NotImplementedYet("registries are not supported yet: there is nothing to log in to")


ROUTES = (
    Route(method="GET", template="/_ping", handler=ping, plain=pong),
    Route(method="HEAD", template="/_ping", handler=ping, plain=pong),
    get("/version", version),
    get("/info", info),
    get("/events", events),
    get("/system/df", disk_usage, since=(1, 25)),
    Route(method="POST", template="/auth", handler=auth),
)
