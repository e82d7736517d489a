"""Networks: list, inspect, create, remove, connect and disconnect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corten.api import versions
from corten.api.documents import json_response, read_document
from corten.api.http.messages import Request, Response
from corten.api.routing import change, get
from corten.dockerapi.filters import parse_filters
from corten.dockerapi.network import NetworkConnect, NetworkCreate, NetworkDisconnect

if TYPE_CHECKING:
    from corten.engine.engine import Engine


async def list_networks(engine: Engine, request: Request) -> Response:
    return json_response(await engine.networks.list(parse_filters(request.query.text("filters"))))


async def inspect(engine: Engine, request: Request) -> Response:
    document = await engine.networks.inspect(request.params["id"], request.query.text("scope"))
    return json_response(versions.network(document, request.version))


async def create(engine: Engine, request: Request) -> Response:
    document = await read_document(request, NetworkCreate)
    versions.adapt_network(document, request.version)
    return json_response(await engine.networks.create(document), 201)


async def remove(engine: Engine, request: Request) -> Response:
    await engine.networks.remove(request.params["id"])
    return Response(204)


async def connect(engine: Engine, request: Request) -> Response:
    wanted = await read_document(request, NetworkConnect)
    versions.adapt_connect(wanted, request.version)
    await engine.containers.connect(wanted.container, request.params["id"], wanted.endpoint_config)
    return Response()


async def disconnect(engine: Engine, request: Request) -> Response:
    wanted = await read_document(request, NetworkDisconnect)
    await engine.containers.disconnect(wanted.container, request.params["id"], force=wanted.force)
    return Response()


async def prune(engine: Engine, request: Request) -> Response:
    return json_response(await engine.networks.prune(parse_filters(request.query.text("filters"))))


ROUTES = (
    get("/networks", list_networks),
    get("/networks/{id}", inspect),
    change("DELETE", "/networks/{id}", remove),
    change("POST", "/networks/create", create),
    change("POST", "/networks/prune", prune, since=(1, 25)),
    change("POST", "/networks/{id}/connect", connect),
    change("POST", "/networks/{id}/disconnect", disconnect),
)
