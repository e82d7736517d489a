"""Builds as the classic builder's clients know them, and the cache behind them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from corten.api import credentials
from corten.api.buildkit import connections
from corten.api.documents import json_response, progress_stream, read_document
from corten.api.http.messages import TAR, Request, Response, StreamResponse
from corten.api.routing import Route, change, get
from corten.dockerapi.build import PruneSpace, number, read_build_query
from corten.dockerapi.build_frames import MEDIA_TYPE
from corten.dockerapi.build_request import OutputRequest
from corten.dockerapi.codec import encode
from corten.dockerapi.filters import parse_filters
from corten.engine.streams import run_blocking

if TYPE_CHECKING:
    from corten.build.history import Record
    from corten.engine.engine import Engine


async def build(engine: Engine, request: Request) -> Response | StreamResponse:
    query = request.query
    if query.text("version") == "2":
        return await _build_2(engine, request)
    framed = request.headers.get("content-type", "") == MEDIA_TYPE
    wanted = replace(read_build_query(query.text, query.texts, query.flag), framed=framed)
    return progress_stream(engine.builds.build(wanted, request.body, credentials.all_of(request)))


async def _build_2(engine: Engine, request: Request) -> Response | StreamResponse:
    await connections.load()
    from corten.api.buildkit import posted
    from corten.api.buildkit.solving import solving_of

    solving = solving_of(engine)
    if posted.is_upload(request.query):
        await posted.take_upload(solving, request.query, request.body)
        return Response(200)
    return progress_stream(posted.build(solving, request.query, request.body, credentials.all_of(request)))


async def cancel(engine: Engine, request: Request) -> Response:
    build_id = request.query.text("id")
    engine.builds.cancel(build_id)
    if connections.is_loaded():  # else there is no such build
        from corten.api.buildkit.solving import solving_of

        solving_of(engine).cancel(build_id)
    return Response(200)


async def prune(engine: Engine, request: Request) -> Response:
    query = request.query
    names = ("keep-storage", "reserved-space", "max-used-space", "min-free-space")
    kept, reserved, most, free = (number(query.text(name), name) for name in names)
    space = PruneSpace(reserved=max(kept, reserved), max_used=most, min_free=free)
    return json_response(
        await engine.builds.prune(
            everything=query.flag("all"), space=space, wanted=parse_filters(query.text("filters"))
        )
    )


async def history(engine: Engine, request: Request) -> Response:
    """The builds of this daemon, newest first (ours, as all that is below ``/corten``)."""
    return json_response([_summary(record) for record in await run_blocking(engine.builds.history.all)])


def _summary(record: Record) -> dict[str, Any]:
    return {name: value for name, value in record.document().items() if name != "definition"}


async def inspect(engine: Engine, request: Request) -> Response:
    record = await run_blocking(engine.builds.history.get, _build_id(request))
    return json_response(record.document())


async def log(engine: Engine, request: Request) -> Response:
    return json_response(await run_blocking(engine.builds.history.log, _build_id(request)))


async def forget(engine: Engine, request: Request) -> Response:
    await run_blocking(engine.builds.history.remove, _build_id(request))
    return Response(204)


def _build_id(request: Request) -> str:
    """ "latest" is the newest one."""
    name = request.params["id"]
    return "" if name == "latest" else name


async def export(engine: Engine, request: Request) -> StreamResponse:
    wanted = await read_document(request, OutputRequest)
    made = await engine.builds.outputs.export(wanted)
    headers = () if made.top is None else (("X-Corten-Descriptor", encode(made.top.document()).decode()),)
    return StreamResponse(made.chunks, TAR, headers)


async def push(engine: Engine, request: Request) -> StreamResponse:
    wanted = await read_document(request, OutputRequest)
    return progress_stream(engine.builds.outputs.push(wanted, credentials.one_of(request)))


ROUTES = (
    get("/corten/builds", history),
    get("/corten/builds/{id}", inspect),
    get("/corten/builds/{id}/log", log),
    Route(method="DELETE", template="/corten/builds/{id}", handler=forget),
    Route(method="POST", template="/corten/builds/export", handler=export),
    Route(method="POST", template="/corten/builds/push", handler=push),
    Route(method="POST", template="/build", handler=build),
    change("POST", "/build/cancel", cancel, since=(1, 39)),
    change("POST", "/build/prune", prune, since=(1, 31)),
    Route(method="POST", template="/session", handler=connections.session, since=(1, 31)),
    Route(method="POST", template="/grpc", handler=connections.grpc, since=(1, 39)),
)
