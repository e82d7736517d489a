"""Containers: create, find, change, wait, remove."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from corten.api import versions
from corten.api.documents import json_response, json_stream, read_body, read_document
from corten.api.http.messages import Request, Response, StreamResponse
from corten.api.routing import Route, change, get
from corten.dockerapi.container import ContainerCreate, ContainerUpdate
from corten.dockerapi.filters import parse_filters
from corten.errors import InvalidParameter, NotFound, NotImplementedYet

if TYPE_CHECKING:
    from corten.engine.engine import Engine

_LARGEST_EMPTY_BODY = 7  # dockerd takes "{}" and "null" for no body


async def list_containers(engine: Engine, request: Request) -> Response:
    query = request.query
    rows = await engine.containers.views.summaries(
        all=query.flag("all"),
        limit=query.integer("limit"),
        size=query.flag("size"),
        filters=parse_filters(query.text("filters")),
    )
    return json_response([versions.container_row(row, request.version) for row in rows])


async def create(engine: Engine, request: Request) -> Response:
    document = await read_document(request, ContainerCreate)
    if not document.image:
        raise InvalidParameter("Config cannot be empty in order to create a container")
    warnings = versions.adapt_create(document, request.version, cgroup_v2=engine.facts.cgroup_v2)
    platform = request.query.text("platform") if request.version >= (1, 41) else ""
    created = await engine.containers.create(document, request.query.text("name"), platform)
    if warnings:
        created = {**created, "Warnings": [*warnings, *created["Warnings"]]}
    return json_response(created, 201)


async def inspect(engine: Engine, request: Request) -> Response:
    document = await engine.containers.views.inspect(request.params["id"], request.query.flag("size"))
    return json_response(versions.container(document, request.version))


async def top(engine: Engine, request: Request) -> Response:
    return json_response(await engine.containers.views.top(request.params["id"], request.query.text("ps_args")))


async def changes(engine: Engine, request: Request) -> Response:
    return json_response(await engine.containers.views.changes(request.params["id"]))


async def start(engine: Engine, request: Request) -> Response:
    body = await read_body(request)
    if len(body.strip()) > _LARGEST_EMPTY_BODY:
        raise InvalidParameter(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24"
        )
    if request.query.text("checkpoint"):
        raise NotImplementedYet("starting from a checkpoint is not supported")
    started = await engine.containers.start(request.params["id"], request.query.text("detachKeys"))
    return Response(204 if started else 304)


def _stop_signal(request: Request) -> str:
    return request.query.text("signal") if request.version >= (1, 42) else ""


async def stop(engine: Engine, request: Request) -> Response:
    grace_s = request.query.optional_integer("t")
    stopped = await engine.containers.stop(request.params["id"], _stop_signal(request), grace_s)
    return Response(204 if stopped else 304)


async def restart(engine: Engine, request: Request) -> Response:
    grace_s = request.query.optional_integer("t")
    await engine.containers.restart(request.params["id"], _stop_signal(request), grace_s)
    return Response(204)


async def kill(engine: Engine, request: Request) -> Response:
    name = request.params["id"]
    try:
        await engine.containers.kill(name, request.query.text("signal") or "SIGKILL")
    except NotFound as error:
        raise NotFound(f"Cannot kill container: {name}: {error}") from error
    return Response(204)


async def pause(engine: Engine, request: Request) -> Response:
    await engine.containers.pause(request.params["id"])
    return Response(204)


async def unpause(engine: Engine, request: Request) -> Response:
    await engine.containers.unpause(request.params["id"])
    return Response(204)


async def rename(engine: Engine, request: Request) -> Response:
    await engine.containers.rename(request.params["id"], request.query.text("name"))
    return Response(204)


async def update(engine: Engine, request: Request) -> Response:
    document = await read_document(request, ContainerUpdate)
    versions.adapt_update(document, request.version)
    return json_response(await engine.containers.update(request.params["id"], document))


async def wait(engine: Engine, request: Request) -> StreamResponse:
    condition = request.query.text("condition") if request.version >= (1, 30) else ""
    ended = await engine.containers.wait(request.params["id"], condition)
    # the head goes out now: it tells the client that a start after it cannot be missed
    return json_stream(_result(ended), at_once=True, endless=True)


async def _result(future: asyncio.Future[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    try:
        yield await future
    finally:
        future.cancel()


async def remove(engine: Engine, request: Request) -> Response:
    """A container, or with ``link`` the link "container/alias"."""
    query = request.query
    await engine.containers.remove(
        "/".join(request.params.values()), force=query.flag("force"), volumes=query.flag("v"), link=query.flag("link")
    )
    return Response(204)


async def prune(engine: Engine, request: Request) -> Response:
    return json_response(await engine.containers.prune(parse_filters(request.query.text("filters"))))


async def resize(engine: Engine, request: Request) -> Response:
    height, width = terminal_size(request)
    await engine.containers.resize(request.params["id"], height, width)
    return Response()


def terminal_size(request: Request) -> tuple[int, int]:
    """(rows, columns).  Errors: InvalidParameter."""
    size = request.query.optional_integer("h"), request.query.optional_integer("w")
    if size[0] is None or size[1] is None or not (0 <= size[0] < 1 << 16 and 0 <= size[1] < 1 << 16):
        raise InvalidParameter("invalid terminal size: h and w are needed, from 0 to 65535")
    return size[0], size[1]


async def checkpoints(engine: Engine, request: Request) -> Response:
    raise NotImplementedYet(
        "This experimental feature is disabled by default. "
        "Start the Docker daemon in experimental mode in order to enable it."
    )


ROUTES = (
    get("/containers/json", list_containers),
    change("POST", "/containers/create", create),
    change("POST", "/containers/prune", prune, since=(1, 25)),
    get("/containers/{id}/json", inspect),
    get("/containers/{id}/top", top),
    get("/containers/{id}/changes", changes),
    change("POST", "/containers/{id}/start", start),
    change("POST", "/containers/{id}/stop", stop),
    change("POST", "/containers/{id}/restart", restart),
    change("POST", "/containers/{id}/kill", kill),
    change("POST", "/containers/{id}/pause", pause),
    change("POST", "/containers/{id}/unpause", unpause),
    change("POST", "/containers/{id}/rename", rename),
    change("POST", "/containers/{id}/update", update),
    change("POST", "/containers/{id}/resize", resize),
    Route(method="POST", template="/containers/{id}/wait", handler=wait),
    change("DELETE", "/containers/{id}", remove),
    change("DELETE", "/containers/{id}/{alias}", remove),
    get("/containers/{id}/checkpoints", checkpoints, since=(1, 25)),
    change("POST", "/containers/{id}/checkpoints", checkpoints, since=(1, 25)),
    change("DELETE", "/containers/{id}/checkpoints/{checkpoint}", checkpoints, since=(1, 25)),
)
