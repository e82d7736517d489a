"""What this engine leaves to others (swarm mode, managed plugins): answered as dockerd does when it is inactive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corten.api.documents import json_response
from corten.api.http.messages import Request, Response
from corten.api.routing import Route
from corten.errors import NotFound, NotImplementedYet, Unavailable

if TYPE_CHECKING:
    from corten.engine.engine import Engine


async def no_manager(engine: Engine, request: Request) -> Response:
    raise Unavailable(
        'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" '
        "to connect this node to swarm and try again."
    )


async def not_in_swarm(engine: Engine, request: Request) -> Response:
    raise Unavailable("This node is not part of a swarm")


async def no_swarm(engine: Engine, request: Request) -> Response:
    raise NotImplementedYet("swarm mode is not part of this engine")


async def list_plugins(engine: Engine, request: Request) -> Response:
    return json_response([])


async def no_plugin(engine: Engine, request: Request) -> Response:
    raise NotFound(f'plugin "{request.params["name"]}" not found')


async def no_plugins(engine: Engine, request: Request) -> Response:
    raise NotImplementedYet("managed plugins are not part of this engine")


_NO_MANAGER = (
    "GET /swarm",
    "POST /swarm/update",
    "GET /swarm/unlockkey",
    "POST /swarm/unlock",
    "GET /nodes",
    "GET /nodes/{id}",
    "DELETE /nodes/{id}",
    "POST /nodes/{id}/update",
    "GET /services",
    "POST /services/create",
    "GET /services/{id}",
    "DELETE /services/{id}",
    "POST /services/{id}/update",
    "GET /services/{id}/logs",
    "GET /tasks",
    "GET /tasks/{id}",
    "GET /tasks/{id}/logs",
    "GET /secrets",
    "POST /secrets/create",
    "GET /secrets/{id}",
    "DELETE /secrets/{id}",
    "POST /secrets/{id}/update",
    "GET /configs",
    "POST /configs/create",
    "GET /configs/{id}",
    "DELETE /configs/{id}",
    "POST /configs/{id}/update",
    "PUT /volumes/{name}",  # updates a cluster volume
)
_NO_PLUGIN = (
    "GET /plugins/{name*}/json",
    "DELETE /plugins/{name*}",
    "POST /plugins/{name*}/enable",
    "POST /plugins/{name*}/disable",
    "POST /plugins/{name*}/upgrade",
    "POST /plugins/{name*}/push",
    "POST /plugins/{name*}/set",
)
_ROWS = (
    *((row, no_manager) for row in _NO_MANAGER),
    *((row, no_plugin) for row in _NO_PLUGIN),
    ("POST /swarm/leave", not_in_swarm),
    ("POST /swarm/init", no_swarm),
    ("POST /swarm/join", no_swarm),
    ("GET /plugins", list_plugins),
    ("GET /plugins/privileges", no_plugins),
    ("POST /plugins/pull", no_plugins),
    ("POST /plugins/create", no_plugins),
)

ROUTES = tuple(
    Route(method=method, template=template, handler=handler)
    for row, handler in _ROWS
    for method, template in (row.split(" "),)
)
