"""Networks: ``none`` and ``host``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corten.api.documents import json_response
from corten.api.http.messages import Request, Response
from corten.api.routing import change, get
from corten.dockerapi.filters import parse_filters
from corten.dockerapi.network import builtin_networks, filter_networks, find_builtin
from corten.errors import Forbidden, NotFound, NotImplementedYet

if TYPE_CHECKING:
    from corten.engine.engine import Engine


async def list_networks(engine: Engine, request: Request) -> Response:
    return json_response(filter_networks(builtin_networks(), parse_filters(request.query.text("filters"))))


async def inspect(engine: Engine, request: Request) -> Response:
    document = find_builtin(request.params["id"])
    if document is None:
        raise NotFound(f"network {request.params['id']} not found")
    return json_response(document)


async def remove(engine: Engine, request: Request) -> Response:
    document = find_builtin(request.params["id"])
    if document is None:
        raise NotFound(f"network {request.params['id']} not found")
    raise Forbidden(f"{document['Name']} is a pre-defined network and cannot be removed")


async def refuse(engine: Engine, request: Request) -> Response:
    raise NotImplementedYet("networks other than none and host are not supported yet")


async def prune(engine: Engine, request: Request) -> Response:
    return json_response({"NetworksDeleted": None})


ROUTES = (
    get("/networks", list_networks),
    get("/networks/{id}", inspect),
    change("DELETE", "/networks/{id}", remove),
    change("POST", "/networks/create", refuse),
    change("POST", "/networks/prune", prune, since=(1, 25)),
    change("POST", "/networks/{id}/connect", refuse),
    change("POST", "/networks/{id}/disconnect", refuse),
)
