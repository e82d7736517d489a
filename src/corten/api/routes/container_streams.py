"""What flows out of a container and into it: logs, attach, statistics, files."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from corten.api.documents import json_response, json_stream, read_body
from corten.api.http.messages import JSON, TAR, Hijack, Reply, Request, Response, StreamResponse, WebSocketHijack
from corten.api.http.streaming import close_iterator
from corten.api.routing import Route, get
from corten.dockerapi.codec import encode
from corten.dockerapi.detach_keys import parse_detach_keys
from corten.dockerapi.queries import AttachQuery, LogQuery
from corten.dockerapi.timestamps import parse_moment
from corten.errors import InvalidParameter

if TYPE_CHECKING:
    from corten.engine.engine import Engine

RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"
_MULTIPLEXED_SINCE = (1, 42)


def stream_type(request: Request, *, tty: bool) -> str:
    """The media type of a program's output."""
    return RAW_STREAM if tty or request.version < _MULTIPLEXED_SINCE else MULTIPLEXED_STREAM


async def logs(engine: Engine, request: Request) -> StreamResponse:
    query = request.query
    stdout, stderr = query.flag("stdout"), query.flag("stderr")
    if not (stdout or stderr):
        raise InvalidParameter("Bad parameters: you must choose at least one stream")
    follow = query.flag("follow")
    log = await engine.containers.logs(
        request.params["id"],
        LogQuery(
            stdout=stdout,
            stderr=stderr,
            follow=follow,
            since=_bound(query.text("since")),
            until=_bound(query.text("until")),
            tail=_tail(query.text("tail")),
            timestamps=query.flag("timestamps"),
            details=query.flag("details"),
        ),
    )
    return StreamResponse(log.chunks, stream_type(request, tty=log.tty), at_once=True, endless=follow)


def _bound(text: str) -> int:
    """Nanoseconds; clients send "0" for no bound."""
    return parse_moment(text) if text else 0


def _tail(text: str) -> int:
    """-1 for "all", for nothing and, as with dockerd, for what is no number."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1


def _attach_query(request: Request, *, everything: bool = False) -> AttachQuery:
    """everything: all three streams whatever the query says"""
    query = request.query
    return AttachQuery(
        stream=query.flag("stream"),
        stdin=everything or query.flag("stdin"),
        stdout=everything or query.flag("stdout"),
        stderr=everything or query.flag("stderr"),
        logs=query.flag("logs"),
        detach_keys=parse_detach_keys(query.text("detachKeys")),
    )


async def attach(engine: Engine, request: Request) -> Hijack:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == JSON:
        # dockerode repeats its options in the body: a document is no input of the program
        await read_body(request)
    session = await engine.containers.attach(request.params["id"], _attach_query(request))
    return Hijack(session.sock, stream_type(request, tty=session.tty))


async def attach_websocket(engine: Engine, request: Request) -> WebSocketHijack:
    query = _attach_query(request, everything=request.version < (1, 42))
    session = await engine.containers.attach(request.params["id"], query)
    return WebSocketHijack(session.sock, framed=not session.tty)


async def stats(engine: Engine, request: Request) -> Reply:
    query = request.query
    stream = query.flag("stream", True)
    one_shot = query.flag("one-shot") and request.version >= (1, 41)
    if stream and one_shot:
        raise InvalidParameter("cannot have stream=true and one-shot=true")
    samples = engine.containers.views.stats(request.params["id"], stream=stream, one_shot=one_shot)
    if stream:
        return json_stream(samples, at_once=False, endless=True)
    return json_response(await _first(samples))


async def _first(documents: AsyncIterator[dict[str, Any]]) -> dict[str, Any]:
    try:
        return await anext(documents)
    finally:
        await close_iterator(documents)


async def export(engine: Engine, request: Request) -> StreamResponse:
    chunks = await engine.containers.files.export(request.params["id"])
    return StreamResponse(chunks, "application/octet-stream")


def _archive_path(request: Request) -> str:
    path = request.query.text("path")
    if not path:
        raise InvalidParameter("bad parameter: path cannot be empty")
    return path


def _stat_header(stat: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return (("X-Docker-Container-Path-Stat", base64.b64encode(encode(stat)).decode()),)


async def archive_head(engine: Engine, request: Request) -> Response:
    stat = await engine.containers.files.stat(request.params["id"], _archive_path(request))
    return Response(headers=_stat_header(stat))


async def archive_get(engine: Engine, request: Request) -> StreamResponse:
    stat, chunks = await engine.containers.files.get(request.params["id"], _archive_path(request))
    return StreamResponse(chunks, TAR, _stat_header(stat))


async def archive_put(engine: Engine, request: Request) -> Response:
    query = request.query
    await engine.containers.files.put(
        request.params["id"],
        _archive_path(request),
        request.body,
        no_overwrite_dir_non_dir=query.flag("noOverwriteDirNonDir"),
        copy_uid_gid=query.flag("copyUIDGID"),
    )
    return Response()


ROUTES = (
    get("/containers/{id}/logs", logs),
    Route(method="POST", template="/containers/{id}/attach", handler=attach),
    get("/containers/{id}/attach/ws", attach_websocket),
    get("/containers/{id}/stats", stats),
    get("/containers/{id}/export", export),
    Route(method="HEAD", template="/containers/{id}/archive", handler=archive_head),
    get("/containers/{id}/archive", archive_get),
    Route(method="PUT", template="/containers/{id}/archive", handler=archive_put),
)
