"""What the Engine API does not have: the routes of Corten's own, below /corten."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corten.api.documents import json_response
from corten.api.http.messages import Request, Response
from corten.api.routing import get

if TYPE_CHECKING:
    from corten.engine.engine import Engine


async def xray_container(engine: Engine, request: Request) -> Response:
    return json_response(await engine.containers.views.xray(request.params["id"]))


async def xray_host(engine: Engine, request: Request) -> Response:
    return json_response(await engine.system.xray())


async def security(engine: Engine, request: Request) -> Response:
    return json_response(await engine.system.security())


ROUTES = (
    get("/corten/xray/host", xray_host),
    get("/corten/xray/containers/{id}", xray_container),
    get("/corten/security", security),
)
