"""Volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corten.api.documents import json_response, read_document
from corten.api.http.messages import Request, Response
from corten.api.routing import change, get
from corten.dockerapi.filters import parse_filters
from corten.dockerapi.volume import VolumeCreate

if TYPE_CHECKING:
    from corten.engine.engine import Engine

_NAMED_ARE_KEPT_SINCE = (1, 42)


async def list_volumes(engine: Engine, request: Request) -> Response:
    return json_response(await engine.volumes.list(parse_filters(request.query.text("filters"))))


async def create(engine: Engine, request: Request) -> Response:
    return json_response(await engine.volumes.create(await read_document(request, VolumeCreate)), 201)


async def inspect(engine: Engine, request: Request) -> Response:
    return json_response(await engine.volumes.inspect(request.params["name"]))


async def remove(engine: Engine, request: Request) -> Response:
    await engine.volumes.remove(request.params["name"], request.query.flag("force"))
    return Response(204)


async def prune(engine: Engine, request: Request) -> Response:
    filters = parse_filters(request.query.text("filters"))
    if request.version < _NAMED_ARE_KEPT_SINCE:
        filters["all"] = ["true"]  # older clients expect named volumes to go as well
    return json_response(await engine.volumes.prune(filters))


ROUTES = (
    get("/volumes", list_volumes),
    get("/volumes/{name}", inspect),
    change("POST", "/volumes/create", create),
    change("POST", "/volumes/prune", prune, since=(1, 25)),
    change("DELETE", "/volumes/{name}", remove),
)
